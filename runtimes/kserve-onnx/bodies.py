# ruff: noqa: INP001  (beside a program, in no package)
"""Bodies as clients send them, brought into the one form that the SDK takes; what can't be is told with its status.

The SDK takes a body for JSON only by its content type, and knows no content encoding. Triton's HTTP client sends no
content type in its JSON mode, curl says "form", and both are answered elsewhere.
"""

from __future__ import annotations

import json
import zlib
from http import HTTPStatus
from typing import Any, Final

# What is sent, and what a compressed body may become. The proxy keeps 8 MiB; the validator asks for many rows at once.
BODY_BYTES_MAX: Final = 32 << 20
JSON_HEADER_LENGTH: Final = b"inference-header-content-length"
# Types under which clients send JSON without meaning them; "" is none at all.
_CARELESS_TYPES: Final = ("", "application/x-www-form-urlencoded", "text/plain")
# zlib's window bits: 16 more is the gzip format; deflate is zlib's own (RFC 9110, section 8.4.1).
_ENCODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class Refusal(Exception):  # noqa: N818  (it is an answer)
    """An answer that needs no model."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class PlainBodies:
    """ASGI middleware: forwards each POST with a body that is whole, not compressed, and called what it is."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward, or answer 400, 413 or 415."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): raw for name, raw in scope["headers"]}
        try:
            body = await _read(receive, headers)
            body = decoded(body, headers.pop(b"content-encoding", b"").decode("latin-1"))
            headers |= called(body, headers)
        except Refusal as refusal:
            await _answer(send, refusal)
            return
        headers[b"content-length"] = str(len(body)).encode()
        headers.pop(b"transfer-encoding", None)
        rest = [{"type": "http.request", "body": body, "more_body": False}]

        async def whole() -> Any:
            return rest.pop() if rest else await receive()

        await self._app({**scope, "headers": list(headers.items())}, whole, send)


async def _read(receive: Any, headers: dict[bytes, bytes]) -> bytes:
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > BODY_BYTES_MAX:
        raise _too_large()
    chunks: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(HTTPStatus.BAD_REQUEST, "the client went away before its body was whole")
        chunks.append(message.get("body", b""))
        total += len(chunks[-1])
        if total > BODY_BYTES_MAX:
            raise _too_large()
        if not message.get("more_body", False):
            return b"".join(chunks)


def decoded(body: bytes, encoding: str) -> bytes:
    """Return the body without its content encodings.

    Raises:
        Refusal: 415 for an encoding that is not known here, 400 for broken bytes, 413 for too many.

    """
    for name in reversed([part.strip().lower() for part in encoding.split(",") if part.strip()]):
        if name == "identity":
            continue
        if name not in _ENCODINGS:
            known = ", ".join(sorted(_ENCODINGS))
            raise Refusal(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"content-encoding is {name!r}, expected none or one of {known}"
            )
        unpacking = zlib.decompressobj(wbits=_ENCODINGS[name])
        try:
            unpacked = unpacking.decompress(body, BODY_BYTES_MAX + 1)
        except zlib.error as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is no {name}: {error}") from None
        if len(unpacked) > BODY_BYTES_MAX:
            raise _too_large()
        if not unpacking.eof:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is no whole {name}: its end is missing")
        body = unpacked
    return body


def called(body: bytes, headers: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the headers that say what ``body`` is.

    Raises:
        Refusal: 400 for JSON that is not UTF-8, or a head of a binary request that is no JSON.

    """
    if JSON_HEADER_LENGTH in headers:
        length = headers[JSON_HEADER_LENGTH]
        if not length.isdigit() or int(length) > len(body):
            raise Refusal(
                HTTPStatus.BAD_REQUEST,
                f"{JSON_HEADER_LENGTH.decode()} is {length.decode('latin-1')!r}, "
                f"expected a number of bytes within the body, which has {len(body)}",
            )
        _check_json(body[: int(length)])
        return {}
    content_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    is_json = content_type == "application/json" or content_type.endswith("+json")
    if not is_json and (content_type not in _CARELESS_TYPES or body.lstrip()[:1] != b"{"):
        return {}
    _check_text(body)
    return {b"content-type": b"application/json"}


def _check_text(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is not UTF-8: {error}") from None


def _check_json(text: bytes) -> None:
    """Check the head of a binary request: it is short, and the SDK answers 500 where it is no JSON."""
    _check_text(text)
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the head of the body is no JSON: {error}") from None


def _too_large() -> Refusal:
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {BODY_BYTES_MAX} bytes, the most that is taken"
    )


async def _answer(send: Any, refusal: Refusal) -> None:
    body = json.dumps({"error": str(refusal)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        # The rest of the body is not read; the connection cannot serve another request.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": int(refusal.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
