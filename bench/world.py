"""The whole embedded stack for a benchmark: started in a folder of its own, gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import models
from bench.events import EventLog
from tidegate.client import Receipt, TidegateClient, load_settings
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.core.policy import policy_from_yaml
from tidegate.stack.stack import Stack
from tidegate.v1 import rollout_events_pb2 as pb

DELIVERY_S: Final = 180.0


@dataclass
class World:
    """A running stack, a client of it, and everything that it said."""

    stack: Stack
    client: TidegateClient
    log: EventLog
    folder: Path
    published: int = field(default=0)

    @property
    def gateway_url(self) -> str:
        """Where applications send their requests."""
        return self.client.settings.gateway_url

    @property
    def infer_url(self) -> str:
        """Where applications ask for a prediction."""
        return f"{self.gateway_url}/v2/models/{models.MODEL}/infer"

    def policy(self, text: str) -> None:
        """Apply a policy."""
        self.client.apply_policy(policy_from_yaml(text))

    def publish(self) -> Receipt:
        """Publish one more training; each is a version of its own."""
        self.published += 1
        run = models.training(self.published, self.folder / f"training-{self.published}")
        return self.client.publish_training_completed(run)

    def serve_first(self) -> None:
        """Have a version in service: the first one, if there is none."""
        if not self.published:
            self.delivered(self.publish())

    def registered(self, receipt: Receipt) -> Event:
        """Wait for the registry's answer to a training.

        Raises:
            Unavailable: It did not come, or is a refusal.

        """
        return self.log.wait(
            "registration",
            lambda event: event.type == "ModelRegistered" and event.correlation_id == receipt.correlation_id,
        )

    def delivered(self, receipt: Receipt) -> str:
        """Wait until the version of a training is promoted; return its number."""
        version = format_version(self.registered(receipt).message.version)  # type: ignore[attr-defined]
        self.reaches(version, pb.PHASE_PROMOTED)
        return version

    def stable(self) -> str:
        """Return the version that the alias stable names."""
        return format_version(self.client.get_version(f"{models.MODEL}@stable").registered.version)

    def reaches(self, version: str, phase: pb.Phase.ValueType, *, since: int = 0) -> Event:
        """Wait for the step that brings the rollout of ``version`` into ``phase``."""

        def matches(event: Any) -> bool:
            step = event.message
            return (
                isinstance(step, pb.RolloutStep) and step.phase == phase and format_version(step.candidate) == version
            )

        name = f"{version} in {pb.Phase.Name(phase)}"
        return self.log.wait(name, matches, since=since, deadline_s=DELIVERY_S)

    def applied(self, step: pb.RolloutStep, *, since: int = 0) -> Event:
        """Wait until every proxy has acknowledged the route of ``step``."""

        def matches(event: Any) -> bool:
            said = event.message
            wanted = (True, step.model, step.route_epoch, step.route_revision)
            return (
                isinstance(said, pb.RouteApplied) and (said.complete, said.model, said.epoch, said.revision) == wanted
            )

        return self.log.wait(f"route {step.route_epoch}/{step.route_revision} acknowledged", matches, since=since)


@contextmanager
def running_world(environment: Mapping[str, str] | None = None) -> Iterator[World]:
    """Run the whole stack on free ports; ``environment`` has settings of services (``TIDEGATE_<SERVICE>_...``)."""
    # Short, since unix sockets' paths are.
    with tempfile.TemporaryDirectory(prefix="tg") as name, _variables(environment or {}):
        folder = Path(name)
        stack = Stack(folder / "stack")
        try:
            stack.up(port_base=0)
            settings = load_settings(environ={}, stack=folder / "stack")
            with TidegateClient(settings) as client, EventLog(settings.kafka) as log:
                yield World(stack=stack, client=client, log=log, folder=folder)
        finally:
            stack.down()


@contextmanager
def _variables(wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
