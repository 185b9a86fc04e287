"""Attempts become rows, rows become slices; memory is bounded and losses are counted."""

from __future__ import annotations

from tidegate.monitor import batches
from tidegate.monitor.batches import ROWS_PER_SLICE_MAX, Assembler, Attempt, Key, Row

KEY = Key(node_id="gateway-1", model="flight-delay", epoch=1, revision=7)
STABLE, CANDIDATE = "1.0.0", "1.1.0"


def attempt(
    request_id: str = "a",
    *,
    assigned: str = CANDIDATE,
    answering: str = CANDIDATE,
    status: int = 200,
    key: Key = KEY,
    start_us: int = 1000,
    latency_us: int = 500,
) -> Attempt:
    return Attempt(
        key=key,
        request_id=request_id,
        assigned_arm=assigned,
        answering_arm=answering,
        status=status,
        start_us=start_us,
        latency_us=latency_us,
    )


def rows(assembler: Assembler) -> list[Row]:
    return [row for part in assembler.close_slice() for row in part.rows]


def test_good_answer_is_out_with_the_slice() -> None:
    assembler = Assembler()
    assembler.add(attempt(assigned=STABLE, answering=STABLE))
    (row,) = rows(assembler)
    assert (row.assigned_arm, row.served_arm, row.attempts, row.status, row.latency_us) == (STABLE, STABLE, 1, 200, 500)
    assert rows(assembler) == []


def test_fallback_counts_against_the_candidate_with_its_own_latency() -> None:
    assembler = Assembler()
    assembler.add(attempt(status=500, latency_us=300))
    assembler.add(attempt(answering=STABLE, start_us=1300, latency_us=9000))
    (row,) = rows(assembler)
    assert (row.assigned_arm, row.served_arm, row.attempts) == (CANDIDATE, STABLE, 2)
    assert (row.status, row.latency_us, row.start_us) == (500, 300, 1000)


def test_order_of_the_attempts_does_not_matter() -> None:
    both = [attempt(status=0, latency_us=300), attempt(answering=STABLE, latency_us=9000)]
    forward, backward = Assembler(), Assembler()
    for one in both:
        forward.add(one)
    for one in reversed(both):
        backward.add(one)
    assert rows(forward) == rows(backward)


def test_fallback_alone_means_that_the_candidate_gave_no_answer() -> None:
    assembler = Assembler()
    assembler.add(attempt(answering=STABLE, status=200))
    assert rows(assembler) == []
    (row,) = rows(assembler)
    assert (row.status, row.latency_us, row.attempts, row.served_arm) == (0, 0, 2, STABLE)


def test_failure_waits_one_slice_for_its_fallback_and_no_longer() -> None:
    assembler = Assembler()
    assembler.add(attempt(status=503))
    assert rows(assembler) == []
    assert [row.status for row in rows(assembler)] == [503]
    assembler.add(attempt(answering=STABLE))
    assert rows(assembler) == rows(assembler) == []


def test_where_nobody_else_answers_a_failure_comes_with_the_successes_of_its_moment() -> None:
    assembler = Assembler()
    assembler.add(attempt("a", status=503))
    assert rows(assembler) == []
    assert [row.request_id for row in rows(assembler)] == ["a"]
    assembler.add(attempt("b", status=503))
    assembler.add(attempt("c"))
    assembler.add(attempt("d", status=503, key=Key(node_id="gateway-1", model="flight-delay", epoch=1, revision=8)))
    assert [row.request_id for row in rows(assembler)] == ["b", "c"]
    # One that was answered by another arm after all: from then on failures wait again.
    assembler.add(attempt("e", status=503))
    assembler.add(attempt("e", answering=STABLE))
    assert sorted(row.request_id for row in rows(assembler)) == ["d", "e"]
    assembler.add(attempt("f", status=503))
    assert rows(assembler) == []


def test_memory_of_who_falls_back_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(batches, "FALLBACKS_MAX", 3)
    assembler = Assembler()
    for number in range(10):
        assembler.add(attempt(str(number), status=503, assigned=str(number), answering=str(number)))
    rows(assembler)
    assert len(rows(assembler)) == 10
    assert len(assembler._falls_back) == 3


def test_first_own_attempt_decides() -> None:
    assembler = Assembler()
    assembler.add(attempt(status=500, latency_us=100))
    assembler.add(attempt(status=200, latency_us=900))
    (row,) = rows(assembler)
    assert (row.status, row.latency_us, row.attempts) == (500, 100, 2)


def test_slices_are_cut_by_proxy_and_route() -> None:
    assembler = Assembler()
    other = Key(node_id="gateway-2", model=KEY.model, epoch=1, revision=8)
    for number, key in enumerate((other, KEY, other)):
        assembler.add(attempt(str(number), key=key, start_us=10 - number))
    slices = assembler.close_slice()
    assert [(part.key, [row.request_id for row in part.rows]) for part in slices] == [(KEY, ["1"]), (other, ["2", "0"])]


def test_long_slice_is_split() -> None:
    assembler = Assembler()
    for number in range(ROWS_PER_SLICE_MAX + 1):
        assembler.add(attempt(str(number), start_us=number))
    assert [len(part.rows) for part in assembler.close_slice()] == [ROWS_PER_SLICE_MAX, 1]


def test_what_does_not_fit_is_counted_as_dropped_once() -> None:
    assembler = Assembler(open_rows_max=1)
    for request_id in ("a", "b", "b", "c"):
        assembler.add(attempt(request_id))
    (part,) = assembler.close_slice()
    assert ([row.request_id for row in part.rows], part.dropped) == (["a"], 2)
    assert assembler.close_slice() == []


def test_loss_without_rows_is_still_told() -> None:
    assembler = Assembler()
    assembler.add_dropped(KEY, 9)
    (part,) = assembler.close_slice()
    assert (part.rows, part.dropped) == ((), 9)


def test_memory_of_ids_is_bounded() -> None:
    assembler = Assembler(remembered_ids_max=10)
    for number in range(100):
        assembler.add(attempt(str(number)))
        assembler.close_slice()
    assert len(assembler._emitted) == 10
