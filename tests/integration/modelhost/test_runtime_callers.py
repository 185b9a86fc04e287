"""Callers of the version before, and clients as they are, are answered: wider types, defaults, encodings, odd types."""

from __future__ import annotations

import gzip
import importlib.util
import json
import struct
import zlib

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tidegate.registry.numbering.signatures import WIDER, SignatureSpec, TensorSpec, incompatibilities

PATH = "/v2/models/a.model/infer"
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}
NUMPY = {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}


def identities() -> bytes:
    """Return a model that gives back one optional input of each datatype; the default is one zero."""
    names = list(ONNX_TYPES)
    inputs = [helper.make_tensor_value_info(f"in_{name}", ONNX_TYPES[name], [None]) for name in names]
    outputs = [helper.make_tensor_value_info(f"out_{name}", ONNX_TYPES[name], [None]) for name in names]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names]
    defaults = [numpy_helper.from_array(np.zeros(1, NUMPY[name]), f"in_{name}") for name in names]
    made = helper.make_graph(nodes, "g", inputs, outputs, defaults)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def extremes(datatype: str) -> np.ndarray:
    dtype = np.dtype(NUMPY[datatype])
    if dtype.kind == "b":
        return np.array([True, False])
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([info.min, 0, 1, info.max], dtype=dtype)


def as_json(name: str, datatype: str, values: np.ndarray) -> dict:
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values.tolist()}


def as_binary(name: str, datatype: str, values: np.ndarray, output: str) -> tuple[bytes, dict[str, str]]:
    raw = values.tobytes()
    tensor = {"name": name, "datatype": datatype, "shape": [len(values)]}
    head = json.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": output, "parameters": {"binary_data": False}}],
        }
    ).encode()
    return head + raw, {"inference-header-content-length": str(len(head))}


def is_compatible(given: str, expected: str) -> bool:
    output = TensorSpec(name="y", datatype="FP32", shape=(-1,))
    old, new = (
        SignatureSpec(inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1,)),), outputs=(output,))
        for datatype in (given, expected)
    )
    return not incompatibilities(old, new)


def test_the_runtime_casts_what_the_registry_calls_compatible(runtime_dir):
    spec = importlib.util.spec_from_file_location("widening", runtime_dir / "widening.py")
    widening = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(widening)
    assert widening.WIDER == WIDER
    for given in (*ONNX_TYPES, "BYTES"):
        for expected in (*ONNX_TYPES, "BYTES"):
            assert widening.takes(expected, given) == is_compatible(given, expected), (given, expected)


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_every_caller_of_a_compatible_change_is_answered_and_no_value_is_lost(serving, form):
    async with serving(identities()) as client:
        for given in ONNX_TYPES:
            values = extremes(given)
            for expected in ONNX_TYPES:
                name, output = f"in_{expected}", f"out_{expected}"
                if form == "json" and given == "FP16":
                    # JSON has no such numbers in this SDK: the answer says what to use instead.
                    answer = await client.post(PATH, json={"inputs": [as_json(name, given, values)]})
                    assert (answer.status_code, "binary data format" in answer.json()["error"]) == (400, True)
                    continue
                if form == "json":
                    request = {"inputs": [as_json(name, given, values)], "outputs": [{"name": output}]}
                    answer = await client.post(PATH, json=request)
                else:
                    body, headers = as_binary(name, given, values, output)
                    answer = await client.post(PATH, content=body, headers=headers)
                if not is_compatible(given, expected):
                    told = answer.json()["error"]
                    assert (answer.status_code, f"expected {expected}" in told) == (400, True), (given, expected, told)
                    continue
                assert answer.status_code == 200, (given, expected, answer.text)
                found = answer.json()["outputs"][0]["data"]
                assert [float(one) for one in found] == [float(one) for one in values.tolist()], (given, expected)


def scaled() -> bytes:
    """Return x * scale, where ``scale`` has the default 2."""
    made = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [None]), ("scale", [1]))
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(np.array([2], dtype=np.float32), "scale")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


async def test_an_input_with_a_default_may_be_given_and_left_out(serving):
    x = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    scale = {"name": "scale", "datatype": "FP32", "shape": [1], "data": [10]}
    async with serving(scaled()) as client:
        names = [one["name"] for one in (await client.get("/v2/models/a.model")).json()["inputs"]]
        assert names == ["x", "scale"]
        for inputs, wanted in (([x], [2, 4]), ([x, scale], [10, 20]), ([scale, x], [10, 20])):
            answer = await client.post(PATH, json={"inputs": inputs})
            assert answer.json()["outputs"][0]["data"] == wanted
        for inputs in ([scale], [x, scale, scale], []):
            answer = await client.post(PATH, json={"inputs": inputs})
            assert answer.status_code == 400
            assert "expected each of ['x'] once, and at most once each of ['scale']" in answer.json()["error"]


BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
LARGE = b'{"inputs": [' + b" " * (32 << 20) + b"]}"

GOOD = {
    "no content type, as Triton's client": (BODY, {}),
    "curl's form": (BODY, {"content-type": "application/x-www-form-urlencoded"}),
    "plain text": (BODY, {"content-type": "text/plain; charset=utf-8"}),
    "a type of its own": (BODY, {"content-type": "application/vnd.kserve+json"}),
    "gzip": (gzip.compress(BODY), {"content-encoding": "gzip", "content-type": "application/json"}),
    "gzip without a type": (gzip.compress(BODY), {"content-encoding": "GZIP"}),
    "deflate": (zlib.compress(BODY), {"content-encoding": "deflate"}),
    "identity": (BODY, {"content-encoding": "identity"}),
    "twice": (gzip.compress(zlib.compress(BODY)), {"content-encoding": "deflate, gzip"}),
}
BAD = {
    "an unknown encoding": (415, "'br'", BODY, {"content-encoding": "br"}),
    "no gzip": (400, "no gzip", BODY, {"content-encoding": "gzip"}),
    "half a gzip": (400, "no whole gzip", gzip.compress(BODY)[:-9], {"content-encoding": "gzip"}),
    "a bomb": (413, "33554432", gzip.compress(bytes(64 << 20)), {"content-encoding": "gzip"}),
    "too large": (413, "33554432", LARGE, {"content-type": "application/json"}),
    "no UTF-8": (400, "UTF-8", BODY.replace(b'"x"', b'"\xff"'), {"content-type": "application/json"}),
    "no UTF-8 and no type": (400, "UTF-8", BODY.replace(b'"x"', b'"\xff"'), {}),
    "a head beyond the body": (400, "within the body", BODY, {"inference-header-content-length": "999"}),
    "a head that is no number": (400, "expected a number", BODY, {"inference-header-content-length": "-1"}),
    "a head that is no JSON": (400, "no JSON", b"\x01\x02", {"inference-header-content-length": "2"}),
    "a head that is no UTF-8": (400, "UTF-8", struct.pack("<H", 65535), {"inference-header-content-length": "2"}),
}


async def test_bodies_are_taken_as_clients_send_them(serving):
    async with serving("twice") as client:
        for case, (body, headers) in GOOD.items():
            answer = await client.post(PATH, content=body, headers=headers)
            assert answer.status_code == 200, (case, answer.text)
            assert answer.json()["outputs"][0]["data"] == [2.0, 4.0], case


async def test_a_body_that_can_not_be_taken_is_told_with_its_status(serving):
    async with serving("twice") as client:
        for case, (status, said, body, headers) in BAD.items():
            answer = await client.post(PATH, content=body, headers=headers)
            assert (answer.status_code, said in answer.json()["error"]) == (status, True), (case, answer.text)
        assert (await client.post(PATH, content=BODY)).status_code == 200


async def test_a_body_in_pieces_is_bounded_too(serving):
    async def pieces():
        for _ in range(33):
            yield bytes(1 << 20)

    async with serving("twice") as client:
        answer = await client.post(PATH, content=pieces(), headers={"content-type": "application/json"})
        assert answer.status_code == 413


def test_a_locale_that_is_missing_is_named_first(runtime_dir, tmp_path):
    import subprocess

    script = (
        f"import sys; sys.path.insert(0, {str(runtime_dir)!r}); import server; "
        "print(server.why_not_loaded(RuntimeError('Exception during initialization: string_normalizer.cc:84 Locale "
        "Failed to construct locale with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid:Please, "
        "install necessary language-pack')))"
    )
    python = runtime_dir / ".venv/bin/python"
    told = subprocess.run([python, "-c", script], capture_output=True, check=True, text=True).stdout
    assert told.startswith("install the locale en_US.UTF-8 (")
