"""Write ``.env`` beside ``docker-compose.yml``: the example with a fresh secret for each empty value.

``new_env.py [FILE]`` writes to another file, ``new_env.py -`` to standard output. Needs nothing but Python; an existing
file is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SECRET_BYTES: Final = 24
TOKENS: Final = "TIDEGATE_TOKENS"
ROLES: Final = {
    "ADMIN_TOKEN": ("admin", "admin"),
    "DEPLOYER_TOKEN": ("deployer", "service"),
    "VALIDATOR_TOKEN": ("validator", "service"),
    "GATEWAY_TOKEN": ("gateway", "service"),
}
_EMPTY: Final = re.compile(r"^([A-Z0-9_]+)=$", re.MULTILINE)


def filled(example: str) -> str:
    """Return ``example`` with a fresh secret for each variable that has no value, and the list of the tokens."""
    made: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == TOKENS:
            return match.group()
        made[name] = secrets.token_urlsafe(SECRET_BYTES)
        return f"{name}={made[name]}"

    text = _EMPTY.sub(value, example)
    # In quotes: shells and Compose take the list as it stands.
    return text.replace(f"{TOKENS}=\n", f"{TOKENS}='{token_list(made)}'\n")


def token_list(made: Mapping[str, str]) -> str:
    """Return what the services check callers by: no secret, since it has the tokens' digests."""
    callers = [
        {"name": name, "role": role, "sha256": hashlib.sha256(made[variable].encode()).hexdigest()}
        for variable, (name, role) in ROLES.items()
    ]
    return json.dumps({"tokens": callers}, separators=(",", ":"))


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
