"""The judge's state as JSON and back; the same bits come back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from tidegate.monitor.judges.absolute import Absolute
from tidegate.monitor.judges.clients import Clients
from tidegate.monitor.judges.latency import Ceiling, Latency
from tidegate.monitor.judges.noninferiority import NonInferiority
from tidegate.monitor.judges.replay import judge_name, read_process
from tidegate.monitor.judges.two_sample import Block, TwoSample
from tidegate.monitor.judges.values import Guard, GuardState, Pending, Rules, State, StepState, Tally

Json = dict[str, Any]


def write_state(state: State) -> Json:
    """Return ``state`` as JSON values."""
    value = asdict(state)
    for written, known in zip(value["guards"], state.guards, strict=True):
        if known.concurrent is not None:
            written["concurrent"]["judge"] = judge_name(known.concurrent)
        if known.absolute is not None:
            written["absolute"]["judge"] = judge_name(known.absolute)
    return value


def read_state(value: Json) -> State:
    """Return the state that :func:`write_state` made ``value`` of."""
    rules = value["rules"]
    step = value["step"]
    return State(
        rules=Rules(**{**rules, "guards": tuple(Guard(**guard) for guard in rules["guards"])}),
        guards=tuple(_read_guard(guard) for guard in value["guards"]),
        step=StepState(**{**step, "route": _pair(step["route"])}),
        offset=value["offset"],
    )


def _read_guard(value: Json) -> GuardState:
    concurrent, absolute, promotion = value["concurrent"], value["absolute"], value["promotion"]
    first, second = value["tallies"]
    return GuardState(
        concurrent=cast("TwoSample | Latency | None", concurrent and read_process(concurrent["judge"], concurrent)),
        absolute=cast("Absolute | Ceiling | None", absolute and read_process(absolute["judge"], absolute)),
        promotion=cast("NonInferiority | None", promotion and read_process("noninferiority", promotion)),
        promotion_inputs=value["promotion_inputs"],
        pending=_read_pending(value["pending"]) if value["pending"] else None,
        tallies=(_read_tally(first), _read_tally(second)),
        first_bad_us=value["first_bad_us"],
        breached=value["breached"],
        clients=_read_clients(value.get("clients")),
    )


def _read_clients(value: Json | None) -> Clients | None:
    # State of a release without this guard has none.
    if value is None:
        return None
    return Clients(**{**value, "suspects": tuple(_pair(one) for one in value["suspects"])})


def _read_pending(value: Json) -> Pending:
    return Pending(
        route=_pair(value["route"]),
        concurrent=value["concurrent"],
        start_us=value["start_us"],
        end_us=value["end_us"],
        offsets=_pair(value["offsets"]),
        blocks=tuple(None if block is None else Block(**block) for block in value["blocks"]),
        stable=tuple(value["stable"]),
        candidate=tuple(value["candidate"]),
    )


def _read_tally(value: Json) -> Tally:
    return Tally(**{**value, "candidate": tuple(value["candidate"]), "stable": tuple(value["stable"])})


def _pair(value: list[int]) -> tuple[int, int]:
    first, second = value
    return first, second
