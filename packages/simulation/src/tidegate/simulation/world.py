"""The world: one clock, one queue of events, one random generator. Nothing here knows what Tidegate is."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from tidegate.simulation.invariants import Invariant

START_S: Final = 1_000_000.0
EVENTS_MAX: Final = 200_000

Action = Callable[[], None]


class Broken(AssertionError):  # noqa: N818  (it names what happened)
    """An invariant does not hold; ``invariant`` is its name."""

    def __init__(self, invariant: Invariant, told: str) -> None:
        super().__init__(f"{invariant}: {told}")
        self.invariant = invariant


class World:
    """What happens next, and what has happened; ``lines`` is the transcript, or None to save its cost."""

    def __init__(self, seed: int, *, is_told: bool) -> None:
        self.seed = seed
        self.rng = random.Random(seed)  # noqa: S311  (chance that must come again)
        self.now_s = START_S
        self.lines: list[str] | None = [] if is_told else None
        self.coverage: Counter[str] = Counter()
        self.steps = 0
        self._queue: list[tuple[float, int, Action]] = []
        self._ties = itertools.count()

    def later(self, delay_s: float, action: Action) -> None:
        """Let ``action`` happen after ``delay_s``."""
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._ties), action))

    def step(self) -> None:
        """Let the next thing happen."""
        time_s, _, action = heapq.heappop(self._queue)
        self.now_s = max(self.now_s, time_s)
        self.steps += 1
        if self.steps > EVENTS_MAX:
            raise Broken(Invariant.COMES_TO_REST, f"{EVENTS_MAX} events happened")
        action()

    def say(self, who: str, text: str, *values: object) -> None:
        """Write one line of the transcript: simulated seconds, who, what."""
        if self.lines is not None:
            told = text % values if values else text
            self.lines.append(f"{self.now_s - START_S:9.3f}  {who:<11} {told}")

    def count(self, what: str) -> None:
        """Count something interesting, ``group: name``."""
        self.coverage[what] += 1

    def chance(self, probability: float) -> bool:
        """Say yes with ``probability``."""
        return self.rng.random() < probability

    def between(self, low: float, high: float) -> float:
        """Return a number between ``low`` and ``high``."""
        return low + (high - low) * self.rng.random()

    def time(self) -> datetime:
        """Return the time as a date."""
        return datetime.fromtimestamp(self.now_s, tz=UTC)


class Process:
    """Something that can crash, be paused (its timers run late, nobody tells it), and be started again.

    What it schedules is forgotten when it crashes. ``skew_s`` is how far its clock is off.
    """

    restart_s: tuple[float, float] = (1.0, 5.0)

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_alive = False
        self.incarnation = 0
        self.paused_until_s = 0.0
        self.cut_until_s = 0.0
        self.down_until_s = 0.0
        self.skew_s = 0.0

    def later(self, delay_s: float, action: Action) -> None:
        """Let ``action`` happen in this process after ``delay_s``, unless it crashes before."""
        incarnation = self.incarnation

        def run() -> None:
            if not self.is_alive or self.incarnation != incarnation:
                return
            if self.is_paused:
                # What piled up happens in any order when the process runs again.
                self.world.later(self.paused_until_s - self.world.now_s + self.world.between(0.0, 0.01), run)
            else:
                action()

        self.world.later(delay_s, run)

    def every(self, period_s: float, action: Action) -> None:
        """Let ``action`` happen again and again."""

        def again() -> None:
            action()
            self.later(period_s, again)

        self.later(period_s * self.world.rng.random(), again)

    @property
    def is_paused(self) -> bool:
        """Say whether it stands still just now."""
        return self.world.now_s < self.paused_until_s

    @property
    def is_cut(self) -> bool:
        """Say whether it can't reach its neighbours just now."""
        return self.world.now_s < self.cut_until_s

    def clock_s(self) -> float:
        """Return the time by its own clock."""
        return self.world.now_s + self.skew_s

    def say(self, text: str, *values: object) -> None:
        """Write one line of the transcript."""
        self.world.say(self.name, text, *values)

    def start(self) -> None:
        """Start, with nothing in memory."""
        if self.is_alive:
            return
        if self.world.now_s < self.down_until_s:
            self.world.later(self.down_until_s - self.world.now_s, self.start)
            return
        self.is_alive = True
        self.incarnation += 1
        self.say("starts")
        self.on_start()

    def crash(self, why: str) -> None:
        """End at once; the supervisor starts it again."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.incarnation += 1
        self.paused_until_s = 0.0
        self.say("ends: %s", why)
        self.on_crash()
        self.world.later(self.world.between(*self.restart_s), self.start)

    def on_start(self) -> None:
        """Begin from what is stored."""

    def on_crash(self) -> None:
        """Let others see that it is gone."""
