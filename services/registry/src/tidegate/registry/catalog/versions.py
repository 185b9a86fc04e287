"""Models and versions in SQL: what decides a number, and what lookups answer with."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tidegate.contracts.names import format_version, version_reference
from tidegate.core.clock import utc_now
from tidegate.core.errors import NotFound
from tidegate.registry.catalog.policies import read_policy
from tidegate.registry.catalog.tables import aliases, edges, models, versions
from tidegate.registry.catalog.wire import fingerprint_of_registered, number_from_wire, signature_from_wire
from tidegate.registry.numbering.versioning import Contender, Fingerprint, Verdict, VersionNumber
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.values_pb2 import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVersion:
    """One row of ``versions``."""

    id: int
    registered: ModelRegistered
    validation: str
    create_time: datetime

    @property
    def contender(self) -> Contender:
        """Return it as the rules see it."""
        return Contender(
            version=number_from_wire(self.registered.version),
            fingerprint=fingerprint_of_registered(self.registered),
            signature=signature_from_wire(self.registered.signature),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LineState:
    """What a number is decided from; read again in the transaction that inserts, it must still be equal."""

    version_count: int = 0
    newest_major: int = 0
    line_top: VersionNumber | None = None
    baseline_id: int = 0
    twin_id: int = 0
    policy_revision: int = 0


def fingerprint_digest(fingerprint: Fingerprint) -> str:
    """Return one digest of the whole fingerprint, to look twins up by."""
    return "sha256:" + hashlib.sha256(repr(asdict(fingerprint)).encode()).hexdigest()


def read_line(connection: Connection, model: str, *, major_line: int, fingerprint: Fingerprint) -> LineState:
    """Return the state of the MAJOR line (0 = newest) that a registration belongs to.

    Raises:
        NotFound: The model has versions, but none in that line (code MAJOR_LINE_UNKNOWN).

    """
    _, revision = read_policy(connection, model)
    count = connection.execute(select(models.c.version_count).where(models.c.name == model)).scalar_one_or_none()
    if not count:
        return LineState(policy_revision=revision)
    of_model = versions.c.model == model
    newest = connection.execute(
        select(versions.c.major).where(of_model).order_by(versions.c.major.desc()).limit(1)
    ).scalar_one()
    in_line = of_model & (versions.c.major == (major_line or newest))
    highest = (
        select(versions.c.id, versions.c.major, versions.c.minor, versions.c.pipeline)
        .order_by(versions.c.minor.desc(), versions.c.pipeline.desc())
        .limit(1)
    )
    top = connection.execute(highest.where(in_line)).first()
    if top is None:
        raise NotFound(
            f"{model} has no MAJOR line {major_line}, the newest is {newest}",
            code="MAJOR_LINE_UNKNOWN",
            field="major_line",
        )
    is_good = (versions.c.verdict != Verdict.WORSE.value) & (versions.c.validation != "failed")
    baseline = connection.execute(highest.where(in_line & is_good)).first() or top
    twin = connection.execute(
        select(versions.c.id)
        .where(of_model, versions.c.fingerprint_digest == fingerprint_digest(fingerprint))
        .order_by(versions.c.id)
        .limit(1)
    ).scalar_one_or_none()
    return LineState(
        version_count=int(count),
        newest_major=int(newest),
        line_top=VersionNumber(major=top.major, minor=top.minor, pipeline=top.pipeline),
        baseline_id=int(baseline.id),
        twin_id=int(twin or 0),
        policy_revision=revision,
    )


def read_version_by_id(connection: Connection, row_id: int) -> StoredVersion:
    """Return the version with this row id, which exists."""
    return stored_version(connection.execute(select(*STORED).where(versions.c.id == row_id)).one())


def read_version(connection: Connection, model: str, wanted: Version | str) -> StoredVersion:
    """Return a version by its number or by an alias.

    Raises:
        NotFound: There is none.

    """
    if isinstance(wanted, str):
        row = connection.execute(
            select(*STORED)
            .join_from(
                aliases,
                versions,
                (versions.c.model == aliases.c.model)
                & (versions.c.major == aliases.c.major)
                & (versions.c.minor == aliases.c.minor)
                & (versions.c.pipeline == aliases.c.pipeline),
            )
            .where(aliases.c.model == model, aliases.c.alias == wanted)
        ).first()
        missing = f"{model}@{wanted}"
    else:
        row = connection.execute(select(*STORED).where(is_version(model, wanted))).first()
        missing = version_reference(model, wanted)
    if row is None:
        raise NotFound(f"version {missing} does not exist", code="VERSION_NOT_FOUND", field="name")
    return stored_version(row)


def is_version(model: str, version: Version) -> Any:
    """Return the SQL condition for one version."""
    return (
        (versions.c.model == model)
        & (versions.c.major == version.major)
        & (versions.c.minor == version.minor)
        & (versions.c.pipeline == version.pipeline)
    )


STORED = (versions.c.id, versions.c.registered, versions.c.validation, versions.c.create_time)


def stored_version(row: Any) -> StoredVersion:
    """Return a row of STORED."""
    return StoredVersion(
        id=row.id,
        registered=ModelRegistered.FromString(bytes(row.registered)),
        validation=row.validation,
        create_time=aware(row.create_time),
    )


def aware(time: datetime) -> datetime:
    """Return ``time`` in UTC; SQLite forgets the zone."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def aliases_of(connection: Connection, model: str, version: Version) -> list[str]:
    """Return the aliases that point to a version, by name."""
    at = (aliases.c.major == version.major) & (aliases.c.minor == version.minor)
    rows = connection.execute(
        select(aliases.c.alias)
        .where(aliases.c.model == model, at, aliases.c.pipeline == version.pipeline)
        .order_by(aliases.c.alias)
    )
    return [row.alias for row in rows]


def insert_version(
    connection: Connection,
    registered: ModelRegistered,
    *,
    verdict: Verdict,
    baseline_id: int | None,
    create_time: datetime | None = None,
) -> int:
    """Insert a version with its lineage and return its row id; ``create_time`` is now unless given."""
    now = create_time or utc_now()
    fingerprint = fingerprint_of_registered(registered)
    row_id = connection.execute(
        insert(versions)
        .values(
            model=registered.model,
            major=registered.version.major,
            minor=registered.version.minor,
            pipeline=registered.version.pipeline,
            sequence=registered.sequence,
            fingerprint_digest=fingerprint_digest(fingerprint),
            artifact_digest=registered.artifact.digest,
            code_commit=fingerprint.code_commit,
            pipeline_digest=fingerprint.pipeline_digest,
            config_digest=fingerprint.config_digest,
            baseline_id=baseline_id,
            verdict=verdict.value,
            validation="unknown",
            registered=registered.SerializeToString(deterministic=True),
            create_time=now,
        )
        .returning(versions.c.id)
    ).scalar_one()
    _insert_edges(connection, row_id, registered)
    counted = connection.execute(
        update(models)
        .where(models.c.name == registered.model)
        .values(version_count=models.c.version_count + 1, latest_id=row_id)
    )
    if counted.rowcount == 0:
        values = {"name": registered.model, "version_count": 1, "latest_id": row_id, "create_time": now}
        connection.execute(insert(models).values(**values))
    return int(row_id)


def _insert_edges(connection: Connection, row_id: int, registered: ModelRegistered) -> None:
    lineage = registered.lineage
    sources = [
        *(("dataset", one.digest or one.uri) for one in lineage.datasets),
        *(("preprocessing", digest) for digest in lineage.preprocessing_digests),
        ("environment", lineage.environment_digest),
        ("parent", lineage.parent),
        ("baseline", format_version(registered.baseline) if registered.HasField("baseline") else ""),
    ]
    rows = [{"version_id": row_id, "kind": kind, "source": source[:1024]} for kind, source in sources if source]
    if rows:
        connection.execute(insert(edges), rows)
