"""What the validator remembers of models: stable's own metrics, to judge drops by, and what callers send."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from tidegate.contracts.names import format_version
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.values_pb2 import Change, Signature

VERSIONS_MAX: Final = 1_000
ORIGINS_MAX: Final = 10_000
DECIDED_MAX: Final = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownMetric:
    """A number that the validator or the producer measured on the data with this digest."""

    name: str
    slice_name: str
    dataset_digest: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A version as its callers know it; ``baseline`` is the one whose callers it took over, if any."""

    version: str
    signature: Signature
    sample_requests_uri: str = ""
    baseline: str = ""
    failed: bool = False


@dataclass(kw_only=True, slots=True)
class ModelMemory:
    """Metrics by version, which version is stable, and what callers of each version send."""

    stable: dict[str, str] = field(default_factory=dict)
    _decided: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _metrics: OrderedDict[tuple[str, str], tuple[KnownMetric, ...]] = field(default_factory=OrderedDict)
    _origins: OrderedDict[tuple[str, str], Origin] = field(default_factory=OrderedDict)

    def is_decided(self, event_id: str) -> bool:
        """Say whether the event was answered."""
        return event_id in self._decided

    def mark_decided(self, event_id: str) -> None:
        """Remember that the event was answered; the oldest are forgotten beyond DECIDED_MAX."""
        self._decided[event_id] = None
        while len(self._decided) > DECIDED_MAX:
            self._decided.popitem(last=False)

    def remember(self, model: str, version: str, metrics: Iterable[KnownMetric]) -> None:
        """Keep a version's metrics; the oldest are forgotten beyond VERSIONS_MAX."""
        self._metrics[model, version] = tuple(metrics)
        while len(self._metrics) > VERSIONS_MAX:
            self._metrics.popitem(last=False)

    def learn(self, registered: ModelRegistered) -> None:
        """Remember what callers of a version send; the ones asked for longest ago are forgotten beyond ORIGINS_MAX."""
        takes_over = registered.change != Change.CHANGE_MAJOR and registered.HasField("baseline")
        origin = Origin(
            version=format_version(registered.version),
            signature=registered.signature,
            sample_requests_uri=registered.sample_requests_uri,
            baseline=format_version(registered.baseline) if takes_over else "",
        )
        self._origins.setdefault((registered.model, origin.version), origin)
        while len(self._origins) > ORIGINS_MAX:
            self._origins.popitem(last=False)

    def learn_failure(self, model: str, version: str) -> None:
        """Remember that a version failed validation: it never gets callers."""
        known = self._origins.get((model, version))
        if known is not None:
            self._origins[model, version] = replace(known, failed=True)

    def origin(self, model: str, version: str) -> Origin | None:
        """Return what is known of a version's callers."""
        known = self._origins.get((model, version))
        if known is not None:
            self._origins.move_to_end((model, version))
        return known

    def stable_value(self, model: str, name: str, dataset_digest: str) -> float | None:
        """Return stable's value of a metric on the same data, or None if there is no comparable one."""
        version = self.stable.get(model, "")
        for metric in self._metrics.get((model, version), ()):
            if (metric.name, metric.slice_name, metric.dataset_digest) == (name, "", dataset_digest) and dataset_digest:
                return metric.value
        return None
