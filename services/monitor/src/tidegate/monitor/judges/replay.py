"""The inputs of a finding, as canonical JSON, and how to get the same e-value from them again, bit for bit.

Python writes floats so that reading them gives the same bits, and the judges are deterministic, so the e-value of a
recorded finding can be checked long after the requests themselves have expired.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Final

from tidegate.monitor.judges import absolute, latency, noninferiority, two_sample
from tidegate.monitor.judges.absolute import Absolute
from tidegate.monitor.judges.latency import Ceiling, Latency
from tidegate.monitor.judges.noninferiority import NonInferiority
from tidegate.monitor.judges.two_sample import Block, Estimates, TwoSample
from tidegate.monitor.judges.values import Pending
from tidegate.monitor.judges.wealth import Wealth

LOG_E_MAX: Final = 700.0

Process = TwoSample | Latency | NonInferiority | Absolute | Ceiling
Inputs = dict[str, Any]


def to_e_value(log_e: float) -> float:
    """Return the e-value of ``log_e``, bounded so that it stays a finite double."""
    return math.exp(min(log_e, LOG_E_MAX))


def make_inputs(process: Process, block: Pending, bounds: dict[str, float]) -> str:
    """Return the canonical JSON from which :func:`replay` computes the e-value after ``block``.

    ``bounds`` holds ``margin`` (two_sample, noninferiority), ``bound`` (absolute, ceiling), or nothing (latency).
    """
    return canonical(
        {
            "judge": judge_name(process),
            "state": asdict(process),
            "bounds": bounds,
            "blocks": [None if one is None else [one.n_c, one.k_c, one.n_b, one.k_b] for one in block.blocks],
            "route": list(block.route),
            "offsets": list(block.offsets),
            "start_us": block.start_us,
            "end_us": block.end_us,
        }
    )


def canonical(value: Any) -> str:
    """Return ``value`` as JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def replay(inputs_json: str) -> float:
    """Return the e-value that the finding with these inputs had.

    Raises:
        ValueError: The inputs name no judge of this module.

    """
    inputs: Inputs = json.loads(inputs_json)
    if inputs["judge"] == "count":
        return 0.0
    blocks = tuple(
        None if one is None else Block(n_c=one[0], k_c=one[1], n_b=one[2], k_b=one[3]) for one in inputs["blocks"]
    )
    process = advance(read_process(inputs["judge"], inputs["state"]), blocks, inputs["bounds"])
    return to_e_value(process.log_e_value())


def advance(process: Process, blocks: tuple[Block | None, ...], bounds: dict[str, float]) -> Process:
    """Return ``process`` after ``blocks``: the one way in which evidence is counted, live and in a replay."""
    match process:
        case Latency():
            return latency.update(process, blocks)
        case TwoSample():
            return two_sample.update(process, _only(blocks), margin=bounds["margin"])
        case NonInferiority():
            return noninferiority.update(process, _only(blocks), margin=bounds["margin"])
        case Absolute():
            block = _only(blocks)
            return absolute.update(process, trials=block.n_c, failures=block.k_c, bound=bounds["bound"])
        case Ceiling():
            return latency.update_ceiling(process, _only(blocks), bound=bounds["bound"])


def _only(blocks: tuple[Block | None, ...]) -> Block:
    (block,) = blocks
    return block if block is not None else Block(n_c=0, k_c=0, n_b=0, k_b=0)


def judge_name(process: Process) -> str:
    """Return the name that :func:`read_process` takes."""
    match process:
        case Latency():
            return "latency"
        case TwoSample():
            return "two_sample"
        case NonInferiority():
            return "noninferiority"
        case Absolute():
            return "absolute"
        case Ceiling():
            return "ceiling"


def read_process(name: str, value: Inputs) -> Process:
    """Return the process that ``asdict`` made ``value`` of.

    Raises:
        ValueError: No judge has this name.

    """
    match name:
        case "latency":
            wealth = tuple(_wealth(one) for one in value["wealth"])
            return Latency(levels=tuple(value["levels"]), stable=tuple(value["stable"]), wealth=wealth)
        case "two_sample":
            return TwoSample(wealth=_wealth(value["wealth"]), estimates=Estimates(**value["estimates"]))
        case "noninferiority":
            return NonInferiority(log_e=tuple(value["log_e"]), estimates=Estimates(**value["estimates"]))
        case "absolute":
            return Absolute(wealth=_wealth(value["wealth"]))
        case "ceiling":
            return Ceiling(wealth=_wealth(value["wealth"]))
        case _:
            raise ValueError(f"judge is {name!r}, expected two_sample, noninferiority, latency, absolute or ceiling")


def _wealth(value: Inputs) -> Wealth:
    return Wealth(log_bets=tuple(value["log_bets"]), log_cash=value["log_cash"], blocks=value["blocks"])
