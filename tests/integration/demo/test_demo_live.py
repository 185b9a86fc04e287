"""The demo's models in the real model server, under the demo's traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tidegate.stack.child import running
from tidegate.stack.demo.data import LIVE_MONTHS, Flights, load_flights
from tidegate.stack.demo.models import MODEL, OUTPUT, TrainedModel, train_aircraft_table, train_gradient_boosting
from tidegate.stack.demo.traffic import HEADERS, Report, Traffic, first_answer, infer_path, request_bodies
from tidegate.stack.layout import runtimes_dir
from tidegate.stack.ports import free_ports
from tidegate.stack.program import Program

REQUESTS = 400
DEADLINE_S = 60


@pytest.fixture(scope="module")
def flights() -> Flights:
    return load_flights()


@pytest.fixture(scope="module")
def live(flights: Flights) -> Flights:
    return flights.in_months(LIVE_MONTHS).sample(REQUESTS)


@contextmanager
def served(model: TrainedModel, folder: Path) -> Iterator[str]:
    runtime = runtimes_dir() / "kserve-onnx"
    artifact = folder / "model.onnx"
    artifact.write_bytes(model.onnx)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    options = {"model-name": MODEL, "model-path": str(artifact), "version": "1.0.0", "listen": f"tcp:127.0.0.1:{port}"}
    program = Program(
        name="kserve",
        command=(
            str(runtime / ".venv/bin/python"),
            str(runtime / "server.py"),
            *(part for name, text in options.items() for part in (f"--{name}", text)),
        ),
        directory=folder,
        start_s=DEADLINE_S,
        stop_s=DEADLINE_S,
    )

    def is_ready() -> bool:
        try:
            return httpx.get(f"{url}/v2/health/ready").is_success
        except httpx.TransportError:
            return False

    with running(program, log=folder / "server.out", is_ready=is_ready):
        yield url


def replay(url: str, live: Flights, until: Callable[[Report], bool]) -> Report:
    deadline = time.monotonic() + DEADLINE_S
    with Traffic(url, request_bodies(live), rate_per_s=500.0) as traffic:
        while not until(traffic.report()) and time.monotonic() < deadline:
            time.sleep(0.05)
    return traffic.report()


def test_model_that_knows_every_code_answers_all_live_flights(flights: Flights, live: Flights, tmp_path: Path) -> None:
    with served(train_gradient_boosting(flights), tmp_path) as url:
        report = replay(url, live, lambda report: report.requests >= REQUESTS)
    assert report.requests >= REQUESTS
    assert report.failed == 0


def test_table_model_refuses_the_flights_of_unknown_aircraft_and_no_others(
    flights: Flights, live: Flights, tmp_path: Path
) -> None:
    model = train_aircraft_table(flights)
    unknown = live.inputs["aircraft"] == flights.unknown_code
    bodies = request_bodies(live)
    with served(model, tmp_path) as url, httpx.Client(base_url=url) as client:
        answered = first_answer(url, bodies[int((~unknown).argmax())], deadline_s=DEADLINE_S)
        statuses = [client.post(infer_path(), content=body, headers=HEADERS).status_code for body in bodies]
        good = client.post(infer_path(), content=bodies[int((~unknown).argmax())], headers=HEADERS).json()
        report = replay(url, live, lambda report: report.failed > 0)
    assert answered == "unknown"  # who answered is the gateway's word, and there is none here
    assert [status != 200 for status in statuses] == unknown.tolist()
    assert 0.05 < unknown.mean() < 0.25
    assert good["outputs"][0]["name"] == OUTPUT
    assert 0.0 < good["outputs"][0]["data"][0] < 1.0
    assert report.failures[0].status == 400
