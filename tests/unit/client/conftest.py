"""Events of one version's life, as the services write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tidegate.contracts.codec import Event
from tidegate.v1.events_pb2 import AliasMoved, Check, ModelBlessed, ModelRegistered, RuntimeBlessing, ValidationPassed
from tidegate.v1.monitoring_events_pb2 import MetricBreach, MetricReport
from tidegate.v1.rollout_events_pb2 import Arm, Evidence, Phase, RolloutStep, RouteApplied
from tidegate.v1.values_pb2 import Change, Version

BEGIN = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
STABLE = Version(major=1, minor=1)
CANDIDATE = Version(major=1, minor=1, pipeline=1)
EVIDENCE = Evidence(
    guard="error_rate", e_value=250.0, threshold=200.0, candidate_estimate=0.15, candidate_count=60, stable_count=500
)


def step(phase: int, share: int, *, revision: int, reason: str, evidence: tuple[Evidence, ...] = ()) -> RolloutStep:
    return RolloutStep(
        rollout_id="churn-1.1.1-00000000",
        model="churn",
        candidate=CANDIDATE,
        stable=STABLE,
        phase=phase,
        arms=[
            Arm(version=STABLE, weight_millionths=1_000_000 - share),
            Arm(version=CANDIDATE, weight_millionths=share),
        ],
        route_epoch=1,
        route_revision=revision,
        reason=reason,
        evidence=evidence,
    )


@pytest.fixture
def life() -> list[Event]:
    breach = MetricBreach(
        model="churn", rollout_id="churn-1.1.1-00000000", version=CANDIDATE, guard="error_rate", evidence=EVIDENCE
    )
    breach.first_evidence_time.FromDatetime(BEGIN)
    messages = [
        ModelRegistered(
            model="churn",
            version=CANDIDATE,
            baseline=STABLE,
            change=Change.CHANGE_PIPELINE,
            reason="another evaluation: not comparable",
        ),
        ValidationPassed(
            model="churn",
            version=CANDIDATE,
            checks=[
                Check(suite="metrics", name="roc_auc", outcome=Check.OUTCOME_PASSED, observed="0.70", bound=">= 0.60")
            ],
        ),
        ModelBlessed(
            model="churn", version=CANDIDATE, runtimes=[RuntimeBlessing(runtime="kserve-onnx", sandbox="limits")]
        ),
        step(Phase.PHASE_STEPPING, 100_000, revision=7, reason="first step"),
        RouteApplied(model="churn", epoch=1, revision=7, applied=["gateway-1"], complete=True, latency_ms=12.0),
        RouteApplied(model="churn", epoch=1, revision=3, applied=["gateway-1"], complete=True, latency_ms=99.0),
        MetricReport(model="churn", version=CANDIDATE),
        breach,
        step(Phase.PHASE_ROLLING_BACK, 0, revision=8, reason="error_rate breached", evidence=(EVIDENCE,)),
        AliasMoved(model="churn", alias="stable", version=STABLE, previous_version=Version(major=1)),
    ]
    return [
        Event(
            message=message,
            id=str(number),
            source="tidegate/test",
            time=BEGIN + timedelta(seconds=number),
            subject="churn",
            correlation_id="training-7",
        )
        for number, message in enumerate(messages)
    ]
