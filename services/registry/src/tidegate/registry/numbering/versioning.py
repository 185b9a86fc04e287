"""Which number does a version get? Rules R0 to R5; the first that applies decides.

R0 first version of the model: 1.0.0. R1 weights, signature, pipeline and data equal an existing version: no new number.
R2 callers of the baseline would break: MAJOR. R3 evaluations that can't be compared make the metric UNKNOWN. R4
significantly better on the same examples: MINOR. R5 anything else: PIPELINE, with the verdict kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tidegate.registry.numbering.comparison import PairedNumbers, holm_rejected, one_sided_p, too_few, z_value
from tidegate.registry.numbering.signatures import SignatureSpec, incompatibilities

FIRST_MAJOR: Final = 1
BREAKS_NAMED_MAX: Final = 5


class Change(StrEnum):
    """How a version differs from its baseline; NONE = it exists already."""

    NONE = "NONE"
    FIRST = "FIRST"
    MAJOR = "MAJOR"
    MINOR = "MINOR"
    PIPELINE = "PIPELINE"


class Verdict(StrEnum):
    """What the paired test says of the candidate."""

    BETTER = "BETTER"
    TIE = "TIE"
    WORSE = "WORSE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class VersionNumber:
    """MAJOR.MINOR.PIPELINE."""

    major: int
    minor: int
    pipeline: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.pipeline}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What makes two registrations the same: weights, signature, pipeline (with configuration and code) and data."""

    weights_digest: str
    signature_digest: str
    pipeline_digest: str
    config_digest: str
    code_commit: str
    data_digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A version as the rules see it; ``verdict`` is the one that it got when it was registered."""

    version: VersionNumber
    fingerprint: Fingerprint
    signature: SignatureSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """The metric that a MINOR must improve; ``min_effect`` in its unit, ``alpha`` one-sided."""

    metric: str
    higher_is_better: bool = True
    min_effect: float = 0.0
    alpha: float = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What the evaluations say; the digests name the stored files that the numbers were counted from."""

    overall: PairedNumbers | None = None
    slices: tuple[PairedNumbers, ...] = ()
    candidate_evaluation_digest: str = ""
    baseline_evaluation_digest: str = ""
    unknown_because: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionInput:
    """All that the number is decided from.

    ``twin`` is an existing version with the same fingerprint; ``baseline`` the highest one of the MAJOR line that is
    not worse or failed (the line's highest if all are); ``line_top`` the line's highest number.
    """

    fingerprint: Fingerprint
    signature: SignatureSpec
    gate: Gate
    comparison: Comparison
    newest_major: int = 0
    line_top: VersionNumber | None = None
    baseline: Contender | None = None
    twin: Contender | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictNumbers:
    """The verdict and its numbers; probabilities are one-sided p-values."""

    verdict: Verdict
    difference: float = 0.0
    z: float = 0.0
    p_better: float = 1.0
    p_worse: float = 1.0
    example_count: int = 0
    slices_tested: int = 0
    slices_worse: tuple[str, ...] = ()
    unknown_because: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionNumberDecision:
    """The number, and why."""

    version: VersionNumber
    rule: str
    change: Change
    baseline: VersionNumber | None
    reason: str
    numbers: VerdictNumbers


def decide(given: DecisionInput) -> VersionNumberDecision:
    """Return the number that ``given`` leads to; the same input always gives the same decision.

    Raises:
        ValueError: ``twin`` is no twin, or a baseline comes without ``line_top``.

    """
    if given.twin is not None:
        return _duplicate(given.fingerprint, given.twin)
    if given.baseline is None:
        first = VersionNumber(major=FIRST_MAJOR, minor=0, pipeline=0)
        return VersionNumberDecision(
            version=first,
            rule="R0",
            change=Change.FIRST,
            baseline=None,
            reason=f"{first}: the first version of this model",
            numbers=VerdictNumbers(verdict=Verdict.UNKNOWN, unknown_because="there is nothing to compare with"),
        )
    if given.line_top is None:
        raise ValueError("line_top is missing, expected the highest number of the baseline's line")
    numbers = judge(given.comparison, given.gate)
    breaks = incompatibilities(given.baseline.signature, given.signature)
    if breaks:
        return _major(given, given.baseline, breaks, numbers)
    return _same_line(given, given.baseline, given.line_top, numbers)


def _duplicate(fingerprint: Fingerprint, twin: Contender) -> VersionNumberDecision:
    if twin.fingerprint != fingerprint:
        raise ValueError(f"{twin.version} is no twin: its fingerprint differs")
    return VersionNumberDecision(
        version=twin.version,
        rule="R1",
        change=Change.NONE,
        baseline=None,
        reason=f"weights, signature, pipeline and data equal {twin.version}",
        numbers=VerdictNumbers(verdict=Verdict.TIE),
    )


def _major(
    given: DecisionInput, baseline: Contender, breaks: tuple[str, ...], numbers: VerdictNumbers
) -> VersionNumberDecision:
    version = VersionNumber(major=given.newest_major + 1, minor=0, pipeline=0)
    named = "; ".join(breaks[:BREAKS_NAMED_MAX])
    more = f" and {len(breaks) - BREAKS_NAMED_MAX} more" if len(breaks) > BREAKS_NAMED_MAX else ""
    return VersionNumberDecision(
        version=version,
        rule="R2",
        change=Change.MAJOR,
        baseline=baseline.version,
        reason=f"{version} is MAJOR: callers of {baseline.version} would break: {named}{more}",
        numbers=numbers,
    )


def _same_line(
    given: DecisionInput, baseline: Contender, top: VersionNumber, numbers: VerdictNumbers
) -> VersionNumberDecision:
    if numbers.verdict is Verdict.BETTER:
        version = VersionNumber(major=top.major, minor=top.minor + 1, pipeline=0)
        rule, change = "R4", Change.MINOR
    else:
        version = VersionNumber(major=top.major, minor=top.minor, pipeline=top.pipeline + 1)
        rule, change = "R5", Change.PIPELINE
    same_weights = given.fingerprint.weights_digest == baseline.fingerprint.weights_digest
    unchanged = ", weights unchanged" if same_weights else ""
    told = _tell(given.comparison, given.gate, numbers, baseline.version)
    return VersionNumberDecision(
        version=version,
        rule=rule,
        change=change,
        baseline=baseline.version,
        reason=f"{version} is {change}: {told}{unchanged}",
        numbers=numbers,
    )


def judge(comparison: Comparison, gate: Gate) -> VerdictNumbers:
    """Return what the paired test says: better needs significance, the least effect, and no guarded slice worse."""
    overall = comparison.overall
    unknown = comparison.unknown_because or ("no evaluation" if overall is None else too_few(overall))
    if overall is None or unknown:
        return VerdictNumbers(
            verdict=Verdict.UNKNOWN,
            example_count=overall.example_count if overall else 0,
            unknown_because=unknown,
        )
    p_better, p_worse = one_sided_p(overall, higher_is_better=gate.higher_is_better)
    gain = overall.difference if gate.higher_is_better else -overall.difference
    tested = [numbers for numbers in comparison.slices if not too_few(numbers)]
    p_slices = [one_sided_p(numbers, higher_is_better=gate.higher_is_better)[1] for numbers in tested]
    slices_worse = tuple(tested[index].slice_name for index in holm_rejected(p_slices, gate.alpha))
    if p_worse < gate.alpha or slices_worse:
        verdict = Verdict.WORSE
    elif p_better < gate.alpha and gain >= gate.min_effect:
        verdict = Verdict.BETTER
    else:
        verdict = Verdict.TIE
    return VerdictNumbers(
        verdict=verdict,
        difference=overall.difference,
        z=z_value(overall),
        p_better=p_better,
        p_worse=p_worse,
        example_count=overall.example_count,
        slices_tested=len(tested),
        slices_worse=slices_worse,
    )


def _tell(comparison: Comparison, gate: Gate, numbers: VerdictNumbers, baseline: VersionNumber) -> str:
    if numbers.verdict is Verdict.UNKNOWN or comparison.overall is None:
        return f"whether {gate.metric} is better than that of {baseline} is unknown: {numbers.unknown_because}"
    overall = comparison.overall
    test = f"DeLong z = {numbers.z:.2f}" if overall.metric == "roc_auc" else "McNemar mid-p"
    p = numbers.p_worse if numbers.verdict is Verdict.WORSE else numbers.p_better
    told = (
        f"{gate.metric} {overall.candidate_value:.4f} against {overall.baseline_value:.4f} of {baseline} on the same "
        f"{overall.example_count} examples ({overall.difference:+.4f}, {test}, one-sided p = {p:.2g}, "
        f"alpha = {gate.alpha:g}): {numbers.verdict.lower()}"
    )
    return f"{told}, worse in {', '.join(numbers.slices_worse)}" if numbers.slices_worse else told
