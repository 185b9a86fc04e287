"""Weigh one batch: ``decide(state, batch) -> Decision``. Pure: time arrives in the batch.

A batch is folded into the pending block of each guard. A block closes when it is worth a comparison; closed blocks
move the e-processes, and an e-value at its threshold is a breach. Blocks never span two route revisions. When a block
closes depends on counts and times, never on outcomes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast

import numpy as np

from tidegate.monitor.judges import clients, latency, two_sample
from tidegate.monitor.judges.absolute import Absolute
from tidegate.monitor.judges.clients import Clients
from tidegate.monitor.judges.evidence import evidence
from tidegate.monitor.judges.latency import (
    EMPTY,
    Ceiling,
    Histogram,
    Latency,
    add,
    exceedances,
    thresholds_us,
    to_histogram,
)
from tidegate.monitor.judges.noninferiority import NonInferiority
from tidegate.monitor.judges.replay import Process, advance, canonical, make_inputs, to_e_value
from tidegate.monitor.judges.tallies import count
from tidegate.monitor.judges.two_sample import Block, TwoSample
from tidegate.monitor.judges.values import (
    CLIENT_ERRORS,
    ERROR_RATE,
    Batch,
    Decision,
    Evidence,
    Finding,
    Guard,
    GuardState,
    Kind,
    Pending,
    Rules,
    State,
    StepState,
)

# A comparison with fewer requests an arm loses power to chance in the sizes of the arms; waiting longer than this
# loses time.
BLOCK_REQUESTS_MIN: Final = 5
BLOCK_SPAN_US: Final = 1_000_000
# Slow requests come in clusters, and a block is one piece of evidence: short blocks are fast, long ones forgive stalls.
LATENCY_SPAN_US: Final = 200_000
# Stable's requests that found no candidate beside them for so long only teach what stable is like.
LONELY_SPAN_US: Final = 5_000_000


def decide(state: State, batch: Batch) -> Decision:
    """Return what follows from ``batch``; a batch at or before the last offset changes nothing."""
    if batch.offset <= state.offset:
        return Decision(state=state, breaches=(), reached=None, reason="already counted")
    step = _next_step(state.step, batch)
    moved = step.route != state.step.route
    guards, breaches = [], []
    for guard, known in zip(state.rules.guards, state.guards, strict=True):
        before = _restart_promotion(known) if moved else known
        after, finding = _weigh(state.rules, guard, before, batch, step)
        guards.append(after)
        if finding is not None:
            breaches.append(finding)
    after_all = replace(state, guards=tuple(guards), step=step, offset=batch.offset)
    reached = None if any(guard.breached for guard in guards) else _reached(after_all, batch)
    if reached is not None:
        after_all = replace(after_all, step=replace(step, reached=True))
    return Decision(state=after_all, breaches=tuple(breaches), reached=reached, reason=_reason(breaches, reached))


def _next_step(step: StepState, batch: Batch) -> StepState:
    if not batch.concurrent or batch.route < step.route:
        return step
    if batch.route > step.route:
        step = StepState(route=batch.route, start_us=batch.start_us)
    return replace(step, candidate_requests=step.candidate_requests + batch.candidate.requests)


def _restart_promotion(state: GuardState) -> GuardState:
    if state.promotion is None:
        return state
    return replace(state, promotion=state.promotion.restarted(), promotion_inputs="")


def _weigh(
    rules: Rules, guard: Guard, state: GuardState, batch: Batch, step: StepState
) -> tuple[GuardState, Finding | None]:
    kind = Kind.CONCURRENT if batch.concurrent else Kind.ABSOLUTE
    if kind not in guard.kinds():
        return _remember_past(guard, state, batch), None
    pending = state.pending
    finding: Finding | None = None
    if pending is not None and (pending.route, pending.concurrent) != (batch.route, batch.concurrent):
        state, finding = _close(rules, guard, state, pending, step)
        pending = None
    fresh = _measure(guard, state, batch)
    pending = fresh if pending is None else _join(pending, fresh)
    state = replace(count(guard, state, batch, kind, fresh), pending=pending)
    if _is_ripe(guard, pending):
        state, newer = _close(rules, guard, state, pending, step)
        finding = finding or newer
    return state, finding


def _remember_past(guard: Guard, state: GuardState, batch: Batch) -> GuardState:
    if guard.metric != CLIENT_ERRORS:
        return state
    known, stable = state.clients or Clients(), batch.stable
    return replace(state, clients=clients.remember(known, stable.units, stable.client_errors))


def _measure(guard: Guard, state: GuardState, batch: Batch) -> Pending:
    """Return ``batch`` as a block of its own, in the terms of ``guard``."""
    candidate, stable = batch.candidate, batch.stable
    blocks: tuple[Block | None, ...]
    stable_histogram: Histogram = EMPTY
    candidate_histogram: Histogram = EMPTY
    if guard.metric == ERROR_RATE:
        bad = candidate.failures if batch.concurrent else candidate.broken
        blocks = (Block(n_c=candidate.requests, k_c=bad, n_b=stable.requests, k_b=stable.failures),)
    elif guard.metric == CLIENT_ERRORS:
        blocks = (clients.block_of(state.clients or Clients(), candidate.units, candidate.client_errors),)
    else:
        stable_histogram = to_histogram(stable.latencies_us)
        candidate_histogram = to_histogram(candidate.latencies_us)
        blocks = _latency_blocks(guard, state, batch)
    return Pending(
        route=batch.route,
        concurrent=batch.concurrent,
        start_us=batch.start_us,
        end_us=batch.end_us,
        offsets=(batch.offset, batch.offset),
        blocks=blocks,
        stable=stable_histogram,
        candidate=candidate_histogram,
    )


def _latency_blocks(guard: Guard, state: GuardState, batch: Batch) -> tuple[Block | None, ...]:
    slow, fast = batch.candidate.latencies_us, batch.stable.latencies_us
    if not batch.concurrent:
        over = int(np.count_nonzero(slow > guard.ceiling * 1000.0))
        return (Block(n_c=len(slow), k_c=over, n_b=0, k_b=0),)
    # The thresholds stay as they are until the block closes, since only a closed block moves the histogram.
    process = cast("Latency", state.concurrent)
    return tuple(
        None if threshold is None else exceedances(threshold, slow, fast, ratio=guard.ratio)
        for threshold in thresholds_us(process)
    )


def _join(left: Pending, right: Pending) -> Pending:
    return replace(
        left,
        start_us=min(left.start_us, right.start_us),
        end_us=max(left.end_us, right.end_us),
        offsets=(left.offsets[0], right.offsets[1]),
        blocks=tuple(_join_blocks(a, b) for a, b in zip(left.blocks, right.blocks, strict=True)),
        stable=add(left.stable, right.stable),
        candidate=add(left.candidate, right.candidate),
    )


def _join_blocks(left: Block | None, right: Block | None) -> Block | None:
    if left is None or right is None:
        return None
    return Block(n_c=left.n_c + right.n_c, k_c=left.k_c + right.k_c, n_b=left.n_b + right.n_b, k_b=left.k_b + right.k_b)


def _is_ripe(guard: Guard, pending: Pending) -> bool:
    span_us = pending.end_us - pending.start_us
    if not pending.concurrent:
        # Failures are counted at once; slow answers wait until a stall fits into a block.
        return guard.metric == ERROR_RATE or span_us >= BLOCK_SPAN_US
    if span_us >= LONELY_SPAN_US:
        return True
    if guard.metric == ERROR_RATE:
        (block,) = pending.blocks
        smaller = 0 if block is None else min(block.n_c, block.n_b)
        return smaller >= BLOCK_REQUESTS_MIN or (smaller > 0 and span_us >= BLOCK_SPAN_US)
    return span_us >= LATENCY_SPAN_US and sum(pending.candidate) > 0 and sum(pending.stable) > 0


def _close(
    rules: Rules, guard: Guard, state: GuardState, pending: Pending, step: StepState
) -> tuple[GuardState, Finding | None]:
    """Return ``state`` after ``pending`` has moved its e-processes, and the breach if there is a new one."""
    kind = Kind.CONCURRENT if pending.concurrent else Kind.ABSOLUTE
    process = cast("Process", state.concurrent if pending.concurrent else state.absolute)
    bounds = _bounds(rules, guard, state, kind)
    if bounds is None:
        return replace(state, pending=None), None
    moved = _learn(advance(process, pending.blocks, bounds), pending)
    if pending.concurrent:
        state = replace(state, pending=None, concurrent=cast("TwoSample | Latency", moved))
        state = _move_promotion(guard, state, pending, step)
    else:
        state = replace(state, pending=None, absolute=cast("Absolute | Ceiling", moved))
    known = evidence(rules, guard, state, kind)
    if state.breached or known.e_value < known.threshold:
        return state, None
    finding = Finding(
        evidence=known,
        inputs_json=make_inputs(process, pending, bounds),
        first_evidence_us=state.first_bad_us or pending.start_us,
        route=pending.route,
    )
    return replace(state, breached=True), finding


def _bounds(rules: Rules, guard: Guard, state: GuardState, kind: Kind) -> dict[str, float] | None:
    """Return what the block is held against; None if nothing can be too much."""
    if guard.metric == CLIENT_ERRORS:
        level = 1.0 / rules.threshold(guard)
        bound = clients.bound_of(state.clients or Clients(), margin=guard.margin, level=level)
        return None if bound is None else {"bound": bound}
    if guard.metric == ERROR_RATE:
        return {"margin": guard.margin} if kind is Kind.CONCURRENT else {"bound": guard.floor}
    if kind is Kind.CONCURRENT:
        return {}
    return {"bound": 1.0 - guard.quantile}


def _learn(process: Process, pending: Pending) -> Process:
    """Return ``process`` with what the block of ``pending`` teaches the next one: latencies, or lonely requests."""
    match process:
        case Latency():
            return latency.observe(process, pending.stable)
        case TwoSample() | NonInferiority():
            (block,) = pending.blocks
            if block is None or block.is_concurrent():
                return process
            return replace(process, estimates=two_sample.remember(process.estimates, block))
        case _:
            return process


def _move_promotion(guard: Guard, state: GuardState, pending: Pending, step: StepState) -> GuardState:
    # A late block of an earlier step says nothing about this one.
    if state.promotion is None or pending.route != step.route:
        return state
    bounds = {"margin": guard.margin}
    moved = _learn(advance(state.promotion, pending.blocks, bounds), pending)
    inputs = make_inputs(state.promotion, pending, bounds)
    return replace(state, promotion=cast("NonInferiority", moved), promotion_inputs=inputs)


def _reached(state: State, batch: Batch) -> Finding | None:
    """Return the evidence that this step needed, once, when the last of it is there."""
    step, rules = state.step, state.rules
    if not batch.concurrent or batch.route != step.route or step.reached:
        return None
    if step.candidate_requests < rules.step_requests_min:
        return None
    inputs = canonical({"judge": "count", "requests": step.candidate_requests, "requests_min": rules.step_requests_min})
    weakest = Evidence(
        guard="requests",
        kind=Kind.CONCURRENT,
        e_value=0.0,
        threshold=0.0,
        candidate_estimate=0.0,
        stable_estimate=0.0,
        candidate_count=step.candidate_requests,
        stable_count=0,
    )
    for guard, known in zip(rules.guards, state.guards, strict=True):
        if known.promotion is None:
            continue
        e_value = to_e_value(known.promotion.log_e_value())
        if e_value < rules.promotion_threshold:
            return None
        if weakest.threshold == 0.0 or e_value < weakest.e_value:
            weakest = replace(
                evidence(rules, guard, known, Kind.CONCURRENT), e_value=e_value, threshold=rules.promotion_threshold
            )
            inputs = known.promotion_inputs
    return Finding(evidence=weakest, inputs_json=inputs, first_evidence_us=step.start_us, route=step.route)


def _reason(breaches: list[Finding], reached: Finding | None) -> str:
    if breaches:
        return "; ".join(
            f"{one.evidence.guard}: candidate {one.evidence.candidate_estimate:.4g} of "
            f"{one.evidence.candidate_count} requests, e-value {one.evidence.e_value:.4g}, "
            f"threshold {one.evidence.threshold:.4g}"
            for one in breaches
        )
    if reached is not None:
        return f"{reached.evidence.guard}: enough evidence at route {reached.route[0]}/{reached.route[1]}"
    return "unknown: no evidence either way yet"
