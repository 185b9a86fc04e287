"""The drill: database and artifacts are destroyed under live traffic, and brought back; no request fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate.client.settings import load_settings
from tidegate.contracts.names import format_version
from tidegate.core.object_store import parse_s3_uri
from tidegate.stack.demo.models import MODEL, train_gradient_boosting, train_logistic_regression
from tidegate.stack.demo.publication import prepare
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(900)

POLICY = """
model: flight-delay
rollout:
  on_minor: {strategy: canary, steps: [0.3, 1.0], bake_s: 1}
  on_pipeline: {strategy: canary, steps: [0.3, 1.0], bake_s: 1}
  settle_s: 2
guards:
  items:
    - {metric: error_rate, margin: 0.05, floor: 0.2}
    - {metric: latency_ms, quantile: 0.9, ratio: 20, ceiling: 5000}
"""
LATE_S = 240.0


def tidegate(world, *words) -> subprocess.CompletedProcess[str]:
    """Run a command as an operator does."""
    return subprocess.run(
        [Path(sys.executable).with_name("tidegate"), "--stack", str(world.folder / "stack"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def store_of(world):
    from minio import Minio

    settings = load_settings(environ={}, stack=world.folder / "stack").object_store
    return Minio(
        settings.endpoint,
        access_key=settings.access_key.get_secret_value(),
        secret_key=settings.secret_key.get_secret_value(),
        secure=False,
        region="us-east-1",
    )


def destroy_everything_kept(world) -> None:
    for path in (world.folder / "stack" / "registry").glob("registry.sqlite3*"):
        path.unlink()
    store = store_of(world)
    for bucket in store.list_buckets():
        for one in store.list_objects(bucket_name=bucket.name, recursive=True):
            store.remove_object(bucket_name=bucket.name, object_name=one.object_name)
        store.remove_bucket(bucket_name=bucket.name)
    assert store.list_buckets() == []


def artifact_of(world, reference: str) -> bytes:
    registered = world.client.get_version(reference).registered
    bucket, key = parse_s3_uri(registered.artifact.uri)
    answer = store_of(world).get_object(bucket_name=bucket, object_name=key)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def no_longer_candidate(world, version: str) -> None:
    """Wait until the registry has followed the rollout of ``version`` to its end."""
    world.log.wait_for(
        f"{version} no longer candidate",
        lambda event: (
            event.type == "AliasMoved"
            and event.message.alias == "candidate"
            and not event.message.HasField("version")
            and format_version(event.message.previous_version) == version
        ),
    )


def moves_of(world, alias: str) -> list[str]:
    """Return where an alias moved, in order; empty = it was removed."""
    moves = [move for move in world.log.of_type("AliasMoved", MODEL) if move.alias == alias]
    return [format_version(move.version) if move.HasField("version") else "" for move in moves]


def test_all_that_was_kept_is_destroyed_and_comes_back(world, flights):
    folder = world.folder / "backups"
    first, second = train_logistic_regression(flights), train_gradient_boosting(flights)
    world.policy(POLICY)
    assert world.publishes(first) == "1.0.0"
    world.reaches("1.0.0", pb.PHASE_PROMOTED, deadline_s=LATE_S)
    with world.live_traffic():
        made = tidegate(world, "backup", folder)
        assert made.returncode == 0, made.stderr
        assert world.publishes(second) == "1.1.0"
        world.reaches("1.1.0", pb.PHASE_PROMOTED, deadline_s=LATE_S)
        no_longer_candidate(world, "1.1.0")

        destroy_everything_kept(world)
        done = tidegate(world, "restore", folder, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["learnt"] == [f"{MODEL}@1.1.0"]
        assert set(told["missing"].values()) == {f"{MODEL}@1.1.0"}

        # Lookups, downloads and aliases are right; the version after the backup is there.
        assert world.stable() == "1.1.0"
        assert [each.alias for each in world.client.get_model(MODEL).aliases] == ["stable"]
        assert artifact_of(world, f"{MODEL}@1.0.0") == first.onnx
        versions = {format_version(one.registered.version) for one in world.client.list_versions(MODEL)}
        assert versions == {"1.0.0", "1.1.0"}
        audit = tidegate(world, "audit")
        assert audit.returncode == 1
        assert f"{MODEL}@1.1.0" in audit.stdout

        # What was lost after the backup is mended by publishing it again, under its old number.
        receipt = world.client.publish_training_completed(prepare(second, world.folder / "again"))
        answer = world.client.wait_for_registration(receipt, timeout_s=LATE_S)
        assert (answer.type, format_version(answer.message.version)) == ("RegistrationDuplicate", "1.1.0")
        assert artifact_of(world, f"{MODEL}@1.1.0") == second.onnx
        assert tidegate(world, "audit").returncode == 0
        # The next number is a new one, and is delivered.
        assert world.publishes(replace(second, name="gradient boosting, again")) == "1.1.1"
        world.reaches("1.1.1", pb.PHASE_PROMOTED, deadline_s=LATE_S)
        no_longer_candidate(world, "1.1.1")
        world.no_request_failed()
    # Each rollout moved the aliases once: steps that were read again after the restore moved nothing.
    assert moves_of(world, "stable") == ["1.0.0", "1.1.0", "1.1.1"]
    assert moves_of(world, "candidate") == ["1.0.0", "", "1.1.0", "", "1.1.1", ""]
    registered = [format_version(one.version) for one in world.log.of_type("ModelRegistered", MODEL)]
    assert registered == ["1.0.0", "1.1.0", "1.1.1"]
