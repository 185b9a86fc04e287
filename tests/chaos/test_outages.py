"""Whole groups of parts are dead for a while: clients do not notice, and work goes on where it stood."""

from __future__ import annotations

import pytest
from faults.failpoints import CONTROL_PLANE, Outage
from faults.history import Quality

from tidegate.core.clock import utc_now
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(900)

DEAD_S = 10.0


def test_clients_do_not_notice_ten_seconds_without_any_tidegate_process(arena):
    stable = arena.stable()
    number = arena.number_of(arena.producer.publish(Quality.GOOD))
    arena.wait_phase(number, pb.PHASE_STEPPING)
    wound = arena.strike(Outage(CONTROL_PLANE))
    dead_s = utc_now().timestamp()
    # Ten seconds of traffic, and every request of them was answered: by both arms, as Envoy was told last.
    arena.clients.wait_for_good_answers(1, since_s=dead_s + DEAD_S)
    meanwhile = [answer for answer in arena.clients.seen() if answer.begin_s >= dead_s]
    assert {answer.status for answer in meanwhile} == {200}
    assert {answer.version for answer in meanwhile} == {stable, number}
    arena.heal(wound)
    arena.wait_end(number)
    arena.must_be_right()
