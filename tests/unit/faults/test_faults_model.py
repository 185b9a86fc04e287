"""The model of the fault tests: how work ends where nothing breaks."""

from __future__ import annotations

from faults.history import Publication, Quality
from faults.model import expected

from tidegate.v1 import rollout_events_pb2 as pb


def publication(name: str, quality: Quality = Quality.GOOD, model: str = "fraud") -> Publication:
    return Publication(event_id=name, model=model, quality=quality)


def test_good_versions_follow_each_other():
    end = expected([publication("a"), publication("b")])
    assert end.numbers == {"a": "1.0.0", "b": "1.0.1"}
    assert end.endings == {"fraud@1.0.0": pb.PHASE_PROMOTED, "fraud@1.0.1": pb.PHASE_PROMOTED}
    assert end.stable == {"fraud": "1.0.1"}
    assert end.live_servers == {"fraud@1.0.1"}


def test_a_version_that_fails_live_takes_a_number_and_leaves_stable():
    end = expected([publication("a"), publication("b", Quality.FAILS_LIVE), publication("c")])
    assert end.numbers == {"a": "1.0.0", "b": "1.0.1", "c": "1.0.2"}
    assert end.endings["fraud@1.0.1"] == pb.PHASE_ROLLED_BACK
    assert end.stable == {"fraud": "1.0.2"}


def test_what_was_registered_before_changes_nothing():
    assert expected([publication("a"), publication("b", Quality.AGAIN)]) == expected([publication("a")])


def test_models_do_not_touch_each_other():
    end = expected([publication("a"), publication("b", model="churn"), publication("c")])
    assert end.stable == {"fraud": "1.0.1", "churn": "1.0.0"}
    assert end.live_servers == {"fraud@1.0.1", "churn@1.0.0"}


def test_a_good_version_that_was_sent_back_is_not_stable():
    end = expected([publication("a"), publication("b")], rolled_back=frozenset({"fraud@1.0.1"}))
    assert end.stable == {"fraud": "1.0.0"}
    assert end.endings["fraud@1.0.1"] == pb.PHASE_ROLLED_BACK
