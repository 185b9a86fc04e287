"""People steer: they go to a version that never ran, start one again, and take things out of service, under traffic."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import pytest

from tidegate.contracts.names import format_version
from tidegate.core.errors import FailedPrecondition
from tidegate.stack.demo.models import (
    MODEL,
    train_aircraft_table,
    train_gradient_boosting,
    train_logistic_regression,
)
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(600)

POLICY = """
model: flight-delay
mode: {mode}
registration: {{required: [owner, description, metrics]}}
validation: {{metrics: [{{name: roc_auc, min: 0.6}}]}}
rollout:
  on_minor: {{strategy: canary, steps: [0.2, 1.0], bake_s: 1}}
  on_pipeline: {{strategy: canary, steps: [0.3, 1.0], bake_s: 600}}
  settle_s: 1
"""


def is_blessed(world, version):
    world.log.wait_for(
        f"blessing of {version}",
        lambda event: event.type == "ModelBlessed" and format_version(event.message.version) == version,
    )


def status_of(world):
    """Return what the gateway answers to a question about the model."""
    try:
        with urllib.request.urlopen(f"{world.gateway_url}/v2/models/{MODEL}/ready", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def goes_to(world, version, *, deadline_s=30):
    """Go to a version as soon as the deployer has heard of its blessing, too."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            return world.client.rollback_model(MODEL, to=version)
        except FailedPrecondition as error:
            if error.code != "VERSION_NOT_BLESSED" or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def until_phase(world, rollout_id, phase):
    """Wait until one rollout, of perhaps several of its version, is in ``phase``."""
    world.log.wait_for(
        f"{rollout_id} in {pb.Phase.Name(phase)}",
        lambda event: (
            isinstance(event.message, pb.RolloutStep)
            and (event.message.rollout_id, event.message.phase) == (rollout_id, phase)
        ),
    )


def until_status(world, status, *, deadline_s=60):
    deadline = time.monotonic() + deadline_s
    while status_of(world) != status:
        assert time.monotonic() < deadline, f"the gateway answers {status_of(world)}, expected {status}"
        time.sleep(0.1)


def test_a_version_that_was_never_started_proves_itself_before_it_takes_over(world, flights):
    # Given a version that serves, and a better one that its policy only observes
    world.policy(POLICY.format(mode="act"))
    assert world.publishes(train_logistic_regression(flights)) == "1.0.0"
    world.reaches("1.0.0", pb.PHASE_PROMOTED)
    world.policy(POLICY.format(mode="observe"))
    assert world.publishes(train_gradient_boosting(flights)) == "1.1.0"
    is_blessed(world, "1.1.0")
    with world.live_traffic():
        # When somebody goes to it
        decided = goes_to(world, "1.1.0").rollout
        # Then it starts, takes all traffic at once when it is ready, and no client notices
        assert decided.last_step.phase == pb.PHASE_STARTING
        world.reaches("1.1.0", pb.PHASE_PROMOTED)
        assert world.shares("1.1.0")[:1] == [0]
        assert set(world.shares("1.1.0")) == {0, 1_000_000}
        world.no_request_failed()
    world.stable_becomes("1.1.0")


def test_an_aborted_version_is_tried_again_by_its_own_policy(world, flights):
    world.policy(POLICY.format(mode="act"))
    assert world.publishes(train_aircraft_table(flights)) == "1.1.1"
    first = world.reaches("1.1.1", pb.PHASE_STEPPING).rollout_id
    world.client.abort_rollout(first, reason="not now")
    world.reaches("1.1.1", pb.PHASE_ABORTED)
    again = world.client.start_rollout(MODEL, "1.1.1", reason="now")
    assert again.rollout_id != first
    until_phase(world, again.rollout_id, pb.PHASE_STEPPING)
    assert world.shares("1.1.1")[-1] == 300_000
    with pytest.raises(FailedPrecondition, match="runs") as caught:
        world.client.start_rollout(MODEL, "1.1.1")
    assert caught.value.code == "ROLLOUT_RUNNING"
    world.client.abort_rollout(again.rollout_id)
    until_phase(world, again.rollout_id, pb.PHASE_ABORTED)


def test_a_model_goes_out_of_service_and_comes_back_when_it_is_ready(world):
    gone = world.client.retire_model(MODEL, reason="a holiday").change
    assert (gone.retired, gone.HasField("version")) == (True, False)
    until_status(world, 404)
    with pytest.raises(FailedPrecondition) as caught:
        world.client.start_rollout(MODEL, "1.1.1")
    assert caught.value.code == "MODEL_RETIRED"
    back = world.client.retire_model(MODEL, undo=True)
    assert back.rollout.last_step.candidate == world.client.get_version(f"{MODEL}@stable").registered.version
    until_status(world, 200)
    until_phase(world, back.rollout.rollout_id, pb.PHASE_PROMOTED)
    assert world.stable() == "1.1.0"
