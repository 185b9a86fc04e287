"""What must hold of the running containers besides the story."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from composetest.project import Container, Project
from tidegate.contracts.codec import Record
from tidegate.contracts.topics import ROLLOUTS, TRAINING, Topic
from tidegate.core.bus import EventProducer
from tidegate.core.errors import Refused
from tidegate.stack.demo.expectations import Expectation

OURS: Final = ("registry", "validator", "deployer", "monitor", "modelhost", "modelhost-sandbox")
READ_ONLY: Final = (*OURS, "gateway")


def hardening(containers: list[Container]) -> list[Expectation]:
    """Return whether nothing runs as root, and whether what is ours can change nothing but its data."""
    running = [one for one in containers if one.state == "running"]
    root = {one.service for one in running if "0" in one.users or "root" in one.users}
    others = sorted(root - set(READ_ONLY))
    known = {one.service: one for one in running}
    writable = [name for name in READ_ONLY if not known[name].is_read_only]
    capable = [name for name in READ_ONLY if known[name].has_capabilities]
    return [
        Expectation(
            name="nothing in our containers and the gateway runs as root",
            holds=not root & set(READ_ONLY),
            observed=(", ".join(sorted(root & set(READ_ONLY))) or "nothing does")
            + (f"; of the other images, {', '.join(others)} do" if others else ""),
        ),
        Expectation(
            name="our containers and the gateway are read-only",
            holds=not writable,
            observed=", ".join(writable) or f"all {len(READ_ONLY)} are",
        ),
        Expectation(
            name="they have no capabilities",
            holds=not capable,
            observed=", ".join(capable) or "none has",
        ),
    ]


def rights(project: Project) -> list[Expectation]:
    """Return whether the broker refuses who writes what it may not, and who has the wrong password."""
    return [
        _refused("producers may not write rollouts", "BROKER_FORBIDS", lambda: _write(project, "producers", ROLLOUTS)),
        _refused("the monitor may not write rollouts", "BROKER_FORBIDS", lambda: _write(project, "monitor", ROLLOUTS)),
        _refused(
            "a wrong password is refused",
            "BROKER_LOGIN_REFUSED",
            lambda: _write(project, "producers", TRAINING, password="wrong"),  # noqa: S106  (is the point)
        ),
    ]


def _refused(name: str, code: str, attempt: Callable[[], None]) -> Expectation:
    try:
        attempt()
    except Refused as error:
        first_line = str(error).splitlines()[0]
        return Expectation(name=name, holds=error.code == code, observed=f"{error.code}: {first_line}")
    return Expectation(name=name, holds=False, observed="it was let do it")


def _write(project: Project, user: str, topic: Topic, *, password: str = "") -> None:
    kafka = project.settings(user, password=password).kafka

    async def write() -> None:
        async with EventProducer(kafka, client_id="compose-test") as producer:
            await producer.publish_record(topic.full_name(kafka.topic_prefix), Record(key=b"intruder", value=b"x"))

    asyncio.run(write())
