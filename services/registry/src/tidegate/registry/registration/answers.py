"""What a registration is answered with, and remembered by: the same request gets the same answer again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from tidegate.contracts.codec import derived_event_id
from tidegate.contracts.names import parse_version
from tidegate.core.errors import Conflict
from tidegate.registry.catalog.handled import RequestKey, mark_consumed, recall, remember, was_consumed
from tidegate.registry.catalog.outbox import Cause, add_event, next_sequence
from tidegate.registry.catalog.versions import StoredVersion, read_version
from tidegate.registry.catalog.wire import digest_of
from tidegate.registry.numbering.versioning import VersionNumber
from tidegate.v1.events_pb2 import RegistrationDuplicate, TrainingCompleted

_NEW: Final = "new"
_DUPLICATE: Final = "duplicate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """The answer: a version, new or (``duplicate``) one that exists."""

    version: StoredVersion
    duplicate: bool


def known_answer(connection: Connection, training: TrainingCompleted) -> Registration | None:
    """Return the answer that the same request got before.

    Raises:
        AlreadyExists: The request_id came before with another body.

    """
    answer = recall(connection, _request_key(training))
    if answer is None:
        return None
    number, _, duplicate = answer.decode().partition(" ")
    version = read_version(connection, training.model, parse_version(number))
    return Registration(version=version, duplicate=duplicate == _DUPLICATE)


def remember_answer(
    connection: Connection, training: TrainingCompleted, number: VersionNumber, *, duplicate: bool
) -> None:
    """Keep the answer for the next time that the request comes."""
    remember(connection, _request_key(training), f"{number} {_DUPLICATE if duplicate else _NEW}".encode())


def answer_again(connection: Connection, training: TrainingCompleted, cause: Cause) -> Registration:
    """Answer a request that was answered before, and tell on the topic (once for each cause)."""
    known = known_answer(connection, training)
    if known is None:
        raise Conflict("the request was forgotten", code="ROW_EXISTS")
    if not was_consumed(connection, cause.id):
        add_duplicate(connection, training, known.version, cause)
        mark_consumed(connection, cause.id)
    return known


def add_duplicate(connection: Connection, training: TrainingCompleted, version: StoredVersion, cause: Cause) -> None:
    """Tell that the training is a version that exists."""
    duplicate = RegistrationDuplicate(
        model=training.model, version=version.registered.version, request_id=training.request_id
    )
    event_id = derived_event_id("RegistrationDuplicate", cause.id)
    sequence = next_sequence(connection, training.model)
    add_event(connection, duplicate, cause=cause, event_id=event_id, sequence=sequence)


def _request_key(training: TrainingCompleted) -> RequestKey:
    return RequestKey(
        scope=f"RegisterVersion/{training.model}", request_id=training.request_id, body_digest=digest_of(training)
    )
