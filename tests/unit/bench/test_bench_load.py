import shutil

import pytest

from bench import __main__ as command
from bench import load, models
from bench.tools import ToolMissing

CLEAN = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.90ms    1.17ms  17.72ms   91.86%
  9912 requests in 1.00s, 2.05MB read
Requests/sec:   9911.55
"""
FAILING = (
    CLEAN
    + """  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 50
"""
)


def test_a_clean_run_has_no_failures():
    assert load.parse(CLEAN) == load.Burst(requests=9912, not_2xx=0, socket_errors=0)


def test_every_kind_of_failure_counts():
    assert load.parse(FAILING).failed == 60


def test_output_without_a_count_is_a_fault():
    with pytest.raises(ValueError, match="counted no requests"):
        load.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_request_body_is_one_lua_string():
    assert 'wrk.body = "{\\"inputs\\"' in load.script(models.body(1))


def test_answer_is_told_by_its_number():
    assert (
        models.echo_of(b'{"outputs": [{"name": "probability", "data": [0.1]}, {"name": "echo", "data": [17.0]}]}') == 17
    )
    for broken in (b"{}", b"[]", b"not json", b'{"outputs": [{"name": "echo", "data": []}]}'):
        with pytest.raises(ValueError, match=r"expected an output echo|Expecting"):
            models.echo_of(broken)


def test_trainings_differ_and_are_legal_models():
    first, second = models.export(1), models.export(2)
    assert first != second
    models.check(first)


def test_absent_tool_is_named_with_its_package(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ToolMissing, match="wrk is not installed; hint: apt-get install wrk"):
        load.wrk_path()
    assert command.run_one("envoy", quick=True, folder=tmp_path) == command.EXIT_TOOL_MISSING
    assert capsys.readouterr().err.startswith("bench envoy is not run: wrk is not installed")
    assert not [*tmp_path.iterdir()]
