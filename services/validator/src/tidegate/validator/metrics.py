"""The validator's own metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from tidegate.core.metrics import DURATION_BUCKETS_S
from tidegate.core.tracing import inner
from tidegate.validator.verdict import Verdict

P = ParamSpec("P")
R = TypeVar("R")

TRIALS: Final = Gauge("tidegate_validator_trials_in_progress", "Versions that are being tried.")
VERDICTS: Final = Counter("tidegate_validator_verdicts_total", "Versions judged: blessed or failed.", ["result"])
FAILURES: Final = Counter("tidegate_validator_failed_checks_total", "Checks that failed, by reason code.", ["code"])
TRIAL_SECONDS: Final = Histogram(
    "tidegate_validator_trial_seconds",
    "Duration of a trial by stage: artifact, files, start, query, measure, callers; whole = all of it.",
    ["stage"],
    buckets=DURATION_BUCKETS_S,
)

# A counter that begins at 1 has not increased for Prometheus: what may happen stands there with 0.
for _result in ("blessed", "failed"):
    VERDICTS.labels(_result)


def stage(name: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Time every call of the decorated coroutine function as the stage ``name``, and trace it."""

    def decorate(work: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(work)
        async def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            with inner(f"trial {name}"), TRIAL_SECONDS.labels(name).time():
                return await work(*args, **kwargs)

        return timed

    return decorate


def count_verdict(verdict: Verdict) -> None:
    """Count a verdict that was published, with the codes of the checks that failed."""
    VERDICTS.labels("blessed" if verdict.is_blessed else "failed").inc()
    for check in verdict.failures:
        FAILURES.labels(check.code).inc()
