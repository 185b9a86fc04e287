"""Whether what happened is right: invariants over a recorded history. Pure; each check returns what it found wrong."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from faults.history import Answer, Ground, History
from faults.model import Expected, expected

from tidegate.contracts.codec import Event
from tidegate.contracts.names import format_version
from tidegate.v1 import rollout_events_pb2 as pb

WEIGHT_TOTAL: Final = 1_000_000
TERMINAL: Final = frozenset({pb.PHASE_PROMOTED, pb.PHASE_ROLLED_BACK, pb.PHASE_ABORTED, pb.PHASE_SUPERSEDED})
REGISTRY_ANSWERS: Final = ("ModelRegistered", "RegistrationDuplicate", "RegistrationRejected")
VERDICTS: Final = ("ValidationPassed", "ValidationFailed")
# A request that began before the proxy had the new route may still be answered by the old arm.
ROUTE_SLACK_S: Final = 1.0
# Clients ask a hundred times a second; a shared machine may pause for a moment itself.
STANDSTILL_S: Final = 5.0
# What http.client says of an answer whose head came, and whose body did not.
CUT: Final = "IncompleteRead"
SHOWN_MAX: Final = 5

Check = Callable[[History], Iterator[str]]


def violations(history: History) -> list[str]:
    """Return everything that is wrong with ``history``, whatever was broken meanwhile."""
    return [f"{check.__name__}: {fault}" for check in INVARIANTS for fault in check(history)]


def differences(history: History, ground: Ground) -> list[str]:
    """Return in what the end differs from the end of the same work without any fault."""
    wanted = end_without_faults(history)
    return [
        f"{what} is {seen}, expected {due}"
        for what, seen, due in (
            ("stable", ground.stable, wanted.stable),
            ("live servers", sorted(ground.live_servers), sorted(wanted.live_servers)),
            ("sandbox servers", sorted(ground.sandbox_servers), []),
            ("routes", _served(history), {model: [number] for model, number in wanted.stable.items()}),
            ("endings", _names(_endings(history)), _names(wanted.endings)),
            ("numbers", _numbers(history), wanted.numbers),
        )
        if seen != due
    ]


def end_without_faults(history: History) -> Expected:
    """Return the end that the model predicts; a version whose server was killed on trial may have been rolled back."""
    excused = frozenset(
        reference
        for reference, phase in _endings(history).items()
        if reference in history.killed_on_trial and phase in {pb.PHASE_ROLLED_BACK, pb.PHASE_ABORTED}
    )
    wanted = expected(history.publications, rolled_back=excused)
    endings = wanted.endings | {reference: _endings(history)[reference] for reference in excused}
    return Expected(numbers=wanted.numbers, endings=endings, stable=wanted.stable)


def no_request_fails(history: History) -> Iterator[str]:
    """Every request is answered with 200, but for those that the killed one itself was to answer."""
    failed = [answer for answer in history.answers if answer.status != 200 and not _is_excused(history, answer)]
    for answer in failed[:SHOWN_MAX]:
        yield f"at {answer.begin_s:.3f} for {answer.end_s - answer.begin_s:.3f} s: {answer.status} {answer.text[:200]}"
    if len(failed) > SHOWN_MAX:
        yield f"and {len(failed) - SHOWN_MAX} more of {len(history.answers)}"


def traffic_never_stands_still(history: History) -> Iterator[str]:
    """Clients go on asking: none of their requests is held up for so long that all of them wait."""
    for before, after in itertools.pairwise(sorted(history.answers, key=lambda answer: answer.begin_s)):
        gap_s = after.begin_s - before.begin_s
        if gap_s > STANDSTILL_S and not _is_excused(history, before) and not _is_excused(history, after):
            yield f"no request began in the {gap_s:.1f} s after {before.begin_s:.3f}"


def every_training_has_one_answer(history: History) -> Iterator[str]:
    """Each acknowledged training event has exactly one answer of the registry, however often it was delivered."""
    answers: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for event in history.events:
        if event.type in REGISTRY_ANSWERS:
            answers[event.causation_id].add((event.type, event.id))
    for publication in history.publications:
        found = answers[publication.event_id]
        if len(found) != 1:
            yield f"training {publication.event_id} has {len(found)} answers: {sorted(found)}"


def every_version_has_one_verdict(history: History) -> Iterator[str]:
    """Each registered version is judged once, and blessed exactly if it passed."""
    said: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for event in history.events:
        if event.type in (*VERDICTS, "ModelBlessed"):
            said[event.causation_id].add((event.type, event.id))
    for event in _unique(history, "ModelRegistered"):
        found = sorted(kind for kind, _ in said[event.id])
        if found not in (["ModelBlessed", "ValidationPassed"], ["ValidationFailed"]):
            yield f"{event.subject}@{format_version(event.message.version)} has the verdicts {found}"


def repeats_are_the_same(history: History) -> Iterator[str]:
    """An event that is delivered again under its id has the same body."""
    seen: dict[str, Event] = {}
    for event in history.events:
        first = seen.setdefault(event.id, event)
        if (first.type, first.message) != (event.type, event.message):
            yield f"{event.type} {event.id} came twice, with different bodies"


def numbers_have_no_gap(history: History) -> Iterator[str]:
    """Each version follows one that exists, and no number is given twice."""
    known: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for event in _unique(history, "ModelRegistered"):
        version = event.message.version
        number = (version.major, version.minor, version.pipeline)
        earlier = known[event.subject]
        if number in earlier:
            yield f"{event.subject}@{format_version(version)} was given twice"
        elif not _follows(number, earlier):
            yield f"{event.subject}@{format_version(version)} follows no version of {sorted(earlier)}"
        earlier.append(number)


def steps_are_counted_without_gap(history: History) -> Iterator[str]:
    """The steps of a model are 1, 2, 3, ... in the log, none twice: they are decided exactly once."""
    for model, steps in _by_model(history, "RolloutStep").items():
        found = [step.sequence for step in steps]
        if found != list(range(1, len(found) + 1)):
            odd = next(place for place, sequence in enumerate(found, start=1) if sequence != place)
            yield f"{model}: step {odd} of the log has the sequence {found[odd - 1]}, after {found[: odd - 1][-3:]}"


def every_rollout_ends_once(history: History) -> Iterator[str]:
    """Each blessed version has one rollout, with one terminal phase, and no step after it."""
    phases: dict[str, list[int]] = defaultdict(list)
    ids: dict[str, set[str]] = defaultdict(set)
    for model, steps in _by_model(history, "RolloutStep").items():
        for step in steps:
            phases[step.rollout_id].append(step.phase)
            ids[f"{model}@{format_version(step.candidate)}"].add(step.rollout_id)
    for rollout_id, seen in phases.items():
        ended = [place for place, phase in enumerate(seen, start=1) if phase in TERMINAL]
        if ended != [len(seen)]:
            names = ", ".join(pb.Phase.Name(phase) for phase in seen)
            yield f"{rollout_id} has {len(ended)} ends in its {len(seen)} steps: {names}"
    for event in _unique(history, "ModelBlessed"):
        reference = f"{event.subject}@{format_version(event.message.version)}"
        if len(ids[reference]) != 1:
            yield f"{reference} is blessed and has {len(ids[reference])} rollouts"


def weights_sum_to_the_whole(history: History) -> Iterator[str]:
    """Each line of each route sums to 1,000,000; so do the arms of each step, once anybody serves."""
    for model, tables in _by_model(history, "RouteTable").items():
        for table in tables:
            for line in table.lines:
                total = sum(arm.weight_millionths for arm in line.arms)
                if total != WEIGHT_TOTAL:
                    yield f"{model} route {table.epoch}.{table.revision}, line {line.major}: {total}"
    for model, steps in _by_model(history, "RolloutStep").items():
        for step in steps:
            total = sum(arm.weight_millionths for arm in step.arms)
            nobody_yet = total == 0 and not step.HasField("stable")
            if total != WEIGHT_TOTAL and not nobody_yet:
                yield f"{model} step {step.sequence}: {total}"


def routes_rise(history: History) -> Iterator[str]:
    """Each route of a model is newer than the one before it in the log: one decider at a time."""
    for model, tables in _by_model(history, "RouteTable").items():
        for before, after in itertools.pairwise(tables):
            if (after.epoch, after.revision) <= (before.epoch, before.revision):
                yield f"{model}: {after.epoch}.{after.revision} after {before.epoch}.{before.revision}"


def nothing_unblessed_serves(history: History) -> Iterator[str]:
    """Whoever answers was blessed, and named by a route."""
    blessed = {
        f"{event.subject}@{format_version(event.message.version)}"
        for event in history.events
        if event.type == "ModelBlessed"
    }
    strangers = {f"{answer.model}@{answer.version}" for answer in history.answers if answer.status == 200} - blessed
    if strangers:
        yield f"answers of {sorted(strangers)}, blessed are {sorted(blessed)}"


def a_breached_arm_never_rises(history: History) -> Iterator[str]:
    """From the step that knows of a breach on, the candidate's share of that rollout never rises again."""
    for steps in _by_model(history, "RolloutStep").values():
        bound: dict[str, int] = {}
        for step in steps:
            share = _candidate_share(step)
            if step.rollout_id in bound and share > bound[step.rollout_id]:
                yield f"{step.rollout_id} step {step.sequence}: {share} after {bound[step.rollout_id]}"
            if step.breached_guard or step.rollout_id in bound:
                bound[step.rollout_id] = share


def a_breached_arm_gets_no_requests(history: History) -> Iterator[str]:
    """Once the proxy has the way back, no request that begins later reaches the breached version."""
    for reference, since_s in _sent_back(history).items():
        late = [
            answer
            for answer in history.answers
            if f"{answer.model}@{answer.version}" == reference and answer.begin_s > since_s + ROUTE_SLACK_S
        ]
        if late:
            yield f"{len(late)} answers of {reference}, the last {late[-1].begin_s - since_s:.1f} s after the way back"


INVARIANTS: Final[Sequence[Check]] = (
    no_request_fails,
    traffic_never_stands_still,
    every_training_has_one_answer,
    every_version_has_one_verdict,
    repeats_are_the_same,
    numbers_have_no_gap,
    steps_are_counted_without_gap,
    every_rollout_ends_once,
    weights_sum_to_the_whole,
    routes_rise,
    nothing_unblessed_serves,
    a_breached_arm_never_rises,
    a_breached_arm_gets_no_requests,
)


def _is_excused(history: History, answer: Answer) -> bool:
    return any(
        answer.begin_s <= excuse.end_s
        and answer.end_s >= excuse.begin_s
        and (not excuse.cut_only or answer.text.startswith(CUT))
        for excuse in history.excuses
    )


def _unique(history: History, kind: str) -> list[Event]:
    return list({event.id: event for event in history.events if event.type == kind}.values())


def _by_model(history: History, kind: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for event in history.events:
        if event.type == kind:
            found[event.subject].append(event.message)
    return found


def _follows(number: tuple[int, int, int], earlier: Sequence[tuple[int, int, int]]) -> bool:
    major, minor, pipeline = number
    if pipeline:
        return (major, minor, pipeline - 1) in earlier
    if minor:
        return any(one[:2] == (major, minor - 1) for one in earlier)
    return major == 1 or any(one[0] == major - 1 for one in earlier)


def _candidate_share(step: Any) -> int:
    return sum(arm.weight_millionths for arm in step.arms if arm.version == step.candidate)


def _sent_back(history: History) -> dict[str, float]:
    """Return since when (epoch seconds) all proxies have sent the traffic of each breached version back."""
    ways_back: dict[tuple[str, int, int], str] = {}
    since: dict[str, float] = {}
    for event in history.events:
        message: Any = event.message
        if event.type == "RolloutStep" and message.breached_guard and not _candidate_share(message):
            reference = f"{event.subject}@{format_version(message.candidate)}"
            ways_back[event.subject, message.route_epoch, message.route_revision] = reference
        elif event.type == "RouteApplied" and message.complete:
            reference = ways_back.get((event.subject, message.epoch, message.revision), "")
            if reference:
                since.setdefault(reference, event.time.timestamp())
    return since


def _endings(history: History) -> dict[str, int]:
    return {
        f"{model}@{format_version(step.candidate)}": step.phase
        for model, steps in _by_model(history, "RolloutStep").items()
        for step in steps
        if step.phase in TERMINAL
    }


def _names(endings: dict[str, int]) -> dict[str, str]:
    return {reference: pb.Phase.Name(phase) for reference, phase in sorted(endings.items())}


def _numbers(history: History) -> dict[str, str]:
    """Return the numbers that the trainings of the history got, by the trainings' event ids."""
    own = {publication.event_id for publication in history.publications}
    return {
        event.causation_id: format_version(event.message.version)
        for event in history.events
        if event.type == "ModelRegistered" and event.causation_id in own
    }


def _served(history: History) -> dict[str, list[str]]:
    """Return who gets traffic by the last route of each model."""
    return {
        model: sorted(
            {format_version(arm.version) for line in tables[-1].lines for arm in line.arms if arm.weight_millionths}
        )
        for model, tables in _by_model(history, "RouteTable").items()
    }
