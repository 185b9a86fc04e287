"""Names, versions and references."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contracts.names import (
    format_version,
    is_alias,
    is_digest,
    is_model,
    parse_reference,
    parse_version,
    parse_version_name,
    version_reference,
    version_resource,
)
from tidegate.v1.values_pb2 import Version

numbers = st.integers(0, 999_999_999)


@given(numbers, numbers, numbers)
def test_a_version_survives_writing(major, minor, pipeline):
    version = Version(major=major, minor=minor, pipeline=pipeline)
    assert parse_version(format_version(version)) == version
    assert parse_version_name(version_resource("a.b", version)) == ("a.b", version)
    assert parse_reference(version_reference("a.b", version)) == version_resource("a.b", version)


@pytest.mark.parametrize("text", ["1.2", "1.2.3.4", "01.2.3", "1.2.x", "", "v1.2.3", "1.2.-3", "1.2.3\n", "١.2.3"])
def test_other_writings_of_a_version_are_refused(text):
    with pytest.raises(ValueError, match="expected MAJOR"):
        parse_version(text)


@pytest.mark.parametrize("name", ["a", "flight-delay", "team-a.flight-delay", "a" * 62])
def test_legal_models(name):
    assert is_model(name)


@pytest.mark.parametrize("name", ["", "A", "1a", "a_b", "a.b.c", "a.", ".a", "a" * 63, "a/b", "a@b", "a\n", "../a"])
def test_illegal_models(name):
    assert not is_model(name)


def test_an_alias_is_never_a_version():
    assert is_alias("stable")
    assert not is_alias("1.2.3")
    assert parse_version_name("models/m@stable") == ("m", "stable")


@pytest.mark.parametrize("name", ["m@stable", "models/m", "models/M@stable", "models/m/versions/1", "models/m@1.2.3x!"])
def test_other_resource_names_are_refused(name):
    with pytest.raises(ValueError, match="expected models/"):
        parse_version_name(name)


def test_digests_are_lower_case_sha256():
    assert is_digest("sha256:" + "0" * 64)
    assert not is_digest("sha256:" + "A" * 64)
    assert not is_digest("md5:" + "0" * 32)
