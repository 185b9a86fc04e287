"""The registry's disk is full, or the object store refuses: registration waits, nothing is half registered or lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.arena import running_arena
from faults.deployers import stalled
from faults.failpoints import Kill, Outage, wait_until
from faults.history import Quality
from faults.validate import REGISTRY_ANSWERS

from tidegate.stack.demo.models import MODEL

pytestmark = pytest.mark.timeout(900)

DISK_MIB = 16
FILLER = "filler"


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a stack's folder whose registry keeps its data on a small disk of its own."""
    folder = tmp_path_factory.mktemp("storage")
    disk = folder / "stack" / "registry"
    disk.mkdir(parents=True, mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def own_arena(small_disk, flights):
    with running_arena(small_disk, flights) as running:
        yield running


def fill(folder: Path) -> Path:
    filler = folder / FILLER
    with filler.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    stream.write(b"x" * size)
                except OSError:
                    break
    return filler


def answers_to(arena, publication) -> list[str]:
    events = arena.log.all_up_to_now()
    return [one.type for one in events if one.type in REGISTRY_ANSWERS and one.causation_id == publication.event_id]


@contextmanager
def watched_log(arena, part: str) -> Iterator[callable]:
    """Give what waits until ``part`` has logged a word since the block began."""
    log = arena.stack.layout.log(part)
    begin = log.stat().st_size

    def wait_for(word: str) -> None:
        def is_there() -> bool:
            with log.open("rb") as stream:
                stream.seek(begin)
                return word.encode() in stream.read()

        wait_until(is_there, f"{part} logs {word!r}")

    yield wait_for


def test_a_full_disk_makes_registration_wait(own_arena):
    arena = own_arena
    filler = fill(arena.stack.layout.part("registry"))
    with watched_log(arena, "registry") as wait_logged:
        publication = arena.producer.publish(Quality.GOOD)
        wait_logged("unavailable, trying again")
    assert answers_to(arena, publication) == []
    # What is there can be looked up.
    assert arena.stable() == "1.0.0"
    # It may even be started anew on the full disk.
    wound = arena.strike(Kill("registry"))
    filler.unlink()
    arena.heal(wound)
    arena.wait_end(arena.number_of(publication))
    assert arena.log.dead_letters == []
    arena.must_be_right()


def test_an_object_store_that_is_away_and_then_refuses_makes_registration_wait(own_arena):
    arena = own_arena
    script = arena.stack.layout.run / "object-store.sh"
    original = script.read_text()
    with stalled(arena.site.pid("registry")):
        publication = arena.producer.publish(Quality.GOOD)
        away = arena.strike(Outage(("object-store",)))
    with watched_log(arena, "registry") as wait_logged:
        wait_logged("the object store is away")
        script.write_text(original.replace("export MINIO_ROOT_PASSWORD=", "export MINIO_ROOT_PASSWORD=other-"))
        try:
            arena.site.supervisor.start_part("object-store")
            wait_logged("the object store refused")
            assert answers_to(arena, publication) == []
        finally:
            refusing = arena.strike(Outage(("object-store",)))
            script.write_text(original)
        arena.heal(refusing)
    arena.heal(away)
    arena.wait_end(arena.number_of(publication))
    assert arena.log.dead_letters == []
    versions = arena.client.list_versions(MODEL)
    assert len(versions) == len(arena.producer.published)
    arena.must_be_right()
