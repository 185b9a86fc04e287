"""What a file really is."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
import zlib

import joblib
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tidegate.registry.intake.formats import HEAD_BYTES, ONNX, PICKLE, UNKNOWN, sniff
from tidegate.registry.intake.protobuf_scan import scan_fields

OBJECT = {"weights": [1.0, 2.0], "name": "a model"}


def onnx_bytes() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
    )
    model: onnx.ModelProto = helper.make_model(graph, ir_version=9)
    return model.SerializeToString()


def joblib_bytes(**options) -> bytes:
    stream = io.BytesIO()
    joblib.dump({"weights": np.zeros(2000)}, stream, **options)
    return stream.getvalue()


def zipped(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme", "x")
        archive.writestr(name, data)
    return stream.getvalue()


def test_an_onnx_model_is_one():
    assert sniff(onnx_bytes()) == ONNX


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_is_seen(protocol):
    assert sniff(pickle.dumps(OBJECT, protocol=protocol)) == PICKLE


@pytest.mark.parametrize("options", [{}, {"compress": 3}, {"compress": ("gzip", 3)}, {"compress": ("xz", 3)}])
def test_joblib_is_seen_compressed_or_not(options):
    assert sniff(joblib_bytes(**options)) == PICKLE


@pytest.mark.parametrize("wrap", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("protocol", [0, 5])
def test_a_compressed_pickle_is_seen(wrap, protocol):
    assert sniff(wrap(pickle.dumps(OBJECT, protocol=protocol))) == PICKLE


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/innocent"])
def test_a_pickle_in_a_zip_is_seen(name):
    assert sniff(zipped(name, pickle.dumps(OBJECT))) == PICKLE


def test_a_compressed_bomb_is_not_unpacked():
    assert sniff(zlib.compress(bytes(50 * HEAD_BYTES))) == UNKNOWN


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x80",
        b"PK\x03\x04 not a zip",
        b"\x1f\x8b not gzip",
        b"<html></html>",
        zipped("data", b"harmless"),
        onnx_bytes()[:-1],
        onnx_bytes() + b"\x00",
        helper.make_model(helper.make_graph([], "", [], []), ir_version=9).SerializeToString(),
    ],
)
def test_anything_else_is_unknown(data):
    assert sniff(data) == UNKNOWN


@given(st.binary(max_size=300))
def test_no_bytes_break_the_sniffer(data):
    assert sniff(data) in (PICKLE, UNKNOWN, ONNX)
    scan_fields(memoryview(data))
