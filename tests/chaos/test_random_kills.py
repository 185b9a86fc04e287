"""As many rounds of random deaths as are asked for: TIDEGATE_CHAOS_ROUNDS=n, and TIDEGATE_CHAOS_SEED to see one again."""

from __future__ import annotations

import os
import random

import pytest
from faults.arena import Moment, Strikes
from faults.failpoints import Kill, KillServer
from faults.history import Quality

ROUNDS = int(os.environ.get("TIDEGATE_CHAOS_ROUNDS", "0"))
ROUND_S = 600

pytestmark = pytest.mark.timeout(900 + ROUND_S * ROUNDS)

PARTS = (
    "registry", "validator", "deployer", "monitor", "modelhost", "modelhost-sandbox", "kafka", "object-store", "gateway",
)  # fmt: skip
SERVERS = {
    Moment.STEPPING: (KillServer("candidate"), KillServer("stable")),
    Moment.SETTLING: (KillServer("candidate"),),
}
AT_ONCE_MAX = 3


def drawn(chance: random.Random) -> tuple[Quality, Strikes]:
    """Return what is published, and what is struck at which moments."""
    quality = chance.choice([Quality.GOOD, Quality.GOOD, Quality.FAILS_LIVE])
    never = Moment.ROLLING_BACK if quality is Quality.GOOD else Moment.SETTLING
    moments = [moment for moment in Moment if moment is not never]
    strikes = {}
    for moment in chance.sample(moments, chance.randint(1, len(moments))):
        points = (*(Kill(part) for part in PARTS), *SERVERS.get(moment, ()))
        strikes[moment] = tuple(chance.sample(points, chance.randint(1, AT_ONCE_MAX)))
    return quality, strikes


def test_the_same_seed_draws_the_same():
    assert drawn(random.Random(5)) == drawn(random.Random(5))
    assert len({repr(drawn(random.Random(seed))) for seed in range(20)}) > 10


@pytest.mark.skipif(ROUNDS == 0, reason="TIDEGATE_CHAOS_ROUNDS asks for rounds")
def test_random_deaths_do_not_change_the_end(request):
    seed = int(os.environ.get("TIDEGATE_CHAOS_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"TIDEGATE_CHAOS_SEED={seed}")  # noqa: T201  (whoever runs this wants to see the same again)
    chance = random.Random(seed)
    arena = request.getfixturevalue("arena")
    for place in range(1, ROUNDS + 1):
        quality, strikes = drawn(chance)
        told = {moment.value: [point.name for point in points] for moment, points in strikes.items()}
        print(f"round {place} of seed {seed}: {quality.value} {told}")  # noqa: T201  (whoever runs this wants to see the same again)
        arena.deliver(quality, strikes)
        arena.must_be_right()
