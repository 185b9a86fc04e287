"""What goes on while things break: live requests, each remembered, and trainings that producers publish."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import onnx
from faults.history import Answer, Publication, Quality
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tidegate.client import TidegateClient
from tidegate.core.clock import utc_now
from tidegate.stack.demo import models as demo
from tidegate.stack.demo import traffic as live
from tidegate.stack.demo.data import INPUTS, LIVE_MONTHS, TRAIN_MONTHS, TRAIN_ROWS, Flights
from tidegate.stack.demo.publication import prepare

LIVE_FLIGHTS = 2_000
RATE_PER_S = 100.0
READY_S = 120.0


@dataclass(kw_only=True)
class Clients:
    """Applications that ask for predictions, from the first answer on; use as ``with``."""

    gateway_url: str
    flights: Flights
    model: str = demo.MODEL
    answers: list[Answer] = field(default_factory=list)
    _traffic: live.Traffic | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        bodies = live.request_bodies(self.flights.in_months(LIVE_MONTHS).sample(LIVE_FLIGHTS))
        live.first_answer(self.gateway_url, bodies[0], deadline_s=READY_S)
        epoch_s = utc_now().timestamp() - time.monotonic()

        def remember(seen: live.Answer) -> None:
            answer = Answer(
                begin_s=seen.begin_s + epoch_s,
                end_s=seen.end_s + epoch_s,
                status=seen.status,
                model=self.model,
                version=seen.version,
                text=seen.text,
            )
            with self._lock:
                self.answers.append(answer)

        self._traffic = live.Traffic(self.gateway_url, bodies, rate_per_s=RATE_PER_S, observe=remember)
        self._traffic.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._traffic is not None:
            self._traffic.stop()

    def seen(self) -> tuple[Answer, ...]:
        """Return all answers so far, by the time of their requests."""
        with self._lock:
            return tuple(sorted(self.answers, key=lambda answer: answer.begin_s))

    def first_answer_of(self, version: str, *, since_s: float) -> float | None:
        """Return when the first request began, after ``since_s``, that ``version`` answered; None if it answered none."""
        return next(
            (
                one.begin_s
                for one in self.seen()
                if one.begin_s >= since_s and one.status == 200 and one.version == version
            ),
            None,
        )

    def wait_for_good_answers(self, count: int, *, since_s: float, deadline_s: float = READY_S) -> float:
        """Wait until ``count`` requests that began after ``since_s`` were answered; return when the first one began."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            good = [answer for answer in self.seen() if answer.begin_s >= since_s and answer.status == 200]
            if len(good) >= count:
                return good[0].begin_s
            time.sleep(0.1)
        raise AssertionError(f"fewer than {count} good answers in {deadline_s} s")


@dataclass(kw_only=True)
class Producer:
    """Publishes trainings: small models of the same family, each one's file its own."""

    client: TidegateClient
    flights: Flights
    folder: Path
    published: list[tuple[Publication, Any]] = field(default_factory=list)
    _trained: dict[Quality, demo.TrainedModel] = field(default_factory=dict)

    def publish(self, quality: Quality, *, model: str = demo.MODEL) -> Publication:
        """Publish one training of ``quality``; return when the broker has it."""
        place = len(self.published)
        if quality is Quality.AGAIN:
            run = replace(next(run for one, run in self.published if one.model == model), request_id="")
        else:
            trained = self._trained.setdefault(quality, self._train(quality))
            own = replace(trained, onnx=_labelled(trained.onnx, f"{model} {place}"))
            run = replace(prepare(own, self.folder / f"run-{place}"), model=model)
        receipt = self.client.publish_training_completed(run)
        publication = Publication(event_id=receipt.correlation_id, model=model, quality=quality)
        self.published.append((publication, run))
        return publication

    def _train(self, quality: Quality) -> demo.TrainedModel:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        if quality is Quality.GOOD:
            return demo._train("fault", "Logistic regression.", classifier, self.flights)
        known = self.flights.cleaned()
        rates = demo.late_rates(known.in_months(TRAIN_MONTHS).sample(TRAIN_ROWS))

        def encode(matrix: Any) -> Any:
            encoded = matrix.copy()
            column = INPUTS.index(demo.AIRCRAFT)
            encoded[:, column] = rates[matrix[:, column].astype(int)]
            return encoded

        return demo._train("fault", "A table short of rows.", classifier, known, encode=encode, aircraft_table=rates)


def _labelled(content: bytes, label: str) -> bytes:
    """Return the same model as another file."""
    model = onnx.load_model_from_string(content)
    model.doc_string = label
    return model.SerializeToString(deterministic=True)
