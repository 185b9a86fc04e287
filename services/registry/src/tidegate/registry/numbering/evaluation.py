"""Two evaluations as values: the paired numbers of their scores on the same examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tidegate.registry.numbering.comparison import PairedNumbers, is_binary, paired_numbers
from tidegate.registry.numbering.versioning import Comparison

SLICES_MAX: Final = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The columns that a comparison needs; ``scores`` is None if the producer gave none."""

    digest: str
    labels: NDArray[Any]
    scores: NDArray[Any] | None
    example_ids: NDArray[Any] | None
    slices: dict[str, NDArray[Any]]


def compare(candidate: Evaluation, baseline: Evaluation, *, metric: str) -> Comparison:
    """Return the paired numbers of both evaluations, overall and for each slice, or why there are none."""
    known = Comparison(candidate_evaluation_digest=candidate.digest, baseline_evaluation_digest=baseline.digest)
    pairs = _pair(candidate, baseline)
    if isinstance(pairs, str):
        return replace(known, unknown_because=pairs)
    of_candidate, of_baseline = pairs
    labels = candidate.labels[of_candidate]
    scores, other_scores = _taken(candidate.scores, of_candidate), _taken(baseline.scores, of_baseline)
    fault = _score_fault(labels, scores, metric) or _score_fault(labels, other_scores, metric)
    if fault or scores is None or other_scores is None:
        return replace(known, unknown_because=fault)
    slices: list[PairedNumbers] = []
    for column, values in candidate.slices.items():
        kinds, where = np.unique(values[of_candidate], return_inverse=True)
        if len(kinds) > SLICES_MAX:
            return replace(known, unknown_because=f"column {column} has more than {SLICES_MAX} slices")
        for index, kind in enumerate(kinds):
            rows = where == index
            of_slice = {"labels": labels[rows], "candidate": scores[rows], "baseline": other_scores[rows]}
            slices.append(paired_numbers(metric, **of_slice, slice_name=f"{column}={kind}"))
    overall = paired_numbers(metric, labels=labels, candidate=scores, baseline=other_scores)
    return replace(known, overall=overall, slices=tuple(slices))


def _taken(values: NDArray[Any] | None, rows: NDArray[Any]) -> NDArray[Any] | None:
    return None if values is None else values[rows]


def _score_fault(labels: NDArray[Any], scores: NDArray[Any] | None, metric: str) -> str:
    if scores is None:
        return "an evaluation has no column score"
    if scores.dtype.kind == "f" and not np.isfinite(scores).all():
        return "a score is missing or not finite"
    if metric == "roc_auc" and not is_binary(labels):
        return "roc_auc needs labels 0 and 1"
    if metric == "roc_auc" and scores.dtype.kind not in "biuf":
        return "roc_auc needs scores that are numbers"
    return ""


def _pair(candidate: Evaluation, baseline: Evaluation) -> tuple[NDArray[Any], NDArray[Any]] | str:
    """Return the rows of both that belong together, in order, or why they do not."""
    if len(candidate.labels) != len(baseline.labels):
        return f"the evaluations have {len(candidate.labels)} and {len(baseline.labels)} examples"
    rows = np.arange(len(candidate.labels))
    of_candidate, of_baseline = rows, rows
    ids, other_ids = candidate.example_ids, baseline.example_ids
    if ids is not None and other_ids is not None:
        if len(np.unique(ids)) != len(ids) or not np.array_equal(np.sort(ids), np.sort(other_ids)):
            return "the evaluations have other example_ids, or the same one twice"
        of_candidate, of_baseline = np.argsort(ids, kind="stable"), np.argsort(other_ids, kind="stable")
    if not np.array_equal(candidate.labels[of_candidate], baseline.labels[of_baseline]):
        return "the evaluations have other labels"
    return of_candidate, of_baseline
