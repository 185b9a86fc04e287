"""The read model of rollouts: the fold of ``RolloutStep`` events, the same in every replica."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from tidegate.deployer.state import ModelState
from tidegate.deployer.wire import state_from
from tidegate.v1 import rollout_events_pb2 as pb
from tidegate.v1.rollout_service_pb2 import Rollout

ROLLOUTS_MAX: Final = 10_000
WATCH_QUEUE_MAX: Final = 1_000
RETIREMENTS_MAX: Final = 1_000
# Both are committed together; whoever has read one for so long without the other decides by what there is.
CAUGHT_UP_WITHIN_S: Final = 2.0

TERMINAL_PHASES: Final = frozenset({pb.PHASE_PROMOTED, pb.PHASE_ROLLED_BACK, pb.PHASE_ABORTED, pb.PHASE_SUPERSEDED})


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def retirement_key(cause_id: str) -> str:
    """Return what to await for the retirement that the event ``cause_id`` causes, beside the steps that it causes."""
    return f"{cause_id}/retirement"


class RolloutBook:
    """All rollouts by id, oldest first; the oldest are forgotten beyond ROLLOUTS_MAX (the topic keeps them)."""

    def __init__(self) -> None:
        self._rollouts: OrderedDict[str, Rollout] = OrderedDict()
        self._watchers: set[asyncio.Queue[Rollout | None]] = set()
        self._states: dict[str, pb.RolloutState] = {}
        self._sequences: dict[str, int] = {}
        self._retirements: OrderedDict[str, pb.RetirementChanged] = OrderedDict()
        self._awaited: dict[str, set[asyncio.Future[str]]] = {}
        self._state_moved = asyncio.Event()

    def remember(self, state: pb.RolloutState) -> None:
        """Keep a model's newest committed state, whoever decides about it."""
        self._states[state.model] = state
        moved, self._state_moved = self._state_moved, asyncio.Event()
        moved.set()

    def state(self, model: str) -> ModelState | None:
        """Return a model's newest committed state, or None if there is none."""
        message = self._states.get(model)
        return None if message is None else state_from(message)

    async def until(self, model: str, holds: Callable[[ModelState], bool]) -> None:
        """Wait until the model's newest committed state is as ``holds`` wants; at once where no state is known."""
        while (state := self.state(model)) is not None and not holds(state):
            await self._state_moved.wait()

    async def caught_up(self, model: str) -> None:
        """Wait until the state is as new as the steps that callers have seen; they come on topics of their own."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WITHIN_S):
                await self.until(model, lambda state: state.sequence >= self._sequences.get(model, 0))

    @contextmanager
    def awaiting(self, cause_id: str) -> Iterator[asyncio.Future[str]]:
        """Give, while the block runs, a future of the rollout whose step the event ``cause_id`` causes."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Several may ask with one request id; each waits as long as it likes.
        waiting = self._awaited.setdefault(cause_id, set())
        waiting.add(future)
        try:
            yield future
        finally:
            waiting.discard(future)
            if not waiting:
                self._awaited.pop(cause_id, None)

    def record(self, step: pb.RolloutStep, time: datetime, *, cause_id: str = "") -> None:
        """Fold one step in; a step that is not newer than the last of its rollout is dropped."""
        self._fold(step, time)
        self._sequences[step.model] = max(step.sequence, self._sequences.get(step.model, 0))
        for future in self._awaited.get(cause_id, ()):
            if not future.done():
                future.set_result(step.rollout_id)

    def record_retirement(self, change: pb.RetirementChanged, *, cause_id: str) -> None:
        """Keep what a command about a retirement led to; the steps of the same command were recorded before."""
        self._retirements[change.request_id] = change
        self._sequences[change.model] = max(change.sequence, self._sequences.get(change.model, 0))
        while len(self._retirements) > RETIREMENTS_MAX:
            self._retirements.popitem(last=False)
        for future in self._awaited.get(retirement_key(cause_id), ()):
            if not future.done():
                future.set_result(change.rollout_id)

    def retirement(self, request_id: str) -> pb.RetirementChanged | None:
        """Return what the request led to, or None."""
        return self._retirements.get(request_id)

    def _fold(self, step: pb.RolloutStep, time: datetime) -> None:
        known = self._rollouts.get(step.rollout_id)
        if known is not None and step.sequence <= known.last_step.sequence:
            return
        rollout = Rollout(
            rollout_id=step.rollout_id,
            model=step.model,
            last_step=step,
            create_time=known.create_time if known is not None else _timestamp(time),
            update_time=_timestamp(time),
            ended=step.phase in TERMINAL_PHASES,
        )
        self._rollouts[step.rollout_id] = rollout
        while len(self._rollouts) > ROLLOUTS_MAX:
            self._rollouts.popitem(last=False)
        self._tell(rollout)

    def get(self, rollout_id: str) -> Rollout | None:
        """Return one rollout as it stands, or None."""
        return self._rollouts.get(rollout_id)

    def newest_first(self, model: str = "") -> list[Rollout]:
        """Return the rollouts of ``model`` (or all), the one that began last first."""
        return [rollout for rollout in reversed(self._rollouts.values()) if not model or rollout.model == model]

    async def watch(self, model: str = "") -> AsyncIterator[Rollout]:
        """Yield rollouts as they move, from now on; ends when the watcher is too slow to keep up."""
        with self._subscribed() as queue:
            while (rollout := await queue.get()) is not None:
                if not model or rollout.model == model:
                    yield rollout

    def _tell(self, rollout: Rollout) -> None:
        for queue in tuple(self._watchers):
            if queue.qsize() >= WATCH_QUEUE_MAX:
                self._watchers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(rollout)

    @contextmanager
    def _subscribed(self) -> Iterator[asyncio.Queue[Rollout | None]]:
        queue: asyncio.Queue[Rollout | None] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
