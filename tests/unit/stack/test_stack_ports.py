"""Which part listens where, and what is said when it can't."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tidegate.core.errors import FailedPrecondition, InvalidInput
from tidegate.stack import ports
from tidegate.stack.ports import PortPlan, check_free


def test_ports_follow_the_base_in_the_documented_order():
    assert list(asdict(PortPlan.from_base(7400)).items()) == [
        ("kafka", 7400),
        ("kafka_controller", 7401),
        ("object_store", 7402),
        ("gateway", 7403),
        ("registry", 7404),
        ("deployer", 7405),
        ("monitor", 7406),
        ("validator", 7407),
        ("modelhost", 7408),
        ("modelhost_sandbox", 7409),
        ("registry_metrics", 7410),
        ("deployer_metrics", 7411),
        ("monitor_metrics", 7412),
        ("validator_metrics", 7413),
        ("modelhost_metrics", 7414),
        ("modelhost_sandbox_metrics", 7415),
    ]


@pytest.mark.parametrize("base", [-1, 80, 1023, 65521, 70000])
def test_base_outside_the_allowed_range_is_refused_with_the_range(base):
    with pytest.raises(InvalidInput, match=f"--port-base is {base}, expected 1024 to 65520, or 0") as raised:
        PortPlan.from_base(base)
    assert raised.value.code == "PORT_BASE_INVALID"


@pytest.mark.parametrize("base", [1024, 65520])
def test_base_at_the_ends_of_the_range_is_taken(base):
    assert PortPlan.from_base(base).modelhost_sandbox_metrics == base + 15


def test_every_service_has_a_port_for_its_metrics():
    assert PortPlan.from_base(7400).metrics() == {
        "registry": 7410,
        "deployer": 7411,
        "monitor": 7412,
        "validator": 7413,
        "modelhost": 7414,
        "modelhost-sandbox": 7415,
    }


def test_taken_ports_are_named_with_their_parts():
    plan = PortPlan.from_base(7400)
    assert plan.taken(is_free=lambda port: port not in {7403, 7409}) == {"gateway": 7403, "modelhost_sandbox": 7409}


def test_taken_port_error_says_which_port_for_whom_and_what_to_do(monkeypatch):
    monkeypatch.setattr(ports, "port_is_free", lambda port: port != 7409)
    monkeypatch.setattr(ports, "_by_whom", lambda _: " by nginx (process 12)")
    with pytest.raises(FailedPrecondition) as raised:
        check_free(PortPlan.from_base(7400))
    assert raised.value.code == "PORT_TAKEN"
    assert "port 7409, wanted by modelhost-sandbox, is taken by nginx (process 12)" in str(raised.value)
    assert "--port-base 0" in raised.value.hint


def test_free_ports_pass(monkeypatch):
    monkeypatch.setattr(ports, "port_is_free", lambda _: True)
    check_free(PortPlan.from_base(7400))
