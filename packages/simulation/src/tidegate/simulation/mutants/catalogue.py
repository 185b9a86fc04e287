"""All planted faults."""

from __future__ import annotations

from typing import Final

from tidegate.simulation.mutants import deployer, monitor, shells
from tidegate.simulation.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (*deployer.MUTANTS, *monitor.MUTANTS, *shells.MUTANTS)
