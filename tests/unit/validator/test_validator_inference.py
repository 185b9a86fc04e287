"""Table rows to requests of the Open Inference Protocol."""

from __future__ import annotations

import datetime as dt
import decimal
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import InvalidInput
from tidegate.v1.values_pb2 import Signature, Tensor
from tidegate.validator.inference import HEADER_LENGTH, InferenceRequest, request_for

SIGNATURE = Signature(
    inputs=[
        Tensor(name="x", datatype="FP32", shape=[-1, 2]),
        Tensor(name="carrier", datatype="BYTES", shape=[-1]),
        Tensor(name="age", datatype="INT64", shape=[-1, 1], optional=True),
    ],
)
TABLE = pa.table({"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "carrier": ["AA", "B6", "UA"], "age": [1, 2, 3]})


def inputs(request: InferenceRequest) -> list[dict]:
    length = int(request.headers.get(HEADER_LENGTH, len(request.body)))
    return json.loads(request.body[:length])["inputs"]


def one(datatype: str, *shape: int) -> Signature:
    return Signature(inputs=[Tensor(name="v", datatype=datatype, shape=[-1, *shape])])


def test_a_request_has_the_signatures_tensors_for_the_rows_asked() -> None:
    request = request_for(SIGNATURE, TABLE, 1, 2)
    assert request.headers == {"Content-Type": "application/json"}
    assert inputs(request) == [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [3.0, 4.0, 5.0, 6.0]},
        {"name": "carrier", "datatype": "BYTES", "shape": [2], "data": ["B6", "UA"]},
        {"name": "age", "datatype": "INT64", "shape": [2, 1], "data": [2, 3]},
    ]


def test_the_last_batch_is_as_long_as_what_is_left() -> None:
    assert inputs(request_for(SIGNATURE, TABLE, 2, 500))[1]["shape"] == [1]


def test_an_optional_tensor_may_be_missing_and_another_may_not() -> None:
    names = [one["name"] for one in inputs(request_for(SIGNATURE, TABLE.drop_columns(["age"]), 0, 1))]
    assert names == ["x", "carrier"]
    with pytest.raises(InvalidInput, match="'carrier' is missing") as caught:
        request_for(SIGNATURE, TABLE.drop_columns(["carrier"]), 0, 1)
    assert (caught.value.code, caught.value.field) == ("COLUMN_MISSING", "carrier")


def test_a_row_of_another_width_is_named() -> None:
    with pytest.raises(InvalidInput, match="expected 2 a row") as caught:
        request_for(SIGNATURE, TABLE.set_column(0, "x", [[[1.0], [2.0], [3.0]]]), 0, 3)
    assert caught.value.code == "COLUMN_MISSHAPEN"


@given(
    values=st.lists(st.floats(width=32, allow_infinity=True, allow_nan=True) | st.none(), min_size=1, max_size=20),
    text=st.text(max_size=3),
)
def test_floating_values_arrive_as_they_are_missing_ones_as_nan(values: list[float | None], text: str) -> None:
    signature = Signature(inputs=[*one("FP32").inputs, Tensor(name="t", datatype="BYTES", shape=[-1])])
    table = pa.table({"v": pa.array(values, pa.float32()), "t": [text] * len(values)})
    request = request_for(signature, table, 0, len(values))
    described, texts = inputs(request)
    wanted = np.asarray([np.nan if value is None else value for value in values], dtype=np.float32)
    if HEADER_LENGTH in request.headers:
        raw = request.body[int(request.headers[HEADER_LENGTH]) :]
        assert described["parameters"] == {"binary_data_size": len(raw)}
        found = np.frombuffer(raw, dtype="<f4")
    else:
        found = np.asarray(described["data"], dtype=np.float32)
    np.testing.assert_array_equal(found, wanted)
    assert texts["data"] == [text] * len(values)


@pytest.mark.parametrize("datatype", ["INT64", "BOOL", "BYTES"])
def test_a_null_where_none_can_be_carried_is_named_with_its_row(datatype: str) -> None:
    value = {"INT64": 1, "BOOL": True, "BYTES": "a"}[datatype]
    table = pa.table({"v": [[value, value], [value, value], [value, None]]})
    with pytest.raises(InvalidInput, match="'v' has a null in row 2") as caught:
        request_for(one(datatype, 2), table, 1, 2)
    assert (caught.value.code, caught.value.field) == ("COLUMN_HAS_NULLS", "v")


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("FP32", "warm"),
        ("FP64", dt.date(2013, 1, 1)),
        ("INT64", 1.5),
        ("INT64", True),
        ("INT32", decimal.Decimal(1)),
        ("BOOL", 1),
        ("BYTES", b"\xff"),
        ("BYTES", dt.datetime(2013, 1, 1, tzinfo=dt.UTC)),
    ],
)
def test_a_value_of_another_datatype_is_named(datatype: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=f"in row 0, expected {datatype}") as caught:
        request_for(one(datatype), pa.table({"v": [value]}), 0, 1)
    assert caught.value.code == "COLUMN_DATATYPE_MISMATCH"


def test_decimals_are_numbers() -> None:
    request = request_for(one("FP64"), pa.table({"v": [decimal.Decimal("1.5")]}), 0, 1)
    assert inputs(request)[0]["data"] == [1.5]
