"""External data is found wherever a tensor can hide, what is no tensor by its type, and defaults by their names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tidegate.registry.intake.onnx_scan import scan_onnx


def external_tensor(name: str = "stolen") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="0" * 64)
    return tensor


def graph(nodes=(), initializers=(), outputs=None, name="g"):
    outputs = outputs or [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])]
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    return helper.make_graph(list(nodes), name, inputs, list(outputs), list(initializers))


def model(made) -> onnx.ModelProto:
    return helper.make_model(made, ir_version=9)


def constant(tensor):
    return helper.make_node("Constant", [], ["c"], value=tensor)


def in_function(tensor):
    made = model(graph())
    function = made.functions.add(name="f", domain="d")
    function.node.append(constant(tensor))
    return made


def in_function_default(tensor):
    made = model(graph())
    attribute = made.functions.add(name="f", domain="d").attribute_proto.add(name="a", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    return made


def in_training(tensor):
    made = model(graph())
    made.training_info.add().initialization.CopyFrom(graph(initializers=[tensor], name="t"))
    return made


def in_sparse(tensor):
    made = model(graph())
    made.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return made


def in_sparse_attribute(tensor):
    made = model(graph())
    attribute = made.graph.node[0].attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.add().indices.CopyFrom(tensor)
    return made


def in_list(tensor):
    made = model(graph())
    made.graph.node[0].attribute.add(name="l", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    return made


def in_subgraph(tensor):
    inner = graph([constant(tensor)], name="inner")
    middle = graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=graph())], name="middle")
    return model(graph([helper.make_node("Loop", ["x"], ["y"], body=middle)]))


PLACES = {
    "initializer": lambda tensor: model(graph(initializers=[tensor])),
    "constant": lambda tensor: model(graph([constant(tensor)])),
    "function": in_function,
    "default of a function": in_function_default,
    "training": in_training,
    "sparse initializer": in_sparse,
    "sparse attribute": in_sparse_attribute,
    "list of tensors": in_list,
    "subgraph of a subgraph": in_subgraph,
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found(place):
    facts = scan_onnx(PLACES[place](external_tensor()).SerializeToString())
    assert (facts.external, facts.broken) == (("stolen",), "")


@pytest.mark.parametrize("place", PLACES)
def test_data_of_its_own_is_none(place):
    tensor = numpy_helper.from_array(np.arange(16, dtype=np.float32), "own")
    assert scan_onnx(PLACES[place](tensor).SerializeToString()).external == ()


def test_a_location_alone_or_entries_alone_are_external():
    located, listed = external_tensor("located"), external_tensor("listed")
    del located.external_data[:]
    listed.ClearField("data_location")
    facts = scan_onnx(model(graph(initializers=[located, listed])).SerializeToString())
    assert set(facts.external) == {"located", "listed"}


def test_what_is_no_tensor_is_named():
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(maps)),
        helper.make_value_info("untyped", onnx.TypeProto()),
    ]
    facts = scan_onnx(model(graph(outputs=outputs)).SerializeToString())
    assert facts.no_tensors == ("probabilities",)


def test_defaults_are_the_names_of_initializers():
    scale = numpy_helper.from_array(np.array([2], dtype=np.float32), "scale")
    facts = scan_onnx(model(graph(initializers=[scale])).SerializeToString())
    assert (facts.inputs, facts.defaults) == (("x",), frozenset({"scale"}))


def test_a_large_forest_is_read_to_its_end():
    numbers = list(range(300_000))
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    node.attribute.extend(
        [
            helper.make_attribute("nodes_values", [float(number) for number in numbers] * 4),
            helper.make_attribute("nodes_nodeids", [number << 20 for number in numbers] * 4),
            helper.make_attribute("t", external_tensor()),
        ]
    )
    assert scan_onnx(model(graph([node])).SerializeToString()).external == ("stolen",)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_scan(data):
    scan_onnx(data)


@given(st.data())
def test_a_cut_or_changed_model_is_read_or_told(data):
    whole = bytearray(in_subgraph(external_tensor()).SerializeToString())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    facts = scan_onnx(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert isinstance(facts.broken, str)
