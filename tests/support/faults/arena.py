"""Fault tests in four parts, here together on one running stack: deliver a version, break things, judge the history.

The division is that of etcd's robustness tests: ``failpoints`` break one thing, ``traffic`` keeps clients and producers
busy, ``model`` says how the same work ends without any fault, ``validate`` holds the recorded history to invariants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from eventlog import EventLog
from faults.deployers import stalled
from faults.failpoints import FailPoint, Site, Wound, wait_until
from faults.history import Excuse, Ground, History, Publication, Quality
from faults.traffic import Clients, Producer
from faults.validate import TERMINAL, differences, violations

from tidegate.client import TidegateClient
from tidegate.client.settings import load_settings
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.core.clock import utc_now
from tidegate.core.policy import policy_from_yaml
from tidegate.stack.demo.data import Flights
from tidegate.stack.demo.models import MODEL
from tidegate.stack.stack import Stack
from tidegate.v1 import rollout_events_pb2 as pb

MOMENT_S = 150.0
END_S = 240.0
SETTLED_S = 90.0
# What a client's own connection must find again after the proxy or the only server behind it was killed.
EXCUSE_SLACK_S = 1.0

POLICY = """
model: {model}
rollout:
  on_first: {{strategy: blue_green}}
  on_pipeline: {{strategy: canary, steps: [0.3, 1.0], bake_s: 1}}
  settle_s: {settle_s}
guards:
  items:
    - {{metric: error_rate, margin: 0.05, floor: 0.2}}
    - {{metric: latency_ms, quantile: 0.9, ratio: 50, ceiling: 9000}}
"""


class Moment(StrEnum):
    """Where a rollout is struck: each is the event that begins the phase."""

    REGISTERING = "registering"
    VALIDATING = "validating"
    STARTING = "starting"
    STEPPING = "stepping"
    SETTLING = "settling"
    ROLLING_BACK = "rolling back"


_PHASES = {
    Moment.STARTING: pb.PHASE_STARTING,
    Moment.STEPPING: pb.PHASE_STEPPING,
    Moment.SETTLING: pb.PHASE_SETTLING,
}
Strikes = Mapping[Moment, tuple[FailPoint, ...]]


@dataclass(kw_only=True)
class Arena:
    """A running stack under traffic, and everything that was recorded of it."""

    stack: Stack
    client: TidegateClient
    log: EventLog
    producer: Producer
    clients: Clients
    excuses: list[Excuse] = field(default_factory=list)
    killed_on_trial: set[str] = field(default_factory=set)

    @property
    def site(self) -> Site:
        """What failpoints need."""
        return Site(stack=self.stack)

    def deliver(self, quality: Quality, strikes: Strikes | None = None) -> str:
        """Publish a version and strike on its way; return its number when its rollout has ended and all is whole."""
        publication = self.producer.publish(quality)
        wounds = [
            wound
            for moment in Moment
            for wound in self._strike_at(moment, (strikes or {}).get(moment, ()), publication)
        ]
        try:
            number = self.number_of(publication)
            self.wait_end(number)
        finally:
            # Also where it does not end: the next delivery begins on a whole stack.
            self._heal(wounds)
        return number

    def strike(self, point: FailPoint, *, candidate: str = "") -> Wound:
        """Break something now."""
        stable = f"{MODEL}@{self.stable()}" if point.name == "stable's server" else ""
        reference = f"{MODEL}@{candidate}"
        if point.name == "candidate's server":
            self.killed_on_trial.add(reference)
        return point.strike(self.site, candidate=reference, stable=stable)

    def heal(self, wound: Any) -> None:
        """Wait until it is whole; where clients were bound to suffer, remember for how long."""
        wound.heal()
        if wound.what == "gateway":
            back_s = self.clients.wait_for_good_answers(1, since_s=wound.began_s + EXCUSE_SLACK_S)
            self.excuses.append(Excuse(what=wound.what, begin_s=wound.began_s, end_s=back_s + EXCUSE_SLACK_S))
        elif wound.what == "stable's server":
            self._excuse_until_it_answers(wound, wound.began_s)
        if wound.what == "candidate's server":
            # Envoy can ask another server again only until the head of the answer has come.
            cut = Excuse(what=wound.what, begin_s=wound.began_s, end_s=wound.dead_s + EXCUSE_SLACK_S, cut_only=True)
            self.excuses.append(cut)
        if wound.what == "candidate's server" and (promoted_s := self._promoted_s(wound.of)) is not None:
            # It answers alone from then on; before, stable answers in its place.
            self._excuse_until_it_answers(wound, max(wound.began_s, promoted_s))

    def _excuse_until_it_answers(self, wound: Any, begin_s: float) -> None:
        """Excuse what fails until the killed server answers again; if nobody asks it any more, until now."""
        back_s = self.clients.first_answer_of(wound.of.partition("@")[2], since_s=wound.dead_s)
        end_s = EXCUSE_SLACK_S + (utc_now().timestamp() if back_s is None else back_s)
        if end_s > begin_s:
            self.excuses.append(Excuse(what=wound.what, begin_s=begin_s, end_s=end_s))

    def _promoted_s(self, reference: str) -> float | None:
        """Return when a version was promoted, in epoch seconds."""
        model, _, number = reference.partition("@")
        steps = [event for event in self.log.after(0) if _is_step(event, model, number)]
        return next((one.time.timestamp() for one in steps if one.message.phase == pb.PHASE_PROMOTED), None)

    def number_of(self, publication: Publication) -> str:
        """Return the number that a training got."""
        return format_version(self.registered(publication).message.version)

    def registered(self, publication: Publication) -> Event:
        """Wait for a training's registration."""
        return self.log.wait_for(
            f"registration of {publication.event_id}",
            lambda event: event.type == "ModelRegistered" and event.causation_id == publication.event_id,
            deadline_s=MOMENT_S,
        )

    def wait_end(self, number: str, *, model: str = MODEL) -> pb.RolloutStep:
        """Wait until the rollout of ``number`` has ended, however."""
        found = self.log.wait_for(
            f"end of the rollout of {model}@{number}",
            lambda event: _is_step(event, model, number) and event.message.phase in TERMINAL,
            deadline_s=END_S,
        )
        return found.message

    def wait_phase(self, number: str, phase: int, *, model: str = MODEL, epoch_above: int = -1) -> pb.RolloutStep:
        """Wait until the rollout of ``number`` is in ``phase``, in a route of an epoch above ``epoch_above``."""
        found = self.log.wait_for(
            f"{model}@{number} in {pb.Phase.Name(phase)}, above epoch {epoch_above}",
            lambda event: (
                _is_step(event, model, number)
                and event.message.phase == phase
                and event.message.route_epoch > epoch_above
            ),
            deadline_s=MOMENT_S,
        )
        return found.message

    def wait_epoch(self, number: str, *, above: int, model: str = MODEL) -> None:
        """Wait until somebody else has taken the model of a running rollout over."""
        self.log.wait_for(
            f"{model} above epoch {above}",
            lambda event: _is_step(event, model, number) and event.message.route_epoch > above,
            deadline_s=MOMENT_S,
        )

    def partition_of(self, model: str = MODEL) -> int:
        """Return the partition of a model that was published."""
        return next(event.partition for event in self.log.after(0) if event.subject == model)

    def stable(self, model: str = MODEL) -> str:
        """Return the version that the alias stable points to."""
        return format_version(self.client.get_version(f"{model}@stable").registered.version)

    def history(self) -> History:
        """Return all that was recorded so far, up to the newest event that the broker has."""
        return History(
            events=tuple(self.log.all_up_to_now()),
            answers=self.clients.seen(),
            publications=tuple(publication for publication, _ in self.producer.published),
            excuses=tuple(self.excuses),
            killed_on_trial=frozenset(self.killed_on_trial),
        )

    def must_be_right(self) -> History:
        """Wait until all has come to rest as it does without faults, then hold the history to every invariant."""
        found: list[str] = []

        def is_at_rest() -> bool:
            found[:] = differences(self.history(), self.ground())
            return not found

        try:
            wait_until(is_at_rest, "the end is the same as without faults", deadline_s=SETTLED_S)
        except AssertionError:
            raise AssertionError("it ends otherwise than without faults: " + "; ".join(found)) from None
        history = self.history()
        if broken := violations(history):
            raise AssertionError("what must always hold was broken:\n" + "\n".join(broken))
        return history

    def ground(self) -> Ground:
        """Return how things stand now."""
        models = {publication.model for publication, _ in self.producer.published}
        return Ground(
            stable={model: self.stable(model) for model in models},
            live_servers=frozenset(self.site.servers()),
            sandbox_servers=frozenset(self.site.servers("modelhost-sandbox")),
        )

    def _strike_at(self, moment: Moment, points: tuple[FailPoint, ...], publication: Publication) -> list[Wound]:
        if not points:
            return []
        if moment is Moment.ROLLING_BACK:
            return self._strike_before_the_way_back(points, publication)
        candidate = self._wait_for(moment, publication)
        return [self.strike(point, candidate=candidate) for point in points]

    def _strike_before_the_way_back(self, points: tuple[FailPoint, ...], publication: Publication) -> list[Wound]:
        """Strike after the breach and before anybody has acted on it.

        The deployer would have done so within 20 ms: it stands still from when the candidate gets traffic.
        """
        number = self._wait_for(Moment.STEPPING, publication)
        self._wait_for_traffic_to(number)
        with stalled(self.site.wait_alive("deployer")):
            self._wait_for(Moment.ROLLING_BACK, publication)
            steps = [event.message for event in self.log.all_up_to_now() if _is_step(event, MODEL, number)]
            assert all(step.phase != pb.PHASE_ROLLING_BACK for step in steps), "the deployer was held too late"
            return [self.strike(point, candidate=number) for point in points]

    def _wait_for_traffic_to(self, number: str) -> None:
        """Wait until the proxy has the candidate's route, and clients are served (it may have been killed since)."""
        step = self.wait_phase(number, pb.PHASE_STEPPING)
        self.log.wait_for(
            f"route {step.route_epoch}.{step.route_revision} of {number} acknowledged",
            lambda event: (
                event.type == "RouteApplied"
                and event.subject == MODEL
                and event.message.complete
                and (event.message.epoch, event.message.revision) >= (step.route_epoch, step.route_revision)
            ),
            deadline_s=MOMENT_S,
        )
        self.clients.wait_for_good_answers(1, since_s=utc_now().timestamp())

    def _wait_for(self, moment: Moment, publication: Publication) -> str:
        """Wait until the version of ``publication`` has come to ``moment``; return its number, "" before it has one."""
        if moment is Moment.REGISTERING:
            self.log.wait_for(
                f"training {publication.event_id}",
                lambda event: event.type == "TrainingCompleted" and event.id == publication.event_id,
            )
            return ""
        number = self.number_of(publication)
        if moment is Moment.ROLLING_BACK:
            self.log.wait_for(
                f"breach of {number}",
                lambda event: event.type == "MetricBreach" and format_version(event.message.version) == number,
                deadline_s=MOMENT_S,
            )
        elif moment in _PHASES:
            self.log.wait_for(
                f"{number} {moment}",
                lambda event: _is_step(event, MODEL, number) and event.message.phase == _PHASES[moment],
                deadline_s=MOMENT_S,
            )
        return number

    def _heal(self, wounds: list[Wound]) -> None:
        for wound in wounds:
            self.heal(wound)


def _is_step(event: Event, model: str, number: str) -> bool:
    message: Any = event.message
    return event.type == "RolloutStep" and event.subject == model and format_version(message.candidate) == number


@contextmanager
def running_arena(folder: Path, flights: Flights, *, settle_s: float = 2.0) -> Iterator[Arena]:
    """Run a stack whose first version serves under traffic; nothing is left afterwards."""
    stack = Stack(folder / "stack")
    try:
        stack.up(port_base=0)
        settings = load_settings(environ={}, stack=folder / "stack")
        with TidegateClient(settings) as client, EventLog(settings.kafka) as log:
            producer = Producer(client=client, flights=flights, folder=folder)
            client.apply_policy(policy_from_yaml(POLICY.format(model=MODEL, settle_s=settle_s)))
            first = producer.publish(Quality.GOOD)
            log.wait_for(
                "first version in service",
                lambda event: event.type == "RolloutStep" and event.message.phase == pb.PHASE_PROMOTED,
                deadline_s=END_S,
            )
            with Clients(gateway_url=settings.gateway_url, flights=flights) as clients:
                arena = Arena(stack=stack, client=client, log=log, producer=producer, clients=clients)
                assert arena.number_of(first) == "1.0.0"
                yield arena
    finally:
        stack.down()
