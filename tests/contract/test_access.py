"""docs/security.md shows the table of roles as it is."""

import os
from pathlib import Path

from tidegate.contracts.access import ACCESS, Access, Scope

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN = "| call | role | bound tokens |\n|---|---|---|\n"
END = "<!-- end of the access table -->"
SCOPES = {
    Scope.FIELD: "by `{}`",
    Scope.HANDLER: "by what it names; lists leave out other models",
    Scope.ALL: "refused",
    Scope.NONE: "allowed",
}


def row(path: str, access: Access) -> str:
    service, name = path.removeprefix("/").split("/")
    role = f"`{access.role.value}`" if access.role else "anybody"
    return f"| `{service}/{name}` | {role} | {SCOPES[access.scope].format(access.field)} |\n"


def test_the_page_shows_the_table():
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    shown, _, tail = rest.partition(END)
    table = "".join(row(path, access) for path, access in ACCESS.items())
    if os.environ.get("TIDEGATE_WRITE_GOLDEN"):
        PAGE.write_text(head + BEGIN + table + END + tail)
    else:
        assert shown == table
