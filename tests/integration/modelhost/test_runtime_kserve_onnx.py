# ruff: noqa: ASYNC240  (a server starts at once; files of a test are small)
"""The shipped runtime answers by the Open Inference Protocol, or says what is wrong."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest


def body(name: str, datatype: str, shape: list[int], data: list[object], **more: object) -> dict[str, object]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}


async def infer(client: httpx.AsyncClient, request: dict[str, object], path: str = "") -> tuple[int, str]:
    answer = await client.post(f"/v2/models/a.model{path}/infer", json=request)
    document = answer.json()
    return answer.status_code, document["error"] if "error" in document else document["outputs"][0]["data"]


async def test_metadata_versions_health_and_nothing_else(serving):
    async with serving("twice") as client:
        metadata = (await client.get("/v2/models/a.model")).json()
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
        assert metadata["versions"] == ["1.2.3"]
        assert (await client.get("/v2/models/a.model/versions/1.2.3")).json() == metadata
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/a.model/ready", "/v2", "/metrics"):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/v1/models", "/v2/models/other", "/v2/models/a.model/versions/2", "/openapi.json", "/"):
            assert (await client.get(path)).status_code == 404, path
        assert (await client.post("/v2/repository/models/a.model/unload")).status_code == 404
        # One socket, no port.
        listening = psutil.Process(int(client.headers["x-pid"])).net_connections("inet")
        assert listening == []


async def test_an_inference_needs_no_id_and_keeps_one(serving):
    async with serving("twice") as client:
        request = body("x", "FP32", [1, 2], [1, 2.5])
        for path in ("", "/versions/1.2.3", "/versions/1"):
            assert await infer(client, request, path) == (200, [2.0, 5.0])
        first = (await client.post("/v2/models/a.model/infer", json=request)).json()
        assert first["id"]
        assert first["model_version"] == "1.2.3"
        named = (await client.post("/v2/models/a.model/infer", json={**request, "id": "7"})).json()
        assert named["id"] == "7"
        assert await infer(client, body("x", "FP32", [2, 2], [[1, 2], [3, 4]], outputs=[{"name": "y"}])) == (
            200,
            [2.0, 4.0, 6.0, 8.0],
        )
        assert await infer(client, body("x", "FP32", [0, 2], [])) == (200, [])


@pytest.fixture(scope="module")
def wrong_requests():
    return {
        "datatype FP64, expected FP32": body("x", "FP64", [1, 2], [1, 2]),
        "datatype INT32, expected FP32": body("x", "INT32", [1, 2], [1, 2]),
        "shape [1, 3], expected [-1, 2]": body("x", "FP32", [1, 3], [1, 2, 3]),
        "shape [2], expected [-1, 2]": body("x", "FP32", [2], [1, 2]),
        "shape [-1, 2], expected": body("x", "FP32", [-1, 2], [1, 2]),
        "has 1 values, expected 2": body("x", "FP32", [1, 2], [1]),
        "expected each of ['x'] once": {"inputs": []},
        "inputs are ['x', 'x']": {"inputs": body("x", "FP32", [1, 2], [1, 2])["inputs"] * 2},
        "inputs are ['z']": body("z", "FP32", [1, 2], [1, 2]),
        "output 'z' is unknown": body("x", "FP32", [1, 2], [1, 2], outputs=[{"name": "z"}]),
        "kind <U1": body("x", "FP32", [1, 2], ["1", "2"]),
        "kind object": body("x", "FP32", [1, 2], [1, None]),
        "kind bool": body("x", "FP32", [1, 2], [True, False]),
        "do not fit": body("x", "FP32", [1, 2], [[1], [2, 3]]),
        "no inference request": {"inputs": [{"name": "x"}]},
    }


async def test_a_wrong_request_is_answered_with_400_and_what_was_expected(serving, wrong_requests):
    async with serving("twice") as client:
        for expected, request in wrong_requests.items():
            status, text = await infer(client, request)
            assert (status, expected in text) == (400, True), (expected, status, text)
        answer = await client.post(
            "/v2/models/a.model/infer", content=b"{", headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400


async def test_a_legal_request_that_the_model_cannot_compute_is_an_error_and_the_server_lives(serving):
    async with serving("gather") as client:
        status, text = await infer(client, body("i", "INT64", [1], [99]))
        assert (status, "out of data bounds" in text) == (400, True)
        assert (await infer(client, body("i", "INT64", [1], [1.5])))[0] == 400
        assert (await infer(client, body("i", "INT64", [1], [2**70])))[0] == 400
        assert await infer(client, body("i", "INT64", [2], [0, 2])) == (200, [1.0, 3.0])


async def test_an_answer_that_is_not_finite_is_an_error_and_no_null(serving):
    async with serving("log") as client:
        for value in (-1.0, 0.0):
            status, text = await infer(client, body("x", "FP32", [1], [value]))
            assert (status, text.startswith("OUTPUT_NOT_FINITE")) == (500, True)
        assert await infer(client, body("x", "FP32", [1], [1.0])) == (200, [0.0])


async def test_strings_go_in_and_out(serving):
    async with serving("text") as client:
        assert await infer(client, body("s", "BYTES", [2], ["Gezeiten", "潮"])) == (200, ["Gezeiten", "潮"])
        status, text = await infer(client, body("s", "BYTES", [2], ["a", 3]))
        assert (status, "not all strings" in text) == (400, True)


async def test_a_model_that_does_not_load_ends_the_server_with_the_cause_in_one_line(runtime_dir, models, tmp_path):
    path: Path = tmp_path / "model.onnx"
    line = [runtime_dir / ".venv/bin/python", runtime_dir / "server.py", "--model-name", "m", "--model-path", path]
    line += ["--version", "1.0.0", "--listen", f"unix:{tmp_path / 's'}"]
    # No folder of locales has any, so that the system's are not found either.
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LOCPATH": str(tmp_path / "absent")}
    for content, expected in (
        (b"no model", "Protobuf parsing failed"),
        (models.lower, "install the locale en_US.UTF-8"),
    ):
        path.write_bytes(content)
        finished = await asyncio.to_thread(
            subprocess.run, [str(part) for part in line], capture_output=True, check=False, env=environment, text=True
        )
        assert finished.returncode == 1
        (told,) = [text for text in finished.stderr.splitlines() if text]
        assert expected in told
        assert told.startswith(("install the locale", "the model does not load"))
