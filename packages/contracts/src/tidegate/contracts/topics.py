"""The topic table: what is on which topic, for how long, and who alone may write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_PREFIX: Final = "tidegate"
DEFAULT_PARTITION_COUNT: Final = 6
DAY_MS: Final = 86_400_000
# The dead letters' writer: every service, since each sets aside what it can't handle.
WRITTEN_BY_ALL: Final = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """One topic; ``name`` is without the prefix of the environment, ``writer`` the only principal that may write it.

    ``tuning`` holds settings in the broker that the others do not say, by Kafka's names.
    """

    name: str
    messages: tuple[str, ...]
    writer: str
    retention_ms: int = -1
    compacted: bool = False
    accepts_json: bool = False
    tuning: tuple[tuple[str, str], ...] = ()

    def full_name(self, prefix: str = DEFAULT_PREFIX) -> str:
        """Return the name of the topic in the broker."""
        return f"{prefix}.{self.name}"

    def broker_config(self) -> dict[str, str]:
        """Return the topic's settings in the broker, by Kafka's names."""
        if self.compacted:
            return {"cleanup.policy": "compact"} | dict(self.tuning)
        return {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)} | dict(self.tuning)


TRAINING: Final = Topic(
    name="training", messages=("TrainingCompleted",), writer="producers", retention_ms=7 * DAY_MS, accepts_json=True
)
REGISTRY: Final = Topic(
    name="registry",
    messages=(
        "ModelRegistered",
        "RegistrationRejected",
        "RegistrationDuplicate",
        "AliasMoved",
        "VersionApproved",
        "VersionRejected",
    ),
    writer="registry",
)
POLICIES: Final = Topic(name="policies", messages=("PolicyApplied",), writer="registry", compacted=True)
VALIDATION: Final = Topic(
    name="validation", messages=("ValidationPassed", "ValidationFailed", "ModelBlessed"), writer="validator"
)
COMMANDS: Final = Topic(name="commands", messages=("RolloutCommand",), writer="deployer", retention_ms=7 * DAY_MS)
ROLLOUTS: Final = Topic(
    name="rollouts", messages=("RolloutStep", "RouteApplied", "RetirementChanged"), writer="deployer"
)
ROLLOUT_STATE: Final = Topic(name="rollout-state", messages=("RolloutState",), writer="deployer", compacted=True)
ROUTES: Final = Topic(name="routes", messages=("RouteTable",), writer="deployer", compacted=True)
PREDICTIONS: Final = Topic(name="predictions", messages=("PredictionBatch",), writer="monitor", retention_ms=DAY_MS)
OUTCOMES: Final = Topic(
    name="outcomes", messages=("OutcomeBatch",), writer="applications", retention_ms=30 * DAY_MS, accepts_json=True
)
MONITORING: Final = Topic(
    name="monitoring",
    messages=("MetricReport", "EvidenceReached", "MetricBreach", "DriftDetected"),
    writer="monitor",
    retention_ms=28 * DAY_MS,
)
DEAD_LETTER: Final = Topic(name="dead-letter", messages=(), writer=WRITTEN_BY_ALL, retention_ms=28 * DAY_MS)
# The monitor's own: no part of the contract, nobody else reads it.
MONITOR_STATE: Final = Topic(
    name="monitor-state",
    messages=(),
    writer="monitor",
    compacted=True,
    # Small segments, because the newest one is never compacted, and all of it is read at a restart.
    tuning=(
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", str(7 * DAY_MS)),
        ("segment.bytes", str(16 * 1024 * 1024)),
        ("min.cleanable.dirty.ratio", "0.1"),
    ),
)

TOPICS: Final = (
    TRAINING,
    REGISTRY,
    POLICIES,
    VALIDATION,
    COMMANDS,
    ROLLOUTS,
    ROLLOUT_STATE,
    ROUTES,
    PREDICTIONS,
    OUTCOMES,
    MONITORING,
    DEAD_LETTER,
)
# Topics of one service alone, made with the others.
PRIVATE_TOPICS: Final = (MONITOR_STATE,)

TOPIC_BY_MESSAGE: Final = {message: topic for topic in TOPICS for message in topic.messages}
