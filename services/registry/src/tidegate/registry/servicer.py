"""RegistryService over gRPC: thin; errors become rich statuses in the interceptor."""

# ruff: noqa: N802, ARG002  (gRPC names the methods and passes a context)

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from tidegate.contracts.codec import EVENT_ID_NAMESPACE
from tidegate.contracts.names import is_alias, parse_model_resource, parse_version_name
from tidegate.core.callers import current_caller
from tidegate.core.errors import Conflict, FailedPrecondition, InvalidInput, NotFound, Unavailable
from tidegate.core.tracing import current_traceparent
from tidegate.registry.catalog import lookups
from tidegate.registry.catalog.aliases import ROLLOUT_ALIASES, AliasMove, move_alias, read_alias
from tidegate.registry.catalog.handled import RequestKey, recall, remember
from tidegate.registry.catalog.outbox import Cause
from tidegate.registry.catalog.paging import page_size
from tidegate.registry.catalog.policies import apply_policy, read_policy
from tidegate.registry.catalog.versions import read_version
from tidegate.registry.catalog.wire import digest_of
from tidegate.registry.intake.policy_checks import checked
from tidegate.registry.metrics import rejections_counted
from tidegate.registry.registration.registrar import Registrar
from tidegate.registry.store import Store
from tidegate.v1 import registry_service_pb2 as api
from tidegate.v1.registry_service_pb2_grpc import RegistryServiceServicer

REQUEST_ID_CHARS_MAX: Final = 256

R = TypeVar("R")


class RegistryServicer(RegistryServiceServicer):
    """The calls; every write with a request_id gets the same answer again."""

    def __init__(self, store: Store, registrar: Registrar) -> None:
        self._store = store
        self._registrar = registrar
        self._accepts_writes = False

    def accept_writes(self) -> None:
        """Accept writes from now on: the database knows what its topics know."""
        self._accepts_writes = True

    def _check_accepts_writes(self) -> None:
        if not self._accepts_writes:
            raise Unavailable(
                "the registry has not caught up with its topics yet, and takes no writes before",
                code="CATCHING_UP",
                hint="try again; it waits for the event bus",
            )

    async def RegisterVersion(self, request: Any, context: Any) -> api.RegisterVersionResponse:
        """Register a version, as TrainingCompleted does."""
        self._check_accepts_writes()
        training = request.training
        cause = _cause(f"RegisterVersion|{training.model}", training.request_id)
        with rejections_counted():
            result = await self._registrar.register(training, cause)
        version = await self._store.read(lambda connection: lookups.version_to_wire(connection, result.version))
        return api.RegisterVersionResponse(version=version, duplicate=result.duplicate)

    async def GetVersion(self, request: Any, context: Any) -> api.GetVersionResponse:
        """Return one version."""
        model, wanted = _parsed(parse_version_name, request.name)
        version = await self._store.read(lambda connection: lookups.get_version(connection, model, wanted))
        return api.GetVersionResponse(version=version)

    async def ListVersions(self, request: Any, context: Any) -> api.ListVersionsResponse:
        """Return a page of versions, newest first."""
        model = _parsed(parse_model_resource, request.parent, field="parent")
        size = page_size(request.page_size)
        return await self._store.scan(
            lambda connection: lookups.list_versions(
                connection, model, size=size, token=request.page_token, view=request.view
            )
        )

    async def GetModel(self, request: Any, context: Any) -> api.GetModelResponse:
        """Return a model with its aliases."""
        model = _parsed(parse_model_resource, request.name)
        return api.GetModelResponse(
            model=await self._store.read(lambda connection: lookups.get_model(connection, model))
        )

    async def ListModels(self, request: Any, context: Any) -> api.ListModelsResponse:
        """Return a page of models, by name."""
        size = page_size(request.page_size)
        return await self._store.scan(
            lambda connection: lookups.list_models(
                connection, size=size, token=request.page_token, prefix=current_caller().models
            )
        )

    async def GetLineage(self, request: Any, context: Any) -> api.GetLineageResponse:
        """Return where a version comes from."""
        model, wanted = _parsed(parse_version_name, request.name)
        return await self._store.scan(lambda connection: lookups.get_lineage(connection, model, wanted))

    async def GetPolicy(self, request: Any, context: Any) -> api.GetPolicyResponse:
        """Return the policy in force."""
        model = _parsed(parse_model_resource, request.name)
        policy, revision = await self._store.read(lambda connection: read_policy(connection, model))
        return api.GetPolicyResponse(policy=policy, policy_revision=revision)

    async def SetAlias(self, request: Any, context: Any) -> api.SetAliasResponse:
        """Move an alias that no rollout owns."""
        self._check_accepts_writes()
        model = _parsed(parse_model_resource, request.parent, field="parent")
        _check_alias(request)
        cause = _cause(f"SetAlias|{model}", request.request_id)
        key = _request_key("SetAlias", model, request)

        def move(connection: Connection) -> bytes:
            answer = recall(connection, key)
            return answer if answer is not None else _set_alias(connection, model, request, key, cause)

        return api.SetAliasResponse.FromString(await self._store.write(move))

    async def ApplyPolicy(self, request: Any, context: Any) -> api.ApplyPolicyResponse:
        """Store a policy as the next revision and publish it."""
        self._check_accepts_writes()
        policy = checked(request.policy)
        cause = _cause(f"ApplyPolicy|{policy.model}", request.request_id)
        key = _request_key("ApplyPolicy", policy.model, request)

        def apply(connection: Connection) -> bytes:
            answer = recall(connection, key)
            return answer if answer is not None else _apply_policy(connection, policy, key, cause)

        return api.ApplyPolicyResponse.FromString(await self._store.write(apply))


def _set_alias(connection: Connection, model: str, request: Any, key: RequestKey, cause: Cause) -> bytes:
    try:
        read_version(connection, model, request.version)
    except NotFound as error:
        raise NotFound(str(error), code=error.code, field="version") from None
    before = read_alias(connection, model, request.alias)
    etag = before.etag if before is not None else ""
    if request.etag != etag:
        raise Conflict(
            f"etag is {request.etag!r}, but {model}@{request.alias} moved meanwhile",
            code="ETAG_MISMATCH",
            field="etag",
            hint="get the model again and decide again",
        )
    move = AliasMove(model=model, alias=request.alias, version=request.version)
    move_alias(connection, move, cause=cause)
    response = api.SetAliasResponse(alias=read_alias(connection, model, request.alias)).SerializeToString()
    remember(connection, key, response)
    return response


def _apply_policy(connection: Connection, policy: Any, key: RequestKey, cause: Cause) -> bytes:
    revision = apply_policy(connection, policy, cause)
    response = api.ApplyPolicyResponse(policy=policy, policy_revision=revision).SerializeToString()
    remember(connection, key, response)
    return response


def _check_alias(request: Any) -> None:
    if not is_alias(request.alias):
        raise InvalidInput(
            f"alias is {request.alias!r}, expected lower-case letters, digits and hyphens, beginning with a letter",
            code="ALIAS_INVALID",
            field="alias",
        )
    if request.alias in ROLLOUT_ALIASES:
        raise FailedPrecondition(
            f"{request.alias} moves only by a rollout",
            code="ALIAS_RESERVED",
            field="alias",
            hint="start a rollout, or roll back",
        )
    if not request.request_id:
        raise InvalidInput("request_id is missing, expected a new UUID", code="FIELD_MISSING", field="request_id")


def _request_key(method: str, model: str, request: Any) -> RequestKey:
    return RequestKey(scope=f"{method}/{model}", request_id=request.request_id, body_digest=digest_of(request))


def _cause(scope: str, request_id: str) -> Cause:
    """Return why a call writes: the same request gives the same event ids."""
    if len(request_id) > REQUEST_ID_CHARS_MAX or "\0" in request_id:
        raise InvalidInput(
            f"request_id has {len(request_id)} characters or a zero byte, at most {REQUEST_ID_CHARS_MAX}",
            code="REQUEST_ID_INVALID",
            field="request_id",
        )
    cause_id = str(uuid.uuid5(EVENT_ID_NAMESPACE, f"{scope}|{request_id}") if request_id else uuid.uuid4())
    actor = current_caller().name
    return Cause(id=cause_id, correlation_id=cause_id, actor=actor, traceparent=current_traceparent())


def _parsed(parse: Callable[[str], R], text: str, *, field: str = "name") -> R:
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidInput(str(error), code="NAME_INVALID", field=field) from None
