"""What the validator remembers of models: stable's own metrics, to judge drops by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

VERSIONS_MAX: Final = 1_000
DECIDED_MAX: Final = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownMetric:
    """A number that the validator or the producer measured on the data with this digest."""

    name: str
    slice_name: str
    dataset_digest: str
    value: float


@dataclass(kw_only=True, slots=True)
class ModelMemory:
    """Metrics by version, and which version is stable."""

    stable: dict[str, str] = field(default_factory=dict)
    _decided: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _metrics: OrderedDict[tuple[str, str], tuple[KnownMetric, ...]] = field(default_factory=OrderedDict)

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

    def stable_value(self, model: str, name: str, dataset_digest: str) -> float | None:
        """Return stable's value of a metric on the same data, or None if there is no comparable one."""
        version = self.stable.get(model, "")
        for metric in self._metrics.get((model, version), ()):
            if (metric.name, metric.slice_name, metric.dataset_digest) == (name, "", dataset_digest) and dataset_digest:
                return metric.value
        return None
