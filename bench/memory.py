"""How much memory each process of the stack keeps: idle with one model served, and after traffic."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Final

import psutil

from bench.client import CheckedClient
from bench.procfs import Memory
from bench.results import Goal, Metric, Report
from bench.stats import rate_bound
from bench.world import World, running_world
from tidegate.stack import leftovers
from tidegate.stack.parts import NAMES

MIB: Final = 2**20
IDLE_S: Final = 20.0
TRAFFIC_S: Final = 300.0
QUICK_IDLE_S: Final = 1.0
QUICK_TRAFFIC_S: Final = 3.0
RATE_PER_S: Final = 100.0
SUPERVISOR: Final = "supervisord"
MODEL_SERVER: Final = "model server"
SERVICES: Final = ("registry", "monitor", "validator", "deployer", "modelhost", "modelhost-sandbox")
# The libraries that every service stands on, and nothing of ours.
BARE: Final = (
    "import asyncio, grpc, grpc.aio, google.protobuf.json_format, aiokafka, structlog, pydantic_settings, sys; "
    "print('ready', flush=True); sys.stdin.read()"
)
POLICY: Final = """
model: bench
rollout: {settle_s: 0}
"""


def bare_interpreter() -> Memory:
    """Return the memory of an interpreter that has imported what every service imports."""
    process = subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("the interpreter has no pipes")
        process.stdout.readline()
        found = Memory.of(process.pid)
        process.stdin.close()
    return found


def by_part(world: World) -> dict[str, Memory]:
    """Return the memory of each part, with all its processes."""
    layout = world.stack.layout
    # The supervisor's own processes carry no part's name.
    pids = {part: _pids(leftovers.marked(layout, parts=part.__eq__)) for part in NAMES}
    pids[SUPERVISOR] = _pids(leftovers.marked(layout, parts="".__eq__))
    pids[MODEL_SERVER] = _pids(leftovers.model_servers(layout))
    found = {}
    for part, numbers in pids.items():
        total = Memory(rss=0, pss=0)
        for pid in numbers:
            total += Memory.of(pid)
        found[part] = total
    return found


def _pids(processes: Iterable[psutil.Process]) -> list[int]:
    return [process.pid for process in processes]


def run(*, quick: bool) -> Report:
    """Run the benchmark."""
    idle_s, traffic_s = (QUICK_IDLE_S, QUICK_TRAFFIC_S) if quick else (IDLE_S, TRAFFIC_S)
    bare = bare_interpreter()
    with running_world() as world:
        world.policy(POLICY)
        world.serve_first()
        time.sleep(idle_s)
        idle = by_part(world)
        with CheckedClient(world.infer_url, rate_per_s=RATE_PER_S) as client:
            time.sleep(traffic_s)
        after = by_part(world)
        seen = client.seen
    return Report(
        name="memory",
        driven=(
            f"the whole embedded stack with one tiny ONNX model served: idle for {idle_s:g} s, then {seen.answered} "
            f"requests in {traffic_s:g} s through the gateway. PSS divides shared pages among those who share them, "
            "with other programs of the machine, too; the sum of PSS is what the stack costs. "
            "Reference of the services: an interpreter that has imported grpc.aio, aiokafka, protobuf, structlog and "
            "pydantic-settings; of the values after traffic: idle."
        ),
        metrics=[
            Metric(metric="bare interpreter, RSS", value=bare.rss / MIB, unit="MiB"),
            *_idle_rows(idle, bare),
            *_after_rows(idle, after),
            Metric(
                metric="requests that failed", value=seen.failed + seen.wrong, unit="requests",
                goal=Goal(at_most=0, exact=True), note=f"of {seen.answered}; {rate_bound(seen.answered):.2g} at 95 %",
            ),
        ],
    )  # fmt: skip


def _idle_rows(idle: Mapping[str, Memory], bare: Memory) -> list[Metric]:
    rows = []
    for part, memory in idle.items():
        is_service = part in SERVICES
        for kind in ("rss", "pss"):
            reference = getattr(bare, kind) / MIB if is_service else None
            value = getattr(memory, kind) / MIB
            against = "bare interpreter" if is_service else ""
            rows.append(
                Metric(
                    metric=f"{part}, idle, {kind.upper()}",
                    value=value,
                    unit="MiB",
                    reference=reference,
                    against=against,
                )
            )
    total = sum(memory.pss for memory in idle.values()) / MIB
    return [*rows, Metric(metric="whole stack, idle, PSS", value=total, unit="MiB")]


def _after_rows(idle: Mapping[str, Memory], after: Mapping[str, Memory]) -> list[Metric]:
    rows = [
        Metric(
            metric=f"{part}, after traffic, RSS",
            value=memory.rss / MIB,
            unit="MiB",
            reference=idle[part].rss / MIB,
            against="idle",
        )
        for part, memory in after.items()
    ]
    total, before = (sum(memory.pss for memory in found.values()) / MIB for found in (after, idle))
    whole = Metric(metric="whole stack, after traffic, PSS", value=total, unit="MiB", reference=before, against="idle")
    return [*rows, whole]
