"""Sample requests as JSON Lines: what is sent, what is compared, and which line a fault is in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import InvalidInput
from tidegate.validator.recorded import golden_of_recorded, is_recorded, read_recorded


def tensor(name="x", datatype="FP32", shape=(1, 2), data=(1, 2)):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def line(*inputs, **more):
    return json.dumps({"inputs": list(inputs or [tensor()]), **more}).encode()


def test_each_line_is_sent_as_it_is():
    scalar = tensor("rate", "INT64", (), [16000])
    state = tensor("state", "FP32", (2, 1, 3), [0.0] * 6)
    found = read_recorded(b"\n".join([line(tensor(), scalar), b"", line(state, id="7", outputs=[{"name": "y"}])]))
    assert [json.loads(one.request.body)["inputs"] for one in found] == [
        json.loads(line(tensor(), scalar))["inputs"],
        json.loads(line(state))["inputs"],
    ]
    assert json.loads(found[1].request.body)["id"] == "7"


def test_the_outputs_asked_for_are_known():
    both, some = read_recorded(b"\n".join([line(), line(outputs=[{"name": "y"}, {"name": "state"}])]))
    assert (both.asked, some.asked) == ((), ("y", "state"))
    assert json.loads(some.request.body)["outputs"] == [{"name": "y"}, {"name": "state"}]


def test_a_scalar_is_sent_as_a_list_of_one():
    (one,) = read_recorded(line(tensor("rate", "INT64", (), 16000)))
    assert json.loads(one.request.body)["inputs"][0]["data"] == [16000]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_go_as_bytes(datatype):
    (one,) = read_recorded(line(tensor(), tensor("h", datatype, (2,), [1.0, -2.5])))
    length = int(one.request.headers["Inference-Header-Content-Length"])
    head, raw = json.loads(one.request.body[:length]), one.request.body[length:]
    assert head["inputs"][1] == {
        "name": "h",
        "datatype": datatype,
        "shape": [2],
        "parameters": {"binary_data_size": 4},
    }
    assert "data" in head["inputs"][0]
    if datatype == "FP16":
        assert np.frombuffer(raw, "<f2").tolist() == [1.0, -2.5]
    else:
        widened = np.frombuffer(raw, "<u2").astype("<u4") << 16
        assert widened.view("<f4").tolist() == [1.0, -2.5]


@pytest.mark.parametrize("as_document", [False, True])
def test_answers_are_compared_with_what_is_expected(as_document):
    expected = [tensor("y", "FP32", (1, 2), [2, 4]), tensor("label", "BYTES", (1,), ["a"])]
    recorded = read_recorded(line(expected={"outputs": expected} if as_document else expected))
    answer = {"outputs": [tensor("y", "FP32", (1, 2), [2, 4.5]), tensor("label", "BYTES", (1,), ["a"])]}
    found = {one.output: one.difference_max for one in golden_of_recorded(recorded, [answer])}
    assert found == {"y": 0.5, "label": 0.0}


@pytest.mark.parametrize(
    "output", [tensor("y", "FP32", (2, 1), [2, 4]), tensor("z", "FP32", (1, 2), [2, 4]), tensor("y", "FP32", (1,), [2])]
)
def test_an_answer_of_another_shape_is_infinitely_far(output):
    recorded = read_recorded(line(expected=[tensor("y", "FP32", (1, 2), [2, 4])]))
    (found,) = golden_of_recorded(recorded, [{"outputs": [output]}])
    assert found.difference_max == float("inf")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"{", "line 2: expected a JSON object"),
        (b"[1]", "line 2: expected a JSON object"),
        (b'{"inputs": 3}', "line 2, inputs: expected a list of tensors"),
        (b'{"inputs": []}', "line 2, inputs: expected at least one tensor"),
        (b'{"outputs": []}', "line 2, inputs: expected a list"),
        (b'{"input": []}', "line 2, input: expected one of"),
        (line(tensor(name="")), "line 2, inputs[0].name: expected a text"),
        (line(tensor(shape=[-1])), "line 2, inputs[0].shape: expected a list of lengths"),
        (line(tensor(shape=[1, 3])), "line 2, inputs[0].data: expected 3 values, as shape [1, 3] says"),
        (line(tensor("h", "FP16", (1,), ["a"])), "line 2, inputs[0].data: expected numbers"),
        (line(expected=[{"name": "y"}]), "line 2, expected[0].datatype: expected a text"),
        (line(outputs={"name": "y"}), "line 2, outputs: expected a list of objects"),
        (line(outputs=["y"]), "line 2, outputs[0].name: expected a text"),
        (
            line(outputs=[{"name": "z"}], expected=[tensor("y")]),
            "line 2, expected[0].name: expected one of the outputs",
        ),
        (line(parameters={"binary_data_output": True}), "line 2, parameters.binary_data_output: expected false"),
        (line(parameters=[]), "line 2, parameters: expected an object"),
        (
            line(outputs=[{"name": "y", "parameters": {"binary_data": True}}]),
            "line 2, outputs[0].parameters.binary_data: expected false",
        ),
    ],
)
def test_a_fault_names_its_line_and_field(bad, told):
    with pytest.raises(InvalidInput) as caught:
        read_recorded(line() + b"\n" + bad)
    assert caught.value.code == "SAMPLE_REQUEST_INVALID"
    assert told in str(caught.value)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    try:
        read_recorded(data)
    except InvalidInput as error:
        assert "line" in str(error)


def test_the_form_is_told_by_the_bytes():
    assert is_recorded(b' \n{"inputs"')
    assert not is_recorded(b"PAR1...")
