"""What a version's policy and signature demand of it: from messages to the judge's values."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.validator.quality import HIGHER_IS_BETTER
from tidegate.validator.store import ModelMemory
from tidegate.validator.verdict import Demands, MetricDemand, OutputWanted, RuntimeDemand

# Value by metric's name and slice ("" = all rows); None = it could not be computed.
MetricValues = dict[tuple[str, str], float | None]


def demands_of(
    registered: ModelRegistered, *, columns: AbstractSet[str], values: MetricValues, memory: ModelMemory
) -> Demands:
    """Return what ``registered`` must meet; ``columns`` of its evaluation (none: there is no evaluation)."""
    validation = registered.policy.validation
    return Demands(
        outputs=tuple(
            OutputWanted(name=output.name, datatype=output.datatype, shape=tuple(output.shape))
            for output in registered.signature.outputs
        ),
        golden_atol=validation.golden.atol,
        min_sandbox=validation.min_sandbox,
        runtimes=tuple(
            RuntimeDemand(
                runtime=runtime.name,
                latency_ms_p99_max=runtime.latency_ms_p99_max,
                memory_mib_max=runtime.memory_mib_max,
            )
            for runtime in validation.runtimes
        ),
        metrics=(
            *_thresholds(registered, memory),
            *_slices(registered, columns, values),
            *_gate(registered, columns, values),
        ),
    )


def dataset_digest(registered: ModelRegistered, metric: str) -> str:
    """Return the digest of the data that the producer measured ``metric`` on, or ""."""
    return next((one.dataset_digest for one in registered.metrics if one.name == metric and not one.slice), "")


def _thresholds(registered: ModelRegistered, memory: ModelMemory) -> Iterator[MetricDemand]:
    for wanted in registered.policy.validation.metrics:
        digest = dataset_digest(registered, wanted.name)
        yield MetricDemand(
            name=wanted.name,
            least=wanted.min if wanted.HasField("min") else None,
            greatest=wanted.max if wanted.HasField("max") else None,
            drop_max=wanted.max_drop if wanted.HasField("max_drop") else None,
            higher_is_better=HIGHER_IS_BETTER.get(wanted.name, True),
            stable_value=memory.stable_value(registered.model, wanted.name, digest),
        )


def _slices(registered: ModelRegistered, columns: AbstractSet[str], values: MetricValues) -> Iterator[MetricDemand]:
    for of_slice in registered.policy.validation.slices:
        if not of_slice.HasField("min"):
            continue
        if columns and of_slice.by not in columns:
            # A slice that can't be looked at is not met: no value will be found under this name.
            yield MetricDemand(name=of_slice.metric, slice_name=f"{of_slice.by}=*", least=of_slice.min)
        for metric, name in values:
            if metric == of_slice.metric and name.startswith(f"{of_slice.by}="):
                yield MetricDemand(name=of_slice.metric, slice_name=name, least=of_slice.min)


def _gate(registered: ModelRegistered, columns: AbstractSet[str], values: MetricValues) -> Iterator[MetricDemand]:
    """Yield the gate metric where it was computed and no threshold names it: shown, and never failed."""
    gate = registered.policy.registration.gate_metric.name
    named = {wanted.name for wanted in registered.policy.validation.metrics}
    if columns and gate not in named and (gate, "") in values:
        yield MetricDemand(name=gate)
