"""Lists: what a page holds, how many queries it costs, and that look-ups are answered while a long one is read."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import event

from tidegate.registry.catalog.lookups import get_version, list_models, list_versions
from tidegate.registry.catalog.paging import PAGE_BYTES_MAX, fitting
from tidegate.registry.catalog.versions import insert_version
from tidegate.registry.numbering.versioning import Verdict
from tidegate.registry.store import Store
from tidegate.v1.events_pb2 import ModelRegistered, VersionDecision
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.registry_service_pb2 import ModelVersion, VersionView
from tidegate.v1.values_pb2 import Version

DECISION_CHARS = 18_000
WAIT_S = 60


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    store.migrate()
    yield store
    store.close()


def add_versions(store, count, model="churn", decision_chars=DECISION_CHARS) -> None:
    with store.writing() as connection:
        for number in range(count):
            registered = ModelRegistered(
                model=model,
                version=Version(major=1, pipeline=number),
                sequence=number + 1,
                reason=f"reason {number}",
                decision=VersionDecision(rule="R4", inputs_json="x" * decision_chars, numbers_json="{}"),
                policy=Policy(model=model),
            )
            insert_version(connection, registered, verdict=Verdict.TIE, baseline_id=None)


def pages(store, view, size=1000):
    token, found = "", []
    while True:
        with store.reading() as connection:
            page = list_versions(connection, "churn", size=size, token=token, view=view)
        found.append(page)
        token = page.next_page_token
        if not token:
            return found


def test_a_basic_list_leaves_out_the_decision_and_the_policy(store):
    add_versions(store, 3)
    (page,) = pages(store, VersionView.VERSION_VIEW_UNSPECIFIED)
    assert [one.registered.version.pipeline for one in page.versions] == [2, 1, 0]
    for one in page.versions:
        assert (one.registered.decision.rule, one.registered.decision.inputs_json) == ("R4", "")
        assert not one.registered.HasField("policy")
        assert one.registered.reason.startswith("reason")
    with store.reading() as connection:
        assert len(get_version(connection, "churn", Version(major=1)).registered.decision.inputs_json) == DECISION_CHARS


def test_a_full_list_is_cut_into_pages_by_bytes_and_loses_nothing(store):
    add_versions(store, 150)
    found = pages(store, VersionView.VERSION_VIEW_FULL)
    assert len(found) > 1
    assert all(page.ByteSize() < 1.1 * PAGE_BYTES_MAX for page in found)
    numbers = [one.registered.version.pipeline for page in found for one in page.versions]
    assert numbers == [*range(149, -1, -1)]


@pytest.mark.parametrize("size", [1, 7, 149, 150, 151])
def test_every_page_size_goes_on_where_it_ended(store, size):
    add_versions(store, 150, decision_chars=10)
    numbers = [one.registered.version.pipeline for page in pages(store, 1, size) for one in page.versions]
    assert numbers == [*range(149, -1, -1)]


def test_a_row_larger_than_a_page_is_a_page():
    large = ModelVersion(name="x" * (PAGE_BYTES_MAX + 1))
    small = ModelVersion(name="small")
    assert fitting([large, small], size=10) == ([large], True)
    assert fitting([small, large], size=10) == ([small], True)
    assert fitting([large], size=10) == ([large], False)
    assert fitting([], size=10) == ([], False)


def test_a_list_is_as_many_queries_for_any_page(store):
    add_versions(store, 40)
    for number in range(30):
        add_versions(store, 1, model=f"model-{number}")
    asked = []
    event.listen(store.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    def queries(work) -> int:
        asked.clear()
        with store.reading() as connection:
            work(connection)
        return sum(statement.lstrip().startswith("SELECT") for statement in asked)

    def versions_of(size):
        return lambda connection: list_versions(connection, "churn", size=size, token="", view=1)

    def models_of(size):
        return lambda connection: list_models(connection, size=size, token="")

    assert queries(versions_of(1)) == queries(versions_of(40)) <= 3
    assert queries(models_of(1)) == queries(models_of(31)) == 2


async def test_a_look_up_is_answered_while_a_list_is_read(store):
    add_versions(store, 1)
    reading, answered = threading.Event(), threading.Event()

    def long_list(_connection) -> bool:
        reading.set()
        return answered.wait(WAIT_S)

    listing = asyncio.create_task(store.scan(long_list))
    async with asyncio.timeout(WAIT_S):
        while not reading.is_set():
            await asyncio.sleep(0)
        found = await store.read(lambda connection: get_version(connection, "churn", Version(major=1)))
    assert found.registered.reason == "reason 0"
    answered.set()
    assert await listing
