"""Requests that fail while weights shift and versions change under load: none may."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Final, Self

from bench import load, models
from bench.client import CheckedClient
from bench.results import Goal, Metric, Report
from bench.stats import Sample, rate_bound
from bench.world import World, running_world
from tidegate.contracts.names import format_version
from tidegate.v1 import rollout_events_pb2 as pb

WEIGHT_SHIFTS: Final = 200
VERSION_CHANGES: Final = 40
QUICK_WEIGHT_SHIFTS: Final = 3
QUICK_VERSION_CHANGES: Final = 1
STEPS: Final = 20
QUICK_STEPS: Final = 3
WRK_CONNECTIONS: Final = 4
WRK_S: Final = 10
QUICK_WRK_S: Final = 2
CHECKED_PER_S: Final = 50.0
# Each rollout is pushed through its steps by hand: the bench is about the shifts, not about earning them.
POLICY: Final = """
model: bench
rollout:
  on_minor: {{strategy: canary, steps: [{steps}], bake_s: 3600}}
  on_pipeline: {{strategy: canary, steps: [{steps}], bake_s: 3600}}
  settle_s: 0
guards:
  items: [{{metric: error_rate, margin: 0.2, floor: 0.5}}]
"""


class Wrk:
    """Runs wrk again and again in a thread, and adds up; use as ``with``."""

    def __init__(self, url: str, *, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wrk", daemon=True)
        self.bursts: list[load.Burst] = []
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(self._seconds + load.GRACE_S)

    def total(self) -> load.Burst:
        """Return what all runs together counted; raises what a run raised."""
        if self.error is not None:
            raise self.error
        return load.Burst(
            requests=sum(burst.requests for burst in self.bursts),
            not_2xx=sum(burst.not_2xx for burst in self.bursts),
            socket_errors=sum(burst.socket_errors for burst in self.bursts),
        )

    def _run(self) -> None:
        body = models.body(1)
        try:
            while not self._stopped.is_set():
                burst = load.burst(self._url, body=body, seconds=self._seconds, connections=WRK_CONNECTIONS)
                self.bursts.append(burst)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.error = error


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """What was driven: the milliseconds from each decision to its acknowledgement."""

    weight_shifts: list[float]
    version_changes: list[float]


def policy(steps: int) -> str:
    """Return a policy whose canary has ``steps`` small steps before all."""
    shares = ", ".join(f"{(number + 1) / (steps + 1):.4f}" for number in range(steps))
    return POLICY.format(steps=f"{shares}, 1.0")


def shift_weights(world: World, *, rollouts: int, steps: int) -> list[float]:
    """Take ``rollouts`` new versions through ``steps`` steps each, the last one back to 0; return the latencies."""
    latencies = []
    for _ in range(rollouts):
        since = world.log.mark()
        receipt = world.publish()
        version = format_version(world.registered(receipt).message.version)  # type: ignore[attr-defined]
        step: pb.RolloutStep = world.reaches(version, pb.PHASE_STEPPING, since=since).message  # type: ignore[assignment]
        latencies.append(_latency_ms(world, step, since))
        for index in range(1, steps):
            since = world.log.mark()
            world.client.promote_rollout(step.rollout_id, full=False, reason="shift")
            step = _step(world, step.rollout_id, index, since)
            latencies.append(_latency_ms(world, step, since))
        since = world.log.mark()
        world.client.abort_rollout(step.rollout_id, reason="shifted")
        world.reaches(version, pb.PHASE_ABORTED, since=since)
    return latencies


def change_versions(world: World, versions: tuple[str, str], *, count: int) -> list[float]:
    """Go from one version to the other and back: each time a server starts, takes all traffic, and the old one ends."""
    latencies = []
    for number in range(count):
        target = versions[number % 2]
        since = world.log.mark()
        world.client.rollback_model(models.MODEL, to=target, reason="change")
        step: pb.RolloutStep = world.reaches(target, pb.PHASE_SETTLING, since=since).message  # type: ignore[assignment]
        latencies.append(_latency_ms(world, step, since))
        world.reaches(target, pb.PHASE_PROMOTED, since=since)
    return latencies


def _step(world: World, rollout_id: str, index: int, since: int) -> pb.RolloutStep:
    def matches(event: object) -> bool:
        step = getattr(event, "message", None)
        return isinstance(step, pb.RolloutStep) and (step.rollout_id, step.step_index) == (rollout_id, index)

    found: pb.RolloutStep = world.log.wait(f"step {index}", matches, since=since).message  # type: ignore[assignment]
    return found


def _latency_ms(world: World, step: pb.RolloutStep, since: int) -> float:
    said: pb.RouteApplied = world.applied(step, since=since).message  # type: ignore[assignment]
    return said.latency_ms


def drive(world: World, *, quick: bool) -> Moved:
    """Do all shifts and changes on a stack that serves a version."""
    steps = QUICK_STEPS if quick else STEPS
    rollouts = (QUICK_WEIGHT_SHIFTS if quick else WEIGHT_SHIFTS) // steps
    first = world.stable()
    shifts = shift_weights(world, rollouts=rollouts, steps=steps)
    last = format_version(world.client.list_versions(models.MODEL)[0].registered.version)
    changes = change_versions(world, (last, first), count=QUICK_VERSION_CHANGES if quick else VERSION_CHANGES)
    return Moved(weight_shifts=shifts, version_changes=changes)


def measure(world: World, *, quick: bool) -> Report:
    """Measure on a running stack; raises ToolMissing without wrk."""
    load.wrk_path()
    world.policy(policy(QUICK_STEPS if quick else STEPS))
    world.serve_first()
    client = CheckedClient(world.infer_url, rate_per_s=CHECKED_PER_S)
    begin = time.monotonic()
    with Wrk(world.infer_url, seconds=QUICK_WRK_S if quick else WRK_S) as wrk, client:
        moved = drive(world, quick=quick)
    return report(moved, wrk.total(), client, seconds=time.monotonic() - begin)


def report(moved: Moved, wrk: load.Burst, client: CheckedClient, *, seconds: float) -> Report:
    """Say what became of the requests."""
    seen = client.seen
    bound = f"of {wrk.requests}; excludes a rate above {rate_bound(wrk.requests):.2g} with 95 %"
    checked = seen.answered + seen.failed
    checked_bound = f"of {checked}; excludes a rate above {rate_bound(checked):.2g} with 95 %"
    none = Goal(at_most=0, exact=True)
    shifts, changes = Sample.of(moved.weight_shifts), Sample.of(moved.version_changes)
    return Report(
        name="shifts",
        driven=(
            f"{shifts.count} weight shifts (canaries of newly registered versions, taken on by PromoteRollout, then "
            f"aborted) and {changes.count} version changes (RollbackModel to the other version: its server starts, its "
            "cluster is added, it takes all traffic, the old cluster and server go) through the whole embedded stack "
            f"with the real model servers, in {seconds:.0f} s under {WRK_CONNECTIONS} connections of wrk at full speed "
            f"and a client that checks every answer against its request ({CHECKED_PER_S:g} a second)."
        ),
        metrics=[
            Metric(metric="wrk: answers that were not 2xx", value=wrk.not_2xx, unit="requests", goal=none, note=bound),
            Metric(metric="wrk: socket errors", value=wrk.socket_errors, unit="requests", goal=none, note=bound),
            Metric(metric="wrk: requests", value=wrk.requests, unit="requests"),
            Metric(
                metric="checked client: failed", value=seen.failed, unit="requests", goal=none, note=checked_bound
            ),
            Metric(
                metric="checked client: answers to another request", value=seen.wrong, unit="requests", goal=none,
                note=checked_bound,
            ),
            Metric(metric="checked client: requests", value=checked, unit="requests"),
            Metric(metric="rate of failures excluded with 95 % (3/n)", value=rate_bound(wrk.requests), unit="share"),
            Metric(metric="weight shifts", value=shifts.count, unit="shifts"),
            Metric(metric="weight shift decided to acknowledged, p50", value=shifts.p50, unit="ms", sample=shifts),
            Metric(metric="weight shift decided to acknowledged, max", value=shifts.largest, unit="ms"),
            Metric(metric="version changes", value=changes.count, unit="changes"),
            Metric(metric="version change decided to acknowledged, p50", value=changes.p50, unit="ms", sample=changes),
            Metric(metric="version change decided to acknowledged, max", value=changes.largest, unit="ms"),
        ],
        notes=[f"failures seen by the checked client: {seen.failures or 'none'}"],
    )  # fmt: skip


def run(*, quick: bool) -> Report:
    """Run the benchmark."""
    load.wrk_path()
    with running_world() as world:
        return measure(world, quick=quick)
