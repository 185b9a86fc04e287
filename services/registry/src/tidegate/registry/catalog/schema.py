"""The schema's revisions: forward by our migrations, never onto tables that a newer release made."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tidegate.core.errors import FailedPrecondition


def read_revision(connection: Connection) -> str:
    """Return the schema's revision; empty = there are no tables."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def migrate_to(connection: Connection, revision: str) -> None:
    """Bring the tables forward to ``revision`` ("head" = the newest); repeatable.

    Raises:
        FailedPrecondition: This release does not know the revision that they have, or shall get (code SCHEMA_NEWER).

    """
    config = _config()
    _check_known(connection, config, revision)
    command.upgrade(config, revision)


def clear_tables(connection: Connection) -> None:
    """Drop all tables, if there are any.

    Raises:
        FailedPrecondition: A newer release made them (code SCHEMA_NEWER).

    """
    if read_revision(connection):
        config = _config()
        _check_known(connection, config, "base")
        command.downgrade(config, "base")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _check_known(connection: Connection, config: Config, wanted: str) -> None:
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = {"head", "base", *(script.revision for script in scripts.walk_revisions())}
    for named in (read_revision(connection), wanted):
        if named and named not in known:
            raise FailedPrecondition(
                f"the database has schema revision {named}, this release knows revisions up to "
                f"{scripts.get_current_head()}",
                code="SCHEMA_NEWER",
                hint="a newer release made it: run that one, or restore a backup that was made before the upgrade",
            )
