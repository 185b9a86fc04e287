"""The real parts, one at a time: they come up, and a crash or a restart loses nothing."""

from __future__ import annotations

import subprocess

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from tidegate.core.bus import create_topics
from tidegate.core.errors import Unavailable
from tidegate.core.object_store import ObjectStore
from tidegate.core.settings import KafkaSettings
from tidegate.stack.child import running
from tidegate.stack.gateway import prepare_gateway
from tidegate.stack.kafka import prepare_kafka
from tidegate.stack.object_store import Credentials, ensure_credentials, prepare_object_store
from tidegate.stack.ports import free_ports
from tidegate.stack.readiness import kafka_ready, minio_client, object_store_ready


async def test_broker_has_the_topics_of_the_prefix(bus_settings):
    admin = KafkaAdminClient(bootstrap_servers=bus_settings.bootstrap)
    try:
        assert f"{bus_settings.topic_prefix}.registry" in set(admin.list_topics())
    finally:
        admin.close()


async def test_object_store_keeps_what_is_put(store_settings):
    store = ObjectStore(store_settings)
    uri = await store.put_bytes("artifacts/one", b"bytes")
    assert await store.read(uri, limit_bytes=100) == b"bytes"


def test_broker_keeps_acknowledged_messages_over_kill_9(tmp_path, kafka_jars):
    port, controller_port = free_ports(2)
    bootstrap = f"127.0.0.1:{port}"
    settings = KafkaSettings(bootstrap=bootstrap, topic_prefix="crash", partition_count=1)

    def start():
        program = prepare_kafka(tmp_path / "kafka", port=port, controller_port=controller_port, class_path=kafka_jars)
        return running(program, log=tmp_path / "kafka.out", is_ready=lambda: kafka_ready(bootstrap))

    with start() as broker:
        create_topics(settings)
        producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
        for number in range(50):
            producer.send("crash.training", str(number).encode()).get(30)
        producer.close()
        broker.kill()
    with start():
        consumer = KafkaConsumer(
            "crash.training", bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=60_000
        )
        values = [int(next(consumer).value) for _ in range(50)]
        consumer.close()
    assert values == list(range(50))


def test_object_store_keeps_state_over_kill_9_and_refuses_other_keys(tmp_path):
    (port,) = free_ports(1)
    endpoint = f"127.0.0.1:{port}"
    keys = ensure_credentials(tmp_path / "credentials.json")

    def start():
        program = prepare_object_store(tmp_path / "data", port=port, credentials=keys)
        return running(program, log=tmp_path / "s3.out", is_ready=lambda: object_store_ready(endpoint, keys))

    with start() as server:
        client = minio_client(endpoint, keys)
        client.make_bucket(bucket_name="kept")
        client.fput_object(bucket_name="kept", object_name="a/b", file_path=str(tmp_path / "credentials.json"))
        assert not object_store_ready(endpoint, Credentials(access_key=keys.access_key, secret_key="wrong-secret"))
        server.kill()
    with start():
        stored = minio_client(endpoint, keys).get_object(bucket_name="kept", object_name="a/b")
        assert stored.read() == (tmp_path / "credentials.json").read_bytes()
        stored.close()


def test_object_store_finds_its_blobs_in_a_data_directory_that_was_moved(tmp_path):
    keys = ensure_credentials(tmp_path / "credentials.json")
    for name in ("here", "there"):
        (port,) = free_ports(1)
        endpoint = f"127.0.0.1:{port}"
        program = prepare_object_store(tmp_path / name, port=port, credentials=keys)
        with running(program, log=tmp_path / "s3.out", is_ready=lambda at=endpoint: object_store_ready(at, keys)):
            client = minio_client(endpoint, keys)
            if name == "here":
                client.make_bucket(bucket_name="kept")
                client.fput_object(bucket_name="kept", object_name="a", file_path=str(tmp_path / "credentials.json"))
            else:
                stored = client.get_object(bucket_name="kept", object_name="a")
                assert stored.read() == (tmp_path / "credentials.json").read_bytes()
                stored.close()
        if name == "here":
            (tmp_path / "here").rename(tmp_path / "there")


def test_part_that_ends_at_once_is_named_with_the_end_of_its_log(tmp_path, kafka_jars):
    program = prepare_kafka(tmp_path / "kafka", port=1, controller_port=2, class_path=kafka_jars)
    (tmp_path / "kafka" / "server.properties").write_text("process.roles=nonsense\n")
    with (
        pytest.raises(Unavailable, match=r"kafka ended with exit code 1(.|\n)*nonsense"),
        running(program, log=tmp_path / "kafka.out", is_ready=lambda: False),
    ):
        pytest.fail("it can't have become ready")


def test_envoy_accepts_the_bootstrap(tmp_path, envoy_binary):
    program = prepare_gateway(tmp_path, deployer_port=1, monitor_port=2, admin_socket=tmp_path / "a.sock", token="t")
    assert program.command[0] == str(envoy_binary)
    outcome = subprocess.run([*program.command, "--mode", "validate"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
