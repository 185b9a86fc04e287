"""Write ``.env`` beside ``docker-compose.yml``: the example with a fresh secret for each empty value.

``new_env.py [FILE]`` writes to another file, ``new_env.py -`` to standard output. Needs nothing but Python; an existing
file is left alone.
"""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SECRET_BYTES: Final = 24
_EMPTY: Final = re.compile(r"^([A-Z0-9_]+)=$", re.MULTILINE)


def filled(example: str) -> str:
    """Return ``example`` with a fresh secret for each variable that has no value."""
    return _EMPTY.sub(lambda match: f"{match.group(1)}={secrets.token_urlsafe(SECRET_BYTES)}", example)


def main() -> int:
    """Write the file; return 1 if there is one."""
    text = filled((ROOT / "deploy" / "compose.env.example").read_text())
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(text)
        return 0
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".env"
    try:
        # Readable by its owner alone from its first moment.
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        sys.stderr.write(f"{path} exists, and its secrets are in use: it is left as it is\n")
        return 1
    path.write_text(text)
    sys.stdout.write(f"{path}: fresh secrets, readable by you alone\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
