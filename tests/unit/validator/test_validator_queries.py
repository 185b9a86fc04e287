"""Parquet rows to requests, answers to arrays, and the artifact's first bytes."""

from __future__ import annotations

import io
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from tidegate.core.errors import InvalidInput
from tidegate.v1.values_pb2 import Signature, Tensor
from tidegate.validator.formats import HEAD_BYTES, ONNX, PICKLE, UNKNOWN, sniff
from tidegate.validator.queries import (
    array_of,
    golden_of,
    outputs_of,
    read_table,
)

SIGNATURE = Signature(
    inputs=[
        Tensor(name="x", datatype="FP32", shape=[-1, 2]),
        Tensor(name="carrier", datatype="BYTES", shape=[-1]),
        Tensor(name="age", datatype="INT64", shape=[-1, 1], optional=True),
    ],
    outputs=[Tensor(name="label", datatype="INT64", shape=[-1]), Tensor(name="p", datatype="FP32", shape=[-1, 2])],
)
TABLE = pa.table({"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "carrier": ["AA", "B6", "UA"], "age": [1, 2, 3]})


def answer(name="p", datatype="FP32", shape=(1, 2), data=(0.25, 0.75)):
    return {"outputs": [{"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}]}


def test_a_file_that_is_no_parquet_is_refused() -> None:
    with pytest.raises(InvalidInput, match="sample requests is not Parquet") as caught:
        read_table(b"PAR1 not really", "sample requests")
    assert caught.value.code == "FILE_UNREADABLE"


def test_a_parquet_file_is_read() -> None:
    buffer = io.BytesIO()
    pq.write_table(TABLE, buffer)
    assert read_table(buffer.getvalue(), "evaluation").equals(TABLE)


@pytest.mark.parametrize(
    ("data", "datatype", "is_finite"),
    [
        ([0.5, 1.0], "FP32", True),
        ([0.5, None], "FP32", False),
        ([0.5, float("nan")], "FP32", False),
        ([0.5, float("inf")], "FP64", False),
        (["a", "b"], "BYTES", True),
        ([True, False], "BOOL", True),
        ([[0.5], [None]], "FP32", False),
    ],
)
def test_an_answer_is_finite_if_every_number_is(data, datatype, is_finite) -> None:
    (seen,) = outputs_of(answer(datatype=datatype, data=data))
    assert (seen.name, seen.datatype, seen.shape, seen.is_finite) == ("p", datatype, (1, 2), is_finite)


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        {},
        {"outputs": None},
        {"outputs": [1]},
        {"outputs": [{"name": "p", "datatype": "FP32", "shape": ["1"], "data": [1.0]}]},
        {"outputs": [{"name": "p", "datatype": "FP32", "shape": [-1], "data": [1.0]}]},
        {"outputs": [{"name": "p", "datatype": "FP32", "shape": [10**30], "data": [1.0]}]},
        {"outputs": [{"name": "p", "datatype": "FP32", "shape": [2], "data": [1.0]}]},
        {"outputs": [{"name": 7, "datatype": "FP32", "shape": [1], "data": [1.0]}]},
    ],
)
def test_a_malformed_answer_is_named_as_one(body):
    with pytest.raises(ValueError, match=r"output|shape|values"):
        outputs_of(body)


def test_a_number_too_large_for_a_float_is_not_finite():
    body = {"outputs": [{"name": "p", "datatype": "FP32", "shape": [1], "data": [10**400]}]}
    assert not outputs_of(body)[0].is_finite


def test_an_output_has_its_shape() -> None:
    assert array_of(answer(), "p").shape == (1, 2)


def test_golden_answers_are_compared_row_by_row() -> None:
    table = TABLE.slice(0, 2).append_column("expected_p", [[[0.25, 0.75], [0.5, 0.5]]])
    (seen,) = golden_of(table, [answer(), answer()], SIGNATURE)
    assert (seen.output, seen.row_count, seen.difference_max) == ("p", 2, 0.25)


def test_a_golden_answer_of_another_length_is_infinitely_far() -> None:
    table = TABLE.slice(0, 1).append_column("expected_p", [[[0.25]]])
    assert golden_of(table, [answer()], SIGNATURE)[0].difference_max == float("inf")


@pytest.mark.parametrize(("given_label", "difference"), [("on time", 0.0), ("late", float("inf"))])
def test_golden_text_is_equal_or_not(given_label, difference) -> None:
    signature = Signature(outputs=[Tensor(name="word", datatype="BYTES", shape=[-1])])
    table = pa.table({"expected_word": ["on time"]})
    given_answer = answer("word", "BYTES", (1,), (given_label,))
    assert golden_of(table, [given_answer], signature)[0].difference_max == difference


def test_without_expected_columns_there_is_nothing_golden() -> None:
    assert golden_of(TABLE, [], SIGNATURE) == ()


def test_an_onnx_file_looks_like_one() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    assert sniff(helper.make_model(graph).SerializeToString()[:HEAD_BYTES]) == ONNX


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_an_object_is_known_in_every_protocol(protocol) -> None:
    assert sniff(pickle.dumps(Signature, protocol=protocol)) == PICKLE


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08", b"\x78\x9c\x00", b"BZh9", b"\xfd7zXZ\x00", b"PK\x03\x04"])
def test_what_may_hide_a_pickle_counts_as_one(head) -> None:
    assert sniff(head) == PICKLE


@pytest.mark.parametrize("head", [b"", b"\x08", b"#!/bin/sh\n", b"\x7fELF\x02\x01", bytes(16)])
def test_anything_else_is_unknown(head) -> None:
    assert sniff(head) == UNKNOWN
