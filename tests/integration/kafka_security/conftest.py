"""The embedded broker with the compose file's own security settings, users and rights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from composefile import broker_settings, environment
from pydantic import SecretStr

from tidegate.core.kafka_setup import KafkaSetupSettings, set_up
from tidegate.core.settings import KafkaSettings

SERVICES = ("registry", "validator", "deployer", "monitor")
# Of the machine and of the volume, not of security.
PLACES = ("listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs", "node.id", "process.roles")


@dataclass(frozen=True, kw_only=True)
class SecuredBroker:
    """Where the broker's listeners are, and everybody's password."""

    ports: dict[str, int]
    passwords: dict[str, SecretStr]
    admin: KafkaSettings

    def user(self, name: str, *, password: str | None = None) -> KafkaSettings:
        """Return the settings that the compose file gives the service, or anybody outside, called ``name``."""
        return KafkaSettings(
            bootstrap=f"127.0.0.1:{self.ports['CLIENTS']}",
            topic_prefix=self.admin.topic_prefix,
            partition_count=self.admin.partition_count,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="SCRAM-SHA-512",
            username=name,
            password=SecretStr(password) if password is not None else self.passwords[name],
        )


def _on_loopback(listeners: str, ports: dict[str, int]) -> str:
    """Return ``NAME://host:port,...`` with each listener on its port of this machine."""
    return re.sub(r"(\w+)://[^,]*", lambda match: f"{match.group(1)}://127.0.0.1:{ports[match.group(1)]}", listeners)


@pytest.fixture(scope="session")
def secured_broker(tmp_path_factory: pytest.TempPathFactory, kafka_jars: str) -> Iterator[SecuredBroker]:
    """Run a broker with the compose file's settings, set up as the compose file's one-shot job does it."""
    from tidegate.stack.child import running
    from tidegate.stack.kafka import prepare_kafka
    from tidegate.stack.ports import free_ports
    from tidegate.stack.readiness import answers

    wanted = broker_settings()
    names = re.findall(r"(\w+)://", wanted["listeners"])
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    changes = {name: value for name, value in wanted.items() if name not in PLACES}
    changes["listeners"] = _on_loopback(wanted["listeners"], ports)
    changes["advertised.listeners"] = _on_loopback(wanted["advertised.listeners"], ports)
    changes["offsets.topic.num.partitions"] = changes["transaction.state.log.num.partitions"] = "1"

    folder = tmp_path_factory.mktemp("secured-kafka")
    program = prepare_kafka(
        folder, port=ports["CLIENTS"], controller_port=ports["CONTROLLER"], class_path=kafka_jars, changes=changes
    )
    job = environment("kafka-setup")
    admin = KafkaSettings(
        bootstrap=f"127.0.0.1:{ports['ADMIN']}",
        topic_prefix="secured",
        partition_count=2,
        security_protocol=job["TIDEGATE_KAFKA_SECURITY_PROTOCOL"],
        sasl_mechanism=job["TIDEGATE_KAFKA_SASL_MECHANISM"],
        username=job["TIDEGATE_KAFKA_USERNAME"],
        password=SecretStr(job["TIDEGATE_KAFKA_PASSWORD"]),
    )
    fields = KafkaSetupSettings.model_fields
    given = KafkaSetupSettings(**{name: job[f"TIDEGATE_KAFKA_SETUP_{name.upper()}"] for name in fields})
    is_ready: Callable[[], bool] = lambda: answers("127.0.0.1", ports["CLIENTS"])  # noqa: E731
    with running(program, log=folder / "kafka.out", is_ready=is_ready):
        set_up(admin, given.passwords())
        yield SecuredBroker(ports=ports, passwords=given.passwords(), admin=admin)


@pytest.fixture
def service_environment(secured_broker: SecuredBroker, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Return a function that gives a service's Kafka variables as the compose file does, but on this machine."""

    def variables(service: str) -> dict[str, str]:
        given = {name: value for name, value in environment(service).items() if name.startswith("TIDEGATE_KAFKA_")}
        return given | {
            "TIDEGATE_KAFKA_BOOTSTRAP": f"127.0.0.1:{secured_broker.ports['CLIENTS']}",
            "TIDEGATE_KAFKA_TOPIC_PREFIX": secured_broker.admin.topic_prefix,
            "TIDEGATE_KAFKA_PARTITION_COUNT": str(secured_broker.admin.partition_count),
        }

    return variables
