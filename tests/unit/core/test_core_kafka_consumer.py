"""What is read of a fetched partition: every codec, nothing aborted, and on behind what can't be decoded."""

from __future__ import annotations

import os
import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.codec import gzip_encode, has_lz4, has_snappy, has_zstd, snappy_encode
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from kafka import codec as kafka_python

from tidegate.core.kafka_codecs import DECOMPRESSED_BYTES_MAX, gzip, snappy
from tidegate.core.kafka_consumer import (
    CHECKSUM_TRIES,
    CODECS,
    PASSED_OVER_MAX,
    committed_consumer,
    pass_over_unreadable,
    passed_over,
)
from tidegate.core.metrics import BATCHES_UNREADABLE
from tidegate.core.settings import KafkaSettings

PLACE = TopicPartition("tidegate.training", 3)
ATTRIBUTES, CRC, HEAD, BODY = 21, 17, 21, 61


@pytest.fixture(autouse=True)
def _drained():
    pass_over_unreadable()
    list(passed_over())


def batch(offset: int, values: list[bytes], codec: int = 0, *, transactional: bool = False) -> bytearray:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=int(transactional),
        producer_id=7,
        producer_epoch=0,
        base_sequence=0,
        batch_size=1 << 28,
    )
    for place, value in enumerate(values):
        builder.append(place, timestamp=1, key=b"k", value=value, headers=[])
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, offset)
    return made


def signed(made: bytearray) -> bytearray:
    """Give ``made`` the checksum that it should have."""
    from aiokafka.record.util import calc_crc32c

    struct.pack_into(">I", made, CRC, calc_crc32c(bytes(made[HEAD:])))
    return made


def reading(data: bytes, offset: int = 0, aborted: list[tuple[int, int]] | None = None) -> fetcher.PartitionRecords:
    return fetcher.PartitionRecords(PLACE, MemoryRecords(bytes(data)), aborted, offset, None, None, True, 1)


def values_of(records: fetcher.PartitionRecords) -> list[bytes]:
    return [record.value for record in records]


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec):
    values = [b"value " * 50, b"another " * 50]
    records = reading(batch(5, values, codec), offset=5)
    assert values_of(records) == values
    assert records.next_fetch_offset == 7


def test_every_codec_is_there_for_both_clients():
    assert all([has_lz4(), has_snappy(), has_zstd()])
    assert all([kafka_python.has_lz4(), kafka_python.has_snappy(), kafka_python.has_zstd()])


@pytest.mark.parametrize("codec", [1, 2, 3, 4, 5, 6, 7])
def test_what_cannot_be_decoded_is_told_counted_and_passed_over(codec):
    bad = batch(0, [b"a" * 200, b"b" * 200], min(codec, 4))
    bad[ATTRIBUTES + 1] = codec
    bad[BODY + 2 :] = b"\xa5" * (len(bad) - BODY - 2)
    name = CODECS.get(codec, "unknown")
    before = BATCHES_UNREADABLE.labels("training", name)._value.get()
    records = reading(signed(bad) + batch(2, [b"good"]))
    assert values_of(records) == [b"good"]
    assert records.next_fetch_offset == 3
    (told,) = passed_over()
    assert (told.topic, told.partition, told.offset, told.next_offset) == (PLACE.topic, 3, 0, 2)
    assert told.codec == name
    assert told.error
    assert BATCHES_UNREADABLE.labels("training", name)._value.get() == before + 1


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_a_batch_that_would_fill_the_memory_is_passed_over(codec):
    bomb = batch(0, [bytes(DECOMPRESSED_BYTES_MAX)], codec)
    assert len(bomb) < 1 << 20
    records = reading(bomb + batch(1, [b"good"]))
    assert values_of(records) == [b"good"]
    (told,) = passed_over()
    assert f"more than {DECOMPRESSED_BYTES_MAX} bytes" in told.error


@pytest.mark.parametrize("codec", CODECS)
def test_a_large_batch_is_read(codec):
    values = [os.urandom(100) + bytes(5 << 20), b"and more"]
    assert values_of(reading(batch(0, values, codec))) == values


def test_snappy_is_read_in_both_framings():
    data = os.urandom(1000) + bytes(100_000)
    assert snappy(snappy_encode(data)) == snappy(snappy_encode(data, xerial_compatible=False)) == data
    with pytest.raises(CorruptRecordException, match="a snappy block"):
        snappy(snappy_encode(data)[:-1])
    with pytest.raises(CorruptRecordException, match="more than"):
        snappy(b"\xff\xff\xff\xff\x0f" + bytes(10))


def test_gzip_is_read_whole_or_not_at_all():
    both = gzip_encode(b"one") + gzip_encode(b"two")
    assert gzip(both) == b"onetwo"
    with pytest.raises(CorruptRecordException, match="too early"):
        gzip(both[:-1])


def test_records_before_the_fault_are_delivered():
    bad = batch(0, [b"first", b"second", b"third"])
    bad[-3:] = b"\xff\xff\xff"
    records = reading(signed(bad) + batch(3, [b"good"]))
    values = values_of(records)
    assert values[0] == b"first"
    assert values[-1] == b"good"
    assert [one.next_offset for one in passed_over()] == [3]


def test_a_wrong_checksum_is_fetched_again_before_it_is_passed_over():
    bad = batch(10, [b"a", b"b"])
    bad[-1] ^= 1
    data = bad + batch(12, [b"good"])
    for _ in range(CHECKSUM_TRIES - 1):
        records = reading(data, offset=10)
        assert values_of(records) == []
        assert records.next_fetch_offset == 10
    records = reading(data, offset=10)
    assert values_of(records) == []
    assert records.next_fetch_offset == 12
    assert [(one.offset, one.next_offset) for one in passed_over()] == [(10, 12)]
    assert values_of(reading(data[len(bad) :], offset=12)) == [b"good"]


def test_an_incredible_head_moves_by_one():
    bad = batch(10, [b"a"])
    struct.pack_into(">i", bad, 23, 2_000_000_000)
    for _ in range(CHECKSUM_TRIES):
        records = reading(bad, offset=10)
        assert values_of(records) == []
    assert records.next_fetch_offset == 11


def test_aborted_records_are_passed_over_without_a_word():
    data = batch(0, [b"aborted"], transactional=True) + batch(1, [b"good"])
    assert values_of(reading(data, aborted=[(7, 0)])) == [b"good"]
    assert list(passed_over()) == []


def test_whoever_begins_in_the_middle_gets_the_rest():
    assert values_of(reading(batch(0, [b"a", b"b", b"c"], 4), offset=1)) == [b"b", b"c"]


def test_what_is_told_is_bounded():
    bad = batch(0, [b"a"])
    bad[ATTRIBUTES + 1] = 7
    for _ in range(PASSED_OVER_MAX + 5):
        values_of(reading(signed(bad)))
    assert len(list(passed_over())) == PASSED_OVER_MAX


async def test_our_consumers_read_what_is_committed():
    consumer = committed_consumer(KafkaSettings())
    assert consumer._isolation_level == "read_committed"
    assert not consumer._enable_auto_commit
