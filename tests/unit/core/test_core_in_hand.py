"""Which record is in hand: what is written before, behind and after the end of a process."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import InvalidInput, Refused, Unavailable
from tidegate.core.in_hand import (
    ENDS_MAX,
    ERROR_CHARS_MAX,
    MARKS_MAX,
    NO_WORD,
    InHand,
    Mark,
    Marks,
    Place,
    marks_from_bytes,
    marks_to_bytes,
)

marks = st.lists(
    st.builds(Mark, offset=st.integers(0, 2**63 - 1), ends=st.integers(1, 9), error=st.text(max_size=20)),
    max_size=MARKS_MAX,
    unique_by=lambda mark: mark.offset,
).map(lambda found: Marks(tuple(sorted(found, key=lambda mark: mark.offset))))


def place(offset: int = 7) -> Place:
    return Place(topic="tidegate.training", partition=1, offset=offset)


def process(folder) -> InHand:
    """Return the ledger of a process that starts now."""
    return InHand(folder, "group")


def killed(folder, offset: int = 7) -> None:
    """Begin with a record and never come back."""
    in_hand = process(folder)
    in_hand.check(place(offset))
    in_hand.begin(place(offset))


@given(marks)
def test_marks_survive_writing(given_marks):
    assert marks_from_bytes(marks_to_bytes(given_marks)) == given_marks


@given(st.binary(max_size=60))
def test_what_is_damaged_is_no_mark(data):
    assert isinstance(marks_from_bytes(data), Marks)


@given(marks, st.integers(0, 2**63 - 1))
def test_a_record_that_is_begun_counts_once_more_and_is_forgotten_when_done(given_marks, offset):
    begun = given_marks.begun(offset)
    if offset in [mark.offset for mark in begun.marks]:
        assert begun.of(offset).ends == given_marks.of(offset).ends + 1
    assert len(begun.marks) <= MARKS_MAX
    assert all(mark.offset > offset for mark in begun.done(offset).marks)


def test_a_record_that_ends_the_process_twice_is_condemned(tmp_path):
    for _ in range(ENDS_MAX):
        killed(tmp_path)
    with pytest.raises(InvalidInput, match="2 processes ended") as caught:
        process(tmp_path).check(place())
    assert caught.value.code == "EVENT_ENDED_PROCESS"
    assert NO_WORD in str(caught.value)
    # Nobody else is.
    for offset in (6, 8):
        process(tmp_path).check(place(offset))


def test_what_it_raised_is_told(tmp_path):
    for _ in range(ENDS_MAX):
        with pytest.raises(ZeroDivisionError), process(tmp_path).holding(place()):
            raise ZeroDivisionError("by " + "nothing" * ERROR_CHARS_MAX)
    with pytest.raises(InvalidInput, match="ZeroDivisionError: by nothing"):
        process(tmp_path).check(place())


@pytest.mark.parametrize("error", [asyncio.CancelledError(), Unavailable("away"), InvalidInput("bad"), Refused("no")])
def test_a_stop_and_what_is_nobodys_fault_do_not_count(tmp_path, error):
    for _ in range(5):
        with pytest.raises(type(error)), process(tmp_path).holding(place()):
            raise error
        process(tmp_path).check(place())


def test_a_stop_does_not_wipe_out_an_end(tmp_path):
    killed(tmp_path)
    with pytest.raises(asyncio.CancelledError), process(tmp_path).holding(place()):
        raise asyncio.CancelledError
    killed(tmp_path)
    with pytest.raises(InvalidInput):
        process(tmp_path).check(place())


def test_tries_within_a_process_count_once(tmp_path):
    in_hand = process(tmp_path)
    for _ in range(5):
        with pytest.raises(Unavailable), in_hand.holding(place()):
            raise Unavailable("away")
    in_hand.begin(place())
    process(tmp_path).check(place())


def test_an_end_is_forgiven_when_the_record_is_handled(tmp_path):
    killed(tmp_path)
    with process(tmp_path).holding(place()):
        pass
    killed(tmp_path)
    process(tmp_path).check(place())


def test_records_that_come_again_before_it_leave_its_mark_alone(tmp_path):
    for _ in range(ENDS_MAX):
        in_hand = process(tmp_path)
        for offset in (5, 6):
            with in_hand.holding(place(offset)):
                pass
        in_hand.begin(place(7))
    in_hand = process(tmp_path)
    with in_hand.holding(place(6)):
        pass
    with pytest.raises(InvalidInput):
        in_hand.check(place(7))
    # Set aside; until the offset is committed it may come again.
    with pytest.raises(InvalidInput):
        process(tmp_path).check(place(7))
    with in_hand.holding(place(8)):
        pass
    assert [path.stat().st_size for path in (tmp_path / "in-hand" / "group").iterdir()] == [0]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "in-hand").write_text("no folder")
    in_hand = process(tmp_path)
    for _ in range(5):
        in_hand.check(place())
        with in_hand.holding(place()):
            pass


def test_what_failed_with_others_is_a_suspect_until_it_is_handled(tmp_path):
    ending = process(tmp_path)
    for offset in (7, 8, 8):
        ending.failed(place(offset), ValueError("one of these"))
    in_hand = process(tmp_path)
    assert [in_hand.is_suspect(place(offset)) for offset in (6, 7, 8, 9)] == [False, True, True, False]
    with in_hand.trying(place(7)):
        pass
    assert in_hand.is_suspect(place(7))
    in_hand.done(place(7))
    assert [in_hand.is_suspect(place(offset)) for offset in (7, 8)] == [False, True]


def test_our_own_rights_condemn_nothing(tmp_path):
    for _ in range(5):
        process(tmp_path).failed(place(), Refused("no right to publish"))
    process(tmp_path).check(place())


def test_a_real_end_without_a_word_counts(tmp_path):
    """The mark is out of the process before the handler runs."""
    for _ in range(ENDS_MAX):
        child = os.fork()
        if child == 0:
            process(tmp_path).begin(place())
            os._exit(9)
        os.waitpid(child, 0)
    with pytest.raises(InvalidInput):
        process(tmp_path).check(place())
