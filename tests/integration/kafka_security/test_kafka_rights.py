"""The only-writer table is enforced by the broker: with the compose file's settings, on the embedded broker."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from kafka.admin import KafkaAdminClient

from tidegate.contracts.codec import Record
from tidegate.contracts.principals import DEPLOYER_PRINCIPAL, PRINCIPALS, grants
from tidegate.contracts.topics import PRIVATE_TOPICS, REGISTRY, ROUTES, TOPICS
from tidegate.core.bus import EventProducer, create_topics
from tidegate.core.errors import Refused
from tidegate.core.kafka_access import client_options
from tidegate.core.kafka_setup import set_up

ALL_TOPICS = (*TOPICS, *PRIVATE_TOPICS)
RECORD = Record(key=b"flight-delay", value=b"x")


WRITERS = [principal for principal in PRINCIPALS if principal.writes()]
READERS_ONLY = [principal for principal in PRINCIPALS if not principal.writes()]


@pytest.mark.parametrize("principal", WRITERS, ids=lambda principal: principal.name)
async def test_each_principal_writes_its_own_topics_and_no_other(secured_broker, principal):
    settings = secured_broker.user(principal.name)
    own = {topic.name for topic in principal.writes()}
    written, refused = set(), set()
    async with EventProducer(settings, client_id="test") as producer:
        for topic in ALL_TOPICS:
            try:
                await producer.publish_record(topic.full_name(settings.topic_prefix), RECORD)
                written.add(topic.name)
            except Refused as error:
                assert error.code == "BROKER_FORBIDS"
                assert principal.name in str(error)
                refused.add(topic.name)
    assert written == own
    assert refused == {topic.name for topic in ALL_TOPICS} - own


@pytest.mark.parametrize("principal", READERS_ONLY, ids=lambda principal: principal.name)
async def test_who_writes_nothing_may_not_even_begin(secured_broker, principal):
    with pytest.raises(Refused, match=principal.name):
        await EventProducer(secured_broker.user(principal.name), client_id="test").__aenter__()


@pytest.mark.parametrize("principal", PRINCIPALS, ids=lambda principal: principal.name)
async def test_each_principal_reads_what_the_table_says_and_no_other(secured_broker, principal):
    settings = secured_broker.user(principal.name)
    read = set()
    for topic in ALL_TOPICS:
        consumer = AIOKafkaConsumer(
            topic.full_name(settings.topic_prefix), **client_options(settings), auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            await consumer.getmany(timeout_ms=100)
            read.add(topic.name)
        except TopicAuthorizationFailedError:
            pass
        finally:
            await consumer.stop()
    assert read == {topic.name for topic in principal.reads}


async def test_producers_read_their_answers_as_the_guide_says_without_a_group(secured_broker):
    settings = secured_broker.user("producers")
    topic = REGISTRY.full_name(settings.topic_prefix)
    async with EventProducer(secured_broker.user("registry"), client_id="test") as producer:
        await producer.publish_record(topic, RECORD)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "security.protocol": settings.security_protocol,
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.username,
            "sasl.password": settings.password.get_secret_value(),
            "group.id": "none",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    # The library asks for its group's coordinator nevertheless, and tells once that it may not: the guide passes that over.
    polled = [await asyncio.to_thread(consumer.poll, 10) for _ in range(3)]
    await asyncio.to_thread(consumer.close)
    assert RECORD.value in [one.value() for one in polled if one is not None and one.error() is None]


async def test_nobody_joins_the_group_of_another(secured_broker):
    settings = secured_broker.user("monitor")
    consumer = AIOKafkaConsumer(
        **client_options(settings), group_id=DEPLOYER_PRINCIPAL.consumer_group(settings.topic_prefix)
    )
    await consumer.start()
    try:
        with pytest.raises(GroupAuthorizationFailedError):
            await consumer.committed(_first_partition(settings))
    finally:
        await consumer.stop()


async def test_only_the_deployer_may_fence_the_deployer(secured_broker):
    def producer(name: str) -> AIOKafkaProducer:
        settings = secured_broker.user(name)
        group = DEPLOYER_PRINCIPAL.consumer_group(settings.topic_prefix)
        return AIOKafkaProducer(**client_options(settings), transactional_id=f"{group}-0")

    deployer = producer("deployer")
    await deployer.start()
    try:
        async with deployer.transaction():
            await deployer.send(ROUTES.full_name(secured_broker.admin.topic_prefix), b"x", key=b"m")
    finally:
        await deployer.stop()
    other = producer("registry")
    with pytest.raises(Exception, match=r"(?i)transactional"):
        await other.start()
    await other.stop()


def test_no_service_makes_topics_or_rights(secured_broker):
    settings = secured_broker.user("registry")
    assert create_topics(settings) == []  # they are all there, and the service sees it
    elsewhere = settings.model_copy(update={"topic_prefix": "elsewhere"})
    with pytest.raises(Refused, match=r"create the topic elsewhere\.training"):
        create_topics(elsewhere)
    with pytest.raises(Refused, match="'registry'"):
        set_up(settings, secured_broker.passwords)


def test_set_up_again_changes_nothing_and_takes_away_what_is_too_much(secured_broker):
    from tidegate.contracts.principals import Grant, Operation, Resource
    from tidegate.core.kafka_setup import _present, as_acl

    prefix = secured_broker.admin.topic_prefix
    wanted = {as_acl(grant) for principal in PRINCIPALS for grant in grants(principal, prefix=prefix)}
    spare = as_acl(
        Grant(principal="monitor", operation=Operation.WRITE, resource=Resource.TOPIC, name=f"{prefix}.routes")
    )
    other = as_acl(
        Grant(principal="monitor", operation=Operation.WRITE, resource=Resource.TOPIC, name="staging.monitoring")
    )
    admin = KafkaAdminClient(**client_options(secured_broker.admin))
    try:
        assert set(_present(admin, prefix)) == wanted
        admin.create_acls([spare, other])
        set_up(secured_broker.admin, secured_broker.passwords)
        assert set(_present(admin, prefix)) == wanted
        assert set(_present(admin, "staging")) == {other}
    finally:
        admin.close()


def _first_partition(settings):
    from aiokafka import TopicPartition

    return TopicPartition(ROUTES.full_name(settings.topic_prefix), 0)
