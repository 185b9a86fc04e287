"""What is measured: bounded labels, and how far behind a consumer is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tidegate.core import streams
from tidegate.core.clock import utc_now
from tidegate.core.errors import Conflict, Unavailable
from tidegate.core.metrics import OTHER, BoundedLabels, Handling, topic_label

SERVICES = ("registry", "validator", "deployer", "monitor", "modelhost")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@given(st.lists(st.text(min_size=1), max_size=50), st.integers(0, 10))
def test_labels_are_bounded_and_keep_the_first_names(names, limit):
    labels = BoundedLabels(limit)
    given_out = [labels.of(name) for name in names]
    first = list(dict.fromkeys(names))[:limit]
    assert set(given_out) - {OTHER} <= set(first)
    assert all(shown == (name if name in first else OTHER) for name, shown in zip(names, given_out, strict=True))


def test_topics_are_named_without_the_prefix_of_their_environment():
    assert topic_label("team.a.tidegate.rollout-state") == "rollout-state"


def test_consumer_is_behind_by_the_oldest_event_in_hand():
    handling = Handling("x.behind")

    def behind_s() -> float:
        return value("tidegate_consumer_behind_seconds", topic="behind")

    assert behind_s() == 0.0
    handling.take("a", utc_now() - timedelta(hours=2))
    handling.take("b", utc_now() - timedelta(hours=1))
    assert behind_s() >= 7200
    handling.done("a")
    assert 3600 <= behind_s() < 7200
    handling.drop("b")
    assert behind_s() == 0.0
    assert value("tidegate_events_consumed_total", topic="behind") == 1
    assert value("tidegate_event_handling_seconds_count", topic="behind") == 1
    assert value("tidegate_event_age_seconds_count", topic="behind") == 2
    handling.take("c", utc_now() + timedelta(hours=1))  # a producer's clock may be ahead
    assert behind_s() == 0.0
    handling.clear()
    handling.done("c")
    assert value("tidegate_events_consumed_total", topic="behind") == 1


async def test_retries_are_counted_by_operation_and_reason(monkeypatch):
    monkeypatch.setattr(streams, "BACKOFF_FIRST_S", 0.0)
    fails = [Unavailable("away"), Conflict("moved"), Unavailable("away")]

    async def call() -> None:
        if fails:
            raise fails.pop()

    await streams.retrying(call, what="x.training/3/17", operation="test-retries")
    assert value("tidegate_retries_total", operation="test-retries", reason="unavailable") == 2
    assert value("tidegate_retries_total", operation="test-retries", reason="conflict") == 1


@pytest.mark.parametrize("service", SERVICES)
def test_names_follow_the_conventions(service):
    import importlib

    from metric_names import families

    module = importlib.import_module(f"tidegate.{service}.metrics")
    own = families(module)
    assert own
    for family in own:
        assert family.name.startswith(f"tidegate_{service}_"), family.name
        assert family.documentation.endswith("."), family.name
        unit = {"histogram": ("_seconds", "_bytes"), "counter": ("",), "gauge": ("",)}[family.type]
        assert family.name.endswith(unit), family.name
        assert "_ms" not in family.name
