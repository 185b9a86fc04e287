"""Every planted fault is found: a promise that nobody would miss is not checked."""

from __future__ import annotations

import pytest

from tidegate.simulation.mutants import MUTANTS
from tidegate.simulation.simulation import simulate

SEEDS_MAX = 400


def seeds_of(mutant):
    """Return the seed that is known to find it, then all the others: a change of the plan changes what seeds mean."""
    return [mutant.seed, *(seed for seed in range(SEEDS_MAX) if seed != mutant.seed)]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_found_on_a_seed_that_is_clean_without_it(mutant):
    with mutant.planted():
        found = next((one for one in map(simulate, seeds_of(mutant)) if one.broken), None)
    assert found is not None, f"{mutant.name} survived {SEEDS_MAX} seeds: nobody checks that {mutant.promise}"
    assert simulate(found.seed).broken == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_gone_afterwards(mutant):
    before = [getattr(target, name) for target, name, _ in mutant.patches()]
    with mutant.planted():
        assert [getattr(target, name) for target, name, _ in mutant.patches()] != before
    assert [getattr(target, name) for target, name, _ in mutant.patches()] == before


def test_there_are_enough_of_them():
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) >= 16
