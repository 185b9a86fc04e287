"""What the services are told: the settings that they have, and only the keys that they need."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from tidegate.core.settings import AccessSettings, CallerSettings, KafkaSettings, ObjectStoreSettings
from tidegate.stack.environment import clean_environment
from tidegate.stack.layout import Layout
from tidegate.stack.object_store import Credentials
from tidegate.stack.ports import PortPlan
from tidegate.stack.release import RELEASE_VARIABLE
from tidegate.stack.services import Site, service_programs
from tidegate.stack.tokens import Tokens

SITE = Site(
    layout=Layout(root=Path("/data")),
    ports=PortPlan.from_base(7400),
    credentials=Credentials(access_key="key", secret_key="secret"),
    runtimes_dir=Path("/repository/runtimes"),
    tokens=Tokens(file=Path("/data/tokens.json"), folder=Path("/data/tokens")),
)
PROGRAMS = {program.name: program for program in service_programs(SITE, caller={})}
SERVICES = ("modelhost", "registry", "monitor", "validator", "deployer")


def settings_class(service: str) -> type[BaseSettings]:
    module = importlib.import_module(f"tidegate.{service}.settings")
    prefix = f"TIDEGATE_{service.upper()}_"
    return next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, BaseSettings) and each.model_config.get("env_prefix") == prefix
    )


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_told_only_settings_that_they_have(service):
    known = {f"TIDEGATE_{service.upper()}_{name.upper()}" for name in settings_class(service).model_fields}
    known |= {f"TIDEGATE_KAFKA_{name.upper()}" for name in KafkaSettings.model_fields}
    known |= {f"TIDEGATE_S3_{name.upper()}" for name in ObjectStoreSettings.model_fields}
    known |= {f"TIDEGATE_{name.upper()}" for each in (AccessSettings, CallerSettings) for name in each.model_fields}
    # The stack's own mark, by which an upgrade knows what runs.
    known |= {RELEASE_VARIABLE}
    told = {name for name in PROGRAMS[service].environment if name.startswith("TIDEGATE_")}
    assert told <= known


@pytest.mark.parametrize("service", SERVICES)
def test_services_accept_what_they_are_told(service, monkeypatch):
    for name, value in PROGRAMS[service].environment.items():
        monkeypatch.setenv(name, value)
    settings = settings_class(service)()
    assert settings.host == "127.0.0.1"
    assert settings.port == getattr(SITE.ports, service)
    assert settings.metrics_port == SITE.ports.metrics()[service]


@pytest.mark.parametrize("name", PROGRAMS)
def test_only_services_that_handle_artifacts_get_the_object_stores_keys(name):
    has_keys = "TIDEGATE_S3_SECRET_KEY" in PROGRAMS[name].environment
    assert has_keys == (name in {"registry", "validator", "modelhost", "modelhost-sandbox"})


def test_model_hosts_are_not_told_of_the_event_bus():
    assert not any("KAFKA" in name for name in PROGRAMS["modelhost-sandbox"].environment)


def test_the_two_model_hosts_share_neither_port_nor_data_nor_sockets():
    live, sandbox = (PROGRAMS[name].environment for name in ("modelhost", "modelhost-sandbox"))
    for setting in ("PORT", "DATA_DIR", "SOCKET_DIR"):
        assert live[f"TIDEGATE_MODELHOST_{setting}"] != sandbox[f"TIDEGATE_MODELHOST_{setting}"]


def test_callers_settings_of_a_service_reach_it_alone_and_never_override_the_stack():
    caller = {"TIDEGATE_MONITOR_SLICE_S": "0.5", "TIDEGATE_MONITOR_PORT": "1", "HOME_SECRET": "x"}
    programs = {program.name: program.environment for program in service_programs(SITE, caller=caller)}
    assert programs["monitor"]["TIDEGATE_MONITOR_SLICE_S"] == "0.5"
    assert programs["monitor"]["TIDEGATE_MONITOR_PORT"] == "7406"
    assert not any("TIDEGATE_MONITOR_SLICE_S" in programs[name] for name in programs if name != "monitor")
    assert "HOME_SECRET" not in programs["monitor"]


def test_nothing_of_the_callers_secrets_is_passed_on():
    base = {"PATH": "/bin", "HOME": "/home/me", "AWS_SECRET_ACCESS_KEY": "x", "HTTPS_PROXY": "http://me:x@proxy"}
    assert clean_environment({"A": "1"}, base=base) == {"PATH": "/bin", "HOME": "/home/me", "A": "1"}
