"""Given, when, then: stories on the whole embedded stack, told in the words of its users."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eventlog import EventLog

from tidegate.client import TidegateClient
from tidegate.client.settings import load_settings
from tidegate.contracts.names import format_version
from tidegate.core.policy import policy_from_yaml
from tidegate.stack.demo.data import LIVE_MONTHS, Flights
from tidegate.stack.demo.models import MODEL, TrainedModel
from tidegate.stack.demo.publication import prepare
from tidegate.stack.demo.traffic import Report, Traffic, first_answer, request_bodies
from tidegate.stack.stack import Stack
from tidegate.v1 import rollout_events_pb2 as pb

LIVE_FLIGHTS = 2_000
RATE_PER_S = 120.0
READY_S = 90.0


@dataclass
class World:
    """One running stack, a client of it, and everything that it said."""

    stack: Stack
    client: TidegateClient
    log: EventLog
    flights: Flights
    folder: Path
    traffic: Traffic | None = None
    gateway_url: str = ""
    published: int = 0
    receipts: dict[str, Any] = field(default_factory=dict)

    # given

    def policy(self, text: str) -> None:
        """Apply a policy, written as people do."""
        self.client.apply_policy(policy_from_yaml(text))

    @contextmanager
    def live_traffic(self) -> Iterator[Traffic]:
        """Replay later months' flights through the gateway while the block runs."""
        bodies = request_bodies(self.flights.in_months(LIVE_MONTHS).sample(LIVE_FLIGHTS))
        first_answer(self.gateway_url, bodies[0], deadline_s=READY_S)
        with Traffic(self.gateway_url, bodies, rate_per_s=RATE_PER_S) as traffic:
            self.traffic = traffic
            yield traffic

    # when

    def publishes(self, model: TrainedModel) -> str:
        """Have a producer publish a trained model; return the number that it got."""
        self.published += 1
        receipt = self.client.publish_training_completed(prepare(model, self.folder / f"run-{self.published}"))
        event = self.client.wait_for_registration(receipt, timeout_s=READY_S)
        assert event.type == "ModelRegistered", event.message
        return format_version(event.message.version)

    def kills(self, part: str) -> int:
        """End a part of the stack with SIGKILL; return its process id."""
        pid = self.pid(part)
        os.kill(pid, signal.SIGKILL)
        return pid

    def pid(self, part: str) -> int:
        """Return the process id of a part."""
        return next(status.pid for status in self.stack.status().parts if status.name == part)

    # then

    def reaches(self, version: str, phase: int, *, deadline_s: float = READY_S) -> pb.RolloutStep:
        """Wait until the rollout of ``version`` is in ``phase``."""

        def matches(event: Any) -> bool:
            step = event.message
            # Others of the stack have versions of the same number.
            is_step = event.type == "RolloutStep" and event.subject == MODEL
            return is_step and step.phase == phase and format_version(step.candidate) == version

        event = self.log.wait_for(f"{version} in {pb.Phase.Name(phase)}", matches, deadline_s=deadline_s)
        return event.message

    def steps(self, version: str) -> list[pb.RolloutStep]:
        """Return the steps of the rollout of ``version``, in order."""
        return [step for step in self.log.of_type("RolloutStep", MODEL) if format_version(step.candidate) == version]

    def shares(self, version: str) -> list[int]:
        """Return the candidate's weight at each of its steps, in millionths."""
        return [
            next(arm.weight_millionths for arm in step.arms if format_version(arm.version) == version)
            for step in self.steps(version)
        ]

    def breach(self, version: str) -> Any:
        """Wait for the breach of ``version``."""
        return self.log.wait_for(
            f"breach of {version}",
            lambda event: (
                event.type == "MetricBreach"
                and event.subject == MODEL
                and format_version(event.message.version) == version
            ),
            deadline_s=READY_S,
        ).message

    def stable(self) -> str:
        """Return the version that the alias stable points to."""
        return format_version(self.client.get_version(f"{MODEL}@stable").registered.version)

    def stable_becomes(self, version: str) -> None:
        """Wait until the alias stable points to ``version``: the registry moves it when it hears of the rollout's end."""
        self.log.wait_for(
            f"alias stable on {version}",
            lambda event: (
                event.type == "AliasMoved"
                and event.subject == MODEL
                and event.message.alias == "stable"
                and format_version(event.message.version) == version
            ),
            deadline_s=READY_S,
        )
        assert self.stable() == version

    def no_request_failed(self) -> Report:
        """Return what became of the live requests; none may have failed."""
        assert self.traffic is not None
        report = self.traffic.report()
        assert report.requests > 0
        assert report.failed == 0, report.failures
        return report


@contextmanager
def running_world(folder: Path, flights: Flights) -> Iterator[World]:
    """Run the whole stack on free ports in ``folder``; nothing is left afterwards."""
    stack = Stack(folder / "stack")
    try:
        stack.up(port_base=0)
        settings = load_settings(environ={}, stack=folder / "stack")
        with TidegateClient(settings) as client, EventLog(settings.kafka) as log:
            yield World(
                stack=stack,
                client=client,
                log=log,
                flights=flights,
                folder=folder,
                gateway_url=settings.gateway_url,
            )
    finally:
        stack.down()
