"""One validation from start to end: fetch, judge the artifact, try it in the sandbox, judge all."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import structlog

from tidegate.contracts.names import format_version
from tidegate.core.errors import InvalidInput, NotFound
from tidegate.core.object_store import ObjectStore
from tidegate.v1 import modelhost_service_pb2 as host
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.policy_pb2 import RuntimePolicy
from tidegate.validator.callers import Callers, all_answered, broken, callers_of, fault_of, origin_of, undecided
from tidegate.validator.demands import MetricValues, demands_of
from tidegate.validator.formats import HEAD_BYTES, sniff
from tidegate.validator.inference import request_for, rows_at_once
from tidegate.validator.measuring import Measurements, evaluation_fault, filled_up, measurements
from tidegate.validator.metrics import stage
from tidegate.validator.predictions import predictions_of
from tidegate.validator.queries import golden_of, read_table
from tidegate.validator.recorded import Recorded, golden_of_recorded, is_recorded, read_recorded
from tidegate.validator.sandbox import SERVER_PREFIX, Sandbox, ServerClient
from tidegate.validator.settings import ValidatorSettings
from tidegate.validator.store import ModelMemory
from tidegate.validator.verdict import (
    Answer,
    ArtifactSeen,
    Check,
    Outcome,
    RuntimeSeen,
    Verdict,
    judge,
    judge_artifact,
)

log = structlog.get_logger(__name__)

# The policy bounds resident memory; the host limits address space, of which libraries map much more than they touch.
ADDRESS_SPACE_EXTRA_MIB: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that came of a validation; ``runtime_digests`` by runtime."""

    verdict: Verdict
    runtimes: tuple[RuntimeSeen, ...] = ()
    runtime_digests: tuple[tuple[str, str], ...] = ()
    metrics: tuple[tuple[str, str, float | None], ...] = ()
    log_tail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The files that came with the version, where they did."""

    samples: pa.Table | tuple[Recorded, ...] | None
    evaluation: pa.Table | None
    callers: Callers


class Trial:
    """Tries versions, one at a time."""

    def __init__(
        self, *, settings: ValidatorSettings, store: ObjectStore, sandbox: Sandbox, memory: ModelMemory
    ) -> None:
        self._settings = settings
        self._store = store
        self._sandbox = sandbox
        self._memory = memory

    @stage("whole")
    async def run(self, registered: ModelRegistered) -> Report:
        """Return what came of trying ``registered``.

        Raises:
            Unavailable: S3 or the model host is away; nothing is said about the version.

        """
        artifact = await self._judge_artifact(registered)
        if artifact.failures:
            return Report(verdict=artifact)
        try:
            tables = await self._tables(registered)
            async with asyncio.timeout(self._settings.deadline_s):
                return await self._try_runtimes(registered, artifact, tables)
        except TimeoutError:
            shown = f"not done after {self._settings.deadline_s:g} s"
            return Report(verdict=_with(artifact, _broken("deadline", shown, "VALIDATION_TIMEOUT")))
        except InvalidInput as error:
            return Report(verdict=_with(artifact, _broken("files", str(error), error.code)))

    @stage("artifact")
    async def _judge_artifact(self, registered: ModelRegistered) -> Verdict:
        wanted = registered.artifact
        with tempfile.TemporaryDirectory(prefix="tidegate-validator-") as folder:
            path = Path(folder) / "artifact"
            try:
                digest = await self._store.download(wanted.uri, path, limit_bytes=self._settings.artifact_bytes_max)
            except NotFound as error:
                return Verdict(checks=(_broken("artifact", str(error), "ARTIFACT_MISSING"),))
            except InvalidInput as error:
                return Verdict(checks=(_broken("artifact", str(error), error.code),))
            with path.open("rb") as stream:
                kind = sniff(stream.read(HEAD_BYTES))
        return judge_artifact(
            ArtifactSeen(digest_wanted=wanted.digest, digest=digest, format_wanted=wanted.format or "onnx", format=kind)
        )

    @stage("files")
    async def _tables(self, registered: ModelRegistered) -> Tables:
        return Tables(
            samples=await self._samples(registered.sample_requests_uri),
            evaluation=await self._table(registered.evaluation_uri, "evaluation"),
            callers=await self._callers(registered),
        )

    async def _callers(self, registered: ModelRegistered) -> Callers:
        origin = origin_of(registered, self._memory)
        if isinstance(origin, str):
            return Callers(skipped=origin)
        try:
            samples = await self._samples(origin.sample_requests_uri)
            return callers_of(origin, registered.signature, samples, most=self._settings.sample_rows_max)
        except InvalidInput as error:
            # What another version left behind is no fault of this one.
            return Callers(version=origin.version, skipped=f"its requests can't be made again: {error}")

    async def _samples(self, uri: str) -> pa.Table | tuple[Recorded, ...] | None:
        if not uri:
            return None
        data = await self._store.read(uri, limit_bytes=self._settings.file_bytes_max)
        return read_recorded(data) if is_recorded(data) else read_table(data, "sample requests")

    async def _table(self, uri: str, what: str) -> pa.Table | None:
        if not uri:
            return None
        return read_table(await self._store.read(uri, limit_bytes=self._settings.file_bytes_max), what)

    async def _try_runtimes(self, registered: ModelRegistered, artifact: Verdict, tables: Tables) -> Report:
        seen, digests, log_tail = [], [], ""
        values: MetricValues = {}
        missing: dict[str, str] = {}
        for runtime in registered.policy.validation.runtimes:
            tried, server, tail, measured = await self._try_runtime(registered, runtime, tables)
            seen.append(tried)
            digests.append((runtime.name, server.runtime_digest))
            log_tail = tail or log_tail
            values.update({key: value for key, value in measured.values.items() if key not in values})
            missing.update(measured.missing)
        columns = frozenset() if tables.evaluation is None else frozenset(tables.evaluation.column_names)
        demands = demands_of(registered, columns=columns, values=values, memory=self._memory)
        return Report(
            verdict=judge(artifact, demands, seen, values, missing),
            runtimes=tuple(seen),
            runtime_digests=tuple(digests),
            metrics=tuple((name, of_slice, value) for (name, of_slice), value in values.items()),
            log_tail=log_tail,
        )

    async def _try_runtime(
        self, registered: ModelRegistered, runtime: RuntimePolicy, tables: Tables
    ) -> tuple[RuntimeSeen, host.Server, str, Measurements]:
        spec = _spec(registered, runtime)
        async with self._sandbox.running(spec) as started:
            server = started
            if server.state != host.SERVER_STATE_READY:
                tail = await self._sandbox.log_tail(spec.server_id)
                return _not_ready(runtime, server), server, tail, Measurements(missing={"": "the server did not start"})
            async with ServerClient(
                server.endpoint,
                registered.model,
                timeout_s=self._settings.request_timeout_s,
                answer_bytes_max=self._settings.answer_bytes_max,
            ) as client:
                seen = await self._query(client, registered, tables.samples)
                if any(answer.failure for answer in seen.answers):
                    measured = Measurements(missing={"": "the sample requests were not answered"})
                else:
                    measured = await self._measure(client, registered, tables.evaluation)
                    seen = replace(seen, callers=await self._ask_callers(client, runtime.name, tables.callers))
            server = await self._sandbox.look(spec.server_id)
            tail = await self._sandbox.log_tail(spec.server_id)
        facts = replace(
            seen,
            runtime=runtime.name,
            load_time_ms=server.load_time_ms,
            peak_memory_bytes=server.peak_memory_bytes,
            sandbox=server.sandbox,
        )
        return facts, server, tail, measured

    @stage("query")
    async def _query(
        self, client: ServerClient, registered: ModelRegistered, samples: pa.Table | tuple[Recorded, ...] | None
    ) -> RuntimeSeen:
        """Ask the sample requests one by one; the first failure ends it, since it decides."""
        if samples is None:
            return RuntimeSeen(runtime="")
        count = min(len(samples), self._settings.sample_rows_max)
        answers: list[Answer] = []
        bodies: list[dict[str, Any]] = []
        for row in range(count):
            one = samples[row] if isinstance(samples, tuple) else None
            request = request_for(registered.signature, samples, row, 1) if one is None else one.request
            answer, body = await client.ask(request)
            answers.append(answer if one is None else replace(answer, asked=one.asked))
            if answer.failure:
                return RuntimeSeen(runtime="", answers=tuple(answers))
            bodies.append(body)
        if isinstance(samples, tuple):
            golden = golden_of_recorded(samples[:count], bodies)
        else:
            golden = golden_of(samples, bodies, registered.signature)
        return RuntimeSeen(runtime="", answers=tuple(answers), golden=golden)

    @stage("measure")
    async def _measure(
        self, client: ServerClient, registered: ModelRegistered, evaluation: pa.Table | None
    ) -> Measurements:
        """Compute the policy's metrics, and the gate metric, from the server's own answers."""
        why = evaluation_fault(evaluation)
        if evaluation is None or why:
            return Measurements(missing={"": why})
        rows = evaluation.slice(0, self._settings.evaluation_rows_max)
        at_once = rows_at_once(registered.signature, self._settings.batch_rows)
        bodies = []
        for start in range(0, rows.num_rows, at_once):
            part = filled_up(rows.slice(start, at_once), at_once, registered.signature)
            answer, body = await client.ask(request_for(registered.signature, part, 0, part.num_rows))
            if answer.failure:
                last = min(start + at_once, rows.num_rows) - 1
                why = f"the server did not answer evaluation rows {start} to {last}: {answer.failure}"
                return Measurements(missing={"": why})
            bodies.append(body)
        return measurements(registered, rows, predictions_of(registered.signature, bodies, rows.num_rows))

    @stage("callers")
    async def _ask_callers(self, client: ServerClient, runtime: str, callers: Callers) -> Check:
        """Ask what callers of the baseline ask, one by one; the first that breaks ends it, since it decides."""
        for place, one in enumerate(callers.requests):
            answer, _ = await client.ask(one.request)
            fault = fault_of(answer, callers.outputs, asked=one.asked)
            if fault and one.twin is not None:
                twin, _ = await client.ask(one.twin)
                if fault_of(twin, callers.outputs):
                    return undecided(runtime, callers, fault)
            if fault:
                return broken(runtime, callers, place, fault)
        return all_answered(runtime, callers)


def _spec(registered: ModelRegistered, runtime: RuntimePolicy) -> host.ServerSpec:
    version = format_version(registered.version)
    return host.ServerSpec(
        server_id=f"{SERVER_PREFIX}{registered.model}@{version}",
        model=registered.model,
        version=registered.version,
        artifact=registered.artifact,
        runtime=runtime.name,
        load_timeout_s=runtime.load_timeout_s,
        memory_mib_max=runtime.memory_mib_max + ADDRESS_SPACE_EXTRA_MIB,
        min_sandbox=registered.policy.validation.min_sandbox,
        restart=False,
    )


_LOAD_CODES: Final = frozenset({"LOAD_TIMEOUT", "ARTIFACT_DIGEST_MISMATCH"})


def _not_ready(runtime: RuntimePolicy, server: host.Server) -> RuntimeSeen:
    code = server.reason.code if server.reason.code in _LOAD_CODES else "LOAD_FAILED"
    failure = f"{server.reason.code}: {server.reason.message}"
    return RuntimeSeen(runtime=runtime.name, sandbox=server.sandbox, failure=failure, failure_code=code)


def _broken(name: str, observed: str, code: str) -> Check:
    return Check(suite="infrastructure", name=name, outcome=Outcome.FAILED, observed=observed, code=code)


def _with(verdict: Verdict, check: Check) -> Verdict:
    return Verdict(checks=(*verdict.checks, check))
