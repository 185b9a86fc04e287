"""Backup, destruction, restore: no number comes twice, nothing that was acknowledged is lost, and rubbish is refused."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest
from registrations import MODEL, event, publish, training

from tidegate.contracts.names import format_version, parse_version
from tidegate.core.bus import create_topics
from tidegate.core.errors import Unavailable
from tidegate.registry.backup import operations
from tidegate.v1 import registry_service_pb2 as api
from tidegate.v1.events_pb2 import ModelBlessed
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.rollout_events_pb2 import Phase, RolloutStep

PARENT = f"models/{MODEL}"
COMMAND_S = 300

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    error: str

    @property
    def document(self):
        assert self.code == 0, self.error
        # Called in the test's own process, log lines may stand before it.
        return json.loads(self.out[self.out.index("{\n") :])


async def command(site, *arguments, environment=None, limit_kib=0) -> Outcome:
    """Run a command of the operator; in a process of its own where it must be limited, or is the registry itself."""
    variables = site.environment | (environment or {})
    words = [str(argument) for argument in arguments]
    if words and not limit_kib:
        return await asyncio.to_thread(_called, words, variables)
    limit = ["bash", "-c", f'ulimit -f {limit_kib}; exec "$@"', "limited"] if limit_kib else []

    def run():
        return subprocess.run(
            [*limit, sys.executable, "-m", "tidegate.registry", *words],
            env=variables,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    done = await asyncio.to_thread(run)
    return Outcome(done.returncode, done.stdout, done.stderr)


def _called(words, variables) -> Outcome:
    out, error = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, variables), redirect_stdout(out), redirect_stderr(error):
        code = operations.run(words)
    return Outcome(code, out.getvalue(), error.getvalue())


async def register(site, name: str, **changes):
    request = api.RegisterVersionRequest(training=training(site, name, **changes))
    return (await site.stub.RegisterVersion(request)).version


async def step(site, phase, candidate: str, sequence: int, stable: str = ""):
    message = RolloutStep(
        rollout_id=f"r-{candidate}", model=MODEL, sequence=sequence, candidate=parse_version(candidate), phase=phase
    )
    if stable:
        message.stable.CopyFrom(parse_version(stable))
    await site.producer.publish(event(message, source="tidegate/deployer", sequence=sequence))


async def aliases(site) -> dict[str, str]:
    model = (await site.stub.GetModel(api.GetModelRequest(name=PARENT))).model
    return {one.alias: format_version(one.version) for one in model.aliases}


async def all_versions(site):
    found, token = [], ""
    while True:
        page = await site.stub.ListVersions(api.ListVersionsRequest(parent=PARENT, page_token=token))
        found += page.versions
        token = page.next_page_token
        if not token:
            return {one.name: one for one in found}


def destroy_database(site) -> None:
    for path in site.data_dir.glob("registry.sqlite3*"):
        path.unlink()


def destroy_objects(site) -> None:
    for key in site.stored(""):
        site.objects.remove_object(bucket_name=site.s3.bucket, object_name=key)


def download(site, uri: str) -> bytes:
    key = uri.removeprefix(f"s3://{site.s3.bucket}/")
    answer = site.objects.get_object(bucket_name=site.s3.bucket, object_name=key)
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


async def seen(site, event_type: str, version: str) -> None:
    def told():
        return any(
            one.type == event_type and format_version(one.message.version) == version for one in list(site.events)
        )

    await site.until(told, what=f"{event_type} of {version}")


async def test_what_came_after_the_backup_is_learnt_from_the_topics(site, tmp_path):
    folder = tmp_path / "backups"
    await site.start()
    first = await register(site, "one")
    await site.stub.ApplyPolicy(api.ApplyPolicyRequest(policy=Policy(model=MODEL), request_id="p-1"))
    await step(site, Phase.PHASE_STARTING, "1.0.0", 1)
    await step(site, Phase.PHASE_PROMOTED, "1.0.0", 2)
    await site.until(lambda: _is(aliases(site), {"stable": "1.0.0"}), what="a stable version")

    # A backup, while registrations go on.
    going_on = [asyncio.create_task(register(site, f"meanwhile {number}")) for number in range(6)]
    made = (await command(site, "backup", folder, "--json")).document
    await asyncio.gather(*going_on)
    assert 1 <= made["counts"]["versions"] <= 7
    sums = await asyncio.to_thread(
        subprocess.run,
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"],
        cwd=folder / "backups" / made["name"],
        check=False,
    )
    assert sums.returncode == 0

    # After it: a version, its rollout and verdict, an alias of people, another policy, a training by the topic.
    later = await register(site, "later", request_id="run-later")
    number = later.name.rpartition("/")[2]
    blessed = ModelBlessed(model=MODEL, version=parse_version(number))
    await site.producer.publish(event(blessed, source="tidegate/validator", sequence=9))
    phases = ("STEPPING", "STEPPING", "SETTLING", "HOLDING", "SETTLING", "PROMOTED")
    for sequence, phase in enumerate(phases, start=3):
        await step(site, Phase.Value(f"PHASE_{phase}"), number, sequence, "1.0.0")
    alias = api.SetAliasRequest(parent=PARENT, alias="golden", version=parse_version("1.0.0"), request_id="a-1")
    await site.stub.SetAlias(alias)
    policy = Policy(model=MODEL)
    policy.registration.required.append("owner")
    await site.stub.ApplyPolicy(api.ApplyPolicyRequest(policy=policy, request_id="p-2"))
    by_topic = await publish(site, training(site, "by topic"))
    wanted = {"stable": number, "golden": "1.0.0"}
    await site.until(lambda: _is(aliases(site), wanted), what="the later version stable")
    before = await all_versions(site)
    files = {one: download(site, version.registered.artifact.uri) for one, version in before.items()}
    policy_before = await site.stub.GetPolicy(api.GetPolicyRequest(name=PARENT))
    told_before = len(site.events)
    await site.stop(signal.SIGKILL)

    destroy_database(site)
    destroy_objects(site)
    done = (await command(site, "restore", folder, "--json")).document
    assert f"{MODEL}@{number}" in done["learnt"]
    assert done["versions"] == len(before)
    # The later artifacts died with the store, and it says so.
    lost = {key.rpartition("/")[2] for key in done["missing"] if key.startswith("artifacts/")}
    assert hashlib.sha256(files[later.name]).hexdigest() in lost
    assert hashlib.sha256(files[first.name]).hexdigest() not in lost
    audit = await command(site, "audit")
    assert audit.code == 1
    assert f"{MODEL}@{number}" in audit.out

    await site.start()
    after = await all_versions(site)
    assert set(after) == set(before)
    for name, version in before.items():
        assert after[name].registered == version.registered
    assert download(site, first.registered.artifact.uri) == files[first.name]
    await site.until(lambda: _is(aliases(site), wanted), what="the aliases")
    await site.until(lambda: _is(_validation(site, number), "blessed"), what="the verdict, read again")
    assert (await site.stub.GetPolicy(api.GetPolicyRequest(name=PARENT))).policy == policy_before.policy

    # The same request gets the same version, and the next number is a new one.
    again = api.RegisterVersionRequest(training=training(site, "later", request_id="run-later"))
    answer = await site.stub.RegisterVersion(again)
    assert (answer.version.name, answer.duplicate) == (later.name, True)
    assert download(site, later.registered.artifact.uri) == files[later.name]  # publishing it again mended it
    fresh = await register(site, "after the restore")
    assert fresh.name not in before
    assert fresh.registered.sequence > max(version.registered.sequence for version in before.values())
    await seen(site, "ModelRegistered", fresh.name.rpartition("/")[2])
    # Nothing was told again but what is new: the bus has no version twice.
    registered = [format_version(one.message.version) for one in site.events if one.type == "ModelRegistered"]
    assert sorted(registered) == sorted(set(registered))
    assert format_version(by_topic.message.version) in registered
    assert {one.type for one in site.events[told_before:]} <= {"ModelRegistered", "RegistrationDuplicate"}
    # Nor did a step that was read again move anything: the first move is that of the next rollout.
    await step(site, Phase.PHASE_STARTING, fresh.name.rpartition("/")[2], 9, number)
    wanted |= {"candidate": fresh.name.rpartition("/")[2]}
    await site.until(lambda: _is(aliases(site), wanted), what="the next candidate")
    (moved,) = await site.until(
        lambda: [one for one in site.events[told_before:] if one.type == "AliasMoved"], what="its alias moved"
    )
    assert format_version(moved.message.version) == wanted["candidate"]


async def test_without_any_backup_the_topics_bring_the_rows_back(site):
    await site.start()
    for name in ("one", "two", "three"):
        await register(site, name)
    await step(site, Phase.PHASE_PROMOTED, "1.0.1", 1)
    await site.until(lambda: _is(aliases(site), {"stable": "1.0.1"}), what="a stable version")
    before = await all_versions(site)
    await site.stop(signal.SIGKILL)
    destroy_database(site)
    await site.start()
    after = await all_versions(site)
    assert {name: one.registered for name, one in after.items()} == {
        name: one.registered for name, one in before.items()
    }
    assert await aliases(site) == {"stable": "1.0.1"}
    assert (await register(site, "four")).name == f"{PARENT}/versions/1.0.3"
    assert (await register(site, "two")).name == f"{PARENT}/versions/1.0.1"


async def test_no_write_is_taken_before_the_registry_has_caught_up(site):
    await site.start()
    await register(site, "one")
    await site.stop(signal.SIGKILL)
    destroy_database(site)
    # Without a bus it can't know which numbers were given.
    closed = site.environment | {"TIDEGATE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidegate.registry", env=closed, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        request = api.RegisterVersionRequest(training=training(site, "two"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await site.stub.RegisterVersion(request, wait_for_ready=True, timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "caught up" in caught.value.details()
        assert list((await site.stub.ListModels(api.ListModelsRequest())).models) == []
    finally:
        process.kill()
        await process.wait()


async def test_a_new_bus_goes_on_and_hears_of_the_stable_version_if_asked(site, tmp_path):
    folder = tmp_path / "backups"
    await site.start()
    await register(site, "one")
    await register(site, "two")
    for sequence, phase in enumerate((Phase.PHASE_STARTING, Phase.PHASE_PROMOTED), start=40):
        await step(site, phase, "1.0.1", sequence)
    await site.until(lambda: _is(aliases(site), {"stable": "1.0.1"}), what="a stable version")
    assert (await command(site, "backup", folder)).code == 0
    await site.stop()
    destroy_database(site)
    # The bus of the backup knows them: there is nothing to announce, and nothing is begun.
    refused = await command(site, "restore", folder, "--announce")
    assert (refused.code, "NOTHING_TO_ANNOUNCE: the bus" in refused.error) == (1, True), refused.error
    assert not _rows(site, "versions")

    new_bus = site.kafka.model_copy(update={"topic_prefix": f"{site.kafka.topic_prefix}-new"})
    await asyncio.to_thread(create_topics, new_bus)
    site.kafka = new_bus
    done = (await command(site, "restore", folder, "--announce", "--json")).document
    assert (done["learnt"], done["missing"], done["announced"]) == ([], {}, [f"{MODEL}@1.0.1"])
    await site.start()
    assert await aliases(site) == {"stable": "1.0.1"}
    assert (await register(site, "three")).name == f"{PARENT}/versions/1.0.2"
    told = await asyncio.to_thread(_registered_on, new_bus, 2)
    assert told == ["1.0.1", "1.0.2"]


async def test_without_a_stable_version_there_is_nothing_to_announce(site, tmp_path):
    await site.start()
    await register(site, "one")
    assert (await command(site, "backup", tmp_path)).code == 0
    await site.stop()
    refused = await command(site, "restore", tmp_path, "--announce", "--overwrite")
    assert (refused.code, "has no stable version to announce" in refused.error) == (1, True), refused.error


def _rows(site, table: str) -> list[tuple]:
    with closing(sqlite3.connect(site.data_dir / "registry.sqlite3")) as connection:
        known = connection.execute("SELECT name FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        return connection.execute(f"SELECT * FROM {table}").fetchall() if known else []


async def test_a_restore_says_what_it_could_not_learn_and_why(site, tmp_path):
    await site.start()
    await register(site, "one")
    assert (await command(site, "backup", tmp_path)).code == 0
    await site.stop()
    # Without the bus the database is restored, and the registry catches up when it starts.
    away = {"TIDEGATE_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    later = await command(site, "restore", tmp_path, "--overwrite", environment=away)
    assert (later.code, "BROKER_UNAVAILABLE: " in later.out) == (0, True), later.out + later.error
    # Anything else must be mended first.
    error = Unavailable("a registry is in it still", code="GROUP_IN_USE")
    with patch("tidegate.registry.backup.restoring.catch_up", side_effect=error):
        failed = await command(site, "restore", tmp_path, "--overwrite")
    assert failed.code == 1
    assert "GROUP_IN_USE: the database holds the backup" in failed.error


async def test_the_same_request_mends_what_its_version_has_lost(site):
    await site.start()
    version = await register(site, "one", request_id="run-1")
    data = download(site, version.registered.artifact.uri)
    destroy_objects(site)
    again = api.RegisterVersionRequest(training=training(site, "one", request_id="run-1"))
    answer = (await site.stub.RegisterVersion(again)).version
    assert (answer.name, download(site, answer.registered.artifact.uri)) == (version.name, data)
    # If its sources are gone as well, it still gets its answer.
    destroy_objects(site)
    assert (await site.stub.RegisterVersion(again)).version.name == version.name


async def test_what_was_acknowledged_is_on_the_bus_when_the_registry_has_stopped(site):
    await site.start()
    acknowledged = []

    async def go_on(worker: int) -> None:
        try:
            for number in range(1000):
                version = await register(site, f"{worker}-{number}")
                acknowledged.append(version.name.rpartition("/")[2])
        except grpc.aio.AioRpcError:
            return

    workers = [asyncio.create_task(go_on(number)) for number in range(4)]
    await site.until(lambda: len(acknowledged) > 10, what="registrations")
    assert await site.stop() == 0
    await asyncio.gather(*workers)
    with closing(sqlite3.connect(site.data_dir / "registry.sqlite3")) as connection:
        assert connection.execute("SELECT event_id FROM outbox WHERE NOT published").fetchall() == []
    for version in acknowledged:
        await seen(site, "ModelRegistered", version)


def _registered_on(kafka, count: int) -> list[str]:
    from eventlog import EventLog

    with EventLog(kafka) as log:
        log.wait_for(
            f"{count} versions",
            lambda _: len([one for one in log.events if one.type == "ModelRegistered"]) >= count,
            deadline_s=60,
        )
        return [format_version(one.message.version) for one in log.events if one.type == "ModelRegistered"]


async def test_a_second_backup_copies_only_what_is_new(site, tmp_path):
    folder = tmp_path / "backups"
    await site.start()
    await register(site, "one")
    first = (await command(site, "backup", folder, "--json")).document
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/sha256/*")}
    assert len(stamps) == first["object_count"] == 2
    await register(site, "another")
    second = (await command(site, "backup", folder, "--json")).document
    assert second["object_count"] == 4
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    # An older one is restored by its name, and what is newer comes from the topics.
    await site.stop()
    destroy_database(site)
    done = (await command(site, "restore", folder, "--backup", first["name"], "--json")).document
    assert (done["manifest"]["counts"]["versions"], done["versions"], done["missing"]) == (1, 2, {})


async def test_rubbish_is_refused_and_changes_nothing(site, tmp_path):
    folder = tmp_path / "backups"
    await site.start()
    version = await register(site, "one")
    name = (await command(site, "backup", folder, "--json")).document["name"]
    assert await site.stop() == 0
    whole = folder / "backups" / name
    artifact = folder / "artifacts" / "sha256" / version.registered.artifact.digest.removeprefix("sha256:")

    async def refused(code: str, *arguments: str) -> str:
        outcome = await command(site, "restore", folder, *arguments)
        assert outcome.code == 1
        assert outcome.error.count("error: ") == 1
        assert "Traceback" not in outcome.error
        assert code in outcome.error, outcome.error
        return outcome.error

    # Not empty.
    assert "1 rows in models" in await refused("is not empty")
    destroy_database(site)

    def spoil(path: Path, change) -> bytes:
        held = path.read_bytes()
        path.write_bytes(change(held))
        return held

    def flipped(data: bytes) -> bytes:
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

    for path in (artifact, whole / "registry.sqlite3", whole / "SHA256SUMS"):
        held = spoil(path, flipped)
        told = await refused("is damaged")
        assert str(path) in told
        assert hashlib.sha256(held).hexdigest() in told
        assert hashlib.sha256(flipped(held)).hexdigest() in told
        spoil(path, lambda _data, held=held: held[: len(held) // 2])
        assert str(path) in await refused("is damaged")
        path.unlink()
        assert str(path) in await refused("missing in the backup")
        path.write_bytes(held)

    manifest = whole / "manifest.json"
    document = json.loads(manifest.read_text())
    for change, told in (
        (lambda _: b"{", "is damaged"),
        (lambda _: b"[]", "is damaged"),
        (lambda _: json.dumps(document | {"format": 2}).encode(), "has format 2, expected 1"),
        (lambda _: json.dumps(document | {"object_count": 1}).encode(), "is damaged"),
    ):
        held = spoil(manifest, change)
        await refused(told)
        manifest.write_bytes(held)
    held = manifest.read_bytes()
    manifest.unlink()
    await refused("is not complete")
    manifest.write_bytes(held)
    await refused("no backup yesterday", "--backup", "yesterday")
    other = await command(site, "restore", folder, environment={"TIDEGATE_S3_BUCKET": "another"})
    assert "which its versions name" in other.error
    # Nothing of all this left a trace: the backup is restored, and overwrites only when told.
    assert (await command(site, "restore", folder)).code == 0
    await refused("is not empty")
    done = await command(site, "restore", folder, "--overwrite")
    assert done.code == 0, done.error
    (aside,) = site.data_dir.glob("before-restore-*.sqlite3")
    assert f"what was there before is in {aside}" in done.out
    with closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("SELECT count(*) FROM versions").fetchall() == [(1,)]


async def test_a_newer_schema_and_a_running_registry_are_refused(site, tmp_path):
    folder = tmp_path / "backups"
    await site.start()
    await register(site, "one")
    assert (await command(site, "backup", folder)).code == 0
    running = await command(site, "restore", folder, "--overwrite")
    assert "a registry runs still" in running.error
    await site.stop()
    with sqlite3.connect(site.data_dir / "registry.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    outcome = await command(site, "restore", folder, "--overwrite")
    assert "schema revision 9999, this release knows revisions up to 0002" in outcome.error
    # Nor does the registry start on it.
    outcome = await command(site)
    assert outcome.code == 1
    assert "SCHEMA_NEWER" in outcome.error


async def test_a_backup_that_can_not_be_finished_is_none(site, tmp_path):
    folder = tmp_path / "backups"
    await site.start()
    version = await register(site, "one")
    full = await command(site, "backup", folder, limit_kib=16)
    assert full.code == 1
    assert "Traceback" not in full.error
    assert full.error.count("error: ") == 1
    (begun,) = (folder / "backups").iterdir()
    assert not (begun / "manifest.json").exists()
    incomplete = await command(site, "restore", folder)
    assert "is not complete" in incomplete.error
    # An object that the store has lost, or that has gone bad there.
    key = version.registered.artifact.uri.removeprefix(f"s3://{site.s3.bucket}/")
    data = download(site, version.registered.artifact.uri)
    shutil.rmtree(folder)
    site.objects.put_object(site.s3.bucket, key, io.BytesIO(b"bad"), 3)
    damaged = await command(site, "backup", folder)
    assert "is damaged in the object store" in damaged.error
    site.objects.remove_object(site.s3.bucket, key)
    lost = await command(site, "backup", folder)
    assert f"{key} of {MODEL}@1.0.0" in lost.error
    allowed = (await command(site, "backup", folder, "--allow-missing", "--json")).document
    assert allowed["missing"] == {key: f"{MODEL}@1.0.0"}
    site.objects.put_object(site.s3.bucket, key, io.BytesIO(data), len(data))
    assert (await command(site, "backup", folder)).code == 0
    (tmp_path / "file").write_text("in the way")
    assert "can't be written" in (await command(site, "backup", tmp_path / "file")).error


async def _is(found, wanted) -> bool:
    return await found == wanted


async def _validation(site, number: str) -> str:
    request = api.GetVersionRequest(name=f"{PARENT}/versions/{number}")
    return (await site.stub.GetVersion(request)).version.validation
