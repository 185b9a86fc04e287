"""What other producers put on the bus: any codec, transactions that they take back, names that no client takes."""

from __future__ import annotations

from aiokafka import AIOKafkaProducer
from registrations import event, publish, training

from tidegate.contracts.codec import PROTOBUF, Event, encode
from tidegate.contracts.topics import TRAINING
from tidegate.v1.values_pb2 import Artifact

CODECS = ("gzip", "snappy", "lz4", "zstd")


async def send(site, producer: AIOKafkaProducer, sent: Event) -> None:
    record = encode(sent, content_type=PROTOBUF)
    await producer.send_and_wait(
        TRAINING.full_name(site.kafka.topic_prefix), value=record.value, key=record.key, headers=list(record.headers)
    )


async def test_a_training_is_registered_in_whatever_codec_it_comes(site):
    await site.start()
    for codec in CODECS:
        message = training(site, codec, model=f"in-{codec}")
        message.tags["padding"] = 2_000 * "x"
        sent = event(message)
        producer = AIOKafkaProducer(bootstrap_servers=site.kafka.bootstrap, compression_type=codec)
        await producer.start()
        try:
            await send(site, producer, sent)
        finally:
            await producer.stop()
        answer = await site.answer_to(sent.correlation_id)
        assert (answer.type, answer.subject) == ("ModelRegistered", f"in-{codec}")


async def test_a_training_that_is_taken_back_is_none(site):
    await site.start()
    producer = AIOKafkaProducer(bootstrap_servers=site.kafka.bootstrap, transactional_id=f"{site.kafka.topic_prefix}.t")
    # The same model, so the same partition: what is committed comes after what is not.
    aborted, committed = event(training(site, "aborted")), event(training(site, "committed"))
    await producer.start()
    try:
        await producer.begin_transaction()
        await send(site, producer, aborted)
        await producer.abort_transaction()
        async with producer.transaction():
            await send(site, producer, committed)
    finally:
        await producer.stop()
    assert (await site.answer_to(committed.correlation_id)).type == "ModelRegistered"
    assert [one for one in site.events if one.correlation_id == aborted.correlation_id] == []


async def test_a_name_that_no_client_takes_is_refused(site):
    await site.start()
    for place, uri in enumerate(("s3://tidegate-uploads/../x", "s3://[", f"s3://{site.s3.bucket}//x", "s3://a_b/x")):
        answer = await publish(site, training(site, f"odd-{place}", artifact=Artifact(uri=uri)))
        found = [(reason.code, reason.field) for reason in answer.message.reasons]
        assert (answer.type, found) == ("RegistrationRejected", [("URI_INVALID", "artifact.uri")])
