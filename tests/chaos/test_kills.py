"""SIGKILL for every part at every phase of a rollout: no client notices, nothing is lost, the end is the same.

Each row delivers one version. The rows together strike each part at each phase (`test_the_rows_reach_everything`).
"""

from __future__ import annotations

import pytest
from faults.arena import Moment
from faults.failpoints import Kill, KillServer
from faults.history import Quality

pytestmark = pytest.mark.timeout(900)

REGISTERING, VALIDATING, STARTING = Moment.REGISTERING, Moment.VALIDATING, Moment.STARTING
STEPPING, SETTLING, ROLLING_BACK = Moment.STEPPING, Moment.SETTLING, Moment.ROLLING_BACK
REGISTRY, VALIDATOR, DEPLOYER, MONITOR = Kill("registry"), Kill("validator"), Kill("deployer"), Kill("monitor")
LIVE_HOST, SANDBOX_HOST = Kill("modelhost"), Kill("modelhost-sandbox")
KAFKA, S3, GATEWAY = Kill("kafka"), Kill("object-store"), Kill("gateway")
CANDIDATE, STABLE = KillServer("candidate"), KillServer("stable")

ROWS = {
    "the deciders": (
        Quality.GOOD,
        {
            REGISTERING: (REGISTRY,),
            VALIDATING: (VALIDATOR,),
            STARTING: (DEPLOYER,),
            STEPPING: (MONITOR,),
            SETTLING: (DEPLOYER, REGISTRY),
        },
    ),
    "the breach meets a dead deployer": (
        Quality.FAILS_LIVE,
        {REGISTERING: (KAFKA,), VALIDATING: (SANDBOX_HOST,), STARTING: (LIVE_HOST,), ROLLING_BACK: (DEPLOYER, GATEWAY)},
    ),
    "the bus": (
        Quality.GOOD,
        {VALIDATING: (KAFKA,), STARTING: (S3, VALIDATOR), STEPPING: (KAFKA,), SETTLING: (MONITOR, LIVE_HOST)},
    ),
    "the breach meets a dead bus": (
        Quality.FAILS_LIVE,
        {REGISTERING: (S3, DEPLOYER), STARTING: (MONITOR, REGISTRY), STEPPING: (DEPLOYER,), ROLLING_BACK: (KAFKA, S3)},
    ),
    "the data plane": (
        Quality.GOOD,
        {
            REGISTERING: (GATEWAY, VALIDATOR),
            VALIDATING: (S3, REGISTRY),
            STARTING: (GATEWAY, SANDBOX_HOST),
            STEPPING: (LIVE_HOST, STABLE),
            SETTLING: (GATEWAY, KAFKA),
        },
    ),
    "the breach meets dead hosts": (
        Quality.FAILS_LIVE,
        {
            VALIDATING: (DEPLOYER, LIVE_HOST),
            STEPPING: (GATEWAY, S3),
            ROLLING_BACK: (LIVE_HOST, MONITOR, REGISTRY, VALIDATOR, SANDBOX_HOST),
        },
    ),
    "the rest": (
        Quality.GOOD,
        {
            REGISTERING: (MONITOR, SANDBOX_HOST, LIVE_HOST),
            VALIDATING: (MONITOR, GATEWAY),
            STARTING: (KAFKA,),
            STEPPING: (REGISTRY, VALIDATOR, SANDBOX_HOST),
            SETTLING: (CANDIDATE, S3, VALIDATOR, SANDBOX_HOST),
        },
    ),
    # What it does while it is dead counts against it, so it may be sent back; nobody else suffers.
    "the candidate on trial": (Quality.GOOD, {STARTING: (CANDIDATE,), STEPPING: (CANDIDATE,)}),
}


def test_the_rows_reach_everything():
    wanted = {
        (point.name, moment)
        for point in (REGISTRY, VALIDATOR, DEPLOYER, MONITOR, LIVE_HOST, SANDBOX_HOST, KAFKA, S3, GATEWAY)
        for moment in Moment
    }
    struck = {
        (point.name, moment) for _, strikes in ROWS.values() for moment, points in strikes.items() for point in points
    }
    assert wanted - struck == set()


@pytest.mark.parametrize("row", ROWS)
def test_no_death_changes_the_end(arena, row):
    quality, strikes = ROWS[row]
    arena.deliver(quality, strikes)
    arena.must_be_right()
