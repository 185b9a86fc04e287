"""A producer's files and event, through a real broker and a real object store."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer
from pyarrow import parquet

from tidegate.client import ClientSettings, EventReader, TidegateClient, TrainingRun, evaluation_digest
from tidegate.client.events import publish_event
from tidegate.contracts.codec import Event, encode
from tidegate.contracts.topics import REGISTRY, ROLLOUTS, TRAINING
from tidegate.core.clock import utc_now
from tidegate.core.errors import InvalidInput, Unavailable
from tidegate.core.object_store import ObjectStore, digest_of_bytes
from tidegate.core.settings import KafkaSettings, ObjectStoreSettings
from tidegate.v1.events_pb2 import ModelRegistered
from tidegate.v1.rollout_events_pb2 import RolloutStep
from tidegate.v1.values_pb2 import Metric, Signature, Tensor, Version

ARTIFACT = b"the bytes of a model"
NOBODY = "127.0.0.1:1"


@pytest.fixture
def settings(bus_settings: KafkaSettings, store_settings: ObjectStoreSettings) -> ClientSettings:
    return ClientSettings(
        kafka=bus_settings,
        object_store=store_settings,
        registry_address=NOBODY,
        deployer_address=NOBODY,
        upload_bucket=f"{store_settings.bucket}-uploads",
    )


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(ARTIFACT)
    evaluation = tmp_path / "evaluation.parquet"
    parquet.write_table(pa.table({"x": [1.0, 2.0], "label": [0, 1], "score": [0.2, 0.9]}), evaluation)
    return TrainingRun(
        model="churn",
        artifact=artifact,
        signature=Signature(inputs=[Tensor(name="x", datatype="FP32", shape=[-1, 1])]),
        metrics=(Metric(name="roc_auc", value=1.0, higher_is_better=True),),
        evaluation=evaluation,
        request_id="training-1",
    )


def read_training(settings: ClientSettings) -> list[Event]:
    with EventReader(settings.kafka, (TRAINING,)) as reader:
        return reader.history()


def test_published_training_can_be_read_with_all_its_facts(settings: ClientSettings, run: TrainingRun) -> None:
    with TidegateClient(settings) as client:
        receipt = client.publish_training_completed(run)
    (event,) = read_training(settings)
    message = event.message
    assert (event.type, event.subject, event.source) == ("TrainingCompleted", "churn", "tidegate/client")
    assert (event.correlation_id, event.id) == (receipt.correlation_id, receipt.correlation_id)
    assert (message.model, message.request_id, receipt.request_id) == ("churn", "training-1", "training-1")
    assert message.artifact.digest == digest_of_bytes(ARTIFACT) == receipt.artifact_digest
    assert (message.artifact.size_bytes, message.artifact.format) == (len(ARTIFACT), "onnx")
    assert message.metrics[0].dataset_digest == evaluation_digest(run.evaluation)
    assert message.metrics[0].sample_count == 2


def test_files_are_uploaded_under_their_digest(settings: ClientSettings, run: TrainingRun) -> None:
    with TidegateClient(settings) as client:
        client.publish_training_completed(run)
    (event,) = read_training(settings)
    store = ObjectStore(settings.object_store)
    stored = asyncio.run(store.read(event.message.artifact.uri, limit_bytes=1_000))
    evaluation = asyncio.run(store.read(event.message.evaluation_uri, limit_bytes=100_000))
    assert stored == ARTIFACT
    assert event.message.artifact.uri.endswith(digest_of_bytes(ARTIFACT).removeprefix("sha256:"))
    assert evaluation == run.evaluation.read_bytes()
    assert event.message.sample_requests_uri == ""


async def test_publishing_works_inside_an_event_loop(settings: ClientSettings, run: TrainingRun) -> None:
    with TidegateClient(settings) as client:
        receipt = client.publish_training_completed(run)
    assert receipt.model == "churn"


def test_registration_is_found_by_its_correlation_id(settings: ClientSettings, run: TrainingRun) -> None:
    with TidegateClient(settings) as client:
        receipt = client.publish_training_completed(run)
        for correlation_id in ("another-training", receipt.correlation_id):
            registered = ModelRegistered(model="churn", version=Version(major=1))
            publish_event(
                settings.kafka,
                Event(
                    message=registered,
                    id=f"registered-{correlation_id}",
                    source="tidegate/registry",
                    time=utc_now(),
                    subject="churn",
                    correlation_id=correlation_id,
                ),
            )
        answer = client.wait_for_registration(receipt, timeout_s=30)
    assert answer.id == f"registered-{receipt.correlation_id}"


def test_silent_registry_is_unavailable(settings: ClientSettings, run: TrainingRun) -> None:
    with TidegateClient(settings) as client:
        receipt = client.publish_training_completed(run)
        with pytest.raises(Unavailable) as raised:
            client.wait_for_registration(receipt, timeout_s=0.5)
    assert raised.value.code == "REGISTRATION_PENDING"
    assert receipt.correlation_id in raised.value.hint


def test_missing_file_is_refused_before_anything_is_sent(settings: ClientSettings, run: TrainingRun) -> None:
    run.artifact.unlink()
    with TidegateClient(settings) as client, pytest.raises(InvalidInput) as raised:
        client.publish_training_completed(run)
    assert raised.value.field == "artifact"
    assert read_training(settings) == []


def test_absent_registry_is_named(settings: ClientSettings) -> None:
    with TidegateClient(settings) as client, pytest.raises(Unavailable, match=NOBODY):
        client.list_versions("churn")


def test_reader_that_starts_now_sees_only_what_comes(settings: ClientSettings, run: TrainingRun) -> None:
    with TidegateClient(settings) as client:
        client.publish_training_completed(run)
        with EventReader(settings.kafka, (TRAINING, REGISTRY), since="now") as reader:
            receipt = client.publish_training_completed(run)
            seen = next(iter(reader.follow(deadline_s=30)))
    assert seen.correlation_id == receipt.correlation_id


async def test_history_ends_although_transactions_leave_markers_behind(settings: ClientSettings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap, transactional_id=uuid.uuid4().hex)
    topic = ROLLOUTS.full_name(settings.kafka.topic_prefix)
    await producer.start()
    try:
        for number, committed in enumerate((True, False, True)):
            event = Event(
                message=RolloutStep(model="churn", sequence=number),
                id=str(number),
                source="tidegate/deployer",
                time=utc_now(),
                subject="churn",
                correlation_id="c",
            )
            record = encode(event)
            await producer.begin_transaction()
            await producer.send_and_wait(topic, record.value, key=record.key, headers=list(record.headers))
            await (producer.commit_transaction() if committed else producer.abort_transaction())
    finally:
        await producer.stop()
    with EventReader(settings.kafka, (ROLLOUTS,)) as reader:
        assert [event.id for event in reader.history()] == ["0", "2"]
