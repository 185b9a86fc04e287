"""What was recorded while things broke: pure values, so that a history can be made by hand and judged as well."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tidegate.contracts.codec import Event


class Quality(StrEnum):
    """What a training produced, as its author knows and nobody else does."""

    GOOD = "good"
    FAILS_LIVE = "fails live"  # passes every check before delivery, and can't answer what only live traffic has
    AGAIN = "again"  # what was registered before


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """A training that a producer published; the broker has acknowledged it."""

    event_id: str
    model: str
    quality: Quality


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One request as its client saw it; times are epoch seconds, status 0 = no answer."""

    begin_s: float
    end_s: float
    status: int
    model: str = ""
    version: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Excuse:
    """A time in which requests may fail, since what answers them was killed itself; ``end_s`` is when it was back.

    ``cut_only``: only answers that had begun may, which nobody else can go on with; all others have a fallback.
    """

    what: str
    begin_s: float
    end_s: float
    cut_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """How things stand at the end: aliases by model, servers as ``model@number``."""

    stable: dict[str, str]
    live_servers: frozenset[str]
    sandbox_servers: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """All that was recorded; events are in the order of arrival, which is the broker's order for each partition."""

    events: tuple[Event, ...]
    answers: tuple[Answer, ...] = ()
    publications: tuple[Publication, ...] = ()
    excuses: tuple[Excuse, ...] = ()
    # Versions whose server was killed while they were on trial: that counts against them, as it should.
    killed_on_trial: frozenset[str] = field(default_factory=frozenset)
