"""From upstream attempts to rows to slices. No clock and no sockets: the caller says when a slice ends.

A row is one request, by the arm that it was assigned to. Its status and latency are those of the assigned arm's own
first attempt; an answer of another arm (the fallback) sets only ``served_arm`` and ``attempts``. So a fallback counts
against the candidate and never for stable.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Final

OPEN_ROWS_MAX: Final = 50_000
REMEMBERED_IDS_MAX: Final = 50_000
ROWS_PER_SLICE_MAX: Final = 4_000
# Arms of routes of which it is remembered whether another arm answers in their place.
FALLBACKS_MAX: Final = 10_000
# The client went away before the answer: nginx's name for what is neither an answer nor a broken server.
STATUS_CLIENT_CLOSED: Final = 499


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What the requests of a slice have in common."""

    node_id: str
    model: str
    epoch: int
    revision: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One upstream attempt; ``status`` 0 = no answer, times in microseconds."""

    key: Key
    request_id: str
    assigned_arm: str
    answering_arm: str
    status: int
    start_us: int
    latency_us: int
    unit_hash: int = 0

    def is_own(self) -> bool:
        """Say whether the assigned arm itself was asked."""
        return self.answering_arm == self.assigned_arm


@dataclass(kw_only=True, slots=True)
class Row:
    """One request; ``own`` is false while only its fallback was seen."""

    key: Key
    request_id: str
    assigned_arm: str
    served_arm: str
    attempts: int
    status: int
    start_us: int
    latency_us: int
    unit_hash: int
    own: bool
    slices: int = 0

    @property
    def arm_of_route(self) -> tuple[Key, str]:
        """Whose fallback would answer."""
        return self.key, self.assigned_arm

    def is_complete(self, *, may_fall_back: bool = True) -> bool:
        """Say whether nothing more is awaited: a good answer, another arm's answer, or the end of one more slice."""
        if self.slices > 0:
            return True
        return self.own and (is_success(self.status) or self.attempts > 1 or not may_fall_back)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Requests of one key; ``dropped`` were lost since the last slice of it."""

    key: Key
    rows: tuple[Row, ...]
    dropped: int


def is_success(status: int) -> bool:
    """Say whether an HTTP status is 2xx."""
    return 200 <= status < 300


class Assembler:
    """Merges the attempts of each request, in bounded memory; what does not fit is counted as dropped.

    A failure waits one slice for another arm's answer, unless none came for the last one of its arm (stable, or one in
    a line of its own): else it would come in another batch than the successes of its moment.
    """

    def __init__(self, *, open_rows_max: int = OPEN_ROWS_MAX, remembered_ids_max: int = REMEMBERED_IDS_MAX) -> None:
        self._open: dict[str, Row] = {}
        self._open_rows_max = open_rows_max
        self._emitted: OrderedDict[str, None] = OrderedDict()
        self._remembered_ids_max = remembered_ids_max
        self._falls_back: OrderedDict[tuple[Key, str], bool] = OrderedDict()
        self._dropped: Counter[Key] = Counter()

    def add(self, attempt: Attempt) -> None:
        """Take one attempt; those of a request whose row is out already change nothing."""
        row = self._open.get(attempt.request_id)
        if row is not None:
            _merge(row, attempt)
        elif attempt.request_id in self._emitted:
            return
        elif len(self._open) >= self._open_rows_max:
            self._dropped[attempt.key] += 1
            self._remember(attempt.request_id)
        else:
            self._open[attempt.request_id] = _open_row(attempt)

    def add_dropped(self, key: Key, count: int) -> None:
        """Count requests of ``key`` that were lost on the way."""
        self._dropped[key] += count

    def close_slice(self) -> list[Slice]:
        """Return the complete rows by key, oldest request first; incomplete ones wait for one slice more."""
        by_key: defaultdict[Key, list[Row]] = defaultdict(list)
        for request_id, row in list(self._open.items()):
            self._learn(row)
            if row.is_complete(may_fall_back=self._falls_back.get(row.arm_of_route, True)):
                by_key[row.key].append(self._open.pop(request_id))
                self._remember(request_id)
            else:
                row.slices += 1
        dropped, self._dropped = self._dropped, Counter()
        slices = []
        for key in sorted({*by_key, *dropped}, key=lambda one: (one.model, one.epoch, one.revision, one.node_id)):
            rows = sorted(by_key[key], key=lambda row: row.start_us)
            for first in range(0, max(1, len(rows)), ROWS_PER_SLICE_MAX):
                part = tuple(rows[first : first + ROWS_PER_SLICE_MAX])
                slices.append(Slice(key=key, rows=part, dropped=dropped[key] if first == 0 else 0))
        return slices

    def _learn(self, row: Row) -> None:
        """Learn from what was awaited whether another arm answers for this one."""
        if row.served_arm != row.assigned_arm or row.slices > 0:
            self._falls_back[row.arm_of_route] = row.served_arm != row.assigned_arm
            self._falls_back.move_to_end(row.arm_of_route)
            if len(self._falls_back) > FALLBACKS_MAX:
                self._falls_back.popitem(last=False)

    def _remember(self, request_id: str) -> None:
        self._emitted[request_id] = None
        if len(self._emitted) > self._remembered_ids_max:
            self._emitted.popitem(last=False)


def _open_row(attempt: Attempt) -> Row:
    own = attempt.is_own()
    return Row(
        key=attempt.key,
        request_id=attempt.request_id,
        assigned_arm=attempt.assigned_arm,
        served_arm=attempt.answering_arm,
        attempts=1 if own else 2,
        # A fallback without an attempt before it: the assigned arm gave no answer.
        status=attempt.status if own else 0,
        start_us=attempt.start_us,
        latency_us=attempt.latency_us if own else 0,
        unit_hash=attempt.unit_hash,
        own=own,
    )


def _merge(row: Row, attempt: Attempt) -> None:
    if not attempt.is_own():
        row.served_arm = attempt.answering_arm
        row.attempts += 1
    elif row.own:
        row.attempts += 1
    else:
        row.own = True
        row.status = attempt.status
        row.latency_us = attempt.latency_us
        row.start_us = min(row.start_us, attempt.start_us)
