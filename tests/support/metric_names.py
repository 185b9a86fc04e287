"""The metrics that the code declares, as Prometheus will see them."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

# What a scrape makes of one metric.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def families(module: ModuleType) -> list[Metric]:
    """Return the metric families that ``module`` declares."""
    declared = [value for value in vars(module).values() if isinstance(value, MetricWrapperBase)]
    return [family for metric in declared for family in metric.describe() if family.name.startswith("tidegate_")]


def sample_names(family: Metric) -> Iterator[str]:
    """Yield the names that queries use for ``family``."""
    for suffix in SUFFIXES[family.type]:
        yield family.name + suffix
