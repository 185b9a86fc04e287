"""How many requests a CPU-second the monitor weighs: in the pure judge, from the topic, and from Envoy's log."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from bench.results import Goal, Metric, Report
from bench.stats import Sample
from tidegate.contracts.codec import Event
from tidegate.core.clock import utc_now
from tidegate.core.policy import default_policy
from tidegate.monitor import wire
from tidegate.monitor.accesslog import read_attempt
from tidegate.monitor.batches import Assembler, Key, Row, Slice
from tidegate.monitor.judges.judge import decide
from tidegate.monitor.judges.values import STEP_REQUESTS_MIN, Batch, start
from tidegate.v1.monitoring_events_pb2 import PredictionBatch

MODEL: Final = "bench"
STABLE: Final = "1.0.0"
CANDIDATE: Final = "1.1.0"
SHARE: Final = 0.2
ERROR_RATE: Final = 0.005
SLICE_US: Final = 250_000
# A slice of the monitor at 1,000 requests a second, and the largest one that it cuts (16,000 a second).
SLICE_ROWS: Final = (250, 4_000)
BATCHES: Final = 400
ROUNDS: Final = 7
QUICK_BATCHES: Final = 5
QUICK_ROUNDS: Final = 1
ENTRIES_A_MESSAGE: Final = 30
ENTRIES: Final = 30_000
QUICK_ENTRIES: Final = 600
PER_CPU_S_MIN: Final = 1e6
SEED: Final = 7
BEGIN_US: Final = 1_700_000_000_000_000
UNIT: Final = "requests/CPU-s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slices:
    """The same traffic in each form that it passes through."""

    rows: int
    bodies: list[bytes]
    events: list[Event]
    batches: list[Batch]


def rate(work: Callable[[], int], *, rounds: int) -> Sample:
    """Return the requests a CPU-second of ``work``, which returns how many it did."""
    found = []
    for _ in range(rounds):
        before = time.process_time()
        done = work()
        found.append(done / (time.process_time() - before))
    return Sample.of(found)


def make_slices(rows: int, count: int) -> Slices:
    """Return ``count`` slices of ``rows`` requests of a healthy canary."""
    random = np.random.default_rng(SEED)
    bodies, events, batches = [], [], []
    for number in range(count):
        body = wire.to_batch_message(_slice(random, rows, number)).SerializeToString()
        message = PredictionBatch.FromString(body)
        event = Event(
            message=message,
            id=str(number),
            source="tidegate/monitor",
            time=utc_now(),
            subject=MODEL,
            correlation_id="bench",
            partition=0,
            offset=number,
        )
        bodies.append(body)
        events.append(event)
        batches.append(_batch(event, message))
    return Slices(rows=rows, bodies=bodies, events=events, batches=batches)


def _slice(random: np.random.Generator, rows: int, number: int) -> Slice:
    key = Key(node_id="gateway-1", model=MODEL, epoch=1, revision=1)
    begin_us = BEGIN_US + number * SLICE_US
    arms = np.where(random.uniform(size=rows) < SHARE, CANDIDATE, STABLE)
    statuses = np.where(random.uniform(size=rows) < ERROR_RATE, 500, 200)
    latencies_us = random.lognormal(mean=np.log(5_000), sigma=0.5, size=rows).astype(np.int64)
    starts_us = begin_us + np.sort(random.integers(0, SLICE_US, size=rows))
    made = [
        Row(
            key=key,
            request_id=str(uuid.UUID(int=number * rows + place)),
            assigned_arm=str(arms[place]),
            served_arm=str(arms[place]),
            attempts=1,
            status=int(statuses[place]),
            start_us=int(starts_us[place]),
            latency_us=int(latencies_us[place]),
            unit_hash=0,
            own=True,
        )
        for place in range(rows)
    ]
    return Slice(key=key, rows=tuple(made), dropped=0)


def _batch(event: Event, message: PredictionBatch) -> Batch:
    return wire.to_batch(event, message, candidate=CANDIDATE, stable=STABLE, concurrent=True)


def judge_all(batches: Sequence[Batch]) -> int:
    """Weigh ``batches`` by the default guards; return the requests in them."""
    rules = wire.rules_of(default_policy(MODEL).guards, MODEL, step_requests_min=STEP_REQUESTS_MIN)
    state = start(rules)
    for batch in batches:
        state = decide(state, batch).state
    return sum(batch.candidate.requests + batch.stable.requests for batch in batches)


def judge_slices(slices: Slices) -> int:
    """Weigh batches that are decoded."""
    return judge_all(slices.batches)


def judge_bodies(slices: Slices) -> int:
    """Decode what stands in the topic, and weigh it."""
    batches = [
        _batch(event, PredictionBatch.FromString(body))
        for event, body in zip(slices.events, slices.bodies, strict=True)
    ]
    return judge_all(batches)


def decode_bodies(slices: Slices) -> int:
    """Only decode."""
    for body in slices.bodies:
        PredictionBatch.FromString(body)
    return slices.rows * len(slices.bodies)


def count_arrays(slices: Slices) -> int:
    """Only count: one histogram of latencies an arm, as any judge must at least."""
    done = 0
    for batch in slices.batches:
        for arm in (batch.candidate, batch.stable):
            np.histogram(np.log2(arm.latencies_us + 1), bins=48, range=(0, 32))
            done += arm.requests
    return done


def make_log(count: int) -> list[bytes]:
    """Return the messages of a proxy's log of ``count`` requests, with the fields that Envoy fills in."""
    random = np.random.default_rng(SEED)
    messages = []
    for first in range(0, count, ENTRIES_A_MESSAGE):
        message = StreamAccessLogsMessage()
        for number in range(first, min(count, first + ENTRIES_A_MESSAGE)):
            arm = CANDIDATE if random.uniform() < SHARE else STABLE
            message.http_logs.log_entry.append(_entry(number, arm, int(random.lognormal(np.log(5_000), 0.5))))
        messages.append(message.SerializeToString())
    return messages


def _entry(number: int, arm: str, latency_us: int) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    common = entry.common_properties
    for address in (common.downstream_remote_address, common.downstream_local_address):
        address.socket_address.address, address.socket_address.port_value = "127.0.0.1", 40_000
    common.upstream_remote_address.pipe.path = "/run/tidegate/m/0123456789ab/s"
    common.upstream_cluster = f"{MODEL}@{arm}"
    common.route_name = f"{MODEL}/1/infer"
    common.stream_id = str(uuid.UUID(int=number))
    common.start_time.FromMicroseconds(BEGIN_US + 1000 * number)
    for duration in (common.time_to_last_rx_byte, common.time_to_first_upstream_tx_byte, common.duration):
        duration.FromMicroseconds(latency_us)
    common.upstream_request_attempt_count = 1
    request = entry.request
    request.authority, request.path, request.scheme = "127.0.0.1:7403", f"/v2/models/{MODEL}/infer", "http"
    request.request_id = str(uuid.UUID(int=number))
    request.request_body_bytes, request.request_headers_bytes = 700, 300
    request.request_headers["x-tidegate-arm"] = arm
    request.request_headers["x-tidegate-route"] = f"{MODEL}/1/1"
    entry.response.response_code.value = 200
    entry.response.response_body_bytes, entry.response.response_headers_bytes = 200, 150
    entry.response.response_code_details = "via_upstream"
    return entry


def take_log(messages: Sequence[bytes]) -> int:
    """Do what the monitor does with a proxy's messages, up to the batch that it publishes."""
    assembler = Assembler()
    taken = 0
    for body in messages:
        for entry in StreamAccessLogsMessage.FromString(body).http_logs.log_entry:
            attempt = read_attempt("gateway-1", entry)
            if attempt is None:
                raise ValueError("the monitor ignores the benchmark's entries")
            assembler.add(attempt)
            taken += 1
    for part in assembler.close_slice():
        wire.to_batch_message(part).SerializeToString()
    return taken


def decode_log(messages: Sequence[bytes]) -> int:
    """Only decode, and touch each entry."""
    return sum(len([*StreamAccessLogsMessage.FromString(body).http_logs.log_entry]) for body in messages)


def run(*, quick: bool) -> Report:
    """Run the benchmark."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    rows: list[Metric] = []
    bodies: dict[int, Sample] = {}
    for size in SLICE_ROWS:
        slices = make_slices(size, QUICK_BATCHES if quick else max(QUICK_BATCHES, BATCHES * SLICE_ROWS[0] // size))
        # The goal is of full slices: a small slice's fixed cost matters to nobody.
        goal = Goal(at_least=PER_CPU_S_MIN) if size == max(SLICE_ROWS) else None
        judged = [rate(partial(work, slices), rounds=rounds) for work in (judge_slices, count_arrays)]
        decoded = [rate(partial(work, slices), rounds=rounds) for work in (judge_bodies, decode_bodies)]
        rows += [
            _row(f"pure judge, slices of {size}", judged[0], judged[1], "histograms by numpy alone", goal),
            _row(f"from the topic's bytes, slices of {size}", decoded[0], decoded[1], "protobuf decoding alone", None),
        ]
        bodies[size] = decoded[0]
    log = make_log(QUICK_ENTRIES if quick else ENTRIES)
    logged = [rate(partial(work, log), rounds=rounds) for work in (take_log, decode_log)]
    rows.append(_row("from Envoy's log to the topic's bytes", logged[0], logged[1], "protobuf decoding alone", None))
    # One after the other, so their costs add up.
    rows += [
        Metric(
            metric=f"from Envoy's log to the verdict, slices of {size}",
            value=1.0 / (1.0 / logged[0].p50 + 1.0 / judged_bodies.p50),
            unit=UNIT,
        )
        for size, judged_bodies in bodies.items()
    ]
    return Report(
        name="evidence",
        driven=(
            f"one healthy canary at {100 * SHARE:g} % under the default guards (error rate and latency), in this "
            f"process, CPU time of the process, {rounds} rounds; slices hold one route revision and both arms. A "
            "request passes through all: Envoy's log, the topic, the judge; the goal is the judge's alone, full slices"
        ),
        metrics=rows,
    )


def _row(name: str, sample: Sample, reference: Sample, against: str, goal: Goal | None) -> Metric:
    return Metric(
        metric=name, value=sample.p50, unit=UNIT, reference=reference.p50, against=against, goal=goal, sample=sample
    )
