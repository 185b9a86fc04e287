"""What an ONNX file holds that must not be served, and which inputs it has a default for; read without a schema.

Source: onnx.proto (IR version 13). External data name files that the model does not bring; a runtime would read
whatever lies there. They can hide wherever a tensor can: in initializers, attributes of nodes, subgraphs, functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from mmap import mmap
from typing import Final

from tidegate.registry.intake.protobuf_scan import Fields, pick_fields

# protobuf itself refuses deeper nesting.
DEPTH_MAX: Final = 100
MESSAGES_MAX: Final = 5_000_000


class _Kind(Enum):
    MODEL = "model"
    GRAPH = "graph"
    NODE = "node"
    ATTRIBUTE = "attribute"
    FUNCTION = "function"
    TRAINING = "training info"
    SPARSE = "sparse tensor"
    TENSOR = "tensor"


# Field number -> what lies there, of all messages on the way to a tensor.
_WITHIN: Final[dict[_Kind, dict[int, _Kind]]] = {
    _Kind.MODEL: {7: _Kind.GRAPH, 20: _Kind.TRAINING, 25: _Kind.FUNCTION},
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR, 15: _Kind.SPARSE},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {
        5: _Kind.TENSOR,
        6: _Kind.GRAPH,
        10: _Kind.TENSOR,
        11: _Kind.GRAPH,
        22: _Kind.SPARSE,
        23: _Kind.SPARSE,
    },
    _Kind.FUNCTION: {7: _Kind.NODE, 11: _Kind.ATTRIBUTE},
    _Kind.TRAINING: {1: _Kind.GRAPH, 2: _Kind.GRAPH},
    _Kind.SPARSE: {1: _Kind.TENSOR, 2: _Kind.TENSOR},
    _Kind.TENSOR: {},
}
_TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14
_OF_TENSOR: Final = frozenset({_TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION})
_OF_INTERFACE: Final = frozenset({5, 11, 12, 15})
_OF_VALUE: Final = frozenset({1, 2})
_GRAPH, _INPUT, _OUTPUT, _INITIALIZER, _SPARSE_INITIALIZER = 7, 11, 12, 5, 15
_VALUE_NAME, _VALUE_TYPE = 1, 2
# TypeProto: tensor_type and sparse_tensor_type; a sequence, map, optional or opaque is none.
_TENSOR_TYPES: Final = frozenset({1, 8})
_OTHER_TYPES: Final = frozenset({4, 5, 7, 9})


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFacts:
    """What matters of a model before it may be served.

    ``broken`` says why the bytes can't be read, if they can't; ``no_tensors`` are inputs and outputs of another type.
    """

    broken: str = ""
    external: tuple[str, ...] = ()
    no_tensors: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    defaults: frozenset[str] = field(default=frozenset())


def scan_onnx(data: bytes | mmap) -> OnnxFacts:
    """Return the facts of the ONNX model ``data``."""
    view = memoryview(data)
    external: list[str] = []
    try:
        for tensor in _tensors(view):
            # An enum has 32 bits on the wire's 64; EXTERNAL is 1, and nothing but DEFAULT (0) is any good here.
            located = any(not isinstance(one, int) or one & 0xFFFFFFFF for one in tensor.get(_DATA_LOCATION, []))
            if located or tensor.get(_EXTERNAL_DATA):
                external.append(_text(tensor, _TENSOR_NAME) or "(no name)")
        inputs, no_tensors, defaults = _interface(view)
    except ValueError as error:
        return OnnxFacts(broken=str(error))
    return OnnxFacts(external=tuple(external), no_tensors=no_tensors, inputs=inputs, defaults=defaults)


def _tensors(view: memoryview) -> Iterator[Fields]:
    """Yield the fields of every tensor, however deep; raises ValueError for bytes that are no message."""
    waiting: list[tuple[_Kind, memoryview, int]] = [(_Kind.MODEL, view, 0)]
    for _ in range(MESSAGES_MAX):
        if not waiting:
            return
        kind, message, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise ValueError(f"messages are nested more than {DEPTH_MAX} deep")
        fields = _fields(message, kind.value, frozenset(_WITHIN[kind]) or _OF_TENSOR)
        if kind is _Kind.TENSOR:
            yield fields
        for number, inner in _WITHIN[kind].items():
            waiting.extend((inner, one, depth + 1) for one in _messages(fields, number))
    raise ValueError(f"it holds more than {MESSAGES_MAX} nodes and tensors")


def _interface(view: memoryview) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str]]:
    inputs: list[str] = []
    no_tensors: list[str] = []
    defaults: set[str] = set()
    for graph in _messages(_fields(view, "model", frozenset({_GRAPH})), _GRAPH):
        fields = _fields(graph, "graph", _OF_INTERFACE)
        for number in (_INPUT, _OUTPUT):
            for value in _messages(fields, number):
                told = _fields(value, "value", _OF_VALUE)
                name = _text(told, _VALUE_NAME)
                if number == _INPUT:
                    inputs.append(name)
                types = [_fields(one, "type", _TENSOR_TYPES | _OTHER_TYPES) for one in _messages(told, _VALUE_TYPE)]
                kinds = {kind for one in types for kind in one}
                if kinds & _OTHER_TYPES and not kinds & _TENSOR_TYPES:
                    no_tensors.append(name)
        values = [
            values
            for sparse in _messages(fields, _SPARSE_INITIALIZER)
            for values in _messages(_fields(sparse, "sparse tensor", frozenset({1})), 1)
        ]
        for tensor in (*_messages(fields, _INITIALIZER), *values):
            defaults.add(_text(_fields(tensor, "tensor", _OF_TENSOR), _TENSOR_NAME))
    return tuple(inputs), tuple(no_tensors), frozenset(defaults)


def _fields(message: memoryview, what: str, wanted: frozenset[int]) -> Fields:
    fields = pick_fields(message, wanted)
    if fields is None:
        raise ValueError(f"a {what} in it is no protobuf message")
    return fields


def _messages(fields: Fields, number: int) -> Iterator[memoryview]:
    for value in fields.get(number, []):
        # A parser skips a field of another wire type; so does this.
        if not isinstance(value, int):
            yield value


def _text(fields: Fields, number: int) -> str:
    found = [value for value in fields.get(number, []) if not isinstance(value, int)]
    return bytes(found[-1]).decode(errors="replace") if found else ""
