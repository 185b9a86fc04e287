"""The ``registry`` topic: every new version is tried; what is said about it depends on the event alone."""

from __future__ import annotations

import json
import time
from typing import Any, Final

import structlog
from google.protobuf.message import Message

from tidegate.contracts.codec import Event, derived_event_id
from tidegate.contracts.names import format_version, version_reference
from tidegate.core.bus import EventProducer
from tidegate.core.clock import utc_now
from tidegate.core.object_store import ObjectStore, digest_of_bytes
from tidegate.v1 import events_pb2 as pb
from tidegate.v1.values_pb2 import Reason
from tidegate.validator.demands import dataset_digest
from tidegate.validator.metrics import TRIALS, count_verdict
from tidegate.validator.store import KnownMetric, ModelMemory
from tidegate.validator.trial import Report, Trial
from tidegate.validator.verdict import Check, RuntimeSeen, latency_ms_p99

SOURCE: Final = "tidegate/validator"
LOG_TAIL_CHARACTERS: Final = 8_000
STABLE: Final = "stable"
EVENTS_MAX: Final = 2

log = structlog.get_logger(__name__)


class ValidationAgent:
    """Handles the events of ``registry``; redelivery repeats the same event ids."""

    def __init__(self, *, trial: Trial, store: ObjectStore, producer: EventProducer, memory: ModelMemory) -> None:
        self._trial = trial
        self._store = store
        self._producer = producer
        self._memory = memory

    async def handle(self, event: Event) -> None:
        """Try a registered version, or learn which one is stable; other events mean nothing here."""
        match event.message:
            case pb.ModelRegistered() as registered:
                await self._validate(event, registered)
            case pb.AliasMoved() as moved if moved.alias == STABLE:
                self._memory.stable[moved.model] = format_version(moved.version)
            case _:
                return

    async def _validate(self, event: Event, registered: pb.ModelRegistered) -> None:
        reference = version_reference(registered.model, registered.version)
        self._memory.learn(registered)
        if self._memory.is_decided(event.id):
            return
        begin = time.monotonic()
        with TRIALS.track_inprogress():
            report = await self._trial.run(registered)
        uri, digest = await self._stored(registered, report)
        messages = _messages(registered, report, uri, digest)
        await self._producer.publish_all(_event(event, message, place) for place, message in enumerate(messages))
        self._remember(event, registered, report)
        count_verdict(report.verdict)
        log.info(
            "validated",
            version=reference,
            blessed=report.verdict.is_blessed,
            failures=[check.code for check in report.verdict.failures],
            duration_s=round(time.monotonic() - begin, 2),
        )

    def _remember(self, event: Event, registered: pb.ModelRegistered, report: Report) -> None:
        self._memory.mark_decided(event.id)
        if not report.verdict.is_blessed:
            self._memory.learn_failure(registered.model, format_version(registered.version))
        known = [
            KnownMetric(name=name, slice_name=of_slice, dataset_digest=dataset_digest(registered, name), value=value)
            for name, of_slice, value in report.metrics
            if value is not None
        ]
        self._memory.remember(registered.model, format_version(registered.version), known)

    async def _stored(self, registered: pb.ModelRegistered, report: Report) -> tuple[str, str]:
        data = json.dumps(_document(registered, report), sort_keys=True, indent=1).encode()
        digest = digest_of_bytes(data)
        key = f"reports/sha256/{digest.removeprefix('sha256:')}"
        return await self._store.put_bytes(key, data, content_type="application/json"), digest


def _event(cause: Event, message: Message, place: int) -> Event:
    return Event(
        message=message,
        id=derived_event_id(message.DESCRIPTOR.name, cause.id),
        source=SOURCE,
        time=utc_now(),
        subject=cause.subject,
        correlation_id=cause.correlation_id,
        causation_id=cause.id,
        # Two events may follow from one registration; the sequence rises with each.
        sequence=EVENTS_MAX * cause.sequence + place if cause.sequence else 0,
        traceparent=cause.traceparent,
    )


def _messages(registered: pb.ModelRegistered, report: Report, uri: str, digest: str) -> list[Message]:
    checks = [_check(check) for check in report.verdict.checks]
    common = {
        "model": registered.model,
        "version": registered.version,
        "checks": checks,
        "report_uri": uri,
        "report_digest": digest,
    }
    if not report.verdict.is_blessed:
        reasons = [_reason(check) for check in report.verdict.failures]
        tail = report.log_tail[-LOG_TAIL_CHARACTERS:]
        return [pb.ValidationFailed(**common, reasons=reasons, log_tail=tail)]  # type: ignore[arg-type]
    digests = dict(report.runtime_digests)
    blessed = pb.ModelBlessed(
        model=registered.model,
        version=registered.version,
        runtimes=[_blessing(seen, digests.get(seen.runtime, "")) for seen in report.runtimes],
        warmup_uri=registered.sample_requests_uri,
        policy=registered.policy,
        policy_revision=registered.policy_revision,
    )
    return [pb.ValidationPassed(**common), blessed]  # type: ignore[arg-type]


def _check(check: Check) -> pb.Check:
    return pb.Check(
        suite=check.suite,
        name=check.name,
        outcome=pb.Check.Outcome.Value(f"OUTCOME_{check.outcome}"),
        observed=check.observed,
        bound=check.bound,
        detail=check.detail,
    )


def _reason(check: Check) -> Reason:
    detail = f" ({check.detail})" if check.detail else ""
    wanted = f", expected {check.bound}" if check.bound else ""
    return Reason(code=check.code, message=f"{check.name}: {check.observed}{wanted}{detail}", field=check.suite)


def _blessing(seen: RuntimeSeen, digest: str) -> pb.RuntimeBlessing:
    queried = pb.RuntimeBlessing.MODE_LOAD_AND_QUERY if seen.answers else pb.RuntimeBlessing.MODE_LOAD_ONLY
    return pb.RuntimeBlessing(
        runtime=seen.runtime,
        runtime_digest=digest,
        mode=queried,
        load_time_ms=seen.load_time_ms,
        latency_ms_p99=latency_ms_p99(seen.answers),
        peak_memory_bytes=seen.peak_memory_bytes,
        sandbox=seen.sandbox,
    )


def _document(registered: pb.ModelRegistered, report: Report) -> dict[str, Any]:
    return {
        "model": registered.model,
        "version": format_version(registered.version),
        "artifact_digest": registered.artifact.digest,
        "policy_revision": registered.policy_revision,
        "blessed": report.verdict.is_blessed,
        "checks": [
            {
                "suite": check.suite,
                "name": check.name,
                "outcome": check.outcome.value,
                "observed": check.observed,
                "bound": check.bound,
                "detail": check.detail,
                "code": check.code,
            }
            for check in report.verdict.checks
        ],
        "metrics": [
            {"name": name, "slice": of_slice, "value": value, "dataset_digest": dataset_digest(registered, name)}
            for name, of_slice, value in report.metrics
        ],
        "log_tail": report.log_tail,
    }
