"""Reads behind the gRPC lookups; none grows with the number of versions."""

from __future__ import annotations

from sqlalchemy import Connection, select

from tidegate.contracts.names import version_resource
from tidegate.core.errors import NotFound
from tidegate.registry.aliases import list_aliases
from tidegate.registry.catalog import StoredVersion, aliases_of, aware, read_version
from tidegate.registry.paging import decode_token, encode_token
from tidegate.registry.tables import models, versions
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.registry_service_pb2 import (
    GetLineageResponse,
    ListModelsResponse,
    ListVersionsResponse,
    Model,
    ModelVersion,
)
from tidegate.v1.values_pb2 import Version

CHILDREN_MAX = 1000


def version_to_wire(connection: Connection, stored: StoredVersion) -> ModelVersion:
    """Return a version as a lookup answers it."""
    registered = stored.registered
    version = ModelVersion(
        name=version_resource(registered.model, registered.version),
        registered=registered,
        aliases=aliases_of(connection, registered.model, registered.version),
        validation=stored.validation,
    )
    version.create_time.FromDatetime(stored.create_time)
    return version


def get_version(connection: Connection, model: str, wanted: Version | str) -> ModelVersion:
    """Return one version; NotFound if there is none."""
    return version_to_wire(connection, read_version(connection, model, wanted))


def get_model(connection: Connection, name: str) -> Model:
    """Return a model with its aliases; NotFound if there is none."""
    row = connection.execute(
        select(models, versions.c.major, versions.c.minor, versions.c.pipeline)
        .join_from(models, versions, versions.c.id == models.c.latest_id)
        .where(models.c.name == name)
    ).first()
    if row is None:
        raise NotFound(f"model {name} does not exist", code="MODEL_NOT_FOUND", field="name")
    latest = Version(major=row.major, minor=row.minor, pipeline=row.pipeline)
    model = Model(
        name=f"models/{name}",
        aliases=list_aliases(connection, name),
        latest_version=latest,
        version_count=row.version_count,
    )
    model.create_time.FromDatetime(aware(row.create_time))
    return model


def list_models(connection: Connection, *, size: int, token: str) -> ListModelsResponse:
    """Return a page of models, by name."""
    after = decode_token("models", token)
    rows = connection.execute(
        select(models.c.name).where(models.c.name > after).order_by(models.c.name).limit(size + 1)
    ).all()
    names = [row.name for row in rows[:size]]
    more = encode_token("models", names[-1]) if len(rows) > size else ""
    return ListModelsResponse(models=[get_model(connection, name) for name in names], next_page_token=more)


def list_versions(connection: Connection, model: str, *, size: int, token: str) -> ListVersionsResponse:
    """Return a page of a model's versions, newest first."""
    listing = f"versions of {model}"
    after = decode_token(listing, token)
    get_model(connection, model)
    wanted = select(versions.c.id, versions.c.registered, versions.c.validation, versions.c.create_time).where(
        versions.c.model == model
    )
    if after:
        wanted = wanted.where(versions.c.id < int(after))
    rows = connection.execute(wanted.order_by(versions.c.id.desc()).limit(size + 1)).all()
    found = [
        StoredVersion(
            id=row.id,
            registered=ModelRegistered.FromString(bytes(row.registered)),
            validation=row.validation,
            create_time=aware(row.create_time),
        )
        for row in rows[:size]
    ]
    more = encode_token(listing, str(found[-1].id)) if len(rows) > size else ""
    return ListVersionsResponse(versions=[version_to_wire(connection, one) for one in found], next_page_token=more)


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
