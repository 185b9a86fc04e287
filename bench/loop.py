"""From a finished training to the first answer of its model to live traffic, in parts, by the events' own times."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bench import models
from bench.client import CheckedClient
from bench.kafka import BareKafka
from bench.results import Goal, Metric, Report
from bench.stats import Sample, rate_bound
from bench.world import World, running_world
from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.modelhost import probe
from tidegate.modelhost.runtimes import load_runtime
from tidegate.stack.environment import clean_environment
from tidegate.stack.layout import runtimes_dir
from tidegate.v1 import rollout_events_pb2 as pb

VERSIONS: Final = 15
QUICK_VERSIONS: Final = 1
RATE_PER_S: Final = 200.0
RUNTIME: Final = "kserve-onnx"
BARE_START_S: Final = 60.0
BARE_POLL_S: Final = 0.01
ROUND_TRIPS: Final = 20
# The candidate stays at its first step: what is measured ends with its first answer.
POLICY: Final = """
model: bench
rollout:
  on_minor: {strategy: canary, steps: [0.5, 1.0], bake_s: 3600}
  on_pipeline: {strategy: canary, steps: [0.5, 1.0], bake_s: 3600}
  settle_s: 0
"""
KAFKA: Final = "bare Kafka round trip"
START: Final = "bare start of the server"
BARE_NOTE: Final = (
    f"{KAFKA}: one idle producer and consumer on the same broker; {START}: the runtime's command by hand, without "
    "sandbox, beside the same traffic"
)
PARTS: Final = {
    "training event to registered": KAFKA,
    "registered to blessed (validation in the sandbox)": START,
    "blessed to rollout opened": KAFKA,
    "rollout opened to candidate's server ready": START,
    "server ready to route acknowledged": KAFKA,
    "route acknowledged to first answer of the candidate": "",
}
# Events on the way, and starts of a server: what it would take if everything in between took no time.
FLOOR_EVENTS: Final = 3
FLOOR_STARTS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """When one version passed each station."""

    times: tuple[datetime, ...]

    def parts_ms(self) -> list[float]:
        """Return the time between neighbours, in milliseconds."""
        return [(after - before).total_seconds() * 1000 for before, after in itertools.pairwise(self.times)]

    def total_ms(self) -> float:
        """Return the time from the first station to the last."""
        return (self.times[-1] - self.times[0]).total_seconds() * 1000


def acknowledged_time(step: Event, applied: Event) -> datetime:
    """Return when the last proxy acknowledged the route of ``step``: its decision's time and the measured latency."""
    said: pb.RouteApplied = applied.message  # type: ignore[assignment]
    return step.time + timedelta(milliseconds=said.latency_ms)


def bare_start_s(folder: Path) -> float:
    """Start the same model server by hand and return the seconds until it says that it is ready."""
    runtime = load_runtime(runtimes_dir(), RUNTIME)
    artifact = folder / "bare.onnx"
    artifact.write_bytes(models.export(0))
    socket = folder / "bare.sock"
    command = runtime.command_line(model=models.MODEL, version="9.9.9", model_path=artifact, listen=f"unix:{socket}")
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=clean_environment({"PYTHONDONTWRITEBYTECODE": "1"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not is_ready(socket, runtime.readiness_path):
            if process.poll() is not None or time.perf_counter() - begin > BARE_START_S:
                raise TimeoutError(f"the bare server did not get ready, exit code {process.poll()}")
            time.sleep(BARE_POLL_S)
        return time.perf_counter() - begin
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


def is_ready(socket: Path, path: str) -> bool:
    """Ask the server on ``socket`` once, as the model host does."""
    return asyncio.run(probe.is_ready(f"unix:{socket}", path)) if socket.exists() else False


def one_passage(world: World, client: CheckedClient) -> Passage:
    """Publish a training, follow its version to its first answer, and end its rollout."""
    since = world.log.mark()
    receipt = world.publish()

    def of_training(name: str) -> Any:
        return lambda event: event.type == name and event.correlation_id == receipt.correlation_id

    training, registered, blessed = (
        world.log.wait(name, of_training(name), since=since)
        for name in ("TrainingCompleted", "ModelRegistered", "ModelBlessed")
    )
    version = format_version(registered.message.version)  # type: ignore[attr-defined]
    opened = world.reaches(version, pb.PHASE_STARTING, since=since)
    ready = world.reaches(version, pb.PHASE_STEPPING, since=since)
    step: pb.RolloutStep = ready.message  # type: ignore[assignment]
    applied = acknowledged_time(ready, world.applied(step, since=since))
    first = client.wait_first(version)
    world.client.abort_rollout(step.rollout_id, reason="measured")
    world.reaches(version, pb.PHASE_ABORTED, since=since)
    return Passage(times=(training.time, registered.time, blessed.time, opened.time, ready.time, applied, first))


def measure(world: World, *, versions: int) -> Report:
    """Measure on a running stack."""
    world.policy(POLICY)
    world.serve_first()
    passages: list[Passage] = []
    starts_ms: list[float] = []
    trips_ms: list[float] = []
    with (
        BareKafka(world.client.settings.kafka) as bare,
        CheckedClient(world.infer_url, rate_per_s=RATE_PER_S) as client,
    ):
        for _ in range(versions):
            passages.append(one_passage(world, client))
            starts_ms.append(bare_start_s(world.folder) * 1000)
            trips_ms.extend(bare.round_trip_ms() for _ in range(ROUND_TRIPS))
    return report(passages, Sample.of(starts_ms), Sample.of(trips_ms), client)


def report(passages: Sequence[Passage], starts: Sample, trips: Sample, client: CheckedClient) -> Report:
    """Say what the passages were made of."""
    references = {KAFKA: trips.p50, START: starts.p50, "": None}
    columns = zip(*(passage.parts_ms() for passage in passages), strict=True)
    rows: list[Metric] = []
    for (name, against), values in zip(PARTS.items(), columns, strict=True):
        rows.extend(_rows(name, Sample.of(values), references[against], against))
    total = Sample.of([passage.total_ms() for passage in passages])
    floor = FLOOR_STARTS * starts.p50 + FLOOR_EVENTS * trips.p50
    rows.extend(_rows("whole loop", total, floor, f"{FLOOR_STARTS} bare starts and {FLOOR_EVENTS} round trips"))
    seen = client.seen
    return Report(
        name="loop",
        driven=(
            f"{len(passages)} versions of a tiny ONNX model through the whole embedded stack (registry, validator with "
            "the real server in its sandbox, deployer, model host, Envoy), one after the other, each as a canary at "
            f"50 % beside a stable version with {RATE_PER_S:g} requests a second, then aborted. Times are the events' "
            "own; an acknowledgement's is its decision's and the measured latency; the first answer's is the client's."
        ),
        metrics=[
            *rows,
            Metric(metric=f"{KAFKA}, p50", value=trips.p50, unit="ms", sample=trips),
            Metric(metric=f"{START}, p50", value=starts.p50, unit="ms", sample=starts),
            Metric(
                metric="requests that failed", value=seen.failed + seen.wrong, unit="requests",
                goal=Goal(at_most=0, exact=True), note=f"of {seen.answered}; {rate_bound(seen.answered):.2g} at 95 %",
            ),
        ],
        notes=[BARE_NOTE],
    )  # fmt: skip


def _rows(name: str, sample: Sample, reference: float | None, against: str) -> list[Metric]:
    return [
        Metric(metric=f"{name}, p50", value=sample.p50, unit="ms", reference=reference, against=against, sample=sample),
        Metric(metric=f"{name}, p90", value=sample.p90, unit="ms"),
        Metric(metric=f"{name}, max", value=sample.largest, unit="ms"),
    ]


def run(*, quick: bool) -> Report:
    """Run the benchmark."""
    with running_world() as world:
        return measure(world, versions=QUICK_VERSIONS if quick else VERSIONS)
