"""The drill: a stack of the previous release is upgraded in the middle of a rollout; no request fails, no step is lost."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from eventlog import EventLog
from previous_release import Checkout, check_out, is_in_history, name_of_previous
from world import World

from tidegate.client import TidegateClient
from tidegate.client.settings import load_settings
from tidegate.stack.demo.models import MODEL, train_gradient_boosting, train_logistic_regression
from tidegate.stack.stack import Stack
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(1500)

# A minor version stays at each step until a person says so: the upgrade happens in the middle, however long it takes.
POLICY = """
model: flight-delay
rollout:
  on_minor: {strategy: canary, steps: [0.2, 0.5, 1.0], bake_s: 3600}
  on_pipeline: {strategy: canary, steps: [0.5, 1.0], bake_s: 1}
  settle_s: 2
guards:
  items:
    - {metric: error_rate, margin: 0.05, floor: 0.2}
    - {metric: latency_ms, quantile: 0.9, ratio: 20, ceiling: 5000}
"""
LATE_S = 400.0
UNDER_WAY = {pb.PHASE_STEPPING, pb.PHASE_HOLDING}
DATA_PLANE = ("kafka", "object-store", "gateway")
SERVICES = ("registry", "modelhost", "modelhost-sandbox", "monitor", "validator", "deployer")


def tidegate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the present release."""
    return subprocess.run(
        [Path(sys.executable).with_name("tidegate"), *words, "--dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> Checkout:
    name = name_of_previous()
    if not is_in_history(name):
        pytest.skip(
            f"the previous release {name} is not in this clone: fetch its whole history (git fetch --unshallow)"
        )
    return check_out(name, tmp_path_factory.mktemp("older"))


@contextmanager
def running_older(older: Checkout, folder: Path, flights):
    """Run the stack of the previous release; look at it with the present client."""
    stack = Stack(folder / "stack")
    try:
        started = older.run(older.bin / "tidegate", "up", "--dir", stack.layout.root, "--port-base", "0")
        assert started.returncode == 0, started.stdout + started.stderr
        settings = load_settings(environ={}, stack=folder / "stack")
        with TidegateClient(settings) as client, EventLog(settings.kafka) as log:
            yield World(
                stack=stack, client=client, log=log, flights=flights, folder=folder, gateway_url=settings.gateway_url
            )
    finally:
        stack.down()


def pids(world) -> dict[str, int]:
    return {part.name: part.pid for part in world.stack.status().parts}


def test_the_previous_release_is_upgraded_under_traffic(older, tmp_path, flights):
    with running_older(older, tmp_path, flights) as world:
        world.policy(POLICY)
        second = train_gradient_boosting(flights)
        assert world.publishes(train_logistic_regression(flights)) == "1.0.0"
        world.reaches("1.0.0", pb.PHASE_PROMOTED, deadline_s=LATE_S)
        with world.live_traffic():
            assert world.publishes(second) == "1.1.0"
            world.reaches("1.1.0", pb.PHASE_STEPPING, deadline_s=LATE_S)
            before = pids(world)
            assert set(before) == {*DATA_PLANE, *SERVICES}

            upgraded = tidegate(world.stack.layout.root, "up")
            assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
            steps_at_upgrade = len(world.steps("1.1.0"))
            assert world.steps("1.1.0")[-1].phase in UNDER_WAY, "the rollout ended before the upgrade did"
            after = pids(world)
            assert {name: after[name] for name in DATA_PLANE} == {name: before[name] for name in DATA_PLANE}
            assert all(after[name] != before[name] for name in SERVICES)
            # Everything that starts from now on comes from the present release.
            assert all(psutil.Process(after[name]).cmdline()[0] == sys.executable for name in SERVICES)
            # But for the gateway, which has another configuration now: it goes on, without a token, until its next start.
            scripts = world.stack.layout.run.glob("*.sh")
            assert [path.stem for path in scripts if str(older.folder) in path.read_text()] == ["gateway"]
            assert "this release has another gateway" in upgraded.stderr
            assert "believed without one until its next start" in upgraded.stderr
            assert "TIDEGATE_ADMIT_OLD_GATEWAYS" in (world.stack.layout.run / "deployer.sh").read_text()
            assert world.stack.status().state == "running"
            assert "runs already" in tidegate(world.stack.layout.root, "up").stderr

            # Who commands from now on says who it is: the upgrade has made the tokens.
            world.client.close()
            world.client = TidegateClient(load_settings(environ={}, stack=world.stack.layout.root))
            # The rollout goes on where it was; then one that goes by its evidence alone.
            rollout_id = world.steps("1.1.0")[-1].rollout_id
            assert world.shares("1.1.0")[-1] == 200_000
            world.client.promote_rollout(rollout_id, full=False, reason="the drill goes on")
            world.log.wait_for(
                "the second step",
                lambda event: event.type == "RolloutStep" and world.shares("1.1.0")[-1] == 500_000,
                deadline_s=LATE_S,
            )
            world.client.promote_rollout(rollout_id, full=True, reason="the drill goes on")
            world.reaches("1.1.0", pb.PHASE_PROMOTED, deadline_s=LATE_S)
            assert len(world.steps("1.1.0")) > steps_at_upgrade
            shares = world.shares("1.1.0")
            assert shares == sorted(shares)
            assert world.publishes(replace(second, name="gradient boosting, again")) == "1.1.1"
            world.reaches("1.1.1", pb.PHASE_PROMOTED, deadline_s=LATE_S)
            world.no_request_failed()
        world.client.close()
        sequences = [step.sequence for step in world.log.of_type("RolloutStep", MODEL)]
        assert sequences == list(range(1, len(sequences) + 1))
        ends = [step.phase for step in world.steps("1.1.0") if step.phase >= pb.PHASE_PROMOTED]
        assert ends == [pb.PHASE_PROMOTED]
        assert world.log.dead_letters == []
