"""A wrong user or password is told as that, by every client, and ends a service; the services run with the right one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from tidegate.client import EventReader
from tidegate.client.events import publish_event
from tidegate.contracts.codec import Event
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.clock import utc_now
from tidegate.core.errors import Refused, Unavailable
from tidegate.core.health import trouble
from tidegate.stack.ports import free_ports
from tidegate.v1.events_pb2 import TrainingCompleted

DEADLINE_S = 90.0
LOGIN = r"does not let user 'registry' in .*wrong name or password"


async def test_producer_says_that_the_password_is_wrong(secured_broker):
    with pytest.raises(Refused, match=LOGIN) as refused:
        await EventProducer(secured_broker.user("registry", password="wrong"), client_id="test").__aenter__()
    assert refused.value.code == "BROKER_LOGIN_REFUSED"
    assert "TIDEGATE_KAFKA_PASSWORD" in refused.value.hint


def test_administration_says_that_the_password_is_wrong(secured_broker):
    with pytest.raises(Refused, match=LOGIN):
        create_topics(secured_broker.user("registry", password="wrong"))


def test_client_says_that_the_password_is_wrong(secured_broker):
    settings = secured_broker.user("registry", password="wrong")
    with pytest.raises(Refused, match=LOGIN):
        EventReader(settings)
    event = Event(
        message=TrainingCompleted(model="m"), id="1", source="t", time=utc_now(), subject="m", correlation_id="1"
    )
    with pytest.raises(Refused, match=LOGIN):
        publish_event(settings, event)


def test_unknown_user_is_refused(secured_broker):
    with pytest.raises(Refused, match="nobody"):
        create_topics(secured_broker.user("nobody", password="x"))


async def test_no_broker_is_still_unavailable(secured_broker):
    (port,) = free_ports(1)
    settings = secured_broker.user("registry").model_copy(update={"bootstrap": f"127.0.0.1:{port}"})
    with pytest.raises(Unavailable, match="no Kafka broker"):
        await EventProducer(settings, client_id="test").__aenter__()


def test_client_is_told_what_it_may_not_publish(secured_broker):
    event = Event(
        message=TrainingCompleted(model="m"), id="1", source="t", time=utc_now(), subject="m", correlation_id="1"
    )
    publish_event(secured_broker.user("producers"), event)
    with pytest.raises(Refused, match=r"'applications'.*secured\.training"):
        publish_event(secured_broker.user("applications"), event)


async def _start(service: str, environment: dict[str, str], log) -> asyncio.subprocess.Process:
    with log.open("ab") as stream:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"tidegate.{service}", env=os.environ | environment, stdout=stream, stderr=stream
        )


async def _end(process: asyncio.subprocess.Process, log) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        pytest.fail(f"it does not end when told to: {log.read_text()[-4000:]}")


async def test_service_with_a_wrong_password_ends_and_says_so(service_environment, tmp_path):
    log = tmp_path / "monitor.log"
    wrong = service_environment("monitor") | {"TIDEGATE_KAFKA_PASSWORD": "wrong"}
    process = await _start("monitor", wrong, log)
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == 1
    assert "BROKER_LOGIN_REFUSED" in log.read_text()


@pytest.mark.parametrize("service", ["registry", "validator", "deployer", "monitor"])
async def test_service_runs_with_its_own_user(service, service_environment, store_settings, tmp_path):
    (port, other) = free_ports(2)
    log = tmp_path / f"{service}.log"
    host = None
    environment = service_environment(service) | {
        "TIDEGATE_S3_ENDPOINT": store_settings.endpoint,
        "TIDEGATE_S3_ACCESS_KEY": store_settings.access_key.get_secret_value(),
        "TIDEGATE_S3_SECRET_KEY": store_settings.secret_key.get_secret_value(),
        "TIDEGATE_S3_BUCKET": store_settings.bucket,
        f"TIDEGATE_{service.upper()}_PORT": str(port),
        f"TIDEGATE_{service.upper()}_DATA_DIR": str(tmp_path / "data"),
    }
    if service in {"validator", "deployer"}:
        environment[f"TIDEGATE_{service.upper()}_MODELHOST"] = f"127.0.0.1:{other}"
        folders = {"TIDEGATE_MODELHOST_PORT": str(other), "TIDEGATE_MODELHOST_DATA_DIR": str(tmp_path / "host")}
        host = await _start("modelhost", folders, tmp_path / "modelhost.log")
    process = await _start(service, environment, log)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while trouble(f"127.0.0.1:{port}"):
                assert process.returncode is None, log.read_text()[-4000:]
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{service} does not serve: {log.read_text()[-4000:]}")
    finally:
        for one in filter(None, (process, host)):
            await _end(one, log)
