"""One validation from start to end: fetch, judge the artifact, try it in the sandbox, judge all."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog

from tidegate.contracts.names import format_version
from tidegate.core.errors import InvalidInput, NotFound
from tidegate.core.object_store import ObjectStore
from tidegate.v1 import modelhost_service_pb2 as host
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.policy_pb2 import RuntimePolicy
from tidegate.validator.demands import MetricValues, demands_of
from tidegate.validator.formats import HEAD_BYTES, sniff
from tidegate.validator.inference import request_for
from tidegate.validator.metrics import stage
from tidegate.validator.quality import METRICS
from tidegate.validator.queries import (
    LABEL,
    array_of,
    golden_of,
    read_table,
    score_output,
    scores_of,
)
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

    samples: pa.Table | None
    evaluation: pa.Table | None


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
            samples=await self._table(registered.sample_requests_uri, "sample requests"),
            evaluation=await self._table(registered.evaluation_uri, "evaluation"),
        )

    async def _table(self, uri: str, what: str) -> pa.Table | None:
        if not uri:
            return None
        return read_table(await self._store.read(uri, limit_bytes=self._settings.file_bytes_max), what)

    async def _try_runtimes(self, registered: ModelRegistered, artifact: Verdict, tables: Tables) -> Report:
        seen, digests, log_tail = [], [], ""
        values: MetricValues = {}
        for runtime in registered.policy.validation.runtimes:
            tried, server, tail, computed = await self._try_runtime(registered, runtime, tables)
            seen.append(tried)
            digests.append((runtime.name, server.runtime_digest))
            log_tail = tail or log_tail
            values.update({key: value for key, value in computed.items() if key not in values})
        columns = frozenset() if tables.evaluation is None else frozenset(tables.evaluation.column_names)
        demands = demands_of(registered, columns=columns, values=values, memory=self._memory)
        return Report(
            verdict=judge(artifact, demands, seen, values),
            runtimes=tuple(seen),
            runtime_digests=tuple(digests),
            metrics=tuple((name, of_slice, value) for (name, of_slice), value in values.items()),
            log_tail=log_tail,
        )

    async def _try_runtime(
        self, registered: ModelRegistered, runtime: RuntimePolicy, tables: Tables
    ) -> tuple[RuntimeSeen, host.Server, str, MetricValues]:
        spec = _spec(registered, runtime)
        async with self._sandbox.running(spec) as started:
            server = started
            if server.state != host.SERVER_STATE_READY:
                tail = await self._sandbox.log_tail(spec.server_id)
                return _not_ready(runtime, server), server, tail, {}
            async with ServerClient(
                server.endpoint,
                registered.model,
                timeout_s=self._settings.request_timeout_s,
                answer_bytes_max=self._settings.answer_bytes_max,
            ) as client:
                seen = await self._query(client, registered, tables.samples)
                failed = any(answer.failure for answer in seen.answers)
                values = {} if failed else await self._measure(client, registered, tables.evaluation)
            server = await self._sandbox.look(spec.server_id)
            tail = await self._sandbox.log_tail(spec.server_id)
        facts = replace(
            seen,
            runtime=runtime.name,
            load_time_ms=server.load_time_ms,
            peak_memory_bytes=server.peak_memory_bytes,
            sandbox=server.sandbox,
        )
        return facts, server, tail, values

    @stage("query")
    async def _query(self, client: ServerClient, registered: ModelRegistered, samples: pa.Table | None) -> RuntimeSeen:
        """Ask the sample rows one by one; the first failure ends it, since it decides."""
        if samples is None:
            return RuntimeSeen(runtime="")
        answers: list[Answer] = []
        bodies: list[dict[str, Any]] = []
        for row in range(min(samples.num_rows, self._settings.sample_rows_max)):
            answer, body = await client.ask(request_for(registered.signature, samples, row, 1))
            answers.append(answer)
            if answer.failure:
                return RuntimeSeen(runtime="", answers=tuple(answers))
            bodies.append(body)
        golden = golden_of(samples, bodies, registered.signature)
        return RuntimeSeen(runtime="", answers=tuple(answers), golden=golden)

    @stage("measure")
    async def _measure(
        self, client: ServerClient, registered: ModelRegistered, evaluation: pa.Table | None
    ) -> MetricValues:
        """Compute the policy's metrics, and the gate metric, from the server's own answers."""
        output = score_output(registered.signature)
        if evaluation is None or LABEL not in evaluation.column_names or not output:
            return {}
        rows = evaluation.slice(0, self._settings.evaluation_rows_max)
        parts = []
        for start in range(0, rows.num_rows, self._settings.batch_rows):
            answer, body = await client.ask(request_for(registered.signature, rows, start, self._settings.batch_rows))
            if answer.failure:
                log.info("evaluation not answered", model=registered.model, row=start, failure=answer.failure)
                return {}
            parts.append(scores_of(array_of(body, output)))
        scores = np.concatenate(parts) if parts else np.zeros(0)
        labels = _labels(rows)
        if len(scores) != len(labels):
            return {}
        return dict(_values(registered, rows, labels, scores))


def _values(
    registered: ModelRegistered, rows: pa.Table, labels: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]
) -> Iterator[tuple[tuple[str, str], float | None]]:
    validation = registered.policy.validation
    names = {wanted.name for wanted in validation.metrics} | {registered.policy.registration.gate_metric.name}
    for name in sorted(names & METRICS.keys()):
        yield (name, ""), METRICS[name](labels, scores)
    for of_slice in validation.slices:
        if of_slice.by not in rows.column_names or of_slice.metric not in METRICS:
            continue
        column = np.asarray([str(value) for value in rows[of_slice.by].to_pylist()])
        for value in sorted(set(column.tolist())):
            chosen = column == value
            if chosen.sum() >= of_slice.min_rows:
                found = METRICS[of_slice.metric](labels[chosen], scores[chosen])
                # One class only: nothing can be said about this slice.
                if not np.isnan(found):
                    yield (of_slice.metric, f"{of_slice.by}={value}"), found


def _labels(rows: pa.Table) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(rows[LABEL].cast(pa.float64()), dtype=np.float64)
    except (pa.ArrowException, ValueError) as error:
        raise InvalidInput(
            f"column {LABEL!r} of the evaluation is no number: {error}",
            code="LABEL_NOT_NUMERIC",
            field="evaluation_uri",
        ) from None


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
