"""From the log back to the rows: whatever prefix of the events a database knows, replaying the topics completes it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from tidegate.contracts.codec import Event, decode
from tidegate.contracts.topics import POLICIES, REGISTRY
from tidegate.core.errors import FailedPrecondition
from tidegate.core.policy import default_policy
from tidegate.registry.agents import RegistryAgents
from tidegate.registry.backup.snapshot import load_snapshot, write_snapshot
from tidegate.registry.catalog.aliases import AliasMove, move_alias
from tidegate.registry.catalog.handled import mark_consumed, was_consumed
from tidegate.registry.catalog.outbox import Cause, add_event, advance_sequence, next_sequence
from tidegate.registry.catalog.policies import apply_policy, read_policy
from tidegate.registry.catalog.schema import migrate_to, read_revision
from tidegate.registry.catalog.tables import aliases, models, outbox, policies, sequences, versions
from tidegate.registry.catalog.versions import insert_version
from tidegate.registry.eventlog.lost_tail import tell_again, told_events
from tidegate.registry.eventlog.positions import ANNOUNCE, BUS, join_bus, read_fact, write_fact
from tidegate.registry.eventlog.reannouncement import announce_stable
from tidegate.registry.eventlog.replay import Replayed, count_handled_step, replay
from tidegate.registry.numbering.versioning import Verdict
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.rollout_events_pb2 import Phase, RolloutStep
from tidegate.v1.values_pb2 import Version

MODELS = ("red", "blue")
STATE = (models, versions, aliases, policies)
RANDOM = {"id", "latest_id", "baseline_id", "etag", "create_time", "update_time"}


def fresh(path: Path) -> Store:
    store = Store(f"sqlite:///{path}")
    store.migrate()
    return store


@pytest.fixture
def store(tmp_path):
    store = fresh(tmp_path / "registry.sqlite3")
    yield store
    store.close()


def cause(name: str) -> Cause:
    return Cause(id=name, correlation_id=name, actor="test")


def registered(model: str, pipeline: int, digest: str = "") -> ModelRegistered:
    event = ModelRegistered(model=model, version=Version(major=1, pipeline=pipeline), reason="a reason")
    event.artifact.digest = digest or f"sha256:{model}{pipeline}"
    event.decision.numbers_json = json.dumps({"verdict": "TIE"})
    if pipeline:
        event.baseline.CopyFrom(Version(major=1, pipeline=pipeline - 1))
    return event


def register(connection, model: str, pipeline: int) -> None:
    event = registered(model, pipeline)
    event.sequence = next_sequence(connection, model)
    where = (versions.c.model == model) & (versions.c.pipeline == pipeline - 1)
    baseline = connection.execute(select(versions.c.id).where(where)).scalar_one_or_none()
    insert_version(connection, event, verdict=Verdict.TIE, baseline_id=baseline)
    name = f"register {model} {pipeline}"
    add_event(connection, event, cause=cause(name), event_id=f"event of {name}", sequence=event.sequence)


def act(connection) -> None:
    """Let a registry live for a while."""
    for pipeline in range(3):
        for model in MODELS:
            register(connection, model, pipeline)
            move = AliasMove(model=model, alias="stable", version=Version(major=1, pipeline=pipeline))
            move_alias(connection, move, cause=cause(f"move {model} {pipeline}"))
            policy = default_policy(model)
            policy.rollout.settle_s = 10 + pipeline
            apply_policy(connection, policy, cause(f"policy {model} {pipeline}"))
    gone = AliasMove(model="red", alias="stable", version=None)
    move_alias(connection, gone, cause=cause("remove"))


def events_of(connection, *, compacted: bool):
    """Return the topics as they are read: registry first, then policies, of which compaction keeps the last."""
    rows = connection.execute(select(outbox).order_by(outbox.c.id)).all()
    decoded = [
        (
            row.topic,
            decode(
                topic=row.topic,
                partition=0,
                offset=row.id,
                value=row.value,
                headers=[(name, text.encode()) for name, text in json.loads(row.headers)],
                received_time=datetime(2026, 1, 1, tzinfo=UTC),
            ),
        )
        for row in rows
    ]
    told = [event for topic, event in decoded if topic == "registry"]
    of_policies = [event for topic, event in decoded if topic == "policies"]
    if compacted:
        of_policies = list({event.subject: event for event in of_policies}.values())
    return told + of_policies


def state_of(connection, *, policies_too: bool = True):
    tables = STATE if policies_too else STATE[:-1]
    found = {
        table.name: sorted(
            tuple((name, value) for name, value in row.items() if name not in RANDOM)
            for row in connection.execute(select(table)).mappings()
        )
        for table in tables
    }
    own = select(sequences.c.model, sequences.c.value).where(sequences.c.source == "tidegate/registry")
    return found | {"sequences": sorted(map(tuple, connection.execute(own)))}


@pytest.mark.parametrize("known", range(0, 20, 3))
@pytest.mark.parametrize("compacted", [False, True])
def test_any_prefix_and_the_topics_make_the_whole(tmp_path, store, known, compacted):
    with store.writing() as connection:
        act(connection)
        told = events_of(connection, compacted=compacted)
        whole = state_of(connection, policies_too=not compacted)
        newest = {model: read_policy(connection, model) for model in MODELS}
        log = events_of(connection, compacted=False)
    behind = fresh(tmp_path / "behind.sqlite3")
    with behind.writing() as connection:
        # A database that has seen the first events, as they were told...
        for event in sorted(log, key=lambda one: one.offset)[:known]:
            assert replay(connection, event) is Replayed.APPLIED
        # ... becomes whole, however often the topics are replayed.
        for _ in range(2):
            for event in told:
                replay(connection, event)
        assert state_of(connection, policies_too=not compacted) == whole
        assert {model: read_policy(connection, model) for model in MODELS} == newest
        assert all(replay(connection, event) is Replayed.KNOWN for event in told)
    behind.close()


def test_what_waits_in_the_outbox_is_not_told_twice(store):
    with store.writing() as connection:
        act(connection)
        for event in events_of(connection, compacted=True):
            assert replay(connection, event) is Replayed.KNOWN
        waiting = connection.execute(select(outbox.c.id).where(outbox.c.published.is_(False))).all()
    # Also the policies that compaction took away: the newest is told already.
    assert waiting == []


def test_two_stories_of_one_number_are_refused(store):
    with store.writing() as connection:
        act(connection)
        told = next(event for event in events_of(connection, compacted=False) if event.type == "ModelRegistered")
        told.message.artifact.digest = "sha256:another"
        with pytest.raises(FailedPrecondition, match=r"red@1\.0\.0 with artifact sha256:another") as caught:
            replay(connection, told)
    assert caught.value.code == "BUS_DIVERGES"


def test_the_same_version_told_again_is_one_version(store):
    with store.writing() as connection:
        act(connection)
        write_fact(connection, ANNOUNCE, "old bus")
        assert announce_stable(connection, "new bus") == ["blue@1.0.2"]
        assert announce_stable(connection, "new bus") == []
        before = state_of(connection)
        told = events_of(connection, compacted=False)
        connection.execute(update(sequences).values(value=0))
        for event in told:
            replay(connection, event)
        assert state_of(connection) == before


def test_the_bus_of_the_backup_is_told_nothing(store):
    with store.writing() as connection:
        act(connection)
        write_fact(connection, ANNOUNCE, "the bus")
        assert announce_stable(connection, "the bus") == []
        assert read_fact(connection, ANNOUNCE) == ""


def test_on_another_bus_the_others_count_anew(store):
    with store.writing() as connection:
        assert not join_bus(connection, "first")
        assert advance_sequence(connection, "red", "tidegate/deployer", 57)
        assert not join_bus(connection, "first")
        assert not advance_sequence(connection, "red", "tidegate/deployer", 1)
        assert join_bus(connection, "second")
        assert advance_sequence(connection, "red", "tidegate/deployer", 1)
        assert read_fact(connection, BUS) == "second"


def test_on_another_bus_nothing_counts_as_handled(store):
    with store.writing() as connection:
        join_bus(connection, "first")
        act(connection)
        connection.execute(update(outbox).where(outbox.c.id > 2).values(published=True))
        waiting = connection.execute(select(outbox.c.event_id).where(outbox.c.published.is_(False))).scalars().all()
        # An outsider's event without an id is named by its offset, which comes again on another bus.
        mark_consumed(connection, "training/0/0")
        join_bus(connection, "first")
        assert was_consumed(connection, "training/0/0")
        join_bus(connection, "second")
        assert not was_consumed(connection, "training/0/0")
        left = connection.execute(select(outbox)).all()
        # What waits is still sent, under ids that no event of the new bus can bring about.
        assert len(left) == len(waiting) == 2
        assert not {row.event_id for row in left} & set(waiting)
        assert [dict(json.loads(row.headers))["ce_id"] for row in left] == [row.event_id for row in left]
        assert not any(row.published for row in left)


PHASES = ("PENDING", "STARTING", "STEPPING", "STEPPING", "SETTLING", "HOLDING", "SETTLING")


def rollouts() -> list[Event]:
    """Return the steps of three rollouts: promoted, rolled back after 100 %, and promoted."""
    steps = []
    for pipeline, stable, end in ((0, None, "PROMOTED"), (1, 0, "ROLLED_BACK"), (2, 0, "PROMOTED")):
        for phase in (*PHASES, end):
            step = RolloutStep(
                rollout_id=f"r{pipeline}", model="red", sequence=len(steps) + 1, phase=Phase.Value(f"PHASE_{phase}")
            )
            step.candidate.CopyFrom(Version(major=1, pipeline=pipeline))
            if stable is not None:
                step.stable.CopyFrom(Version(major=1, pipeline=stable))
            steps.append(
                Event(
                    message=step,
                    id=f"step {step.sequence}",
                    source="tidegate/deployer",
                    time=datetime(2026, 1, 1, tzinfo=UTC),
                    subject="red",
                    correlation_id="c",
                    sequence=step.sequence,
                )
            )
    return steps


@pytest.mark.parametrize("known", [0, 2, 5])
async def test_steps_that_are_read_again_move_no_alias(tmp_path, store, known):
    with store.writing() as connection:
        for pipeline in range(3):
            register(connection, "red", pipeline)
    for step in rollouts():
        await RegistryAgents(store, None).on_rollout(step)
    with store.reading() as connection:
        told = events_of(connection, compacted=False)
        whole = state_of(connection)
    assert [dict(row)["alias"] for row in whole["aliases"]] == ["stable"]
    behind = fresh(tmp_path / "behind.sqlite3")
    with behind.writing() as connection:
        for event in told[:known]:
            replay(connection, event)
        for event in told:
            replay(connection, event)
        for step in rollouts():
            count_handled_step(connection, step)
    for step in rollouts():
        await RegistryAgents(behind, None).on_rollout(step)
    with behind.reading() as connection:
        assert state_of(connection) == whole
        assert connection.execute(select(outbox)).all() == []
    # A step that nobody followed yet moves them still.
    newest = rollouts()[-1]
    newest.message.phase = Phase.PHASE_ABORTED
    await RegistryAgents(behind, None).on_rollout(replace(newest, id="new", sequence=newest.sequence + 1))
    with behind.reading() as connection:
        assert len(connection.execute(select(outbox)).all()) == 1
    behind.close()


def test_what_a_topic_lost_is_told_again(store):
    with store.writing() as connection:
        act(connection)
        connection.execute(update(outbox).values(published=True))
        told = told_events(connection, REGISTRY)
        policies_told = told_events(connection, POLICIES)
        assert len(told) + 6 == len(connection.execute(select(outbox)).all())
        # Compaction keeps the last policy of each model.
        assert len(policies_told) == len(MODELS)
        lost = sorted(told)[:2]
        tell_again(connection, lost)
        waiting = connection.execute(select(outbox.c.event_id).where(outbox.c.published.is_(False))).scalars().all()
        assert sorted(waiting) == lost
        assert told_events(connection, REGISTRY) == told - set(lost)


def test_acknowledged_events_are_not_lost_by_overwriting(tmp_path, store):
    copy = tmp_path / "copy.sqlite3"
    write_snapshot(store, copy)
    with store.writing() as connection:
        act(connection)
        waiting = len(connection.execute(select(outbox)).all())
        with pytest.raises(FailedPrecondition, match=f"holds {waiting} events that were acknowledged") as caught:
            load_snapshot(copy, connection, overwrite=True)
        assert caught.value.code == "TARGET_UNPUBLISHED"
        assert len(connection.execute(select(outbox)).all()) == waiting
        load_snapshot(copy, connection, overwrite=True, discard_unpublished=True)
        assert connection.execute(select(outbox)).all() == []


def test_a_copy_of_an_older_schema_is_brought_forward(tmp_path):
    old = Store(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    with old.writing() as connection:
        migrate_to(connection, "0001")
        register(connection, "red", 0)
        row = {"model": "red", "source": "tidegate/deployer", "value": 4}
        connection.execute(insert(sequences).values(**row))
        before = state_of(connection)
    copy = tmp_path / "copy.sqlite3"
    assert write_snapshot(old, copy).revision == "0001"
    old.close()
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy.sqlite3"]
    new = fresh(tmp_path / "new.sqlite3")
    with new.writing() as connection:
        load_snapshot(copy, connection, overwrite=False)
        assert read_revision(connection) == "0002"
        assert state_of(connection) == before
        assert next_sequence(connection, "red") == 2
        with pytest.raises(FailedPrecondition, match="1 rows in models"):
            load_snapshot(copy, connection, overwrite=False)
    new.close()
