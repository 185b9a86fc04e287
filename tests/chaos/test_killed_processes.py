"""Processes of the control plane are killed in the middle of a rollout: no request fails, and the rollout ends right."""

from __future__ import annotations

import time

import pytest

from tidegate.stack.demo.models import MODEL, train_gradient_boosting, train_logistic_regression
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(600)

POLICY = """
model: flight-delay
rollout:
  on_minor: {strategy: canary, steps: [0.2, 0.5, 1.0], bake_s: 1}
  settle_s: 4
guards:
  items:
    - {metric: error_rate, margin: 0.05, floor: 0.2}
    - {metric: latency_ms, quantile: 0.9, ratio: 20, ceiling: 5000}
"""


def test_a_rollout_survives_the_deaths_of_its_services(world, flights):
    world.policy(POLICY)
    assert world.publishes(train_logistic_regression(flights)) == "1.0.0"
    world.reaches("1.0.0", pb.PHASE_PROMOTED)
    with world.live_traffic():
        assert world.publishes(train_gradient_boosting(flights)) == "1.1.0"
        world.reaches("1.1.0", pb.PHASE_STEPPING)
        # The deployer dies in the middle of the first step.
        died = world.kills("deployer")
        _is_running_again(world, "deployer", died)
        # The registry and the live model host die, too; model servers go on without their host.
        _is_running_again(world, "registry", world.kills("registry"))
        _is_running_again(world, "modelhost", world.kills("modelhost"))
        world.reaches("1.1.0", pb.PHASE_PROMOTED, deadline_s=180)
        world.no_request_failed()
    world.log.wait_for(
        "stable at 1.1.0",
        lambda event: (
            event.type == "AliasMoved"
            and event.message.alias == "stable"
            and (event.message.version.major, event.message.version.minor) == (1, 1)
        ),
    )
    terminal = [step for step in world.steps("1.1.0") if step.phase == pb.PHASE_PROMOTED]
    assert len(terminal) == 1
    sequences = [step.sequence for step in world.log.of_type("RolloutStep", MODEL)]
    assert sequences == list(range(1, len(sequences) + 1))


def _is_running_again(world, part: str, died: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        status = next(status for status in world.stack.status().parts if status.name == part)
        if status.pid not in {0, died} and status.ready:
            return
        time.sleep(0.2)
    pytest.fail(f"{part} is not running again")
