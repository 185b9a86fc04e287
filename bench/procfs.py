"""CPU time and memory of processes, as the kernel counts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

TICK_S: Final = 1.0 / os.sysconf("SC_CLK_TCK")
KIB: Final = 1024
# Fields 14 and 15 of proc(5) stat, counted after the name, which may hold spaces.
_USER_FIELD: Final = 11


def cpu_s(pid: int) -> float:
    """Return user and system seconds that the process ``pid`` has used (``/proc/<pid>/stat``, in ticks of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER_FIELD]) + int(fields[_USER_FIELD + 1])) * TICK_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Resident bytes: ``rss`` counts shared pages in full, ``pss`` divides them among those who share."""

    rss: int
    pss: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read ``/proc/<pid>/smaps_rollup``."""
        found: dict[str, int] = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * KIB
        return cls(rss=found["Rss"], pss=found["Pss"])

    def __add__(self, other: Memory) -> Memory:
        """Return the sum of two."""
        return Memory(rss=self.rss + other.rss, pss=self.pss + other.pss)
