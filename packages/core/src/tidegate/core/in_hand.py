"""Which record is in hand, remembered outside of the process: one that ends it again and again is set aside.

A small file for each topic's partition, in the service's data folder, says which offset is being handled, and how often
a process has ended with it. It is written before the handler runs and removed behind it. It is not forced to the disk:
the operating system keeps it when the process is killed, and a machine that lost its power is no record's fault.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog

from tidegate.core.errors import InvalidInput, Refused, TidegateError

# The first end may be a signal, or a machine that ran out of memory for somebody else's sake.
ENDS_MAX: Final = 2
ERROR_CHARS_MAX: Final = 1_000
# All of a batch that is handled together may be suspects.
MARKS_MAX: Final = 128
NO_WORD: Final = "the process ended without a word: killed, out of memory, or crashed"
CODE: Final = "EVENT_ENDED_PROCESS"

_STOPS: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """``ends`` processes ended while the record at ``offset`` was in hand; ``error`` is what the last one raised."""

    offset: int
    ends: int = 0
    error: str = ""

    @property
    def is_condemned(self) -> bool:
        """Whether the record has ended as many processes as it may."""
        return self.ends >= ENDS_MAX


@dataclass(frozen=True, slots=True)
class Marks:
    """What is remembered of one partition, by rising offset.

    After a crash, records that were handled before come again first: they leave the mark of a later one alone.
    """

    marks: tuple[Mark, ...] = ()

    def of(self, offset: int) -> Mark:
        """Return the mark of a record."""
        return next((mark for mark in self.marks if mark.offset == offset), Mark(offset=offset))

    def begun(self, offset: int, error: str = "") -> Marks:
        """Return what to write before a record is handled: left so, it says that the process ended (by ``error``)."""
        mark = self.of(offset)
        ended = Mark(offset=offset, ends=mark.ends + 1, error=error[:ERROR_CHARS_MAX])
        others = [one for one in self.marks if one.offset != offset]
        return Marks(tuple(sorted((*others, ended), key=lambda one: one.offset)[-MARKS_MAX:]))

    def done(self, offset: int) -> Marks:
        """Return what is left when a record is handled: what came before it is handled, too."""
        return Marks(tuple(mark for mark in self.marks if mark.offset > offset))


def marks_to_bytes(marks: Marks) -> bytes:
    """Return marks as one line; empty for none."""
    return json.dumps([asdict(mark) for mark in marks.marks]).encode() + b"\n" if marks.marks else b""


def marks_from_bytes(data: bytes) -> Marks:
    """Return the marks of the first line; what is damaged counts as none."""
    line = data.partition(b"\n")[0]
    try:
        found = json.loads(line) if line else []
        return Marks(
            tuple(Mark(offset=int(one["offset"]), ends=int(one["ends"]), error=str(one["error"])) for one in found)
        )
    except (ValueError, KeyError, TypeError):
        return Marks()


class InHand:
    """The marks of one consumer group in ``data_dir``; used in one event loop."""

    def __init__(self, data_dir: Path, group: str) -> None:
        self.group = group
        self._folder = data_dir / "in-hand" / group
        # As they were when the process began: within it, tries are not counted.
        self._marks: dict[tuple[str, int], Marks] = {}
        # Told more than once, it is one end of the process all the same.
        self._failing: dict[tuple[str, int], dict[int, str]] = {}
        self._files: dict[tuple[str, int], int] = {}
        self._is_told = False

    def check(self, place: Place) -> None:
        """Let a record pass that has not ended ENDS_MAX processes yet.

        Raises:
            InvalidInput: It has; the message says how (code EVENT_ENDED_PROCESS).

        """
        mark = self._known(place).of(place.offset)
        if mark.is_condemned:
            how = mark.error or NO_WORD
            raise InvalidInput(f"{mark.ends} processes ended with this record in hand; the last: {how}", code=CODE)

    @contextmanager
    def holding(self, place: Place) -> Iterator[None]:
        """Count an end of the process inside as the record's doing, and the record as handled behind it."""
        with self.trying(place):
            yield
        self.done(place)

    @contextmanager
    def trying(self, place: Place) -> Iterator[None]:
        """Count an end of the process inside as the record's doing; a stop, or a try that is made again, is not."""
        known = self._known(place)
        self.begin(place)
        try:
            yield
        except (*_STOPS, TidegateError):
            self._write(place, known)
            raise
        except BaseException as error:
            self.failed(place, error)
            raise
        self._write(place, known)

    def begin(self, place: Place) -> None:
        """Write that a record is in hand: left so, it says that the process ended with it."""
        self._write(place, self._known(place).begun(place.offset))

    def is_suspect(self, place: Place) -> bool:
        """Say whether a process ended with this record in hand, maybe along with others."""
        return self._known(place).of(place.offset).ends > 0

    def failed(self, place: Place, error: BaseException) -> None:
        """Note that the process ends because of ``error``; rights that we lack are no record's doing."""
        if not isinstance(error, Refused):
            failing = self._failing.setdefault((place.topic, place.partition), {})
            failing[place.offset] = f"{type(error).__name__}: {error}"
            marks = self._known(place)
            for offset, said in failing.items():
                marks = marks.begun(offset, said)
            self._write(place, marks)

    def done(self, place: Place) -> None:
        """Note that a record is handled."""
        left = self._known(place).done(place.offset)
        self._marks[place.topic, place.partition] = left
        self._write(place, left)

    def close(self) -> None:
        """Close the files; what they say stays."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _known(self, place: Place) -> Marks:
        key = (place.topic, place.partition)
        if key not in self._marks:
            self._marks[key] = marks_from_bytes(self._read(place))
            for mark in self._marks[key].marks:
                log.warning("a process ended with this record in hand", place=str(place), **asdict(mark))
        return self._marks[key]

    def _read(self, place: Place) -> bytes:
        try:
            file = self._file(place)
            return os.pread(file, os.fstat(file).st_size, 0)
        except OSError as error:
            return self._without(place, error)

    def _write(self, place: Place, marks: Marks) -> None:
        data = marks_to_bytes(marks)
        try:
            file = self._file(place)
            # Of two lines the first counts: whatever moment a kill comes, the file can be read.
            os.pwrite(file, data or b"\n", 0)
            os.ftruncate(file, len(data))
        except OSError as error:
            self._without(place, error)

    def _without(self, place: Place, error: OSError) -> bytes:
        # A full disk must not stop a rollback: then a record that ends the process is not counted.
        if not self._is_told:
            log.error("what is in hand can't be kept, so its ends are not counted", place=str(place), error=str(error))
        self._is_told = True
        return b""

    def _file(self, place: Place) -> int:
        key = (place.topic, place.partition)
        if key not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{place.topic}.{place.partition}"
            self._files[key] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._files[key]
