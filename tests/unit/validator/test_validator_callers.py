"""Callers of the version before: who they are, what they send, and what breaks them."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tidegate.core.errors import InvalidInput
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.values_pb2 import Change, Signature, Tensor, Version
from tidegate.validator.callers import (
    CODE,
    Callers,
    all_answered,
    broken,
    callers_of,
    fault_of,
    origin_of,
    undecided,
)
from tidegate.validator.inference import HEADER_LENGTH
from tidegate.validator.recorded import read_recorded
from tidegate.validator.store import ModelMemory, Origin
from tidegate.validator.verdict import Answer, Outcome, OutputSeen, OutputWanted, Verdict

MINOR, MAJOR = Change.CHANGE_MINOR, Change.CHANGE_MAJOR
Y = OutputWanted(name="y", datatype="FP32", shape=(-1, 1))
SEEN = OutputSeen(name="y", datatype="FP32", shape=(1, 1), is_finite=True)


def tensor(name: str, datatype: str, *shape: int, **facts) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape, **facts)


def signature(*inputs: Tensor) -> Signature:
    return Signature(inputs=inputs, outputs=[tensor("y", "FP32", -1, 1)])


INT32, INT64 = (signature(tensor("x", datatype, -1, 1)) for datatype in ("INT32", "INT64"))


def registered(minor: int, *, major: int = 1, change: int = MINOR, baseline: tuple[int, int] | None = None):
    message = ModelRegistered(
        model="m",
        version=Version(major=major, minor=minor),
        change=change,
        signature=INT32,
        sample_requests_uri="s3://x",
    )
    if baseline is not None:
        message.baseline.CopyFrom(Version(major=baseline[0], minor=baseline[1]))
    return message


def knowing(*versions: ModelRegistered, failed: tuple[str, ...] = ()) -> ModelMemory:
    memory = ModelMemory()
    for version in versions:
        memory.learn(version)
    for version in failed:
        memory.learn_failure("m", version)
    return memory


FIRST = registered(0, change=Change.CHANGE_FIRST)
SECOND = registered(1, baseline=(1, 0))
THIRD = registered(2, baseline=(1, 1))


def sent(callers: Callers) -> list[dict]:
    """Return the JSON of each request."""
    found = []
    for one in callers.requests:
        length = int(one.request.headers.get(HEADER_LENGTH, len(one.request.body)))
        found.append(json.loads(one.request.body[:length]))
    return found


def test_a_version_takes_over_the_callers_of_its_baseline() -> None:
    origin = origin_of(SECOND, knowing(FIRST, SECOND))
    assert isinstance(origin, Origin)
    assert (origin.version, origin.sample_requests_uri, origin.signature) == ("1.0.0", "s3://x", INT32)


def test_a_baseline_that_failed_validation_is_passed_over() -> None:
    origin = origin_of(THIRD, knowing(FIRST, SECOND, THIRD, failed=("1.1.0",)))
    assert isinstance(origin, Origin)
    assert origin.version == "1.0.0"


@pytest.mark.parametrize(
    ("version", "memory", "why"),
    [
        (FIRST, knowing(FIRST), "begins a MAJOR line"),
        (registered(0, major=2, change=MAJOR, baseline=(1, 0)), knowing(FIRST), "begins a MAJOR line"),
        (SECOND, knowing(), "1.0.0 is not remembered"),
        (SECOND, knowing(FIRST, failed=("1.0.0",)), "no version of this MAJOR line has passed"),
        (
            # 2.0.0 broke with the callers of 1.0.0, so its failure does not lead back to them.
            registered(1, major=2, baseline=(2, 0)),
            knowing(FIRST, registered(0, major=2, change=MAJOR, baseline=(1, 0)), failed=("2.0.0",)),
            "no version of this MAJOR line has passed",
        ),
    ],
)
def test_without_callers_there_is_a_reason(version, memory, why) -> None:
    assert why in str(origin_of(version, memory))


@given(st.integers(1, 12), st.data())
def test_whose_callers_count_is_the_newest_one_before_that_did_not_fail(count, data) -> None:
    versions = [FIRST, *(registered(minor, baseline=(1, minor - 1)) for minor in range(1, count + 1))]
    failed = data.draw(st.sets(st.integers(0, count - 1)))
    found = origin_of(versions[-1], knowing(*versions, failed=tuple(f"1.{minor}.0" for minor in failed)))
    alive = [minor for minor in range(count) if minor not in failed]
    assert found.version == f"1.{alive[-1]}.0" if alive else isinstance(found, str)


def test_a_failure_that_is_learned_again_with_its_registration_stays() -> None:
    memory = knowing(FIRST, SECOND, failed=("1.1.0",))
    memory.learn(SECOND)
    assert origin_of(THIRD, memory).version == "1.0.0"


ORIGIN = Origin(version="1.0.0", signature=INT32)


def test_recorded_rows_are_sent_in_the_datatypes_of_the_baseline() -> None:
    callers = callers_of(ORIGIN, INT64, pa.table({"x": [1, 2, 3]}), most=2)
    assert [one["inputs"][0] for one in sent(callers)] == [
        {"name": "x", "datatype": "INT32", "shape": [1, 1], "data": [value]} for value in (1, 2)
    ]
    assert all(one.twin is None for one in callers.requests)


def test_recorded_lines_are_sent_as_they_are() -> None:
    line = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [2, 1], "data": [7, 8]}]}
    callers = callers_of(ORIGIN, INT64, read_recorded(json.dumps(line).encode()), most=50)
    assert sent(callers) == [line]


def test_without_records_requests_are_built_each_with_a_twin_in_the_new_form() -> None:
    old = signature(
        tensor("x", "INT8", -1, 2, min=3.0),
        tensor("kind", "BYTES", -1, categories=["red"]),
        tensor("note", "BOOL", optional=True),
    )
    new = signature(
        tensor("x", "INT64", -1, 2), tensor("kind", "BYTES", -1), tensor("note", "BOOL"), tensor("z", "FP32", -1)
    )
    callers = callers_of(replace(ORIGIN, signature=old), new, None, most=50)
    everything, required = sent(callers)
    assert [(one["name"], one["datatype"], one["shape"], one["data"]) for one in everything["inputs"]] == [
        ("x", "INT8", [1, 2], [3, 3]),
        ("kind", "BYTES", [1], ["red"]),
        ("note", "BOOL", [], [False]),
    ]
    assert required["inputs"] == everything["inputs"][:2]
    twin = json.loads(callers.requests[0].twin.body)
    assert [(one["name"], one["datatype"], one["data"]) for one in twin["inputs"]] == [
        ("x", "INT64", [3, 3]),
        ("kind", "BYTES", ["red"]),
        ("note", "BOOL", [False]),
        ("z", "FP32", [0.0]),
    ]


def test_nothing_is_built_where_the_form_is_the_same() -> None:
    callers = callers_of(ORIGIN, INT32, None, most=50)
    assert not callers.requests
    assert all_answered("r", callers).outcome is Outcome.SKIPPED


def test_a_signature_that_would_need_too_many_values_is_not_built() -> None:
    huge = replace(ORIGIN, signature=signature(tensor("x", "INT32", 1_000_000, 1_000_000)))
    with pytest.raises(InvalidInput, match="built from its signature"):
        callers_of(huge, INT64, None, most=50)


DATATYPES = ("BOOL", "INT8", "INT64", "UINT8", "UINT64", "FP16", "FP32", "FP64", "BYTES")


@st.composite
def tensors(draw):
    bounds = draw(st.one_of(st.just({}), st.integers(-100, 100).map(lambda low: {"min": low, "max": low + 7})))
    return tensor(
        draw(st.sampled_from("abcdef")),
        draw(st.sampled_from(DATATYPES)),
        *draw(st.lists(st.integers(-1, 3).filter(bool), max_size=3)),
        optional=draw(st.booleans()),
        **bounds,
    )


SIGNATURES = st.lists(tensors(), min_size=1, max_size=4, unique_by=lambda one: one.name).map(
    lambda inputs: signature(*inputs)
)


def widened(old: Signature) -> Signature:
    """Return a signature that takes all that ``old`` takes, and one tensor more."""
    new = signature(*old.inputs, tensor("new", "FP32", -1, optional=True))
    for one in new.inputs:
        one.datatype = "FP64" if one.datatype in {"INT8", "UINT8", "FP16", "FP32"} else one.datatype
    return new


@given(SIGNATURES)
def test_built_requests_are_of_the_old_form_and_never_lack_what_it_requires(old) -> None:
    new = widened(old)
    callers = callers_of(replace(ORIGIN, signature=old), new, None, most=50)
    assert callers.requests
    for request in sent(callers):
        given_names = {one["name"] for one in request["inputs"]}
        assert {one.name for one in old.inputs if not one.optional} <= given_names <= {one.name for one in old.inputs}
        for one in request["inputs"]:
            wanted = next(each for each in old.inputs if each.name == one["name"])
            assert one["datatype"] == wanted.datatype
            assert all(have == max(want, 1) for have, want in zip(one["shape"], wanted.shape, strict=True))
            if wanted.HasField("min") and wanted.datatype not in {"BOOL", "BYTES", "FP16"}:
                assert all(wanted.min <= value <= wanted.max for value in one["data"])


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(failure="HTTP 400: wrong datatype"), "HTTP 400"),
        (Answer(), "no output 'y'"),
        (Answer(outputs=(replace(SEEN, datatype="INT64"),)), "is INT64, was FP32"),
        (Answer(outputs=(replace(SEEN, shape=(1,)),)), "has shape [1], had [-1, 1]"),
        (Answer(outputs=(replace(SEEN, shape=(1, 2)),)), "has shape [1, 2]"),
        (Answer(outputs=(replace(SEEN, is_finite=False),)), "NaN"),
        (Answer(outputs=(replace(SEEN, datatype="FP64"),)), ""),
        (Answer(outputs=(replace(SEEN, shape=(7, 1)), replace(SEEN, name="more"))), ""),
    ],
)
def test_what_breaks_a_caller(answer, fault) -> None:
    found = fault_of(answer, [Y])
    assert (fault in found) if fault else not found


def test_a_caller_relies_on_the_outputs_that_it_asks_for() -> None:
    inputs = [{"name": "x", "datatype": "INT32", "shape": [1, 1], "data": [7]}]
    lines = [json.dumps({"inputs": inputs} | more) for more in ({}, {"outputs": [{"name": "y"}]})]
    both = signature(tensor("x", "INT32", -1, 1))
    both.outputs.append(tensor("more", "FP32", -1))
    callers = callers_of(replace(ORIGIN, signature=both), INT64, read_recorded("\n".join(lines).encode()), most=50)
    everything, some = callers.requests
    answer = Answer(outputs=(SEEN,))
    assert "no output 'more'" in fault_of(answer, callers.outputs, asked=everything.asked)
    assert fault_of(answer, callers.outputs, asked=some.asked) == ""
    assert "no output 'y'" in fault_of(Answer(), callers.outputs, asked=some.asked)


FAMILY = {"BOOL": "b", "BYTES": "s", **{name: "f" for name in DATATYPES if name.startswith("FP")}}


@given(st.sampled_from(DATATYPES), st.sampled_from(DATATYPES), st.lists(st.integers(1, 5), max_size=3), st.data())
def test_an_answer_breaks_nobody_exactly_if_family_and_form_are_those_of_before(was, now, shape, data) -> None:
    wanted = tuple(data.draw(st.sampled_from([-1, length])) for length in shape)
    output = OutputSeen(name="y", datatype=now, shape=tuple(shape), is_finite=True)
    fault = fault_of(Answer(outputs=(output,)), [OutputWanted(name="y", datatype=was, shape=wanted)])
    assert (not fault) == (FAMILY.get(was, "i") == FAMILY.get(now, "i"))
    other = data.draw(st.lists(st.integers(1, 5), max_size=3))
    assume(len(other) != len(shape))
    assert fault_of(
        Answer(outputs=(replace(output, datatype=was, shape=tuple(other)),)),
        [OutputWanted(name="y", datatype=was, shape=wanted)],
    )


def test_only_a_broken_caller_fails_the_version() -> None:
    callers = callers_of(ORIGIN, INT64, pa.table({"x": [1, 2]}), most=50)
    passed, failed = all_answered("r", callers), broken("r", callers, 1, "HTTP 400: no")
    skipped = undecided("r", callers, "HTTP 400: no")
    assert (passed.outcome, failed.outcome, skipped.outcome) == (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)
    assert {check.name for check in (passed, failed, skipped)} == {"r: callers of 1.0.0"}
    assert [check.code for check in Verdict(checks=(passed, failed, skipped)).failures] == [CODE]
    assert failed.detail == "request 2 of 2 sample requests of 1.0.0"
