"""What was counted, for people: requests and failures by arm, and when the first bad one was."""

from __future__ import annotations

from dataclasses import replace

from tidegate.monitor.judges import clients
from tidegate.monitor.judges.clients import Clients
from tidegate.monitor.judges.evidence import slot
from tidegate.monitor.judges.latency import add
from tidegate.monitor.judges.two_sample import Block
from tidegate.monitor.judges.values import CLIENT_ERRORS, ERROR_RATE, Batch, Guard, GuardState, Kind, Pending, Tally


def count(guard: Guard, state: GuardState, batch: Batch, kind: Kind, fresh: Pending) -> GuardState:
    """Return ``state`` after counting ``batch``, which is ``fresh`` in the terms of ``guard``."""
    if guard.metric == CLIENT_ERRORS:
        return _count_clients(state, batch, fresh)
    tally = state.tallies[slot(kind)]
    bad = batch.candidate.failures if batch.concurrent else batch.candidate.broken
    counted = Tally(
        candidate_requests=tally.candidate_requests + batch.candidate.requests,
        candidate_failures=tally.candidate_failures + bad,
        stable_requests=tally.stable_requests + batch.stable.requests,
        stable_failures=tally.stable_failures + batch.stable.failures,
        candidate=add(tally.candidate, fresh.candidate),
        stable=add(tally.stable, fresh.stable),
    )
    tallies = (counted, state.tallies[1]) if kind is Kind.CONCURRENT else (state.tallies[0], counted)
    return replace(state, tallies=tallies, first_bad_us=state.first_bad_us or _first_bad_us(guard, batch, fresh))


def _count_clients(state: GuardState, batch: Batch, fresh: Pending) -> GuardState:
    known, tally = state.clients or Clients(), state.tallies[slot(Kind.ABSOLUTE)]
    (block,) = fresh.blocks
    added = block or Block(n_c=0, k_c=0, n_b=0, k_b=0)
    counted = Tally(
        candidate_requests=tally.candidate_requests + added.n_c,
        candidate_failures=tally.candidate_failures + added.k_c,
        stable_requests=round(known.past_answers),
        stable_failures=round(known.past_errors),
    )
    first_bad_us = state.first_bad_us or (batch.start_us if added.k_c else 0)
    watched = clients.watch(known, batch.candidate.units, batch.candidate.client_errors)
    return replace(state, tallies=(state.tallies[0], counted), first_bad_us=first_bad_us, clients=watched)


def _first_bad_us(guard: Guard, batch: Batch, fresh: Pending) -> int:
    if guard.metric == ERROR_RATE:
        return batch.candidate.first_failure_us
    return batch.start_us if any(block is not None and block.k_c > 0 for block in fresh.blocks) else 0
