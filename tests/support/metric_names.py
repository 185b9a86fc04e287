"""The metrics that the code declares, as Prometheus will see them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

SERVICES = ("registry", "validator", "deployer", "monitor", "modelhost")
MODULES = ("tidegate.core.metrics", *(f"tidegate.{service}.metrics" for service in SERVICES))
# What a scrape makes of one metric.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def declared(module: ModuleType) -> Iterator[MetricWrapperBase]:
    """Yield the metrics that ``module`` declares, and not those that it imports."""
    own = module.__name__.rpartition(".")[0].rpartition(".")[2]
    prefixes = ("tidegate_events_", "tidegate_event_", "tidegate_retries", "tidegate_consumer_", "tidegate_grpc_")
    for value in vars(module).values():
        if isinstance(value, MetricWrapperBase) and value._name.startswith(
            prefixes if own == "core" else f"tidegate_{own}_"
        ):
            yield value


def families(module: ModuleType) -> list[Metric]:
    """Return the metric families that ``module`` declares."""
    return [family for metric in declared(module) for family in metric.describe()]


def labels_by_sample(module: ModuleType | None = None) -> dict[str, set[str]]:
    """Return the labels of every name that queries may use, of one module or of all."""
    modules = [module] if module is not None else [importlib.import_module(name) for name in MODULES]
    return {
        family.name + suffix: set(metric._labelnames)
        for each in modules
        for metric in declared(each)
        for family in metric.describe()
        for suffix in SUFFIXES[family.type]
    }
