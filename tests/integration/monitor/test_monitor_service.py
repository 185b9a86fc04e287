"""The monitor as a process, with a real broker and a client that speaks as Envoy does."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaConsumer
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tidegate.contracts.codec import Event, decode
from tidegate.contracts.names import parse_version
from tidegate.contracts.topics import MONITORING, PREDICTIONS
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.settings import KafkaSettings
from tidegate.monitor.judges.replay import replay
from tidegate.stack.ports import free_ports
from tidegate.v1 import policy_pb2
from tidegate.v1.monitoring_events_pb2 import (
    EVIDENCE_KIND_ABSOLUTE,
    EvidenceReached,
    MetricBreach,
    MetricReport,
    PredictionBatch,
    PredictionColumns,
)
from tidegate.v1.rollout_events_pb2 import (
    ARM_ROLE_CANDIDATE,
    ARM_ROLE_STABLE,
    PHASE_PROMOTED,
    PHASE_SETTLING,
    PHASE_STARTING,
    PHASE_STEPPING,
    Arm,
    RolloutStep,
)

MODEL = "flight-delay"
STABLE, CANDIDATE = "1.0.0", "1.1.0"
DEADLINE_S = 60.0
NUMBERS = itertools.count(1)


@dataclass
class Monitor:
    """A running monitor."""

    process: asyncio.subprocess.Process
    port: int


def environment(kafka: KafkaSettings, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "TIDEGATE_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "TIDEGATE_KAFKA_TOPIC_PREFIX": kafka.topic_prefix,
        "TIDEGATE_KAFKA_PARTITION_COUNT": str(kafka.partition_count),
        "TIDEGATE_MONITOR_PORT": str(port),
    }


async def until(is_met: Callable[[], Any], what: str) -> Any:
    """Wait until ``is_met`` gives something true, and return it."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while asyncio.get_running_loop().time() < end:
        if found := is_met():
            return found
        await asyncio.sleep(0.02)
    pytest.fail(f"not within {DEADLINE_S} s: {what}")


async def is_serving(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def running_monitor(kafka: KafkaSettings, log: Path) -> AsyncIterator[Monitor]:
    (port,) = free_ports(1)
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tidegate.monitor", env=environment(kafka, port), stderr=out
        )
    try:
        end = asyncio.get_running_loop().time() + DEADLINE_S
        while not await is_serving(port):
            assert process.returncode is None, f"the monitor ended, see {log}"
            assert asyncio.get_running_loop().time() < end, f"the monitor is not healthy, see {log}"
            await asyncio.sleep(0.1)
        yield Monitor(process=process, port=port)
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), 20)


@dataclass
class Topic:
    """Everything that was seen on a topic, in the background."""

    events: list[Event] = field(default_factory=list)

    def of(self, kind: type) -> list[Any]:
        return [event.message for event in self.events if isinstance(event.message, kind)]


@asynccontextmanager
async def reading(kafka: KafkaSettings, name: str) -> AsyncIterator[Topic]:
    topic = Topic()
    consumer = AIOKafkaConsumer(name, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")

    async def read() -> None:
        async for one in consumer:
            topic.events.append(
                decode(
                    topic=one.topic,
                    partition=one.partition,
                    offset=one.offset,
                    value=one.value,
                    headers=one.headers,
                    received_time=utc_now(),
                )
            )

    await consumer.start()
    task = asyncio.create_task(read())
    try:
        yield topic
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


def entry(
    request_id: str, *, arm: str, cluster: str, status: int | None = 200, revision: int = 1, latency_ms: float = 5.0
) -> accesslog_pb2.HTTPAccessLogEntry:
    """Return an entry as Envoy writes it for one upstream attempt."""
    made = accesslog_pb2.HTTPAccessLogEntry()
    common = made.common_properties
    common.upstream_cluster = f"{MODEL}@{cluster}"
    common.start_time.FromDatetime(utc_now())
    common.duration.FromMicroseconds(int(latency_ms * 1000))
    made.request.request_id = request_id
    made.request.request_headers["x-tidegate-arm"] = arm
    made.request.request_headers["x-tidegate-route"] = f"{MODEL}/1/{revision}"
    made.request.request_headers["x-request-id"] = request_id
    if status is not None:
        made.response.response_code.value = status
    else:
        common.response_flags.upstream_request_timeout = True
    return made


def traffic(count: int, *, failing_share: float, weight: float = 0.5, revision: int = 1) -> list[Any]:
    """Return entries of ``count`` requests, evenly spread; each failure of the candidate is answered by stable."""
    entries = []
    for number in range(count):
        request_id = str(uuid.uuid4())
        is_candidate = (number * weight) % 1 + weight >= 1
        if not is_candidate:
            entries.append(entry(request_id, arm=STABLE, cluster=STABLE, revision=revision))
            continue
        fails = (next(NUMBERS) * failing_share) % 1 + failing_share >= 1
        status = (500 if number % 2 else None) if fails else 200
        entries.append(entry(request_id, arm=CANDIDATE, cluster=CANDIDATE, status=status, revision=revision))
        if fails:
            entries.append(entry(request_id, arm=CANDIDATE, cluster=STABLE, revision=revision))
    return entries


async def send(port: int, entries: Iterable[Any]) -> None:
    """Send entries as one proxy's stream does: an identifier once, then a few entries a message."""

    async def messages() -> AsyncIterator[als_pb2.StreamAccessLogsMessage]:
        first = als_pb2.StreamAccessLogsMessage()
        first.identifier.node.id = "gateway-1"
        first.identifier.log_name = "tidegate-upstream"
        yield first
        for part in batched(list(entries), 30):
            message = als_pb2.StreamAccessLogsMessage()
            message.http_logs.log_entry.extend(part)
            yield message

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await als_pb2_grpc.AccessLogServiceStub(channel).StreamAccessLogs(messages())


def batched(entries: list[Any], size: int) -> Iterable[list[Any]]:
    for first in range(0, len(entries), size):
        yield entries[first : first + size]


GUARDS = (
    policy_pb2.Guard(metric="error_rate", margin=0.05, floor=0.05),
    policy_pb2.Guard(metric="latency_ms", quantile=0.99, ratio=1.5, ceiling=1000),
)


def step(
    rollout_id: str,
    *,
    sequence: int,
    revision: int = 1,
    phase: int = PHASE_STEPPING,
    share: float = 0.5,
    guards: Iterable[policy_pb2.Guard] = GUARDS,
) -> Event:
    candidate_weight = int(share * 1_000_000)
    message = RolloutStep(
        rollout_id=rollout_id,
        model=MODEL,
        sequence=sequence,
        candidate=parse_version(CANDIDATE),
        stable=parse_version(STABLE),
        strategy="canary",
        phase=phase,  # type: ignore[arg-type]
        arms=[
            Arm(version=parse_version(STABLE), role=ARM_ROLE_STABLE, weight_millionths=1_000_000 - candidate_weight),
            Arm(version=parse_version(CANDIDATE), role=ARM_ROLE_CANDIDATE, weight_millionths=candidate_weight),
        ],
        route_epoch=1,
        route_revision=revision,
        guards=policy_pb2.GuardPolicy(alpha=0.01, items=guards),
    )
    return Event(
        message=message,
        id=str(uuid.uuid4()),
        source="tidegate/deployer",
        time=utc_now(),
        subject=MODEL,
        correlation_id="correlation-1",
        sequence=sequence,
    )


async def publish(kafka: KafkaSettings, *events: Event) -> None:
    async with EventProducer(kafka, client_id="test") as producer:
        await producer.publish_all(events)


async def test_failing_candidate_breaches_and_names_its_inputs(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    predictions = PREDICTIONS.full_name(bus_settings.topic_prefix)
    async with (
        reading(bus_settings, monitoring) as findings,
        reading(bus_settings, predictions) as batches,
        running_monitor(bus_settings, tmp_path / "monitor.log") as monitor,
    ):
        await publish(bus_settings, step("r-1", sequence=1))
        await send(monitor.port, traffic(600, failing_share=0.2))
        breach: MetricBreach = (await until(lambda: findings.of(MetricBreach), "a breach"))[0]

        assert (breach.rollout_id, breach.guard) == ("r-1", "error_rate")
        assert breach.evidence.e_value >= breach.evidence.threshold
        assert replay(breach.inputs_json) == breach.evidence.e_value
        (event,) = [event for event in findings.events if isinstance(event.message, MetricBreach)]
        assert event.correlation_id == "correlation-1"
        assert event.causation_id in {event.id for event in batches.events}

        def all_rows() -> list[PredictionBatch]:
            found = batches.of(PredictionBatch)
            return found if sum(len(one.columns.prediction_id) for one in found) == 600 else []

        # A breach may be found before the last slice is cut.
        rows = await until(all_rows, "all requests")
        served = [
            (a, s, n)
            for one in rows
            for a, s, n in zip(one.columns.assigned_arm, one.columns.served_arm, one.columns.attempts, strict=True)
        ]
        assert served.count((CANDIDATE, STABLE, 2)) == 60
        assert {one.node_id for one in rows} == {"gateway-1"}


async def test_healthy_candidate_has_evidence_at_each_step(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    async with (
        reading(bus_settings, monitoring) as findings,
        running_monitor(bus_settings, tmp_path / "monitor.log") as monitor,
    ):
        await publish(bus_settings, step("r-2", sequence=1))
        await send(monitor.port, traffic(400, failing_share=0.0))
        await until(lambda: findings.of(EvidenceReached), "evidence at the first step")
        await publish(bus_settings, step("r-2", sequence=2, revision=2, share=0.8))
        await send(monitor.port, traffic(400, failing_share=0.0, weight=0.8, revision=2))
        await until(lambda: len(findings.of(EvidenceReached)) == 2, "evidence at the second step")

        assert [(one.route_epoch, one.route_revision) for one in findings.of(EvidenceReached)] == [(1, 1), (1, 2)]
        assert findings.of(MetricBreach) == []
        for one in findings.of(EvidenceReached):
            assert replay(one.inputs_json) == one.evidence.e_value >= one.evidence.threshold


async def test_batch_before_its_step_waits_for_it(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    async with (
        reading(bus_settings, monitoring) as findings,
        running_monitor(bus_settings, tmp_path / "monitor.log") as monitor,
    ):
        await publish(bus_settings, step("r-3", sequence=1))
        await until(lambda: findings.of(MetricReport), "the monitor knows the rollout")
        await send(monitor.port, traffic(400, failing_share=0.0, revision=2))
        await publish(bus_settings, step("r-3", sequence=2, revision=2))
        (reached,) = await until(lambda: findings.of(EvidenceReached), "evidence")
        assert reached.route_revision == 2


async def test_active_rollout_has_a_heartbeat_without_traffic(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    async with (
        reading(bus_settings, monitoring) as findings,
        running_monitor(bus_settings, tmp_path / "monitor.log"),
    ):
        await publish(bus_settings, step("r-4", sequence=1))
        await until(lambda: len(findings.of(MetricReport)) >= 2, "two heartbeats")
        first, second = findings.of(MetricReport)[:2]
        assert (first.rollout_id, first.requests, first.weight_millionths) == ("r-4", 0, 500_000)
        assert [guard.e_value for guard in second.guards] == pytest.approx([1.0, 1.0])
        assert second.window_start.ToDatetime() < second.window_end.ToDatetime()
        assert findings.of(EvidenceReached) == findings.of(MetricBreach) == []

        await publish(bus_settings, step("r-4", sequence=2, phase=PHASE_PROMOTED), step("r-5", sequence=3))
        await until(lambda: findings.of(MetricReport)[-1].rollout_id == "r-5", "the new rollout's heartbeat")
        sequences = [event.sequence for event in findings.events]
        assert sequences == sorted(set(sequences))


async def test_evidence_survives_kill_and_nothing_counts_twice(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)

    def newest(findings: Topic, requests: int) -> MetricReport | None:
        for report in reversed(findings.of(MetricReport)):
            if report.guards[0].candidate_count == requests:
                return report  # type: ignore[no-any-return]
        return None

    async with reading(bus_settings, monitoring) as findings:
        async with running_monitor(bus_settings, tmp_path / "monitor.log") as monitor:
            await publish(bus_settings, step("r-6", sequence=1))
            await send(monitor.port, traffic(80, failing_share=0.1))
            before = await until(lambda: newest(findings, 40), "forty requests counted")
            monitor.process.send_signal(signal.SIGKILL)
            await monitor.process.wait()
        async with running_monitor(bus_settings, tmp_path / "monitor.log") as monitor:
            seen = len(findings.events)
            after = await until(
                lambda: next((one for one in Topic(findings.events[seen:]).of(MetricReport)), None), "a heartbeat again"
            )
            assert after.guards[0].candidate_count == 40
            assert after.guards[0].e_value == before.guards[0].e_value
            await send(monitor.port, traffic(80, failing_share=0.1))
            total = await until(lambda: newest(findings, 80), "eighty requests counted")
            assert total.guards[0].stable_count == 80
    assert total.guards[0].e_value != before.guards[0].e_value


async def test_batch_that_was_published_twice_counts_once(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    columns = PredictionColumns(
        prediction_id=[str(number) for number in range(20)],
        assigned_arm=[CANDIDATE, STABLE] * 10,
        served_arm=[CANDIDATE, STABLE] * 10,
        attempts=[1] * 20,
        status_code=[200] * 20,
        latency_us=[5000] * 20,
    )

    def batch(name: str) -> Event:
        message = PredictionBatch(
            model=MODEL, node_id="g", route_epoch=1, route_revision=1, columns=columns, dropped_count=3
        )
        message.start_time.FromDatetime(utc_now())
        message.end_time.FromDatetime(utc_now())
        return Event(
            message=message, id=name, source="tidegate/monitor", time=utc_now(), subject=MODEL, correlation_id=name
        )

    async with (
        reading(bus_settings, monitoring) as findings,
        running_monitor(bus_settings, tmp_path / "monitor.log"),
    ):
        await publish(bus_settings, step("r-7", sequence=1))
        await publish(bus_settings, batch("b-1"), batch("b-1"), batch("b-2"), batch("b-1"), batch("b-2"), batch("b-3"))
        reports = findings.events
        await until(
            lambda: any(
                isinstance(one.message, MetricReport) and one.message.guards[0].candidate_count >= 30 for one in reports
            ),
            "thirty requests counted",
        )
        await publish(bus_settings, batch("b-2"))
        seen = len(findings.of(MetricReport))
        await until(lambda: len(findings.of(MetricReport)) > seen + 1, "two more heartbeats")
        assert findings.of(MetricReport)[-1].guards[0].candidate_count == 30
        assert sum(one.requests for one in findings.of(MetricReport)) == 30
        assert sum(one.log_gap for one in findings.of(MetricReport)) == 9


async def test_late_failure_without_stable_traffic_breaches_the_floor(
    bus_settings: KafkaSettings, tmp_path: Path
) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    async with (
        reading(bus_settings, monitoring) as findings,
        running_monitor(bus_settings, tmp_path / "monitor.log") as monitor,
    ):
        await publish(bus_settings, step("r-8", sequence=1, phase=PHASE_SETTLING, share=1.0))
        await send(monitor.port, traffic(300, failing_share=0.0, weight=1.0))
        await until(
            lambda: any(one.guards[0].candidate_count == 300 for one in findings.of(MetricReport)), "all counted"
        )
        assert findings.of(MetricBreach) == findings.of(EvidenceReached) == []
        await send(monitor.port, traffic(300, failing_share=0.5, weight=1.0))
        (breach,) = await until(lambda: findings.of(MetricBreach), "a breach")
        assert (breach.guard, breach.kind) == ("error_rate", EVIDENCE_KIND_ABSOLUTE)


def slices(first: int, count: int, *, arm: str, revision: int, refused: int) -> list[Event]:
    """Return batches of one second each, of 20 requests of as many units, the first ``refused`` of which got 400."""
    found = []
    for number in range(first, first + count):
        columns = PredictionColumns(
            prediction_id=[f"{number}-{place}" for place in range(20)],
            assigned_arm=[arm] * 20,
            served_arm=[arm] * 20,
            attempts=[1] * 20,
            status_code=[400] * refused + [200] * (20 - refused),
            latency_us=[5000] * 20,
            unit_hash=range(1, 21),
        )
        message = PredictionBatch(model=MODEL, node_id="g", route_epoch=1, route_revision=revision, columns=columns)
        message.start_time.FromSeconds(1_800_000_000 + number)
        message.end_time.FromSeconds(1_800_000_001 + number)
        name = f"slice-{number}"
        found.append(
            Event(
                message=message, id=name, source="tidegate/monitor", time=utc_now(), subject=MODEL, correlation_id=name
            )
        )
    return found


async def test_client_errors_that_jump_at_a_switch_breach_and_those_of_before_do_not(
    bus_settings: KafkaSettings, tmp_path: Path
) -> None:
    monitoring = MONITORING.full_name(bus_settings.topic_prefix)
    guards = (*GUARDS, policy_pb2.Guard(metric="client_errors", margin=0.05))
    async with (
        reading(bus_settings, monitoring) as findings,
        running_monitor(bus_settings, tmp_path / "monitor.log"),
    ):

        def counted(requests: int) -> bool:
            return any(
                guard.candidate_count >= requests
                for report in findings.of(MetricReport)
                for guard in report.guards
                if guard.guard == "error_rate"
            )

        # Four of twenty callers always send rubbish; then all traffic is switched at once.
        await publish(bus_settings, step("r-9", sequence=1, phase=PHASE_STARTING, share=0.0, guards=guards))
        await publish(bus_settings, *slices(0, 10, arm=STABLE, revision=1, refused=4))
        await publish(bus_settings, step("r-9", sequence=2, revision=2, phase=PHASE_SETTLING, share=1.0, guards=guards))
        await publish(bus_settings, *slices(10, 30, arm=CANDIDATE, revision=2, refused=4))
        await until(lambda: counted(600), "half a minute with the noise of before")
        assert findings.of(MetricBreach) == []
        await publish(bus_settings, *slices(40, 120, arm=CANDIDATE, revision=2, refused=20))
        (breach,) = await until(lambda: findings.of(MetricBreach), "a breach")
        assert (breach.guard, breach.kind) == ("client_errors", EVIDENCE_KIND_ABSOLUTE)
        assert replay(breach.inputs_json) == breach.evidence.e_value >= breach.evidence.threshold
        assert breach.evidence.stable_estimate == pytest.approx(0.2)


async def test_asked_to_stop_it_publishes_the_rest_and_ends_well(bus_settings: KafkaSettings, tmp_path: Path) -> None:
    predictions = PREDICTIONS.full_name(bus_settings.topic_prefix)
    async with (
        reading(bus_settings, predictions) as batches,
        running_monitor(bus_settings, tmp_path / "monitor.log") as monitor,
    ):
        await send(monitor.port, traffic(50, failing_share=0.0))
        monitor.process.terminate()
        assert await asyncio.wait_for(monitor.process.wait(), DEADLINE_S) == 0
        await until(
            lambda: sum(len(one.columns.prediction_id) for one in batches.of(PredictionBatch)) == 50, "all rows are out"
        )
