"""The SDK's one class: publish trainings, look versions up, follow and steer rollouts."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from tidegate.client.events import EventReader, publish_event
from tidegate.client.rollouts import RolloutCalls, version_of
from tidegate.client.rpc import call
from tidegate.client.settings import ClientSettings, load_settings
from tidegate.client.training import Receipt, TrainingRun, check_training, completed_metrics, new_request_id
from tidegate.contracts.codec import Event
from tidegate.contracts.names import parse_reference
from tidegate.contracts.topics import REGISTRY
from tidegate.core.channels import open_channel
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput, Unavailable
from tidegate.core.object_store import ObjectStore, digest_of_file
from tidegate.v1 import registry_service_pb2 as registry_api
from tidegate.v1.events_pb2 import TrainingCompleted
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.registry_service_pb2_grpc import RegistryServiceStub
from tidegate.v1.values_pb2 import Artifact

SOURCE: Final = "tidegate/client"
PAGE_SIZE: Final = 200
REGISTRATION_TYPES: Final = ("ModelRegistered", "RegistrationRejected", "RegistrationDuplicate")
# A broker's clock may differ a little from ours.
CLOCK_TOLERANCE: Final = timedelta(minutes=1)


class TidegateClient(RolloutCalls):
    """Everything that a producer, an application or a person asks of Tidegate; blocking; use as ``with``.

    Every method raises Unavailable when the part that it needs does not answer, NotFound when what was asked for does
    not exist, and InvalidInput naming the field when the request is at fault.
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self.settings = settings or load_settings()
        self._channels = {
            address: open_channel(address, self.settings.caller)
            for address in (self.settings.registry_address, self.settings.deployer_address)
        }
        registry: Any = RegistryServiceStub(self._channels[self.settings.registry_address])
        self._registry = registry
        super().__init__(self._channels[self.settings.deployer_address], self.settings.deployer_address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            channel.close()

    # -- producing -----------------------------------------------------------------------------------------------

    def publish_training_completed(self, run: TrainingRun) -> Receipt:
        """Upload the files of ``run`` under their sha256 and publish ``TrainingCompleted``; return when the bus has it.

        Publishing again with the same ``request_id`` and the same files changes nothing.
        """
        check_training(run)
        uris = self._upload(run)
        digest = digest_of_file(run.artifact)
        message = TrainingCompleted(
            model=run.model,
            artifact=Artifact(
                uri=uris["artifact"],
                digest=digest,
                size_bytes=run.artifact.stat().st_size,
                format=run.artifact.suffix.removeprefix("."),
            ),
            signature=run.signature,
            lineage=run.lineage,
            metrics=completed_metrics(run),
            evaluation_uri=uris.get("evaluation", ""),
            reference_data_uri=uris.get("reference_data", ""),
            sample_requests_uri=uris.get("sample_requests", ""),
            tags=run.tags,
            card=run.card,
            request_id=run.request_id or new_request_id(),
            major_line=run.major_line,
        )
        event_id = new_request_id()
        now = utc_now()
        event = Event(message=message, id=event_id, source=SOURCE, time=now, subject=run.model, correlation_id=event_id)
        publish_event(self.settings.kafka, event)
        return Receipt(
            model=run.model,
            request_id=message.request_id,
            correlation_id=event_id,
            artifact_digest=digest,
            publish_time=now,
        )

    def wait_for_registration(self, receipt: Receipt, *, timeout_s: float = 60.0) -> Event:
        """Return the registry's answer: ModelRegistered, RegistrationRejected or RegistrationDuplicate.

        Raises:
            Unavailable: There was none in ``timeout_s``.

        """
        deadline = time.monotonic() + timeout_s
        with EventReader(self.settings.kafka, (REGISTRY,), since=receipt.publish_time - CLOCK_TOLERANCE) as reader:
            while time.monotonic() < deadline:
                for event in reader.poll():
                    if event.correlation_id == receipt.correlation_id and event.type in REGISTRATION_TYPES:
                        return event
        raise Unavailable(
            f"the registry did not answer in {timeout_s:.0f} s to the training {receipt.correlation_id}",
            code="REGISTRATION_PENDING",
            hint=f"see `tidegate status`, and later `tidegate events chain {receipt.correlation_id}`",
        )

    def _upload(self, run: TrainingRun) -> dict[str, str]:
        settings = self.settings.object_store.model_copy(update={"bucket": self.settings.upload_bucket})

        async def upload() -> dict[str, str]:
            store = ObjectStore(settings)
            await store.ensure_bucket()
            return {
                name: await store.put_file("sha256/" + digest_of_file(path).removeprefix("sha256:"), path)
                for name, path in run.files().items()
            }

        # A thread of its own: the caller may have an event loop (a notebook has).
        with ThreadPoolExecutor(max_workers=1) as executor:
            return executor.submit(lambda: asyncio.run(upload())).result()

    # -- the registry --------------------------------------------------------------------------------------------

    def _ask_registry(self, method: Any, request: Any) -> Any:
        return call(method, request, address=self.settings.registry_address)

    def get_version(self, reference: str) -> registry_api.ModelVersion:
        """Return the version that ``model@1.2.3`` or ``model@alias`` names."""
        request = registry_api.GetVersionRequest(name=_resource(reference))
        version: registry_api.ModelVersion = self._ask_registry(self._registry.GetVersion, request).version
        return version

    def list_versions(self, model: str, *, full: bool = False) -> list[registry_api.ModelVersion]:
        """Return the versions of ``model``, newest first; with ``full`` also each one's decision and policy."""
        view = registry_api.VERSION_VIEW_FULL if full else registry_api.VERSION_VIEW_BASIC
        parent = f"models/{model}"
        found: list[registry_api.ModelVersion] = []
        token = ""
        while True:
            request = registry_api.ListVersionsRequest(parent=parent, page_size=PAGE_SIZE, page_token=token, view=view)
            response = self._ask_registry(self._registry.ListVersions, request)
            found.extend(response.versions)
            token = response.next_page_token
            if not token:
                return found

    def get_model(self, model: str) -> registry_api.Model:
        """Return ``model`` with its aliases."""
        request = registry_api.GetModelRequest(name=f"models/{model}")
        found: registry_api.Model = self._ask_registry(self._registry.GetModel, request).model
        return found

    def list_models(self) -> list[registry_api.Model]:
        """Return the models by name."""
        found: list[registry_api.Model] = []
        token = ""
        while True:
            request = registry_api.ListModelsRequest(page_size=PAGE_SIZE, page_token=token)
            response = self._ask_registry(self._registry.ListModels, request)
            found.extend(response.models)
            token = response.next_page_token
            if not token:
                return found

    def get_lineage(self, reference: str) -> registry_api.GetLineageResponse:
        """Return where the version that ``reference`` names comes from."""
        request = registry_api.GetLineageRequest(name=_resource(reference))
        response: registry_api.GetLineageResponse = self._ask_registry(self._registry.GetLineage, request)
        return response

    def get_policy(self, model: str) -> registry_api.GetPolicyResponse:
        """Return the policy in force, all defaults filled in, and its revision (0 = built in)."""
        request = registry_api.GetPolicyRequest(name=f"models/{model}")
        response: registry_api.GetPolicyResponse = self._ask_registry(self._registry.GetPolicy, request)
        return response

    def apply_policy(self, policy: Policy, *, request_id: str = "") -> registry_api.ApplyPolicyResponse:
        """Apply ``policy``; return it with all defaults filled in, and its revision."""
        request = registry_api.ApplyPolicyRequest(policy=policy, request_id=request_id or new_request_id())
        response: registry_api.ApplyPolicyResponse = self._ask_registry(self._registry.ApplyPolicy, request)
        return response

    def set_alias(self, model: str, alias: str, version: str, *, request_id: str = "") -> registry_api.ModelAlias:
        """Move ``alias`` to ``version``; stable and candidate move only by a rollout (FailedPrecondition).

        Raises:
            Conflict: Somebody moved it at the same time.

        """
        etags = {each.alias: each.etag for each in self.get_model(model).aliases}
        request = registry_api.SetAliasRequest(
            parent=f"models/{model}",
            alias=alias,
            version=version_of(version),
            etag=etags.get(alias, ""),
            request_id=request_id or new_request_id(),
        )
        moved: registry_api.ModelAlias = self._ask_registry(self._registry.SetAlias, request).alias
        return moved


def _resource(reference: str) -> str:
    try:
        return parse_reference(reference)
    except ValueError as error:
        raise InvalidInput(str(error), code="REFERENCE_INVALID", field="reference") from None
