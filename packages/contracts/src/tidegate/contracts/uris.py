"""URIs of artifacts and files: one check, made before any client library sees one (pure)."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote

S3: Final = "s3"
FILE: Final = "file"
URI_BYTES_MAX: Final = 2_048
KEY_BYTES_MAX: Final = 1_024  # S3's own bound
EXPECTED: Final = "s3://BUCKET/KEY or file:///PATH"

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_BUCKET_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_BUCKET_SUFFIXES: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
# Control characters; halves of a character, which no UTF-8 holds.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs"})
_SHOWN_CHARS_MAX: Final = 200


def scheme_of(uri: str) -> str:
    """Return the scheme of ``uri`` in lower case, empty if it has none."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else ""


def uri_fault(uri: str) -> str:
    """Return what makes ``uri`` unusable as the place of an object or file; empty = nothing.

    Only the form is judged: which schemes, buckets and folders may be named is for the service to say.
    """
    fault = _text_fault(uri)
    if not fault and scheme_of(uri) == S3:
        fault = _s3_fault(uri)
    elif not fault and scheme_of(uri) == FILE:
        fault = _file_fault(uri)
    return f"the URI {_shown(uri)} {fault}, expected {EXPECTED}" if fault else ""


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and key of ``s3://BUCKET/KEY``; the key is taken literally (a ``%`` stands for itself).

    Raises:
        ValueError: ``uri`` has another form, or breaks a rule of S3's.

    """
    if fault := uri_fault(uri):
        raise ValueError(fault)
    if scheme_of(uri) != S3:
        raise ValueError(f"the URI is {_shown(uri)}, expected s3://BUCKET/KEY")
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def _text_fault(uri: str) -> str:
    odd = next((one for one in uri if unicodedata.category(one) in _REFUSED_CATEGORIES), None)
    if odd is not None:
        return f"holds the character U+{ord(odd):04X}"
    size = len(uri.encode())
    return f"has {size} bytes, at most {URI_BYTES_MAX}" if size > URI_BYTES_MAX else ""


def _s3_fault(uri: str) -> str:
    if not uri.startswith("s3://"):
        return "does not begin with s3://"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return _bucket_fault(bucket) or _key_fault(key)


def _bucket_fault(bucket: str) -> str:
    if not _BUCKET.fullmatch(bucket) or any(two in bucket for two in ("..", ".-", "-.")):
        legal = "3 to 63 lower-case letters, digits, single dots and hyphens"
        return f"names the bucket {_shown(bucket)}, legal are {legal}"
    if _IPV4.fullmatch(bucket):
        return f"names the bucket {bucket!r}, which is an address"
    if bucket.startswith(_BUCKET_PREFIXES) or bucket.endswith(_BUCKET_SUFFIXES):
        return f"names the bucket {bucket!r}, a name that S3 keeps for itself"
    return ""


def _key_fault(key: str) -> str:
    size = len(key.encode())
    if size > KEY_BYTES_MAX:
        return f"has a key of {size} bytes, at most {KEY_BYTES_MAX}"
    return _query_fault(key) or _segments_fault(key.split("/"))


def _file_fault(uri: str) -> str:
    if not uri.lower().startswith("file://"):
        return "does not begin with file://"
    _, _, path = uri[len("file://") :].partition("/")
    if fault := _query_fault(path):
        return fault
    try:
        real = unquote(path, errors="strict")
    except UnicodeDecodeError:
        return "holds percent signs that stand for no UTF-8"
    return _text_fault(real) or _segments_fault(real.split("/"))


def _query_fault(text: str) -> str:
    odd = next((one for one in text if one in "?#"), None)
    return f"holds a {odd!r}, as if it had a query or fragment" if odd else ""


def _segments_fault(segments: list[str]) -> str:
    for segment in segments:
        if segment in {".", ".."}:
            return f"has the path segment {segment!r}"
        if not segment.strip():
            return "has an empty path segment"
    return ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else f"{text[: _SHOWN_CHARS_MAX - 1]}…")
