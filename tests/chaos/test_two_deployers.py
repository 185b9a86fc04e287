"""Two deployers share the partitions: exactly one decides about a model, whoever joins, leaves, dies or stands still."""

from __future__ import annotations

import pytest
from faults.arena import POLICY, Moment
from faults.deployers import owner_log, second_deployer, stalled
from faults.failpoints import Kill, wait_until
from faults.history import Quality

from tidegate.core.policy import policy_from_yaml
from tidegate.stack.demo.models import MODEL
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(900)

# Its partition is in the other half: with two deployers, one of the two models belongs to the one without proxies.
# No other test delivers it: clients do not ask it, and only a first version goes live without their evidence.
OTHER_MODEL = "taxi-fare"
HALF = 3


def test_one_joins_in_the_middle_of_a_step_the_first_dies_the_second_leaves(arena, tmp_path):
    arena.client.apply_policy(policy_from_yaml(POLICY.format(model=OTHER_MODEL, settle_s=2.0)))
    number = arena.number_of(arena.producer.publish(Quality.GOOD))
    arena.wait_phase(number, pb.PHASE_STEPPING)
    with second_deployer(arena.site, tmp_path / "second"):
        # Both are alive: one of the models is decided by a process that no proxy is connected to.
        other = arena.producer.publish(Quality.GOOD, model=OTHER_MODEL)
        arena.wait_end(number)
        arena.wait_end(arena.number_of(other), model=OTHER_MODEL)
        assert arena.partition_of(MODEL) // HALF != arena.partition_of(OTHER_MODEL) // HALF
        arena.must_be_right()
        # The one that the proxies are connected to dies in the middle of a step, and joins again.
        arena.deliver(Quality.FAILS_LIVE, {Moment.STEPPING: (Kill("deployer"),)})
        arena.must_be_right()
        number = arena.number_of(arena.producer.publish(Quality.GOOD))
        arena.wait_phase(number, pb.PHASE_STEPPING)
    # The second one has left in the middle of a step.
    arena.wait_end(number)
    arena.must_be_right()


def test_one_that_stood_still_does_not_act_on_what_it_believes(arena, tmp_path):
    own_log = arena.stack.layout.log("deployer")
    with second_deployer(arena.site, tmp_path / "second") as second:
        number = arena.number_of(arena.producer.publish(Quality.GOOD))
        step = arena.wait_phase(number, pb.PHASE_STEPPING)
        is_second = owner_log(arena.partition_of(MODEL), own_log, second.log) == second.log
        pid = second.process.pid if is_second else arena.site.pid("deployer")
        with stalled(pid):
            arena.wait_epoch(number, above=step.route_epoch)
        # It ends instead of acting on what was true when it stopped; a supervisor starts it again.
        if is_second:
            wait_until(lambda: second.process.poll() is not None, "the stalled deployer ends")
        else:
            arena.site.wait_ready("deployer", other_than=pid)
        arena.wait_end(number)
        arena.must_be_right()
