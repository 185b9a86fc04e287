"""The verdict: one row a way to fail, and what holds for all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.validator.verdict import (
    Answer,
    ArtifactSeen,
    Demands,
    GoldenSeen,
    MetricDemand,
    Outcome,
    OutputSeen,
    OutputWanted,
    RuntimeDemand,
    RuntimeSeen,
    Verdict,
    judge,
    judge_artifact,
    latency_ms_p99,
    shape_fits,
)

GOOD_ARTIFACT = ArtifactSeen(digest_wanted="sha256:a", digest="sha256:a", format_wanted="onnx", format="onnx")
GOOD_OUTPUT = OutputSeen(name="y", datatype="FP32", shape=(1, 1), is_finite=True)
GOOD_RUNTIME = RuntimeSeen(
    runtime="r",
    load_time_ms=10.0,
    peak_memory_bytes=100 << 20,
    sandbox="bubblewrap",
    answers=(Answer(outputs=(GOOD_OUTPUT,), latency_ms=5.0),),
    golden=(GoldenSeen(output="y", row_count=1, difference_max=1e-6),),
)
DEMANDS = Demands(
    outputs=(OutputWanted(name="y", datatype="FP32", shape=(-1, 1)),),
    golden_atol=1e-5,
    min_sandbox="limits",
    runtimes=(RuntimeDemand(runtime="r", latency_ms_p99_max=100.0, memory_mib_max=1024),),
    metrics=(MetricDemand(name="roc_auc", least=0.7),),
)
VALUES = {("roc_auc", ""): 0.8}


def judged(runtimes=(GOOD_RUNTIME,), *, demands=DEMANDS, values=VALUES) -> Verdict:
    return judge(judge_artifact(GOOD_ARTIFACT), demands, runtimes, values)


def codes(verdict: Verdict) -> set[str]:
    return {check.code for check in verdict.failures}


def answering(**changes) -> RuntimeSeen:
    return replace(GOOD_RUNTIME, answers=(Answer(outputs=(replace(GOOD_OUTPUT, **changes),), latency_ms=5.0),))


def measuring(**changes) -> Demands:
    return replace(DEMANDS, metrics=(replace(DEMANDS.metrics[0], **changes),))


def test_a_version_that_meets_every_demand_is_blessed() -> None:
    verdict = judged()
    assert verdict.is_blessed
    assert {check.outcome for check in verdict.checks} == {Outcome.PASSED}


@pytest.mark.parametrize(
    ("asked", "found"), [(("y",), set()), (("y", "z"), {"ANSWER_MISSING_OUTPUT"}), ((), {"ANSWER_MISSING_OUTPUT"})]
)
def test_an_answer_needs_the_outputs_that_were_asked_for(asked, found):
    demands = replace(DEMANDS, outputs=(*DEMANDS.outputs, OutputWanted(name="z", datatype="FP32", shape=(-1,))))
    runtime = replace(GOOD_RUNTIME, answers=(Answer(outputs=(GOOD_OUTPUT,), asked=asked, latency_ms=5.0),))
    assert codes(judged((runtime,), demands=demands)) == found


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"digest": "sha256:b"}, "ARTIFACT_DIGEST_MISMATCH"),
        ({"format": "pickle"}, "PICKLE_REFUSED"),
        ({"format": "unknown"}, "FORMAT_UNKNOWN"),
        ({"format_wanted": "joblib"}, "FORMAT_UNKNOWN"),
    ],
)
def test_a_bad_artifact_is_refused_alone(changes, code) -> None:
    verdict = judge_artifact(replace(GOOD_ARTIFACT, **changes))
    assert codes(verdict) == {code}
    assert not verdict.is_blessed


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (RuntimeSeen(runtime="r", failure="exit code 1"), "LOAD_FAILED"),
        (RuntimeSeen(runtime="r", failure="60 s", failure_code="LOAD_TIMEOUT"), "LOAD_TIMEOUT"),
        (replace(GOOD_RUNTIME, answers=(Answer(failure="HTTP 500"),)), "QUERY_FAILED"),
        (replace(GOOD_RUNTIME, answers=(Answer(failure="10 s", failure_code="QUERY_TIMEOUT"),)), "QUERY_TIMEOUT"),
        (answering(name="z"), "ANSWER_MISSING_OUTPUT"),
        (answering(datatype="FP64"), "ANSWER_DATATYPE_MISMATCH"),
        (answering(shape=(1, 2)), "ANSWER_SHAPE_MISMATCH"),
        (answering(shape=(1,)), "ANSWER_SHAPE_MISMATCH"),
        (answering(is_finite=False), "ANSWER_NOT_FINITE"),
        (replace(GOOD_RUNTIME, golden=(GoldenSeen(output="y", row_count=1, difference_max=0.1),)), "GOLDEN_MISMATCH"),
        (
            replace(GOOD_RUNTIME, golden=(GoldenSeen(output="y", row_count=1, difference_max=math.inf),)),
            "GOLDEN_MISMATCH",
        ),
        (replace(GOOD_RUNTIME, answers=(Answer(outputs=(GOOD_OUTPUT,), latency_ms=101.0),)), "LATENCY_TOO_HIGH"),
        (replace(GOOD_RUNTIME, peak_memory_bytes=1025 << 20), "MEMORY_TOO_HIGH"),
    ],
)
def test_what_a_runtime_did_wrong_has_its_code(seen, code) -> None:
    assert codes(judged([seen])) == {code}


@pytest.mark.parametrize(
    ("demands", "values", "code"),
    [
        (DEMANDS, {("roc_auc", ""): 0.69}, "METRIC_BELOW_MIN"),
        (measuring(greatest=0.75), VALUES, "METRIC_ABOVE_MAX"),
        (DEMANDS, {}, "METRIC_MISSING"),
        (DEMANDS, {("roc_auc", ""): None}, "METRIC_MISSING"),
        (DEMANDS, {("roc_auc", ""): math.nan}, "METRIC_MISSING"),
        (measuring(drop_max=0.01, stable_value=0.82), VALUES, "METRIC_DROPPED"),
        (measuring(slice_name="carrier=AA"), {("roc_auc", "carrier=AA"): 0.5}, "SLICE_BELOW_MIN"),
    ],
)
def test_what_a_metric_missed_has_its_code(demands, values, code) -> None:
    assert codes(judged(demands=demands, values=values)) == {code}


def test_a_loss_counts_in_the_direction_of_the_metric() -> None:
    lower_is_better = {"name": "rmse", "least": None, "higher_is_better": False, "drop_max": 0.1, "stable_value": 1.0}
    assert codes(judged(demands=measuring(**lower_is_better), values={("rmse", ""): 1.2})) == {"METRIC_DROPPED"}
    assert judged(demands=measuring(**lower_is_better), values={("rmse", ""): 0.2}).is_blessed


def test_a_bound_is_inclusive() -> None:
    assert judged(values={("roc_auc", ""): 0.7}).is_blessed
    at_bounds = replace(
        GOOD_RUNTIME, peak_memory_bytes=1024 << 20, answers=(Answer(outputs=(GOOD_OUTPUT,), latency_ms=100.0),)
    )
    assert judged([at_bounds]).is_blessed


def test_a_weak_sandbox_is_refused_where_the_policy_wants_more() -> None:
    strict = replace(DEMANDS, min_sandbox="bubblewrap")
    assert codes(judged([replace(GOOD_RUNTIME, sandbox="limits")], demands=strict)) == {"SANDBOX_TOO_WEAK"}
    assert judged(demands=strict).is_blessed


def test_every_runtime_of_the_policy_must_pass() -> None:
    two = replace(DEMANDS, runtimes=(*DEMANDS.runtimes, RuntimeDemand(runtime="other")))
    assert codes(judged(demands=two)) == {"LOAD_FAILED"}
    assert not judged([GOOD_RUNTIME, RuntimeSeen(runtime="other", failure="no")], demands=two).is_blessed
    assert judged([GOOD_RUNTIME, replace(GOOD_RUNTIME, runtime="other")], demands=two).is_blessed


def test_a_policy_without_runtimes_blesses_nothing() -> None:
    assert not judged(demands=replace(DEMANDS, runtimes=())).is_blessed


def test_nothing_to_check_is_skipped_and_says_why() -> None:
    bare = RuntimeSeen(runtime="r", sandbox="limits")
    verdict = judged([bare], demands=replace(DEMANDS, metrics=()))
    skipped = [check for check in verdict.checks if check.outcome is Outcome.SKIPPED]
    assert {check.name for check in skipped} == {"r: memory", "r: answers", "r: latency p99"} | {
        check.name for check in skipped if check.suite == "golden"
    }
    assert all(check.detail for check in skipped)
    assert verdict.is_blessed  # it loaded: LOAD_ONLY


@pytest.mark.parametrize(
    ("seen", "wanted", "fits"),
    [((3, 1), (-1, 1), True), ((3,), (-1,), True), ((3, 2), (-1, 1), False), ((3,), (-1, 1), False), ((), (), True)],
)
def test_a_shape_fits_where_each_length_does(seen, wanted, fits) -> None:
    assert shape_fits(seen, wanted) is fits


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_p99_is_a_latency_that_at_most_one_in_a_hundred_exceeds(latencies) -> None:
    found = latency_ms_p99([Answer(latency_ms=value) for value in latencies])
    assert found in latencies
    assert sum(value > found for value in latencies) <= 0.01 * len(latencies)


def test_failed_answers_have_no_latency() -> None:
    assert latency_ms_p99([Answer(failure="HTTP 500", latency_ms=1e9), Answer(latency_ms=2.0)]) == 2.0
    assert latency_ms_p99([]) == 0.0


RUNTIMES = st.builds(
    RuntimeSeen,
    runtime=st.sampled_from(["r", "other"]),
    peak_memory_bytes=st.integers(0, 4 << 30),
    sandbox=st.sampled_from(["", "limits", "bubblewrap"]),
    failure=st.sampled_from(["", "died"]),
    answers=st.lists(
        st.builds(
            Answer,
            outputs=st.lists(
                st.builds(
                    OutputSeen,
                    name=st.sampled_from(["y", "z"]),
                    datatype=st.sampled_from(["FP32", "INT64"]),
                    shape=st.sampled_from([(1,), (1, 1), (1, 2)]),
                    is_finite=st.booleans(),
                ),
                max_size=2,
            ).map(tuple),
            latency_ms=st.floats(0, 500),
            failure=st.sampled_from(["", "HTTP 500"]),
        ),
        max_size=3,
    ).map(tuple),
)
METRIC_VALUES = st.dictionaries(st.just(("roc_auc", "")), st.none() | st.floats(allow_nan=True))


@given(st.lists(RUNTIMES, max_size=3), METRIC_VALUES)
def test_blessed_means_no_failure_and_a_tried_runtime(runtimes, values) -> None:
    verdict = judged(runtimes, values=values)
    assert verdict == judged(runtimes, values=values)
    assert verdict.is_blessed == (not verdict.failures)  # the policy has a runtime, so an untried one is a failure
    assert all(bool(check.code) == (check.outcome is Outcome.FAILED) for check in verdict.checks)
    if verdict.is_blessed:
        assert "r" in {seen.runtime for seen in runtimes if not seen.failure}
