"""URIs that outsiders name: whatever they write is refused, or is one that the S3 client takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minio.helpers import BaseURL, check_bucket_name, check_object_name

from tidegate.contracts.uris import uri_fault
from tidegate.core.errors import InvalidInput
from tidegate.core.object_store import parse_s3_uri
from tidegate.registry.intake.checks import shape_faults
from tidegate.v1.events_pb2 import TrainingCompleted

BAD = [
    "s3://tidegate-uploads/../x",
    "s3://tidegate-uploads/a/./x",
    "s3://tidegate-uploads/a//x",
    "s3://tidegate-uploads//x",
    "s3://tidegate-uploads/x/",
    "s3://tidegate-uploads/",
    "s3://tidegate-uploads",
    "s3://tidegate-uploads/ ",
    "s3://tidegate-uploads/a\0b",
    "s3://tidegate-uploads/a\nb",
    "s3://tidegate-uploads/a\x7fb",
    "s3://tidegate-uploads/a\x85b",
    "s3://tidegate-uploads/a\ud800b",
    "s3://tidegate-uploads/a?versionId=1",
    "s3://tidegate-uploads/a#b",
    "s3://tidegate-uploads/" + "a" * 1025,
    "s3://tidegate-uploads/" + "ä" * 513,
    "s3:///x",
    "s3:/tidegate-uploads/x",
    "S3://tidegate-uploads/x",
    "s3://[/x",
    "s3://[",
    "s3://[::1]/x",
    "s3://tidegate-uploads:99999/x",
    "s3://tidegate-uploads:x/x",
    "s3://user@tidegate-uploads/x",
    "s3://tidegate%2Duploads/x",
    "s3://ab/x",
    "s3://" + "a" * 64 + "/x",
    "s3://Tidegate/x",
    "s3://tide_gate/x",
    "s3://tide..gate/x",
    "s3://tide.-gate/x",
    "s3://-tidegate/x",
    "s3://127.0.0.1/x",
    "s3://xn--tide/x",
    "s3://tide-s3alias/x",
    "s3://..\u2100/x",
    "file:///imports/../x",
    "file:///imports/%2e%2e/x",
    "file:///imports/a%00b",
    "file:///imports/%ff",
    "file:///imports//x",
    "file:///imports/x?y",
    "file://[/x",
    "file:x",
]


@pytest.mark.parametrize("uri", [uri for uri in BAD if uri != "file://[/x"])
def test_a_bad_uri_has_a_fault_that_says_what_was_expected(uri):
    assert "expected s3://BUCKET/KEY or file:///PATH" in uri_fault(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://tidegate-uploads/sha256/" + "a" * 64,
        "s3://a.b-c.9/x",
        "s3://abc/" + "a" * 1024,
        "s3://abc/with space/ä/100%/a+b&c=d",
        "s3://abc/.../..x",
        "file:///imports/with%20space",
    ],
)
def test_a_good_uri_has_none(uri):
    assert uri_fault(uri) == ""


@pytest.mark.parametrize("uri", BAD)
def test_a_bad_uri_is_no_s3_uri(uri):
    with pytest.raises(InvalidInput) as caught:
        parse_s3_uri(uri)
    assert caught.value.code == "URI_INVALID"


texts = st.text(st.characters(), max_size=40)
pieces = st.lists(
    st.one_of(texts, st.sampled_from(["/", "..", ".", "//", "[", "]", ":", "@", "?", "#", "%2e", "a", "bucket", " "])),
    max_size=8,
).map("".join)


@given(st.one_of(texts, pieces.map("s3://".__add__), pieces.map("s3://bucket/".__add__), pieces.map("s3:".__add__)))
def test_whatever_is_written_is_refused_or_taken_by_the_client(uri):
    try:
        bucket, key = parse_s3_uri(uri)
    except InvalidInput as error:
        assert error.code == "URI_INVALID"
        return
    check_bucket_name(bucket, strict=True, s3_check=True)
    check_object_name(key)
    url = BaseURL("http://localhost:9000", "us-east-1")
    url.build(method="GET", region="us-east-1", bucket_name=bucket, object_name=key)
    assert uri == f"s3://{bucket}/{key}"


@pytest.mark.parametrize("field", ["artifact.uri", "evaluation_uri", "reference_data_uri", "sample_requests_uri"])
def test_every_uri_of_a_training_is_checked_before_anything_is_fetched(field):
    training = TrainingCompleted(model="m")
    *path, last = field.split(".")
    setattr(getattr(training, path[0]) if path else training, last, "s3://tidegate-uploads/../x")
    (fault,) = shape_faults(training)
    assert (fault.code, fault.field) == ("URI_INVALID", field)
    assert "path segment '..'" in fault.message
