"""Every planted fault is found, by an invariant that is about it: a promise that nobody would miss is not checked."""

from __future__ import annotations

import pytest

from tidegate.simulation.invariants import Invariant
from tidegate.simulation.mutants.catalogue import MUTANTS
from tidegate.simulation.simulation import simulate

SEEDS_MAX = 400

# Named in docs/simulation.md: no fault is planted for these.
WITHOUT_A_MUTANT = {
    Invariant.ARTIFACTS_ARE_IMMUTABLE,
    Invariant.DECIDED_AGAIN,
    Invariant.ROUTES_ARE_LEGAL,
    Invariant.NO_BAD_STEP,
    Invariant.OBSERVE_NEVER_SHIFTS,
    Invariant.NO_ERROR,
}


def seeds_of(mutant):
    """Return the seed that is known to find it, then all the others: a change of the plan changes what seeds mean."""
    return [mutant.seed, *(seed for seed in range(SEEDS_MAX) if seed != mutant.seed)]


def find(mutant):
    """Return the first seed that breaks an invariant which is about the mutant, and what else was broken before."""
    others = []
    with mutant.planted():
        for seed in seeds_of(mutant):
            result = simulate(seed)
            if result.broken in mutant.found_by:
                return result, others
            if result.broken:
                others.append(result)
    return None, others


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_found_on_a_seed_that_is_clean_without_it(mutant):
    found, others = find(mutant)
    told = [f"seed {one.seed}: {one.told}" for one in others]
    assert found is not None, f"{mutant.name} survived {SEEDS_MAX} seeds: nobody checks that {mutant.promise}; {told}"
    assert [one for one in others if one.broken is Invariant.NO_ERROR] == [], "it must not be found by its crash"
    assert simulate(found.seed).broken == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_mutant_is_gone_afterwards(mutant):
    before = [getattr(target, name) for target, name, _ in mutant.patches()]
    with mutant.planted():
        assert [getattr(target, name) for target, name, _ in mutant.patches()] != before
    assert [getattr(target, name) for target, name, _ in mutant.patches()] == before


def test_each_invariant_has_a_mutant_that_it_finds():
    found = {invariant for mutant in MUTANTS for invariant in mutant.found_by}
    assert found == {*Invariant} - WITHOUT_A_MUTANT


def test_there_are_enough_of_them():
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) >= 40
