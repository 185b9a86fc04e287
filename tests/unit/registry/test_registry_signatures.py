"""When a signature breaks the callers of another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.registry.numbering.signatures import SignatureSpec, TensorSpec, incompatibilities

DATATYPES = ["BOOL", "INT32", "INT64", "FP32", "FP64", "BYTES"]
tensors = st.builds(
    TensorSpec,
    name=st.sampled_from("abcdef"),
    datatype=st.sampled_from(DATATYPES),
    shape=st.lists(st.integers(-1, 4), max_size=3).map(tuple),
    optional=st.booleans(),
    nullable=st.booleans(),
    minimum=st.none() | st.floats(-9, 0),
    maximum=st.none() | st.floats(1, 9),
    categories=st.lists(st.sampled_from("xyz"), unique=True).map(tuple),
)
sides = st.lists(tensors, min_size=1, max_size=4, unique_by=lambda tensor: tensor.name).map(tuple)
signatures = st.builds(SignatureSpec, inputs=sides, outputs=sides, target_id=st.sampled_from(["late", "cost"]))

INPUT = TensorSpec(name="x", datatype="INT32", shape=(-1, 4), minimum=0.0, maximum=9.0, categories=("a", "b"))
OUTPUT = TensorSpec(name="y", datatype="FP32", shape=(-1, 1), minimum=0.0, maximum=1.0)
BASE = SignatureSpec(inputs=(INPUT,), outputs=(OUTPUT,), target_id="late")


@given(signatures)
def test_a_signature_never_breaks_its_own_callers(signature):
    assert incompatibilities(signature, signature) == ()


@given(signatures, st.randoms())
def test_the_order_of_named_tensors_does_not_matter(signature, chance):
    inputs = list(signature.inputs)
    chance.shuffle(inputs)
    assert incompatibilities(signature, replace(signature, inputs=tuple(inputs))) == ()


@given(signatures, signatures, signatures)
def test_compatibility_carries_on(first, second, third):
    chain = not incompatibilities(first, second) and not incompatibilities(second, third)
    # A new optional input may change type once it is gone in between; the same names are the interesting case.
    same_names = {one.name for one in first.inputs} == {one.name for one in second.inputs}
    if chain and same_names:
        assert incompatibilities(first, third) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"datatype": "INT64"},
        {"datatype": "FP64"},
        {"shape": (-1, -1)},
        {"optional": True},
        {"nullable": True},
        {"minimum": None},
        {"maximum": 10.0},
        {"categories": ("a", "b", "c")},
        {"categories": ()},
    ],
)
def test_looser_inputs_are_compatible_and_back_is_not(change):
    looser = replace(BASE, inputs=(replace(INPUT, **change),))
    assert incompatibilities(BASE, looser) == ()
    assert len(incompatibilities(looser, BASE)) == 1


@pytest.mark.parametrize("change", [{"shape": (1, 1)}, {"minimum": 0.1}, {"maximum": 0.9}])
def test_tighter_outputs_are_compatible_and_back_is_not(change):
    tighter = replace(BASE, outputs=(replace(OUTPUT, **change),))
    assert incompatibilities(BASE, tighter) == ()
    assert len(incompatibilities(tighter, BASE)) == 1


@pytest.mark.parametrize(
    "new",
    [
        replace(BASE, target_id="cost"),
        replace(BASE, inputs=(replace(INPUT, datatype="FP32"),)),
        replace(BASE, inputs=(replace(INPUT, shape=(-1,)),)),
        replace(BASE, inputs=(replace(INPUT, name="z", optional=True),)),
        replace(BASE, inputs=(INPUT, TensorSpec(name="z", datatype="FP32"))),
        replace(BASE, outputs=(replace(OUTPUT, datatype="FP64"),)),
        replace(BASE, outputs=(replace(OUTPUT, categories=("a",)),)),
        replace(BASE, outputs=(replace(OUTPUT, nullable=True),)),
        replace(BASE, outputs=(replace(OUTPUT, optional=True),)),
        replace(BASE, outputs=(replace(OUTPUT, name="z"),)),
        SignatureSpec(),
    ],
)
def test_what_callers_would_notice_is_incompatible(new):
    assert len(incompatibilities(BASE, new)) >= 1


def test_new_optional_inputs_and_new_outputs_are_compatible():
    more = replace(
        BASE,
        inputs=(INPUT, TensorSpec(name="z", datatype="FP32", optional=True)),
        outputs=(OUTPUT, TensorSpec(name="z", datatype="FP32")),
    )
    assert incompatibilities(BASE, more) == ()
