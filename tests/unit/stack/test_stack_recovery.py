"""The registry stands still while its database is replaced, and an upgrade keeps where its traces go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.core.errors import Unavailable
from tidegate.stack.program import Program
from tidegate.stack.recovery import stand_still
from tidegate.stack.supervisor import ProcessState, script
from tidegate.stack.upgrade import settings_of


class Supervisor:
    """Tells one state after the other; counts the stops."""

    def __init__(self, *states: str) -> None:
        self._states = list(states)
        self.stops = 0

    def states(self) -> dict[str, ProcessState]:
        state = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        return {
            "registry": ProcessState(name="registry", state=state, pid=0, started_s=0, exit_status=0, problem=""),
        }

    def stop_part(self, name: str) -> None:
        self.stops += 1


def test_a_registry_that_ended_by_itself_is_stopped_again_since_it_would_be_started():
    supervisor = Supervisor("EXITED", "STARTING", "STOPPING", "STOPPED")
    stand_still(supervisor)
    assert supervisor.stops == 3


@pytest.mark.parametrize("state", ["STOPPED", "FATAL"])
def test_what_the_supervisor_does_not_start_stands_still(state):
    stand_still(Supervisor(state))


def test_a_registry_that_does_not_stop_is_told():
    with pytest.raises(Unavailable, match=r"registry does not stop \(it is exited\)"):
        stand_still(Supervisor("EXITED"), deadline_s=0)


def test_an_upgrade_keeps_where_traces_go():
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "TIDEGATE_OTEL_X": "1", "PATH": "/bin"}
    program = Program(name="registry", command=("python",), directory=Path("/"), environment=environment)
    kept = settings_of({"registry": script(program)}, {"HOME": "/root"})
    assert kept["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4317"
    assert (kept["TIDEGATE_OTEL_X"], kept["HOME"]) == ("1", "/root")
    assert "PATH" not in kept
