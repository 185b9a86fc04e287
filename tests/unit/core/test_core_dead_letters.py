"""What is set aside fits, however large it came: a message that fits nowhere would stop its stream."""

from __future__ import annotations

import pytest

from tidegate.contracts.codec import Record
from tidegate.core.bus import MESSAGE_BYTES_MAX, _fitting

EXTRA = (("tidegate-error", b"BODY_UNREADABLE: why"), ("tidegate-origin", b"tidegate.training/0/1"))


def size(record: Record) -> int:
    return len(record.key) + len(record.value) + sum(len(name) + len(value) for name, value in record.headers)


def test_what_fits_stays_as_it_is():
    record = Record(key=b"fraud", value=b"x" * 800_000, headers=(("ce_type", b"?"), *EXTRA))
    assert _fitting(record) == record


@pytest.mark.parametrize(
    "record",
    [
        Record(key=b"fraud", value=b"x" * 899_990, headers=(("ce_type", b"?"), *EXTRA)),
        Record(key=b"fraud", value=b"x" * 1_040_000, headers=EXTRA),
        Record(key=b"fraud", value=b"x", headers=(("junk", b"y" * 1_000_000), *EXTRA)),
        Record(key=b"k" * 1_000_000, value=b"x", headers=EXTRA),
    ],
)
def test_what_does_not_fit_says_how_large_it_was(record):
    cut = _fitting(record)
    assert size(cut) < MESSAGE_BYTES_MAX
    assert dict(cut.headers)["tidegate-truncated"] == str(len(record.value)).encode()
    assert set(EXTRA) <= set(cut.headers)
    assert record.value.startswith(cut.value)
