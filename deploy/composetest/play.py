"""The demo's story on the containers, with services restarted in the middle of it and after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from composetest.engine import CommandError
from composetest.project import Project
from tidegate.client import EventReader, TidegateClient
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.stack.demo.data import LIVE_MONTHS, Flights
from tidegate.stack.demo.expectations import Expectation, expect_no_failure
from tidegate.stack.demo.narrator import ConsoleNarrator
from tidegate.stack.demo.publication import demo_policy
from tidegate.stack.demo.story import Story, story_topics
from tidegate.stack.demo.traffic import Traffic, first_answer, request_bodies
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.rollout_events_pb2 import PHASE_STEPPING, RolloutStep

RATE_PER_S: Final = 40.0
LIVE_FLIGHTS: Final = 1_000
SOME_REQUESTS: Final = 300
TRAFFIC_S: Final = 300.0
PATIENCE: Final = 5.0
LATENCY_MS_MAX: Final = 10_000
LATENCY_RATIO_MAX: Final = 100.0
LOAD_TIMEOUT_S: Final = 300
RESTARTED_MIDWAY: Final = "deployer"
SERVICES: Final = ("registry", "validator", "deployer", "monitor")


class RestartingNarrator(ConsoleNarrator):
    """Tells the story, and does something once when the second version has got its first share of the traffic."""

    def __init__(self, midway: Callable[[], None]) -> None:
        super().__init__()
        self._midway = midway
        self.thread: threading.Thread | None = None

    def event(self, event: Event) -> None:
        """See Narrator."""
        super().event(event)
        step = event.message
        if self.thread is not None or not isinstance(step, RolloutStep):
            return
        if step.phase == PHASE_STEPPING and format_version(step.candidate) == "1.1.0":
            self.say(f"now the {RESTARTED_MIDWAY} is restarted, in the middle of its rollout")
            self.thread = threading.Thread(target=self._midway, name="midway")
            self.thread.start()


def play(project: Project, flights: Flights, folder: Path) -> list[Expectation]:
    """Play the story as the user ``producers``; return what had to come out and what did."""
    restarted: list[str] = []

    def midway() -> None:
        try:
            project.restart(RESTARTED_MIDWAY)
            restarted.append("it was, and is healthy again")
        except CommandError as error:
            restarted.append(str(error))

    narrator = RestartingNarrator(midway)
    settings = project.settings("producers")
    with TidegateClient(settings) as client, EventReader(settings.kafka, story_topics(), since="now") as reader:
        story = Story(
            client,
            reader,
            flights,
            narrator=narrator,
            folder=folder,
            rate_per_s=RATE_PER_S,
            policy=lenient_policy(),
            patience=PATIENCE,
        )
        outcome = story.play()
    expectations = list(outcome.expectations)
    if narrator.thread is not None:
        narrator.thread.join()
    observed = restarted[0] if restarted else "it was not: no share of 1.1.0 was seen"
    survived = Expectation(
        name=f"the {RESTARTED_MIDWAY} was restarted in the middle",
        holds=observed.startswith("it was, "),
        observed=observed,
    )
    return [*expectations, survived]


def lenient_policy() -> Policy:
    """Return the demo's policy without its limits of latency: this is no test of the machine's speed."""
    policy = demo_policy()
    for runtime in policy.validation.runtimes:
        runtime.latency_ms_p99_max = LATENCY_MS_MAX
        runtime.load_timeout_s = LOAD_TIMEOUT_S
    for guard in policy.guards.items:
        if guard.metric == "latency_ms":
            guard.ratio, guard.ceiling = LATENCY_RATIO_MAX, LATENCY_MS_MAX
    return policy


def restart_all(project: Project, flights: Flights) -> list[Expectation]:
    """Restart the four services under traffic; no request may fail, and all must be healthy again."""
    gateway_url = project.settings("producers").gateway_url
    bodies = request_bodies(flights.in_months(LIVE_MONTHS).sample(LIVE_FLIGHTS))
    before = first_answer(gateway_url, bodies[0], deadline_s=TRAFFIC_S)
    with Traffic(gateway_url, bodies, rate_per_s=RATE_PER_S) as traffic:
        project.restart(*SERVICES)
        known = traffic.report().requests
        deadline = time.monotonic() + TRAFFIC_S
        while traffic.report().requests < known + SOME_REQUESTS and time.monotonic() < deadline:
            time.sleep(0.1)
        report = traffic.report()
    failed = expect_no_failure(report)
    return [
        Expectation(
            name=f"no request fails while {', '.join(SERVICES)} are restarted",
            holds=failed.holds,
            observed=failed.observed,
        ),
        Expectation(
            name="the same version serves afterwards",
            holds=set(report.by_version) == {before},
            observed=", ".join(sorted(report.by_version)),
        ),
    ]
