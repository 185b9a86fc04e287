from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.modelhost.lifecycle import (
    BACKOFF_MAX_S,
    STABLE_S,
    Command,
    Decision,
    Event,
    HostStarted,
    Launched,
    LaunchFailed,
    Observed,
    Process,
    Reason,
    Server,
    Spec,
    State,
    StopAsked,
    backoff_s,
    begin,
    cause_of,
    decide,
    measured,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = Spec(
    server_id="churn@1.0.0",
    model="churn",
    version="1.0.0",
    artifact_uri="s3://bucket/key",
    artifact_digest="sha256:" + "0" * 64,
    artifact_format="onnx",
    runtime="kserve-onnx",
    load_timeout_s=30.0,
    memory_mib_max=1024,
    min_sandbox="limits",
    restart=True,
)
PROCESS = Process(pid=4711, create_time_s=1000.0)
AWAY = Reason(code="OBJECT_STORE_UNAVAILABLE", message="the object store is away")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def launched(seconds: float) -> Launched:
    return Launched(
        time=at(seconds),
        process=PROCESS,
        endpoint="unix:/s",
        readiness_path="/v2/health/ready",
        sandbox="limits",
        runtime_digest="sha256:x",
    )


def seen(seconds: float, *, alive: bool = True, ready: bool = False, code: int | None = None) -> Observed:
    return Observed(
        time=at(seconds), is_alive=alive, is_ready=ready, exit_code=code, log_tail="" if alive else "last words"
    )


def after(*events: Event, spec: Spec = SPEC) -> Decision:
    decision = begin(spec, time=START)
    for event in events:
        decision = decide(decision.server, event)
    return decision


def starting(spec: Spec = SPEC) -> Server:
    return after(launched(1), spec=spec).server


def ready(spec: Spec = SPEC) -> Server:
    return after(launched(1), seen(3, ready=True), spec=spec).server


def test_a_new_server_is_launched():
    decision = begin(SPEC, time=START)
    assert (decision.server.state, decision.commands) == (State.STARTING, (Command.LAUNCH,))


def test_a_process_that_says_ready_makes_the_server_ready_and_times_its_load():
    server = ready()
    assert (server.state, server.load_time_ms, server.process) == (State.READY, 2000.0, PROCESS)


def test_a_process_that_is_not_ready_in_time_is_killed_and_the_server_has_failed():
    assert decide(starting(), seen(30.9)).commands == ()
    decision = decide(starting(), seen(31))
    assert (decision.server.state, decision.commands) == (State.FAILED, (Command.KILL,))
    assert decision.server.reason is not None
    assert decision.server.reason.code == "LOAD_TIMEOUT"


@pytest.mark.parametrize("restart", [True, False])
def test_death_before_ready_is_final_and_tells_exit_code_and_log(restart):
    decision = decide(starting(replace(SPEC, restart=restart)), seen(2, alive=False, code=1))
    server = decision.server
    assert (server.state, server.exit_code, server.process) == (State.FAILED, 1, None)
    assert server.reason is not None
    assert server.reason.code == "SERVER_DIED"
    assert "exit code 1" in server.reason.message
    assert "last words" in server.reason.message


def test_a_server_that_was_killed_while_it_loaded_is_launched_again_in_time():
    killed = decide(starting(), seen(2, alive=False, code=-9))
    assert (killed.server.state, killed.commands) == (State.STARTING, (Command.KILL,))
    assert decide(killed.server, seen(2.1, alive=False)).commands == (Command.LAUNCH,)
    late = decide(starting(replace(SPEC, load_timeout_s=1.5)), seen(2, alive=False, code=-9))
    assert late.server.state is State.FAILED


def test_a_server_of_a_validation_that_was_killed_while_it_loaded_has_failed():
    assert decide(starting(replace(SPEC, restart=False)), seen(2, alive=False, code=-9)).server.state is State.FAILED


def test_death_of_a_ready_server_that_shall_restart_is_followed_by_a_launch_after_the_back_off():
    decision = decide(ready(), seen(10, alive=False, code=-9))
    server = decision.server
    assert (server.state, server.restarts, decision.commands) == (State.STARTING, 1, (Command.KILL,))
    assert decide(server, seen(10.05, alive=False)).commands == ()
    again = decide(server, seen(10.1, alive=False))
    assert again.commands == (Command.LAUNCH,)
    # The launch takes its time; it is not asked for twice.
    assert decide(again.server, seen(10.2, alive=False)).commands == ()


def test_death_of_a_ready_server_of_a_validation_is_final():
    decision = decide(ready(replace(SPEC, restart=False)), seen(10, alive=False, code=-9))
    assert (decision.server.state, decision.commands) == (State.FAILED, (Command.KILL,))


def test_a_server_that_was_ready_comes_back_even_if_a_restart_fails():
    server = decide(ready(), seen(10, alive=False)).server
    server = decide(decide(server, seen(11, alive=False)).server, launched(11)).server
    decision = decide(server, seen(12, alive=False, code=1))
    assert (decision.server.state, decision.server.failures_in_a_row) == (State.STARTING, 2)


def test_a_restarted_server_that_hangs_is_killed_and_launched_again():
    server = decide(decide(ready(), seen(10, alive=False)).server, launched(11)).server
    decision = decide(server, seen(41))
    assert (decision.server.state, decision.commands) == (State.STARTING, (Command.KILL,))
    assert decision.server.resume_time is not None


def test_the_back_off_doubles_up_to_its_limit():
    waits = [backoff_s(failures) for failures in range(1, 12)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == backoff_s(10_000) == BACKOFF_MAX_S


def test_the_back_off_begins_anew_after_a_stable_time():
    server = replace(ready(), failures_in_a_row=5)
    assert decide(server, seen(3 + STABLE_S - 1, ready=True)).server.failures_in_a_row == 5
    assert decide(server, seen(3 + STABLE_S, ready=True)).server.failures_in_a_row == 0


def test_a_transient_launch_failure_is_tried_again_until_the_load_time_is_over():
    failed = LaunchFailed(time=at(1), reason=AWAY, is_transient=True)
    server = after(failed).server
    assert (server.state, server.resume_time, server.reason) == (State.STARTING, at(1.1), AWAY)
    assert after(replace(failed, time=at(30))).server.state is State.FAILED


def test_a_permanent_launch_failure_is_final():
    reason = Reason(code="ARTIFACT_DIGEST_MISMATCH", message="other bytes")
    server = after(LaunchFailed(time=at(1), reason=reason, is_transient=False)).server
    assert (server.state, server.reason) == (State.FAILED, reason)


@pytest.mark.parametrize("server", [after().server, starting(), ready(), after(launched(1), seen(31)).server])
def test_a_stop_kills_and_forgets_in_every_state(server):
    decision = decide(server, StopAsked(time=at(50)))
    assert (decision.server.state, decision.commands) == (State.STOPPING, (Command.KILL, Command.FORGET))
    # It stays so, whatever comes late.
    for late in (launched(51), seen(51, ready=True), LaunchFailed(time=at(51), reason=AWAY, is_transient=True)):
        assert decide(decision.server, late).server.state is State.STOPPING


def test_a_process_that_starts_while_the_server_is_stopped_is_killed():
    stopping = decide(after().server, StopAsked(time=at(1))).server
    assert decide(stopping, launched(2)).commands == (Command.KILL, Command.FORGET)


def test_a_new_host_adopts_a_live_server_that_runs():
    assert decide(ready(), HostStarted(time=at(60), is_alive=True)) == Decision(server=ready())


def test_a_new_host_restarts_a_live_server_that_died_meanwhile():
    decision = decide(ready(), HostStarted(time=at(60), is_alive=False))
    assert (decision.server.state, decision.server.restarts, decision.commands) == (State.STARTING, 1, (Command.KILL,))


def test_a_new_host_launches_what_the_old_one_had_only_promised():
    decision = decide(after().server, HostStarted(time=at(60), is_alive=False))
    assert decision.commands == (Command.KILL, Command.LAUNCH)


def test_a_new_host_keeps_a_failed_server_for_its_reason():
    failed = decide(starting(), seen(31)).server
    assert decide(failed, HostStarted(time=at(60), is_alive=False)) == Decision(server=failed)


@pytest.mark.parametrize("server", [ready(replace(SPEC, restart=False)), decide(ready(), StopAsked(time=at(9))).server])
def test_a_new_host_ends_what_was_being_stopped_and_what_a_validation_left(server):
    assert decide(server, HostStarted(time=at(60), is_alive=True)).commands == (Command.KILL, Command.FORGET)


def test_the_peak_of_memory_only_rises():
    assert measured(measured(ready(), 500), 300).peak_memory_bytes == 500


EVENTS = st.one_of(
    st.builds(launched, st.floats(0, 100)),
    st.builds(seen, st.floats(0, 100), alive=st.booleans(), ready=st.booleans(), code=st.none() | st.integers(-15, 2)),
    st.builds(
        lambda seconds, transient: LaunchFailed(time=at(seconds), reason=AWAY, is_transient=transient),
        st.floats(0, 100),
        st.booleans(),
    ),
    st.builds(lambda alive: HostStarted(time=at(50), is_alive=alive), st.booleans()),
)


@given(st.lists(EVENTS, max_size=20), st.booleans())
def test_whatever_happens_nothing_runs_twice_and_nothing_is_left(events, restart):
    decision = begin(replace(SPEC, restart=restart), time=START)
    is_launching = True
    for event in events:
        if isinstance(event, Launched | LaunchFailed) and not is_launching:
            continue  # the shell answers each LAUNCH once
        before = decision.server
        decision = decide(before, event)
        server = decision.server
        if isinstance(event, Launched | LaunchFailed):
            is_launching = False
        if Command.LAUNCH in decision.commands:
            assert (server.process, server.state) == (None, State.STARTING)
            # A new host does not know what the old one had begun; it kills before it launches.
            assert not is_launching or decision.commands == (Command.KILL, Command.LAUNCH)
            is_launching = True
        if Command.FORGET in decision.commands:
            return
        if server.state is State.FAILED:
            assert server.reason is not None
            assert server.process is None
        if server.state is State.READY:
            assert server.process is not None
        if before.process is not None and server.process is None:
            assert Command.KILL in decision.commands
        if not restart:
            assert server.restarts == 0


def test_the_cause_of_a_failure_is_the_last_line_of_its_log():
    assert cause_of("") == ""
    assert cause_of("\n \n") == ""
    assert cause_of("loading\nTraceback (most recent call last):\n  File x\nValueError: odd \n\n") == "ValueError: odd"
