"""Opaque page tokens: where to go on, and in which list."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Final, TypeVar

from google.protobuf.message import Message

from tidegate.core.errors import InvalidInput

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1000
# A quarter of what gRPC clients take by default: room for the one row that goes over it.
PAGE_BYTES_MAX: Final = 1 << 20


M = TypeVar("M", bound=Message)


def fitting(rows: Iterable[M], *, size: int) -> tuple[list[M], bool]:
    """Return the rows of one page and whether more come: at most ``size`` and PAGE_BYTES_MAX, but at least one."""
    page: list[M] = []
    total_bytes = 0
    for row in rows:
        total_bytes += row.ByteSize()
        if page and (len(page) == size or total_bytes > PAGE_BYTES_MAX):
            return page, True
        page.append(row)
    return page, False


def page_size(wanted: int) -> int:
    """Return the number of rows of a page.

    Raises:
        InvalidInput: It is negative.

    """
    if wanted < 0:
        raise InvalidInput(f"page_size is {wanted}, expected at least 0", code="PAGE_SIZE_INVALID", field="page_size")
    return min(wanted or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def encode_token(listing: str, after: str) -> str:
    """Return the token that goes on after ``after`` in ``listing``."""
    return base64.urlsafe_b64encode(json.dumps([listing, after]).encode()).decode()


def decode_token(listing: str, token: str) -> str:
    """Return what to go on after; empty for the first page.

    Raises:
        InvalidInput: The token is none of ours, or of another list.

    """
    if not token:
        return ""
    try:
        of_listing, after = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (binascii.Error, ValueError, TypeError):
        of_listing, after = None, None
    if of_listing != listing or not isinstance(after, str):
        raise InvalidInput(
            "page_token is not one of this list", code="PAGE_TOKEN_INVALID", field="page_token", hint="leave it out"
        )
    return after
