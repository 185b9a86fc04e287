"""What the registry does with the events of producers, validator and deployer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from sqlalchemy import Connection, update

from tidegate.contracts.codec import Event, derived_event_id
from tidegate.core.errors import AlreadyExists, InvalidInput
from tidegate.registry.catalog.aliases import apply_step
from tidegate.registry.catalog.handled import mark_consumed, was_consumed
from tidegate.registry.catalog.outbox import Cause, add_event, advance_sequence, cause_of, next_sequence
from tidegate.registry.catalog.tables import versions
from tidegate.registry.catalog.versions import is_version
from tidegate.registry.intake.checks import can_be_told
from tidegate.registry.intake.rejection import Rejected
from tidegate.registry.metrics import rejections_counted
from tidegate.registry.registration.registrar import Registrar
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import (
    ModelBlessed,
    RegistrationRejected,
    TrainingCompleted,
    ValidationFailed,
    ValidationPassed,
)
from tidegate.v1.rollout_events_pb2 import RolloutStep
from tidegate.v1.values_pb2 import Reason, Version

# A blessing follows a pass; a pass that comes late takes nothing back.
_OVERWRITES: Final = {
    "passed": ("unknown", "failed"),
    "failed": ("unknown", "passed", "blessed"),
    "blessed": ("unknown", "passed", "failed"),
}

_STATES: Final = {"ValidationPassed": "passed", "ValidationFailed": "failed", "ModelBlessed": "blessed"}

_Work = Callable[[Connection], None]

log = structlog.get_logger(__name__)


class RegistryAgents:
    """The handlers; each is idempotent by event id."""

    def __init__(self, store: Store, registrar: Registrar) -> None:
        self._store = store
        self._registrar = registrar

    async def on_training(self, event: Event) -> None:
        """Register, or say why not.

        Raises:
            InvalidInput: It is no TrainingCompleted, or its model name is too odd to answer under: dead letter.
            Unavailable: Database or object store are away.

        """
        training = event.message
        if not isinstance(training, TrainingCompleted):
            raise InvalidInput(f"{event.type} is not expected on the training topic", code="EVENT_TYPE_UNEXPECTED")
        cause = cause_of(event)
        if await self._store.read(lambda connection: was_consumed(connection, cause.id)):
            return
        try:
            with rejections_counted():
                await self._registrar.register(training, cause)
        except Rejected as error:
            if not can_be_told(training.model):
                raise
            await self._reject(training, list(error.reasons), cause)
        except AlreadyExists as error:
            await self._reject(training, [Reason(code=error.code, message=str(error), field=error.field)], cause)

    async def _reject(self, training: TrainingCompleted, reasons: list[Reason], cause: Cause) -> None:
        rejection = RegistrationRejected(
            model=training.model, request_id=training.request_id, reasons=reasons, actor=cause.actor
        )

        def reject(connection: Connection) -> None:
            if was_consumed(connection, cause.id):
                return
            mark_consumed(connection, cause.id)
            event_id = derived_event_id("RegistrationRejected", cause.id)
            sequence = next_sequence(connection, training.model)
            add_event(connection, rejection, cause=cause, event_id=event_id, sequence=sequence)

        await self._store.write(reject)
        log.info("registration rejected", model=training.model, codes=[reason.code for reason in reasons])

    async def on_validation(self, event: Event) -> None:
        """Remember the validator's last word on a version."""
        message = event.message
        if not isinstance(message, ValidationPassed | ValidationFailed | ModelBlessed):
            raise InvalidInput(f"{event.type} is not expected on the validation topic", code="EVENT_TYPE_UNEXPECTED")
        state, model, version = _STATES[event.type], message.model, message.version
        await self._once(event, model, lambda connection: _set_validation(connection, model, version, state))

    async def on_rollout(self, event: Event) -> None:
        """Move ``stable`` and ``candidate`` with a rollout."""
        step = event.message
        if not isinstance(step, RolloutStep):
            return
        cause = cause_of(event)

        def move(connection: Connection) -> None:
            if not apply_step(connection, step, cause):
                log.warning("rollout of an unknown version", model=step.model, rollout_id=step.rollout_id)

        await self._once(event, step.model, move)

    async def _once(self, event: Event, model: str, work: _Work) -> None:
        """Do ``work`` unless the event was handled before, or is older than the last of its model and source."""
        cause = cause_of(event)

        def handle(connection: Connection) -> None:
            if was_consumed(connection, cause.id):
                return
            mark_consumed(connection, cause.id)
            if event.sequence and not advance_sequence(connection, model, event.source, event.sequence):
                log.info("older event ignored", event_type=event.type, model=model, sequence=event.sequence)
                return
            work(connection)

        await self._store.write(handle)


def _set_validation(connection: Connection, model: str, version: Version, state: str) -> None:
    where = is_version(model, version) & versions.c.validation.in_(_OVERWRITES[state])
    connection.execute(update(versions).where(where).values(validation=state))
