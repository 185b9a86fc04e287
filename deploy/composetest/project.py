"""One run of the compose file: its own name, ports, secrets and volumes; nothing of it is left afterwards."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from composetest.engine import CommandError, Engine, run
from composetest.images import Image, compose_binary
from tidegate.client.settings import ClientSettings
from tidegate.core.settings import CallerSettings, KafkaSettings, ObjectStoreSettings
from tidegate.stack.ports import free_ports

ROOT: Final = Path(__file__).resolve().parents[2]
PORTS: Final = ("KAFKA_PORT", "S3_PORT", "GATEWAY_PORT", "REGISTRY_PORT", "DEPLOYER_PORT")
BUILD_S: Final = 3600.0
UP_S: Final = 900.0
POLL_S: Final = 0.5
LOG_LINES: Final = 40


@dataclass(frozen=True, kw_only=True)
class Container:
    """What the engine says of one container; ``users`` are those of its processes, by number or name."""

    service: str
    image: str
    state: str
    health: str
    is_read_only: bool
    has_capabilities: bool
    users: tuple[str, ...]


class Project:
    """The compose file with one name and one set of variables."""

    def __init__(self, engine: Engine, name: str, env_file: Path, variables: Mapping[str, str]) -> None:
        self.name = name
        self.variables = variables
        self._engine = engine
        self._env_file = env_file

    def compose(self, *arguments: str, timeout_s: float = UP_S) -> str:
        """Run ``docker compose`` on the file.

        Raises:
            CommandError: It failed.

        """
        file = ("--file", str(ROOT / "docker-compose.yml"), "--env-file", str(self._env_file))
        command = (compose_binary(), "--project-name", self.name, *file, *arguments)
        return run(*command, environment=self._engine.environment, timeout_s=timeout_s, directory=ROOT)

    def build(self) -> float:
        """Build the services' images; return the seconds that it took."""
        begin = time.monotonic()
        self.compose("build", timeout_s=BUILD_S)
        return time.monotonic() - begin

    def up(self) -> float:
        """Start everything and wait until all that has a health check is healthy; return the seconds.

        Raises:
            CommandError: It is not healthy in time; with the state and the logs of what is not.

        """
        begin = time.monotonic()
        try:
            self.compose("up", "--detach", "--wait", "--wait-timeout", f"{UP_S:.0f}", timeout_s=2 * UP_S)
        except CommandError as error:
            # `--wait` counts the set-up's proper end as a failure.
            self._wait_healthy(begin + UP_S, error)
        return time.monotonic() - begin

    def restart(self, *services: str) -> None:
        """Restart services and wait until they are healthy again."""
        self.compose("restart", *services)
        self._wait_healthy(time.monotonic() + UP_S, None)

    def down(self) -> None:
        """Stop and remove containers, networks, volumes and the images that were built for this run."""
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "20")

    def containers(self) -> list[Container]:
        """Return what runs."""
        label = f"label=com.docker.compose.project={self.name}"
        ids = self._engine.docker("ps", "--all", "--quiet", "--filter", label).split()
        found = json.loads(self._engine.docker("inspect", *ids)) if ids else []
        return [self._container(document) for document in found]

    def image_sizes_mb(self) -> dict[str, float]:
        """Return the size of each image in use, in MB (as the engine counts it: layers shared or not)."""
        images = sorted({container.image for container in self.containers()})
        sizes = self._engine.docker("image", "inspect", "--format", "{{.Size}}", *images).split()
        return {image: int(size) / 1e6 for image, size in zip(images, sizes, strict=True)}

    def logs(self, services: Iterable[str]) -> str:
        """Return the end of the logs of ``services``."""
        return "\n".join(self.compose("logs", "--no-color", "--tail", str(LOG_LINES), service) for service in services)

    def settings(self, user: str, *, password: str = "") -> ClientSettings:
        """Return how a client on this machine, who is ``user``, reaches the parts."""
        of = self.variables
        given = password or of.get(f"KAFKA_{user.upper()}_PASSWORD", "")
        return ClientSettings(
            kafka=KafkaSettings(
                bootstrap=f"127.0.0.1:{of['KAFKA_PORT']}",
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="SCRAM-SHA-512",
                username=user,
                password=SecretStr(given),
            ),
            object_store=ObjectStoreSettings(
                endpoint=f"127.0.0.1:{of['S3_PORT']}",
                access_key=SecretStr(of["S3_ACCESS_KEY"]),
                secret_key=SecretStr(of["S3_SECRET_KEY"]),
            ),
            caller=CallerSettings(token=SecretStr(of["ADMIN_TOKEN"])),
            registry_address=f"127.0.0.1:{of['REGISTRY_PORT']}",
            deployer_address=f"127.0.0.1:{of['DEPLOYER_PORT']}",
            gateway_url=f"http://127.0.0.1:{of['GATEWAY_PORT']}",
            source="docker-compose.yml",
        )

    def _wait_healthy(self, deadline: float, cause: Exception | None) -> None:
        while True:
            bad = [one for one in self.containers() if not _is_well(one)]
            if not bad:
                return
            ended = [one for one in bad if one.state in {"exited", "dead"}]
            if ended or time.monotonic() > deadline:
                told = ", ".join(f"{one.service} is {one.state} {one.health}".strip() for one in bad)
                raise CommandError(f"not healthy: {told}\n{self.logs(one.service for one in bad)}") from cause
            time.sleep(POLL_S)

    def _container(self, document: dict[str, Any]) -> Container:
        host, state = document["HostConfig"], document["State"]
        return Container(
            service=document["Config"]["Labels"]["com.docker.compose.service"],
            image=document["Config"]["Image"],
            state=state["Status"],
            health=state.get("Health", {}).get("Status", ""),
            is_read_only=bool(host["ReadonlyRootfs"]),
            has_capabilities=host["CapDrop"] != ["ALL"] or bool(host["CapAdd"]),
            users=self._users(document["Id"]) if state["Status"] == "running" else (),
        )

    def _users(self, container_id: str) -> tuple[str, ...]:
        try:
            lines = self._engine.docker("top", container_id, "-eo", "pid,uid,comm").splitlines()[1:]
        except CommandError:
            # It ended since it was looked at.
            return ()
        return tuple(sorted({line.split()[1] for line in lines}))


def _is_well(container: Container) -> bool:
    if container.service == "kafka-setup":
        return container.state == "exited"
    return container.state == "running" and container.health in {"", "healthy"}


@contextmanager
def project(engine: Engine, name: str, folder: Path, images: list[Image]) -> Iterator[Project]:
    """Yield the project with fresh secrets and free ports; taken down at the end, whatever happened."""
    env_file = folder / f"{name}.env"
    env_file.unlink(missing_ok=True)
    run("python3", str(ROOT / "deploy" / "new_env.py"), str(env_file))
    ports = {variable: str(port) for variable, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    chosen = ports | {image.variable: image.name for image in images}
    with env_file.open("a") as stream:
        stream.writelines(f"{variable}={value}\n" for variable, value in chosen.items())
    variables = dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", env_file.read_text(), re.MULTILINE))
    made = Project(engine, name, env_file, variables)
    try:
        yield made
    finally:
        try:
            made.down()
        finally:
            # Its secrets go also if the engine went first.
            env_file.unlink()
