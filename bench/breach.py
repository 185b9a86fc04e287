"""From a breach to the last proxy's acknowledgement that the candidate gets no traffic any more."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from bench import echo, envoys
from bench.client import CheckedClient
from bench.kafka import BareKafka
from bench.results import Goal, Metric, Report
from bench.stats import Sample, confidence_of_largest, rate_bound
from bench.world import World, running_world
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version, parse_version
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.errors import Unavailable
from tidegate.stack import record
from tidegate.stack.child import running
from tidegate.stack.gateway import TOKEN_VARIABLE, bootstrap
from tidegate.stack.readiness import socket_answers
from tidegate.stack.tokens import GATEWAY
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1.monitoring_events_pb2 import EVIDENCE_KIND_CONCURRENT, MetricBreach

ROLLBACKS: Final = 300
QUICK_ROLLBACKS: Final = 2
LIVE_ROLLBACKS: Final = 5
QUICK_LIVE_ROLLBACKS: Final = 1
PROXIES: Final = 3
RATE_PER_S: Final = 200.0
P99_MAX_MS: Final = 100.0
LEVEL: Final = 0.99
CALL_S: Final = 30.0
HEALTHY_S: Final = 2.0
TRANSACTION: Final = "bare Kafka transaction and consume"
POLICY: Final = """
model: bench
rollout:
  on_minor: {strategy: canary, steps: [0.5, 1.0], bake_s: 3600}
  on_pipeline: {strategy: canary, steps: [0.5, 1.0], bake_s: 3600}
  settle_s: 0
guards:
  items: [{metric: error_rate, margin: 0.05, floor: 0.2}]
"""
DRIVEN: Final = (
    "the whole embedded stack, with an echo server of the benchmark as model server (it starts in a tenth of a second, "
    "and fails when it is told to); two versions registered, validated and delivered the normal way, then a canary of "
    "the second one at 50 % again and again, each opened by one more ModelBlessed. The many: MetricBreach published as "
    "the monitor publishes it (acks=all, ce_time at its making), for the running rollout. The few: the candidate's "
    "server begins to fail, the monitor finds out. Acknowledgement: the rollback step's decision plus the latency of "
    "its RouteApplied, which names all proxies"
)


@dataclass
class Bench:
    """A world with a candidate to send back, and what was measured."""

    world: World
    producer: EventProducer
    loop: asyncio.AbstractEventLoop
    blessed: Event
    candidate: str

    def publish(self, event: Event) -> None:
        """Publish ``event``; return when the broker has it."""
        asyncio.run_coroutine_threadsafe(self.producer.publish(event), self.loop).result(CALL_S)

    def open_rollout(self) -> pb.RolloutStep:
        """Open a canary of the candidate; return its step once every proxy has its route."""
        since = self.world.log.mark()
        self.publish(replace(self.blessed, id=str(uuid.uuid4()), time=utc_now(), sequence=0))
        step: pb.RolloutStep = self.world.reaches(self.candidate, pb.PHASE_STEPPING, since=since).message  # type: ignore[assignment]
        self.world.applied(step, since=since)
        return step

    def acknowledged(self, rollout_id: str, *, since: int, proxies: int) -> datetime:
        """Return when the last of ``proxies`` had the rollback's route; wait for the rollout's end."""
        back = self.world.log.wait(
            "step back",
            lambda event: (
                isinstance(event.message, pb.RolloutStep)
                and (event.message.rollout_id, event.message.phase) == (rollout_id, pb.PHASE_ROLLING_BACK)
            ),
            since=since,
        )
        step: pb.RolloutStep = back.message  # type: ignore[assignment]
        said: pb.RouteApplied = self.world.applied(step, since=since).message  # type: ignore[assignment]
        if len(said.applied) != proxies:
            raise Unavailable(f"the route was acknowledged by {said.applied}, expected {proxies} proxies")
        self.world.reaches(self.candidate, pb.PHASE_ROLLED_BACK, since=since)
        return back.time + timedelta(milliseconds=said.latency_ms)


@contextmanager
def prepared(world: World) -> Iterator[Bench]:
    """Bring a stable version and a candidate's blessing about; the candidate's first rollout is ended."""
    world.policy(POLICY)
    world.serve_first()
    receipt = world.publish()
    blessed = world.log.wait(
        "blessing", lambda event: event.type == "ModelBlessed" and event.correlation_id == receipt.correlation_id
    )
    candidate = format_version(blessed.message.version)  # type: ignore[attr-defined]
    step: pb.RolloutStep = world.reaches(candidate, pb.PHASE_STEPPING).message  # type: ignore[assignment]
    world.client.abort_rollout(step.rollout_id, reason="prepared")
    world.reaches(candidate, pb.PHASE_ABORTED)
    with _event_loop() as loop:
        producer = asyncio.run_coroutine_threadsafe(_started_producer(world), loop).result(CALL_S)
        try:
            yield Bench(world=world, producer=producer, loop=loop, blessed=blessed, candidate=candidate)
        finally:
            asyncio.run_coroutine_threadsafe(producer.__aexit__(None, None, None), loop).result(CALL_S)


async def _started_producer(world: World) -> EventProducer:
    return await EventProducer(world.client.settings.kafka, client_id="bench").__aenter__()


def from_events(bench: Bench, bare: BareKafka, *, count: int, proxies: int) -> tuple[Sample, Sample]:
    """Roll back ``count`` times from a published breach; return milliseconds to the last ACK, and the bare ones."""
    rollbacks, transactions = [], []
    for _ in range(count):
        step = bench.open_rollout()
        since = bench.world.log.mark()
        decided = utc_now()
        bench.publish(_breach(bench, step, decided))
        acknowledged = bench.acknowledged(step.rollout_id, since=since, proxies=proxies)
        rollbacks.append(_ms(acknowledged - decided))
        transactions.append(bare.transaction_ms())
    return Sample.of(rollbacks), Sample.of(transactions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What a candidate that began to fail came to, in milliseconds after its first bad answer."""

    found_ms: float
    acknowledged_ms: float


def from_answers(bench: Bench, runtimes: Path) -> Live:
    """Let the candidate's server fail under traffic and follow that to the acknowledgement."""
    step = bench.open_rollout()
    time.sleep(HEALTHY_S)
    since = bench.world.log.mark()
    echo.let_fail(runtimes, [bench.candidate])
    breach = bench.world.log.wait("breach", lambda event: event.type == "MetricBreach", since=since)
    message: MetricBreach = breach.message  # type: ignore[assignment]
    first = message.first_evidence_time.ToDatetime(tzinfo=UTC)
    acknowledged = bench.acknowledged(step.rollout_id, since=since, proxies=1)
    echo.let_fail(runtimes, [])
    return Live(found_ms=_ms(breach.time - first), acknowledged_ms=_ms(acknowledged - first))


def measure(world: World, runtimes: Path, *, quick: bool) -> Report:
    """Measure on a running stack that serves with the echo server."""
    count, live_count = (QUICK_ROLLBACKS, QUICK_LIVE_ROLLBACKS) if quick else (ROLLBACKS, LIVE_ROLLBACKS)
    clients = [CheckedClient(world.infer_url, rate_per_s=RATE_PER_S) for _ in range(2)]
    with prepared(world) as bench, BareKafka(world.client.settings.kafka) as bare:
        with clients[0]:
            live = [from_answers(bench, runtimes) for _ in range(live_count)]
            one = from_events(bench, bare, count=count, proxies=1)
        # A proxy that ends takes its connections with it: the client is gone before.
        with more_proxies(world, PROXIES - 1), clients[1]:
            three = from_events(bench, bare, count=count, proxies=PROXIES)
    answered = sum(client.seen.answered for client in clients)
    failures = [text for client in clients for text in client.seen.failures]
    rows = [*_rows("1 proxy", *one), *_rows(f"{PROXIES} proxies", *three), *_live_rows(live)]
    failed = Metric(
        metric="requests that failed",
        value=sum(client.seen.failed + client.seen.wrong for client in clients),
        unit="requests",
        goal=Goal(at_most=0, exact=True),
        note=f"of {answered}; {rate_bound(answered):.2g} at 95 %; failures: {failures or 'none'}",
    )
    sure = 100 * confidence_of_largest(count, LEVEL)
    note = (
        f"p99 is the nearest rank of {count}; that the largest is not below the true p99 is {sure:.0f} % sure; "
        f"{RATE_PER_S:g} requests a second throughout"
    )
    return Report(name="breach", driven=DRIVEN, metrics=[*rows, failed], notes=[note])


@contextmanager
def more_proxies(world: World, count: int) -> Iterator[None]:
    """Run ``count`` more gateways on the same port, each with a node id of its own."""
    found = record.load(world.stack.layout)
    if found is None:
        raise Unavailable("the stack has no record")
    ports = found.ports
    with ExitStack() as stack:
        for number in range(2, count + 2):
            admin = world.folder / f"admin-{number}.sock"
            config = bootstrap(deployer_port=ports.deployer, monitor_port=ports.monitor, admin_socket=admin)
            config["node"]["id"] = f"gateway-{number}"
            made = replace(
                envoys.program(f"gateway-{number}", config, world.folder),
                environment={TOKEN_VARIABLE: (world.stack.layout.tokens / GATEWAY).read_text().strip()},
            )
            log = world.folder / f"{made.name}.log"
            stack.enter_context(running(made, log=log, is_ready=partial(socket_answers, admin)))
        yield


def _breach(bench: Bench, step: pb.RolloutStep, decided: datetime) -> Event:
    message = MetricBreach(
        rollout_id=step.rollout_id,
        model=step.model,
        version=parse_version(bench.candidate),
        guard="error_rate",
        kind=EVIDENCE_KIND_CONCURRENT,
        evidence=pb.Evidence(guard="error_rate", e_value=1e3, threshold=400.0, candidate_count=20, stable_count=20),
        inputs_json="{}",
    )
    message.first_evidence_time.FromDatetime(decided)
    identity = str(uuid.uuid4())
    return Event(
        message=message,
        id=identity,
        source="tidegate/monitor",
        time=decided,
        subject=step.model,
        correlation_id=bench.blessed.correlation_id,
    )


def _rows(name: str, rollbacks: Sample, transactions: Sample) -> list[Metric]:
    def row(level: str, value: float, reference: float, goal: Goal | None = None) -> Metric:
        return Metric(
            metric=f"breach to last acknowledgement, {name}, {level}",
            value=value,
            unit="ms",
            reference=reference,
            against=f"{TRANSACTION}, {level}",
            goal=goal,
            sample=rollbacks,
        )

    return [
        row("p50", rollbacks.p50, transactions.p50),
        row("p90", rollbacks.p90, transactions.p90),
        row("p99", rollbacks.p99, transactions.p99, Goal(at_most=P99_MAX_MS)),
        row("max", rollbacks.largest, transactions.largest),
    ]


def _live_rows(live: Sequence[Live]) -> list[Metric]:
    samples = {
        "first bad answer to breach": Sample.of([each.found_ms for each in live]),
        "first bad answer to last acknowledgement": Sample.of([each.acknowledged_ms for each in live]),
    }
    return [
        Metric(metric=f"{name}, {level}", value=value, unit="ms", sample=sample)
        for name, sample in samples.items()
        for level, value in (("p50", sample.p50), ("max", sample.largest))
    ]


def _ms(duration: timedelta) -> float:
    return duration.total_seconds() * 1000


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="producer", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def run(*, quick: bool) -> Report:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory(prefix="tg") as name:
        runtimes = Path(name)
        with running_world(echo.install(runtimes)) as world:
            return measure(world, runtimes, quick=quick)
