"""Answers given to writes, so that a client that lost one may ask again: same id and body, same answer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from google.protobuf.message import Message

from tidegate.core.errors import AlreadyExists, InvalidInput

ANSWERS_MAX: Final = 10_000
REQUEST_ID_CHARS_MAX: Final = 256


class Answers:
    """The last ANSWERS_MAX answers of this replica by request id; the oldest are forgotten.

    A replica that has forgotten (or never saw) a request publishes its command once more: the rollout core lets one
    request id have its effect once, so that only the answer may differ, never the effect.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[bytes, Message]] = OrderedDict()

    def find(self, request: Message, request_id: str) -> Message | None:
        """Return the answer that ``request`` got before, or None.

        Raises:
            InvalidInput: ``request_id`` is empty or too long.
            AlreadyExists: Another request came with this id (code REQUEST_ID_REUSED).

        """
        if not 0 < len(request_id) <= REQUEST_ID_CHARS_MAX:
            raise InvalidInput(
                f"request_id has {len(request_id)} characters, expected 1 to {REQUEST_ID_CHARS_MAX}",
                code="REQUEST_ID_INVALID",
                field="request_id",
            )
        body, answer = self._answers.get(request_id, (b"", None))
        if answer is not None and body != _body(request):
            raise AlreadyExists(
                f"request_id {request_id!r} came before with another request",
                code="REQUEST_ID_REUSED",
                field="request_id",
                hint="choose a new id for a new request",
            )
        return answer

    def remember(self, request: Message, request_id: str, answer: Message) -> None:
        """Keep the answer that ``request`` got."""
        self._answers[request_id] = (_body(request), answer)
        while len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)


def _body(request: Message) -> bytes:
    return request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(deterministic=True)
