"""The plot: three trainings, what has to come of each, and whether it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tidegate.client import EventReader, Receipt, TidegateClient
from tidegate.client.why import phase_name
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.contracts.topics import MONITORING, REGISTRY, ROLLOUTS, VALIDATION, Topic
from tidegate.core.errors import TidegateError
from tidegate.stack.demo.data import LIVE_MONTHS, SEED, Flights
from tidegate.stack.demo.expectations import (
    Expectation,
    expect_all_traffic,
    expect_blessed,
    expect_end,
    expect_no_failure,
    expect_number,
    expect_rising_share,
    expect_rollback,
    in_phase,
)
from tidegate.stack.demo.models import (
    MODEL,
    TrainedModel,
    train_aircraft_table,
    train_gradient_boosting,
    train_logistic_regression,
)
from tidegate.stack.demo.narrator import Narrator
from tidegate.stack.demo.publication import demo_policy, prepare, roc_auc
from tidegate.stack.demo.traffic import RATE_PER_S, Report, Traffic, first_answer, request_bodies
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.rollout_events_pb2 import RolloutStep
from tidegate.v1.values_pb2 import Change

REGISTRATION_S: Final = 30.0
DELIVERY_S: Final = 120.0
FIRST_ANSWER_S: Final = 20.0
SHARES_EVERY_S: Final = 3.0
AFTERMATH_S: Final = 3.0
ECHO_S: Final = 0.5
LIVE_ROWS: Final = 4_000
TERMINAL: Final = frozenset({"PROMOTED", "ROLLED_BACK", "ABORTED", "SUPERSEDED"})
_TOPICS: Final = (REGISTRY, VALIDATION, ROLLOUTS, MONITORING)


class StoryEnded(TidegateError):  # noqa: N818  (named for what it is)
    """The story can't go on: something that it waits for did not happen, or the opposite did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came out of the story."""

    expectations: tuple[Expectation, ...]
    events: tuple[Event, ...]
    traffic: Report | None

    @property
    def succeeded(self) -> bool:
        """Return whether every expectation holds."""
        return bool(self.expectations) and all(each.holds for each in self.expectations)


@dataclass(kw_only=True, slots=True)
class _Progress:
    """What has happened so far; the only thing that changes while a story is told."""

    events: list[Event] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)
    traffic: Traffic | None = None
    told: Report | None = None
    told_time: float = 0.0


class Story:
    """Plays the three trainings against a running Tidegate and looks whether each ends as it has to.

    ``policy`` takes the place of the demo's, ``patience`` multiplies all deadlines: for machines that are busy.
    """

    def __init__(
        self,
        client: TidegateClient,
        reader: EventReader,
        flights: Flights,
        *,
        narrator: Narrator,
        folder: Path,
        rate_per_s: float = RATE_PER_S,
        policy: Policy | None = None,
        patience: float = 1.0,
    ) -> None:
        self._client = client
        self._reader = reader
        self._flights = flights
        self._narrator = narrator
        self._folder = folder
        self._rate_per_s = rate_per_s
        self._policy = policy or demo_policy()
        self._patience = patience
        self._bodies = request_bodies(flights.in_months(LIVE_MONTHS).sample(LIVE_ROWS, seed=SEED + 1))
        self._now = _Progress()

    def play(self) -> Outcome:
        """Play all of it; never raises for a story that comes out badly."""
        report = None
        try:
            self._apply_policy()
            self._first_version()
            self._better_version()
            self._failing_version()
        except (TidegateError, TimeoutError) as error:
            self._expect(Expectation(name="the story goes on to its end", holds=False, observed=str(error)))
        finally:
            report = self._now.traffic.stop() if self._now.traffic else None
        if report is not None:
            self._expect(expect_no_failure(report))
        return Outcome(expectations=tuple(self._now.expectations), events=tuple(self._now.events), traffic=report)

    # -- the parts -----------------------------------------------------------------------------------------------

    def _apply_policy(self) -> None:
        applied = self._client.apply_policy(self._policy)
        self._narrator.say(f"policy of {MODEL} applied, revision {applied.policy_revision}")

    def _first_version(self) -> None:
        self._narrator.chapter("1. The first model: a logistic regression")
        receipt = self._publish(train_logistic_regression(self._flights))
        self._expect(expect_number(self._registered(receipt), "1.0.0", Change.CHANGE_FIRST))
        self._wait(in_phase("1.0.0", "SETTLING", "PROMOTED"), "1.0.0 gets all traffic", DELIVERY_S)
        version = first_answer(
            self._client.settings.gateway_url, self._bodies[0], deadline_s=FIRST_ANSWER_S * self._patience
        )
        self._narrator.say(f"the gateway answers, version {version}; {self._rate_per_s:g} flights a second from now on")
        self._now.traffic = Traffic(self._client.settings.gateway_url, self._bodies, rate_per_s=self._rate_per_s)
        self._now.traffic.__enter__()
        self._expect(expect_end("1.0.0", "PROMOTED", self._delivered("1.0.0")))

    def _better_version(self) -> None:
        self._narrator.chapter("2. A better model on the same inputs: boosted trees")
        receipt = self._publish(train_gradient_boosting(self._flights))
        self._expect(expect_number(self._registered(receipt), "1.1.0", Change.CHANGE_MINOR))
        self._expect(expect_end("1.1.0", "PROMOTED", self._delivered("1.1.0")))
        self._expect(expect_rising_share(self._now.events, "1.1.0"))

    def _failing_version(self) -> None:
        self._narrator.chapter("3. A model that passes every check and fails live")
        self._narrator.say(
            "its table of aircraft was learnt from cleaned data; live, about one flight in seven has an aircraft "
            "that is not in the register; no evaluation and no recorded request has one, so no check shows it"
        )
        receipt = self._publish(train_aircraft_table(self._flights))
        self._expect(expect_number(self._registered(receipt), "1.1.1", Change.CHANGE_PIPELINE))
        end = self._delivered("1.1.1")
        self._expect(expect_blessed(self._now.events, "1.1.1"), expect_end("1.1.1", "ROLLED_BACK", end))
        self._expect(*expect_rollback(self._now.events, "1.1.1"))
        self._aftermath()

    def _aftermath(self) -> None:
        traffic = self._now.traffic
        if traffic is None:
            return
        self._tell_shares()
        before = traffic.report()
        self._read_for(AFTERMATH_S)
        self._expect(expect_all_traffic(dict(traffic.report().since(before)), "1.1.0"))

    # -- doing ---------------------------------------------------------------------------------------------------

    def _publish(self, model: TrainedModel) -> Receipt:
        run = prepare(model, self._folder / model.name.replace(" ", "-"))
        text = f"trained on {len(model.training)} flights, evaluated on {len(model.evaluation)}"
        self._narrator.say(f"{model.name}: {text}, roc_auc {roc_auc(model):.4f}", [model.description])
        receipt = self._client.publish_training_completed(run)
        self._narrator.say(f"TrainingCompleted published, artifact {receipt.artifact_digest[:19]}...")
        return receipt

    def _registered(self, receipt: Receipt) -> ModelRegistered:
        def answers(event: Event) -> bool:
            return event.correlation_id == receipt.correlation_id and event.source == "tidegate/registry"

        event = self._wait(answers, "the registry answers the training", REGISTRATION_S)
        if not isinstance(event.message, ModelRegistered):
            raise StoryEnded(f"the registry answered {event.type}: {event.message}", code="NOT_REGISTERED")
        return event.message

    def _delivered(self, version: str) -> str:
        """Return the phase in which the rollout of ``version`` ends."""

        def ends(event: Event) -> bool:
            message: Any = event.message
            refused = event.type == "ValidationFailed" and format_version(message.version) == version
            return refused or in_phase(version, *TERMINAL)(event)

        event = self._wait(ends, f"the rollout of {version} ends", DELIVERY_S)
        if not isinstance(event.message, RolloutStep):
            raise StoryEnded(f"{version} failed validation", code="NOT_BLESSED")
        # What the end still causes (alias, last route) belongs to this part of the story.
        self._read_for(ECHO_S)
        return phase_name(event.message.phase)

    def _wait(self, wanted: Callable[[Event], bool], what: str, deadline_s: float) -> Event:
        """Return the first event, of those that have come or will come, that is ``wanted``."""
        known = next((event for event in self._now.events if wanted(event)), None)
        if known is not None:
            return known
        deadline = time.monotonic() + deadline_s * self._patience
        while time.monotonic() < deadline:
            found = next((event for event in self._read() if wanted(event)), None)
            if found is not None:
                return found
        raise StoryEnded(
            f"waited {deadline_s * self._patience:.0f} s in vain: {what}",
            code="DEMO_TIMEOUT",
            hint="look into the logs: `tidegate logs`",
        )

    def _read_for(self, duration_s: float) -> None:
        deadline = time.monotonic() + duration_s
        while time.monotonic() < deadline:
            self._read()

    def _read(self) -> list[Event]:
        """Read, tell and keep what has happened since the last time."""
        events = [event for event in self._reader.poll() if event.subject == MODEL]
        for event in events:
            if event.type != "MetricReport":
                self._now.events.append(event)
                self._narrator.event(event)
        if time.monotonic() - self._now.told_time > SHARES_EVERY_S:
            self._tell_shares()
        return events

    def _tell_shares(self) -> None:
        self._now.told_time = time.monotonic()
        if self._now.traffic is None:
            return
        report = self._now.traffic.report()
        earlier = self._now.told
        by_version = report.since(earlier) if earlier else report.by_version
        self._narrator.shares(by_version, failed=report.failed)
        self._now.told = report

    def _expect(self, *expectations: Expectation) -> None:
        self._now.expectations.extend(expectations)


def story_topics() -> Sequence[Topic]:
    """Return the topics that a story reads."""
    return _TOPICS
