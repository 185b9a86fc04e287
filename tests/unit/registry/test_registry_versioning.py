"""The rules R0 to R5."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.registry.numbering.comparison import PairedNumbers
from tidegate.registry.numbering.inputs_json import input_from_json, to_json
from tidegate.registry.numbering.signatures import SignatureSpec, TensorSpec
from tidegate.registry.numbering.versioning import (
    Change,
    Comparison,
    Contender,
    DecisionInput,
    Fingerprint,
    Gate,
    Verdict,
    VersionNumber,
    decide,
    judge,
)

SIGNATURE = SignatureSpec(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1), maximum=3.5, categories=("a",)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),),
    target_id="late",
)
GATE = Gate(metric="roc_auc")
BASE = VersionNumber(major=1, minor=2, pipeline=3)


def fingerprint(number: int) -> Fingerprint:
    return Fingerprint(
        weights_digest=f"w{number}",
        signature_digest="s",
        pipeline_digest="p",
        config_digest="c",
        code_commit="abc",
        data_digests=("TRAIN d",),
    )


def areas(candidate: float, baseline: float, *, variance: float = 1e-4, slice_name: str = "") -> PairedNumbers:
    return PairedNumbers(
        metric="roc_auc",
        example_count=1000,
        positive_count=300,
        candidate_value=candidate,
        baseline_value=baseline,
        variance=variance,
        slice_name=slice_name,
    )


BETTER = Comparison(overall=areas(0.75, 0.70))
TIE = Comparison(overall=areas(0.705, 0.70))
WORSE = Comparison(overall=areas(0.65, 0.70))


def given_(comparison: Comparison = TIE, **changes) -> DecisionInput:
    baseline = Contender(version=BASE, fingerprint=fingerprint(1), signature=SIGNATURE)
    standard = DecisionInput(
        fingerprint=fingerprint(2),
        signature=SIGNATURE,
        gate=GATE,
        comparison=comparison,
        newest_major=1,
        line_top=VersionNumber(major=1, minor=2, pipeline=7),
        baseline=baseline,
    )
    return replace(standard, **changes)


def test_the_first_version_is_1_0_0():
    decision = decide(given_(baseline=None, line_top=None, newest_major=0))
    assert (str(decision.version), decision.rule, decision.change) == ("1.0.0", "R0", Change.FIRST)
    assert decision.baseline is None


def test_a_twin_gets_no_new_number():
    twin = Contender(version=BASE, fingerprint=fingerprint(2), signature=SIGNATURE)
    decision = decide(given_(twin=twin))
    assert (decision.version, decision.rule, decision.change) == (BASE, "R1", Change.NONE)


def test_a_false_twin_is_a_fault():
    twin = Contender(version=BASE, fingerprint=fingerprint(9), signature=SIGNATURE)
    with pytest.raises(ValueError, match="no twin"):
        decide(given_(twin=twin))


@pytest.mark.parametrize("signature", [replace(SIGNATURE, target_id="cost"), SignatureSpec()])
def test_breaking_callers_is_major_even_if_better(signature):
    decision = decide(given_(BETTER, signature=signature, newest_major=4))
    assert (str(decision.version), decision.rule, decision.change) == ("5.0.0", "R2", Change.MAJOR)
    assert decision.baseline == BASE


def test_significantly_better_is_minor_above_the_whole_line():
    decision = decide(given_(BETTER))
    assert (str(decision.version), decision.rule) == ("1.3.0", "R4")
    assert "0.7500 against 0.7000 of 1.2.3" in decision.reason


@pytest.mark.parametrize(
    ("comparison", "verdict"),
    [
        (TIE, Verdict.TIE),
        (WORSE, Verdict.WORSE),
        (Comparison(unknown_because="other data"), Verdict.UNKNOWN),
        (Comparison(), Verdict.UNKNOWN),
        (Comparison(overall=replace(areas(0.9, 0.7), example_count=100)), Verdict.UNKNOWN),
    ],
)
def test_anything_else_is_pipeline_with_its_verdict(comparison, verdict):
    decision = decide(given_(comparison))
    assert (str(decision.version), decision.rule) == ("1.2.8", "R5")
    assert decision.numbers.verdict is verdict


def test_better_by_less_than_the_least_effect_is_a_tie():
    assert judge(BETTER, replace(GATE, min_effect=0.06)).verdict is Verdict.TIE
    assert judge(BETTER, replace(GATE, min_effect=0.04)).verdict is Verdict.BETTER


def test_a_guarded_slice_that_gets_worse_takes_the_minor_away():
    slices = (areas(0.60, 0.70, slice_name="carrier=AA"), areas(0.8, 0.7, slice_name="carrier=UA"))
    decision = decide(given_(replace(BETTER, slices=slices)))
    assert decision.change is Change.PIPELINE
    assert decision.numbers.slices_worse == ("carrier=AA",)
    assert "carrier=AA" in decision.reason


def test_slices_share_alpha():
    # One-sided p is about 0.023 for one slice: significant alone, not among three.
    slices = tuple(areas(0.68, 0.70, slice_name=f"carrier={name}") for name in "A")
    quiet = tuple(areas(0.70, 0.70, slice_name=f"carrier={name}") for name in "BC")
    assert judge(replace(BETTER, slices=slices), GATE).verdict is Verdict.WORSE
    assert judge(replace(BETTER, slices=slices + quiet), GATE).verdict is Verdict.BETTER


def test_unchanged_weights_are_said():
    assert "weights unchanged" in decide(given_(TIE, fingerprint=replace(fingerprint(1), code_commit="def"))).reason


@pytest.mark.parametrize("comparison", [BETTER, TIE, WORSE, Comparison(unknown_because="other data")])
def test_a_decision_can_be_made_again_from_its_json(comparison):
    original = given_(comparison)
    again = input_from_json(to_json(original))
    assert again == original
    assert decide(again) == decide(original)
    assert to_json(decide(again).numbers) == to_json(decide(original).numbers)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_floats_survive_bit_for_bit(candidate, baseline, variance):
    original = given_(Comparison(overall=areas(candidate, baseline, variance=variance)))
    assert decide(input_from_json(to_json(original))) == decide(original)


histories = st.lists(
    st.tuples(st.sampled_from([BETTER, TIE, WORSE, Comparison()]), st.sampled_from(["late", "cost"]), st.booleans()),
    min_size=1,
    max_size=25,
)


@given(histories)
def test_numbers_are_unique_rise_in_their_line_and_reset_below(history):
    """Play a history as the catalog would: the baseline is the line's highest that is not worse."""
    taken: list[tuple[VersionNumber, Verdict, Contender]] = []
    for number, (comparison, target, newest) in enumerate(history):
        newest_major = max((version.major for version, _, _ in taken), default=0)
        line = newest_major if newest else min(1, newest_major)
        of_line = [entry for entry in taken if entry[0].major == line]
        good = [entry for entry in of_line if entry[1] is not Verdict.WORSE] or of_line
        baseline = max(good, key=lambda entry: entry[0])[2] if good else None
        decision = decide(
            given_(
                comparison,
                fingerprint=fingerprint(number),
                signature=replace(SIGNATURE, target_id=target),
                newest_major=newest_major,
                line_top=max((entry[0] for entry in of_line), default=None),
                baseline=baseline,
            )
        )
        version = decision.version
        assert version not in [entry[0] for entry in taken]
        assert all(version > entry[0] for entry in taken if entry[0].major == version.major)
        if decision.change is Change.MAJOR:
            assert (version.major, version.minor, version.pipeline) == (newest_major + 1, 0, 0)
        if decision.change is Change.MINOR:
            assert version.pipeline == 0
        contender = Contender(
            version=version, fingerprint=fingerprint(number), signature=replace(SIGNATURE, target_id=target)
        )
        taken.append((version, decision.numbers.verdict, contender))
