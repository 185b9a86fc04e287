"""What should have happened: the same trainings, one after the other, in a world where nothing breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from faults.history import Publication, Quality

from tidegate.v1 import rollout_events_pb2 as pb


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """How it ends: the number that each training gets, each rollout's last phase, the stable version of each model."""

    numbers: dict[str, str] = field(default_factory=dict)  # event id of the training -> number; duplicates have none
    endings: dict[str, int] = field(default_factory=dict)  # model@number -> terminal phase
    stable: dict[str, str] = field(default_factory=dict)

    @property
    def live_servers(self) -> frozenset[str]:
        """The servers that run when all is done: one a model."""
        return frozenset(f"{model}@{number}" for model, number in self.stable.items())


def expected(publications: Sequence[Publication], *, rolled_back: frozenset[str] = frozenset()) -> Expected:
    """Return how ``publications`` end, in the order in which the broker has them for each model.

    All trainings of a model are equally good on paper, so each one after the first is a new PIPELINE. ``rolled_back``
    names versions (``model@number``) that were good and failed all the same, because their server was killed on trial.
    """
    numbers: dict[str, str] = {}
    endings: dict[str, int] = {}
    stable: dict[str, str] = {}
    count: dict[str, int] = {}
    for publication in publications:
        if publication.quality is Quality.AGAIN:
            continue
        place = count.get(publication.model, 0)
        count[publication.model] = place + 1
        number = f"1.0.{place}"
        reference = f"{publication.model}@{number}"
        numbers[publication.event_id] = number
        if publication.quality is Quality.GOOD and reference not in rolled_back:
            endings[reference] = pb.PHASE_PROMOTED
            stable[publication.model] = number
        else:
            endings[reference] = pb.PHASE_ROLLED_BACK
    return Expected(numbers=numbers, endings=endings, stable=stable)
