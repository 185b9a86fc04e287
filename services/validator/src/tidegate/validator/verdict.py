"""Blessed or not: pure. From what was observed and what the policy demands to checks, reasons and a verdict.

A check with nothing to check is SKIPPED and never counts as passed; a version is blessed only if no check failed and at
least one runtime was tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a check ended; the names are the contract's."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check; ``code`` is the reason code if it failed."""

    suite: str
    name: str
    outcome: Outcome
    observed: str = ""
    bound: str = ""
    detail: str = ""
    code: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactSeen:
    """The artifact as it was found."""

    digest_wanted: str
    digest: str
    format_wanted: str
    format: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputWanted:
    """One output of the signature; -1 in ``shape`` is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputSeen:
    """One output of an answer; ``is_finite`` is False if any number is NaN or infinite."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_finite: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one request brought: outputs, or the failure that it ended with (and its reason code).

    ``asked`` names the outputs that the request asked for; none is all of them.
    """

    outputs: tuple[OutputSeen, ...] = ()
    asked: tuple[str, ...] = ()
    latency_ms: float = 0.0
    failure: str = ""
    failure_code: str = "QUERY_FAILED"


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenSeen:
    """How far one output's answers are from the golden ones, at most, over ``row_count`` rows."""

    output: str
    row_count: int
    difference_max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSeen:
    """What one model server did; ``failure`` if it did not come up, ``callers`` what callers of the baseline got."""

    runtime: str
    load_time_ms: float = 0.0
    peak_memory_bytes: int = 0
    sandbox: str = ""
    failure: str = ""
    failure_code: str = "LOAD_FAILED"
    answers: tuple[Answer, ...] = ()
    golden: tuple[GoldenSeen, ...] = ()
    callers: Check | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeDemand:
    """What the policy wants of one model server; 0 = no bound."""

    runtime: str
    latency_ms_p99_max: float = 0.0
    memory_mib_max: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricDemand:
    """A threshold; ``slice_name`` is "" for all rows."""

    name: str
    slice_name: str = ""
    least: float | None = None
    greatest: float | None = None
    drop_max: float | None = None
    higher_is_better: bool = True
    stable_value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Demands:
    """All that the policy and the signature want."""

    outputs: tuple[OutputWanted, ...]
    golden_atol: float
    min_sandbox: str
    runtimes: tuple[RuntimeDemand, ...]
    metrics: tuple[MetricDemand, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What follows."""

    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """Return the checks that failed."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAILED)

    @property
    def is_blessed(self) -> bool:
        """Say whether the version may be delivered."""
        tried = any(check.suite == "infrastructure" and check.outcome is Outcome.PASSED for check in self.checks)
        return tried and not self.failures


def judge_artifact(seen: ArtifactSeen) -> Verdict:
    """Judge the artifact alone, before any server sees it."""
    checks = [
        _verdict(
            "artifact",
            "digest",
            seen.digest == seen.digest_wanted,
            seen.digest,
            seen.digest_wanted,
            "ARTIFACT_DIGEST_MISMATCH",
        )
    ]
    if seen.format == "pickle":
        hint = "pickle and joblib run code when loaded; convert the model, for example with skl2onnx.to_onnx"
        checks.append(_failed("artifact", "format", seen.format, "onnx", "PICKLE_REFUSED", hint))
    else:
        known = seen.format == "onnx" and seen.format_wanted == "onnx"
        shown = f"{seen.format}, declared {seen.format_wanted or 'nothing'}"
        checks.append(_verdict("artifact", "format", known, shown, "onnx", "FORMAT_UNKNOWN"))
    return Verdict(checks=tuple(checks))


def judge(
    artifact: Verdict,
    demands: Demands,
    runtimes: Iterable[RuntimeSeen],
    metrics: Mapping[tuple[str, str], float | None],
    missing: Mapping[str, str] | None = None,
) -> Verdict:
    """Judge everything; ``metrics`` maps (name, slice) to the value, ``missing`` a metric to why it has none.

    Under "" stands why none has.
    """
    checks = list(artifact.checks)
    seen_by_name = {seen.runtime: seen for seen in runtimes}
    for demand in demands.runtimes:
        checks.extend(_runtime_checks(demand, seen_by_name.get(demand.runtime), demands))
    for wanted in demands.metrics:
        why = (missing or {}).get(wanted.name) or (missing or {}).get("", "")
        checks.extend(_metric_checks(wanted, metrics.get((wanted.name, wanted.slice_name)), why))
    return Verdict(checks=tuple(checks))


def _runtime_checks(demand: RuntimeDemand, seen: RuntimeSeen | None, demands: Demands) -> list[Check]:
    suite = "infrastructure"
    if seen is None:
        return [_failed(suite, f"{demand.runtime}: load", "not tried", "ready", "LOAD_FAILED")]
    if seen.failure:
        return [_failed(suite, f"{demand.runtime}: load", "not ready", "ready", seen.failure_code, seen.failure)]
    level_is_enough = demands.min_sandbox != "bubblewrap" or seen.sandbox == "bubblewrap"
    return [
        _passed(suite, f"{demand.runtime}: load", f"ready after {seen.load_time_ms:.0f} ms", "ready"),
        _verdict(
            suite, f"{demand.runtime}: sandbox", level_is_enough, seen.sandbox, demands.min_sandbox, "SANDBOX_TOO_WEAK"
        ),
        _memory_check(demand, seen),
        *_answer_checks(demand.runtime, seen.answers, demands.outputs),
        _latency_check(demand, seen),
        *_golden_checks(demand.runtime, seen, demands.golden_atol),
        *([seen.callers] if seen.callers is not None else []),
    ]


def _memory_check(demand: RuntimeDemand, seen: RuntimeSeen) -> Check:
    mib = seen.peak_memory_bytes / (1 << 20)
    name = f"{demand.runtime}: memory"
    if not demand.memory_mib_max or not seen.peak_memory_bytes:
        return _skipped("infrastructure", name, "no bound, or not measured")
    within = mib <= demand.memory_mib_max
    return _verdict("infrastructure", name, within, f"{mib:.0f} MiB", f"{demand.memory_mib_max} MiB", "MEMORY_TOO_HIGH")


def latency_ms_p99(answers: Iterable[Answer]) -> float:
    """Return the 99th percentile (nearest rank) of the answers' latencies, 0 without answers."""
    latencies = sorted(answer.latency_ms for answer in answers if not answer.failure)
    return latencies[math.ceil(0.99 * len(latencies)) - 1] if latencies else 0.0


def _latency_check(demand: RuntimeDemand, seen: RuntimeSeen) -> Check:
    name = f"{demand.runtime}: latency p99"
    if not demand.latency_ms_p99_max or not seen.answers:
        return _skipped("infrastructure", name, "no bound, or no sample requests")
    found = latency_ms_p99(seen.answers)
    within = found <= demand.latency_ms_p99_max
    return _verdict(
        "infrastructure", name, within, f"{found:.1f} ms", f"{demand.latency_ms_p99_max:g} ms", "LATENCY_TOO_HIGH"
    )


def _answer_checks(runtime: str, answers: tuple[Answer, ...], wanted: tuple[OutputWanted, ...]) -> list[Check]:
    suite, name = "infrastructure", f"{runtime}: answers"
    if not answers:
        return [_skipped(suite, name, "no sample requests: the server was loaded, not queried")]
    for index, answer in enumerate(answers):
        fault = _answer_fault(answer, wanted)
        if fault is not None:
            code, observed, bound = fault
            return [_failed(suite, name, observed, bound, code, f"sample request {index + 1} of {len(answers)}")]
    return [_passed(suite, name, f"{len(answers)} requests answered", "answers of the signature, all finite")]


def _answer_fault(answer: Answer, wanted: tuple[OutputWanted, ...]) -> tuple[str, str, str] | None:
    if answer.failure:
        return answer.failure_code, answer.failure, "an answer"
    seen = {output.name: output for output in answer.outputs}
    for output in wanted:
        if answer.asked and output.name not in answer.asked:
            continue
        found = seen.get(output.name)
        if found is None:
            return "ANSWER_MISSING_OUTPUT", f"outputs {sorted(seen)}", f"output {output.name!r}"
        # JSON carries no FP16: it is answered as FP32 there, with the same values.
        if found.datatype != output.datatype and (output.datatype, found.datatype) != ("FP16", "FP32"):
            return "ANSWER_DATATYPE_MISMATCH", f"{output.name}: {found.datatype}", output.datatype
        if not shape_fits(found.shape, output.shape):
            return "ANSWER_SHAPE_MISMATCH", f"{output.name}: {list(found.shape)}", str(list(output.shape))
        if not found.is_finite:
            return "ANSWER_NOT_FINITE", f"{output.name} holds NaN or infinity", "finite numbers"
    return None


def shape_fits(seen: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say whether a shape is one of those that the signature allows (-1 = any length)."""
    return len(seen) == len(wanted) and all(want in {-1, have} for have, want in zip(seen, wanted, strict=True))


def _golden_checks(runtime: str, seen: RuntimeSeen, atol: float) -> list[Check]:
    if not seen.golden:
        return [_skipped("golden", f"{runtime}: answers", "the sample requests bring no expected answers")]
    return [
        _verdict(
            "golden",
            f"{runtime}: {golden.output}",
            golden.difference_max <= atol,
            f"differs by {golden.difference_max:.3g} over {golden.row_count} rows",
            f"{atol:g}",
            "GOLDEN_MISMATCH",
        )
        for golden in seen.golden
    ]


def _metric_checks(demand: MetricDemand, value: float | None, why: str) -> list[Check]:
    suite = "slices" if demand.slice_name else "metrics"
    name = f"{demand.name} of {demand.slice_name}" if demand.slice_name else demand.name
    if value is None or math.isnan(value):
        if not why:
            only = "only one class is there" if value is not None else "no row is there"
            why = f"{only} to compute it from"
        return [_failed(suite, name, "not computed", "a number", "METRIC_MISSING", why)]
    checks = [_threshold_check(demand, value, suite, name)]
    if demand.drop_max is not None:
        checks.append(_drop_check(demand, value, demand.drop_max, suite, f"{name} against stable"))
    return checks


def _threshold_check(demand: MetricDemand, value: float, suite: str, name: str) -> Check:
    shown = f"{value:.4f}"
    if demand.least is not None and value < demand.least:
        code = "SLICE_BELOW_MIN" if demand.slice_name else "METRIC_BELOW_MIN"
        return _failed(suite, name, shown, f"at least {demand.least:g}", code)
    if demand.greatest is not None and value > demand.greatest:
        return _failed(suite, name, shown, f"at most {demand.greatest:g}", "METRIC_ABOVE_MAX")
    return _passed(suite, name, shown, _bounds(demand))


def _drop_check(demand: MetricDemand, value: float, drop_max: float, suite: str, name: str) -> Check:
    if demand.stable_value is None:
        return _skipped(suite, name, "no comparable number of a stable version")
    drop = demand.stable_value - value if demand.higher_is_better else value - demand.stable_value
    bound = f"at most {drop_max:g} worse than stable's {demand.stable_value:.4f}"
    return _verdict(suite, name, drop <= drop_max, f"{value:.4f}", bound, "METRIC_DROPPED")


def _bounds(demand: MetricDemand) -> str:
    bounds = [f"at least {demand.least:g}"] if demand.least is not None else []
    bounds += [f"at most {demand.greatest:g}"] if demand.greatest is not None else []
    return ", ".join(bounds) or "a number"


def _verdict(suite: str, name: str, ok: bool, observed: str, bound: str, code: str) -> Check:  # noqa: FBT001, PLR0917
    return _passed(suite, name, observed, bound) if ok else _failed(suite, name, observed, bound, code)


def _passed(suite: str, name: str, observed: str, bound: str, detail: str = "") -> Check:
    return Check(suite=suite, name=name, outcome=Outcome.PASSED, observed=observed, bound=bound, detail=detail)


def _failed(suite: str, name: str, observed: str, bound: str, code: str, detail: str = "") -> Check:  # noqa: PLR0917
    return Check(
        suite=suite, name=name, outcome=Outcome.FAILED, observed=observed, bound=bound, detail=detail, code=code
    )


def _skipped(suite: str, name: str, detail: str) -> Check:
    return Check(suite=suite, name=name, outcome=Outcome.SKIPPED, detail=detail)
