from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tidegate.client import evaluation_digest, load_settings
from tidegate.core.errors import InvalidInput


def write_stack(folder: Path, **env: str) -> Path:
    path = folder / ".tidegate" / "stack.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"env": env}))
    return path


def test_stack_is_found_in_a_folder_above(tmp_path: Path) -> None:
    path = write_stack(
        tmp_path, TIDEGATE_KAFKA_BOOTSTRAP="127.0.0.1:7400", TIDEGATE_GATEWAY_URL="http://127.0.0.1:7403/"
    )
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings = load_settings(environ={}, start=below)
    assert settings.kafka.bootstrap == "127.0.0.1:7400"
    assert settings.gateway_url == "http://127.0.0.1:7403"
    assert settings.source == str(path)


def test_environment_wins_over_the_stack(tmp_path: Path) -> None:
    write_stack(tmp_path, TIDEGATE_REGISTRY_ADDRESS="127.0.0.1:7404", TIDEGATE_S3_SECRET_KEY="of-the-stack")
    environ = {"TIDEGATE_REGISTRY_ADDRESS": "registry:9000"}
    settings = load_settings(environ=environ, start=tmp_path)
    assert settings.registry_address == "registry:9000"
    assert settings.object_store.secret_key.get_secret_value() == "of-the-stack"


def test_without_a_stack_the_environment_is_enough(tmp_path: Path) -> None:
    settings = load_settings(environ={"TIDEGATE_KAFKA_TOPIC_PREFIX": "dev"}, start=tmp_path)
    assert (settings.kafka.topic_prefix, settings.source) == ("dev", "the environment")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"env": 1}'])
def test_damaged_stack_file_is_refused(tmp_path: Path, text: str) -> None:
    path = write_stack(tmp_path)
    path.write_text(text)
    with pytest.raises(InvalidInput) as raised:
        load_settings(environ={}, start=tmp_path)
    assert raised.value.code == "STACK_UNREADABLE"


def test_evaluation_digest_ignores_scores_and_the_order_of_columns(tmp_path: Path) -> None:
    def written(name: str, **columns: list[float]) -> Path:
        parquet.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    one = evaluation_digest(written("one", x=[1.0, 2.0], label=[0.0, 1.0], score=[0.1, 0.2]))
    other_scores = evaluation_digest(written("two", score=[0.9, 0.8], label=[0.0, 1.0], x=[1.0, 2.0]))
    other_label = evaluation_digest(written("three", x=[1.0, 2.0], label=[1.0, 1.0], score=[0.1, 0.2]))
    assert one == other_scores
    assert one != other_label


def test_evaluation_digest_takes_vectors_and_all_that_parquet_holds(tmp_path: Path) -> None:
    import datetime as dt

    import pyarrow as pa
    import pyarrow.parquet as pq

    def digest(**columns: object) -> str:
        path = tmp_path / "evaluation.parquet"
        pq.write_table(pa.table(columns), path)
        return evaluation_digest(path)

    one = digest(X=[[1.0, 2.0], [3.0, float("nan")]], label=[0, 1], score=[[0.1, 0.9], [0.5, 0.5]])
    assert one == digest(X=[[1.0, 2.0], [3.0, float("nan")]], label=[0, 1])
    assert one != digest(X=[[1.0, 2.0], [3.0, 4.0]], label=[0, 1])
    odd = {
        "fixed": pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
        "nested": [[[1], [2, 3]]],
        "records": [{"b": b"\xff", "a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}],
        "category": pa.array(["a"]).dictionary_encode(),
        "bytes": [b"a"],
        "nothing": [None],
        "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(__import__("numpy").zeros((1, 2, 2))),
    }
    assert digest(**odd) == digest(**dict(reversed(odd.items())))
