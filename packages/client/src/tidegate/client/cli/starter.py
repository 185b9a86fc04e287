"""The command that makes a starter project."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer

from tidegate.client.cli.output import AsJson, console, write_json
from tidegate.contracts.names import MODEL_PATTERN, is_model
from tidegate.core.errors import FailedPrecondition, InvalidInput

FILES: Final = ("README.md", "policy.yaml", "train.py")
_TEMPLATES: Final = resources.files("tidegate.client").joinpath("starter")


def init(
    folder: Annotated[Path, typer.Argument(help="A new (or empty) folder.", file_okay=False)],
    *,
    model: Annotated[str, typer.Option(help="Name of the model (default: the folder's).")] = "",
    json: AsJson = False,
) -> None:
    """Make a starter project: a policy, a training that publishes, and what to do next."""
    name = model or folder.resolve().name
    if not is_model(name):
        raise InvalidInput(
            f"model is {name!r}, expected a name like {MODEL_PATTERN}",
            code="MODEL_NAME_INVALID",
            field="model",
            hint="give one with --model",
        )
    if folder.exists() and any(folder.iterdir()):
        raise FailedPrecondition(
            f"{folder} is not empty", code="FOLDER_NOT_EMPTY", hint="name a new folder; nothing was written"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        text = Template(_TEMPLATES.joinpath(file + ".template").read_text()).substitute(model=name)
        (folder / file).write_text(text)
    if json:
        write_json({"folder": str(folder), "model": name, "files": list(FILES)})
        return
    out = console()
    out.print(f"made {', '.join(FILES)} in {folder}", markup=False)
    out.print(
        f"next: cd {folder}; tidegate policy apply policy.yaml; python train.py (if no stack runs yet: tidegate up)",
        markup=False,
    )
