"""Reads behind the gRPC lookups; none grows with the number of versions, and a list is as many queries for any page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final

from sqlalchemy import Connection, select

from tidegate.contracts.names import version_resource
from tidegate.core.errors import NotFound
from tidegate.registry.catalog.aliases import list_aliases
from tidegate.registry.catalog.paging import decode_token, encode_token, fitting
from tidegate.registry.catalog.tables import models, versions
from tidegate.registry.catalog.versions import STORED, StoredVersion, aliases_of, aware, read_version, stored_version
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.registry_service_pb2 import (
    VERSION_VIEW_FULL,
    GetLineageResponse,
    ListModelsResponse,
    ListVersionsResponse,
    Model,
    ModelAlias,
    ModelVersion,
    VersionView,
)
from tidegate.v1.values_pb2 import Version

CHILDREN_MAX: Final = 1000
ROWS_AT_ONCE: Final = 50


def version_to_wire(connection: Connection, stored: StoredVersion) -> ModelVersion:
    """Return a version as a lookup answers it."""
    registered = stored.registered
    return _version_to_wire(stored, aliases_of(connection, registered.model, registered.version))


def _version_to_wire(stored: StoredVersion, aliases: Iterable[str]) -> ModelVersion:
    registered = stored.registered
    version = ModelVersion(
        name=version_resource(registered.model, registered.version),
        registered=registered,
        aliases=aliases,
        validation=stored.validation,
    )
    version.create_time.FromDatetime(stored.create_time)
    return version


def get_version(connection: Connection, model: str, wanted: Version | str) -> ModelVersion:
    """Return one version; NotFound if there is none."""
    return version_to_wire(connection, read_version(connection, model, wanted))


def get_model(connection: Connection, name: str) -> Model:
    """Return a model with its aliases; NotFound if there is none."""
    row = connection.execute(_MODELS.where(models.c.name == name)).first()
    if row is None:
        raise NotFound(f"model {name} does not exist", code="MODEL_NOT_FOUND", field="name")
    return _model_to_wire(row, list_aliases(connection, [name])[name])


_MODELS = select(models, versions.c.major, versions.c.minor, versions.c.pipeline).join_from(
    models, versions, versions.c.id == models.c.latest_id
)


def _model_to_wire(row: Any, aliases: Iterable[ModelAlias]) -> Model:
    model = Model(
        name=f"models/{row.name}",
        aliases=aliases,
        latest_version=Version(major=row.major, minor=row.minor, pipeline=row.pipeline),
        version_count=row.version_count,
    )
    model.create_time.FromDatetime(aware(row.create_time))
    return model


def list_models(connection: Connection, *, size: int, token: str, prefix: str = "") -> ListModelsResponse:
    """Return a page of the models whose names begin with ``prefix``, by name."""
    after = decode_token("models", token)
    wanted = _MODELS.where(models.c.name > after, models.c.name.startswith(prefix, autoescape=True))
    rows = connection.execute(wanted.order_by(models.c.name).limit(size + 1)).all()
    aliases = list_aliases(connection, [row.name for row in rows])
    page, is_more = fitting((_model_to_wire(row, aliases[row.name]) for row in rows), size=size)
    more = encode_token("models", page[-1].name.removeprefix("models/")) if is_more else ""
    return ListModelsResponse(models=page, next_page_token=more)


def list_versions(
    connection: Connection, model: str, *, size: int, token: str, view: VersionView.ValueType
) -> ListVersionsResponse:
    """Return a page of a model's versions, newest first; ``view`` says how much of each."""
    listing = f"versions of {model}"
    after = decode_token(listing, token)
    aliases = _aliases_by_version(get_model(connection, model))
    wanted = select(*STORED).where(versions.c.model == model)
    if after:
        wanted = wanted.where(versions.c.id < int(after))
    rows = connection.execute(
        wanted.order_by(versions.c.id.desc()).limit(size + 1), execution_options={"yield_per": ROWS_AT_ONCE}
    )
    ids: list[int] = []

    def found() -> Iterator[ModelVersion]:
        for row in rows:
            one = stored_version(row)
            ids.append(one.id)
            if view != VERSION_VIEW_FULL:
                _leave_out_the_bulk(one.registered)
            yield _version_to_wire(one, aliases[_number(one.registered.version)])

    page, is_more = fitting(found(), size=size)
    rows.close()
    more = encode_token(listing, str(ids[len(page) - 1])) if is_more else ""
    return ListVersionsResponse(versions=page, next_page_token=more)


def _leave_out_the_bulk(registered: ModelRegistered) -> None:
    registered.decision.ClearField("inputs_json")
    registered.decision.ClearField("numbers_json")
    registered.ClearField("policy")


def _aliases_by_version(model: Model) -> defaultdict[tuple[int, int, int], list[str]]:
    found: defaultdict[tuple[int, int, int], list[str]] = defaultdict(list)
    for one in model.aliases:
        found[_number(one.version)].append(one.alias)
    return found


def _number(version: Version) -> tuple[int, int, int]:
    return version.major, version.minor, version.pipeline


def get_lineage(connection: Connection, model: str, wanted: Version | str) -> GetLineageResponse:
    """Return where a version comes from and what was decided against it."""
    stored = read_version(connection, model, wanted)
    registered = stored.registered
    rows = connection.execute(
        select(versions.c.major, versions.c.minor, versions.c.pipeline)
        .where(versions.c.baseline_id == stored.id)
        .order_by(versions.c.id)
        .limit(CHILDREN_MAX)
    )
    return GetLineageResponse(
        lineage=registered.lineage,
        baseline=registered.baseline if registered.HasField("baseline") else None,
        artifact_digest=registered.artifact.digest,
        children=[Version(major=row.major, minor=row.minor, pipeline=row.pipeline) for row in rows],
    )
