"""Faults in registry, validator and model host, and in the shells of all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tidegate.modelhost import lifecycle
from tidegate.registry.numbering import versioning
from tidegate.simulation.bus import Bus
from tidegate.simulation.invariants import Invariant
from tidegate.simulation.mutants.mutant import Mutant, Patch, Patches
from tidegate.simulation.registry import Registry
from tidegate.simulation.worker import Habits
from tidegate.validator.verdict import Verdict


def _twin_gets_a_number() -> list[Patch]:
    real = versioning.decide
    return [(versioning, "decide", lambda given: real(replace(given, twin=None)))]


def _host_ends_what_it_finds() -> list[Patch]:
    return [(lifecycle, "_adopt", lambda server, _event: lifecycle._stop(server))]  # noqa: SLF001


def _failures_do_not_count() -> list[Patch]:
    return [(Verdict, "is_blessed", property(lambda _verdict: True))]


def _outbox_row_lost() -> list[Patch]:
    real = Registry.on_start

    def start(registry: Registry) -> None:
        registry.is_marking_early = True
        real(registry)

    return [(Registry, "on_start", start)]


def _habit(name: str) -> Patches:
    def patches() -> list[Patch]:
        real = Habits.__init__

        def init(habits: Habits, **given: bool) -> None:
            real(habits, **given)
            setattr(habits, name, False)

        return [(Habits, "__init__", init)]

    return patches


MUTANTS: Final = (
    Mutant(
        name="twin-gets-a-number",
        promise="the same training has one number",
        patches=_twin_gets_a_number,
        found_by=(Invariant.NUMBERS_ARE_UNIQUE,),
    ),
    Mutant(
        name="host-ends-what-it-finds",
        promise="model servers outlive their host",
        patches=_host_ends_what_it_finds,
        found_by=(Invariant.NO_REQUEST_FAILS,),
        seed=10,
    ),
    Mutant(
        name="failures-do-not-count",
        promise="only blessed versions are delivered",
        patches=_failures_do_not_count,
        found_by=(Invariant.ONLY_BLESSED_VERSIONS,),
        seed=2,
    ),
    Mutant(
        name="outbox-row-lost",
        promise="an acknowledged registration keeps its event",
        patches=_outbox_row_lost,
        found_by=(Invariant.COMES_TO_REST,),
        seed=111,
    ),
    Mutant(
        name="training-decided-twice",
        promise="a training event counts once",
        patches=lambda: [(Registry, "was_consumed", lambda _registry, _id: False)],
        found_by=(Invariant.COMES_TO_REST,),
    ),
    Mutant(
        name="fence-ignored",
        promise="one owner decides",
        patches=lambda: [(Bus, "check_epoch", lambda _bus, _id, _epoch: None)],
        found_by=(Invariant.ONE_OWNER_DECIDES, Invariant.ONLY_THE_COMMITTED_HAS_AN_EFFECT),
    ),
    Mutant(
        name="offsets-without-state",
        promise="state and offsets are committed together",
        patches=_habit("commits_state"),
        found_by=(Invariant.ONE_OWNER_DECIDES, Invariant.STATE_IS_COMMITTED),
    ),
    Mutant(
        name="state-without-offsets",
        promise="state and offsets are committed together",
        patches=_habit("commits_offsets"),
        found_by=(Invariant.INPUTS_ARE_DECIDED_ONCE,),
    ),
    Mutant(
        name="effects-not-repeated",
        promise="a committed effect survives a crash",
        patches=_habit("carries_out_again"),
        found_by=(Invariant.COMES_TO_REST,),
        seed=17,
    ),
    Mutant(
        name="effects-before-commit",
        promise="only what is committed has an effect",
        patches=_habit("acts_on_committed"),
        found_by=(Invariant.ONLY_THE_COMMITTED_HAS_AN_EFFECT,),
        seed=8,
    ),
    Mutant(
        name="zombie-acts",
        promise="who can't prove its ownership does nothing",
        patches=_habit("proves_ownership"),
        found_by=(Invariant.ONLY_THE_COMMITTED_HAS_AN_EFFECT,),
        seed=141,
    ),
    Mutant(
        name="leases-forgotten",
        promise="a restarted deployer waits for the proxies of the last one",
        patches=_habit("restores_leases"),
        found_by=(Invariant.ALL_LEASED_PROXIES_HAVE_IT,),
    ),
    Mutant(
        name="first-acknowledgement-counts",
        promise="a shift waits for all leased proxies",
        patches=_habit("waits_for_all_proxies"),
        found_by=(Invariant.ALL_LEASED_PROXIES_HAVE_IT,),
    ),
)
