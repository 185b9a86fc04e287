"""All that reads the bus reads what is committed: every consumer in the source is found, and how it is made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import faust

from tidegate.core.settings import KafkaSettings
from tidegate.core.streams import create_app

ROOT = Path(__file__).parents[2]
FOLDERS = ("packages", "services", "bench", "deploy", "tools", "runtimes")
MAKER = ROOT / "packages/core/src/tidegate/core/kafka_consumer.py"
APPS = ROOT / "packages/core/src/tidegate/core/streams.py"
CONSUMERS = {"AIOKafkaConsumer", "KafkaConsumer"}
OURS = ("packages", "services")


def calls(names: set[str]) -> Iterator[tuple[Path, ast.Call]]:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if ".venv" in path.parts or not path.is_file():
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _name(node.func) in names:
                    yield path, node


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name():
            return function.id
        case ast.Attribute():
            return function.attr
    return ""


def test_every_consumer_reads_what_is_committed():
    found = list(calls(CONSUMERS))
    assert found
    for path, call in found:
        level = next((one.value for one in call.keywords if one.arg == "isolation_level"), None)
        said = getattr(level, "value", None) == "read_committed" or getattr(level, "id", None) == "READ_COMMITTED"
        assert said, f"{path}:{call.lineno} reads what may be aborted"


def test_services_have_their_consumers_made_in_one_place():
    """Elsewhere nothing is passed over that can't be decoded."""
    elsewhere = [
        path for path, _ in calls({"AIOKafkaConsumer"}) if path != MAKER and path.relative_to(ROOT).parts[0] in OURS
    ]
    assert elsewhere == []


def test_every_faust_app_is_made_in_one_place():
    assert {path for path, _ in calls({"App"})} == {APPS}


async def test_a_faust_app_reads_what_is_committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = create_app("tidegate.group", KafkaSettings())
    assert app.conf.processing_guarantee is faust.types.enums.ProcessingGuarantee.AT_LEAST_ONCE
    thread = app._new_consumer()._new_consumer_thread()
    assert thread._create_worker_consumer(app.transport)._isolation_level == "read_committed"
