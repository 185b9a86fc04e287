"""``python -m tidegate.stack.demo``."""

import typer

from tidegate.stack.demo.cli import demo

if __name__ == "__main__":
    typer.run(demo)
