"""How everything of ours reads the bus: what is committed, in every codec, and past what nobody can decode.

The client library raises for a batch that it can't decode, again at every try, and whoever reads ends with it. Here
such a batch is told, counted and passed over; what could be read of it before the fault is delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import aiokafka
import faust
import structlog
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from faust.transport.drivers import aiokafka as faust_driver

from tidegate.core.kafka_access import client_options
from tidegate.core.kafka_codecs import bound_codecs
from tidegate.core.metrics import BATCHES_UNREADABLE, topic_label
from tidegate.core.settings import KafkaSettings

READ_COMMITTED: Final = "read_committed"
# A bad checksum may be the connection's fault: so often a batch is fetched again before it is passed over.
CHECKSUM_TRIES: Final = 3
# More than any producer of ours or others puts in one.
BATCH_RECORDS_MAX: Final = 1_000_000
# What nobody asked about is in the log all the same.
PASSED_OVER_MAX: Final = 1_000
CODECS: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A batch that was passed over: ``offset`` is the first one that was not delivered, ``next_offset`` the next."""

    topic: str
    partition: int
    offset: int
    next_offset: int
    codec: str
    error: str


def committed_consumer(settings: KafkaSettings, *topics: str, **options: Any) -> aiokafka.AIOKafkaConsumer:
    """Return a consumer that commits nothing by itself and sees nothing of aborted transactions."""
    pass_over_unreadable()
    return aiokafka.AIOKafkaConsumer(
        *topics, **client_options(settings), isolation_level=READ_COMMITTED, enable_auto_commit=False, **options
    )


def read_committed(app: faust.App) -> None:
    """Have ``app`` see nothing of aborted transactions, without faust's own transactions."""
    pass_over_unreadable()
    app.transport = _Transport(app.conf.broker_consumer, app)


def pass_over_unreadable() -> None:
    """Have all consumers of this process pass over what can't be decoded; repeatable."""
    fetcher.PartitionRecords = _Records
    bound_codecs()


class _Thread(faust_driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust gives the level only along with its exactly-once, which is not; it is read when the consumer starts.
        consumer._isolation_level = READ_COMMITTED  # noqa: SLF001
        return consumer


class _Consumer(faust_driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(faust_driver.Transport):  # type: ignore[misc]
    Consumer: ClassVar[type[_Consumer]] = _Consumer


class _Records(fetcher.PartitionRecords):  # type: ignore[misc]
    """The library's records of one partition, which go on behind a batch that can't be decoded."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        while self._records.has_next():
            try:
                batch = self._records.next_batch()
                is_sound = not self._check_crcs or batch.validate_crc()
                is_delivered = is_sound and not self._is_aborted(batch) and not batch.is_control_batch
            except Exception as error:  # noqa: BLE001 (told and counted; the kinds of the codecs' errors are many)
                self._pass_over(self.next_fetch_offset + 1, "unknown", error)
                return
            if not is_sound:
                if not self._is_worth_another_try():
                    wrong = CorruptRecordException("the checksum of the batch is wrong")
                    self._pass_over(self._after(batch), "unknown", wrong)
                # What comes behind it is fetched again.
                return
            if is_delivered:
                yield from self._delivered(batch)
            # A batch keeps its last offset when its last record is compacted away.
            self.next_fetch_offset = batch.next_offset

    def _delivered(self, batch: Any) -> Iterator[Any]:
        records = None
        while True:
            try:
                # The first step decompresses all of it.
                records = iter(batch) if records is None else records
                record = next(records)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 (as above)
                codec = CODECS.get(batch.compression_type, "unknown")
                self._pass_over(max(batch.next_offset, self.next_fetch_offset + 1), codec, error)
                return
            # Whoever begins in the middle of a batch gets all of it.
            if record.offset >= self.next_fetch_offset:
                made = self._consumer_record(self._tp, record)
                self.next_fetch_offset = record.offset + 1
                yield made

    def _is_aborted(self, batch: Any) -> bool:
        if self._isolation_level != fetcher.READ_COMMITTED or batch.producer_id is None:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and self._contains_abort_marker(batch):
            # There may be a marker of a transaction that left nothing here.
            self._aborted_producers.discard(batch.producer_id)
        return bool(batch.is_transactional and batch.producer_id in self._aborted_producers)

    def _is_worth_another_try(self) -> bool:
        place = (self._tp, self.next_fetch_offset)
        if _bad_checksums.get(self._tp, (None, 0))[0] != place:
            _bad_checksums[self._tp] = (place, 0)
        tries = _bad_checksums[self._tp][1] + 1
        _bad_checksums[self._tp] = (place, tries)
        return tries < CHECKSUM_TRIES

    def _after(self, batch: Any) -> int:
        """Return the offset behind a batch whose head may be as wrong as the rest."""
        begin, end, here = batch.base_offset, batch.next_offset, self.next_fetch_offset
        is_credible = begin <= here < end and end - begin <= BATCH_RECORDS_MAX
        return int(end if is_credible else here + 1)

    def _pass_over(self, next_offset: int, codec: str, error: Exception) -> None:
        passed = Unreadable(
            topic=self._tp.topic,
            partition=self._tp.partition,
            offset=self.next_fetch_offset,
            next_offset=next_offset,
            codec=codec,
            error=f"{type(error).__name__}: {error}",
        )
        log.error("a batch can't be decoded, passed over", **asdict(passed))
        BATCHES_UNREADABLE.labels(topic_label(passed.topic), codec).inc()
        _passed_over.append(passed)
        self.next_fetch_offset = next_offset


# Shared by the consumers of the process, which have threads of their own.
_bad_checksums: Final[dict[Any, tuple[Any, int]]] = {}
_passed_over: Final[deque[Unreadable]] = deque(maxlen=PASSED_OVER_MAX)


def passed_over() -> Iterator[Unreadable]:
    """Yield, once each, what the consumers of this process have passed over since the last call."""
    while _passed_over:
        yield _passed_over.popleft()
