"""The Tidegate services as programs; each gets the addresses and keys that it needs, and no others."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidegate.stack.layout import Layout
from tidegate.stack.object_store import ARTIFACT_BUCKET, Credentials
from tidegate.stack.ports import LOOPBACK, PortPlan
from tidegate.stack.program import Program
from tidegate.stack.release import RELEASE_VARIABLE, this_release
from tidegate.stack.tokens import OWN_TOKENS, Tokens

SERVICE_STOP_S: Final = 15.0
# Several small processes share two cores: no thread pools and memory arenas of their own for each core.
_SMALL: Final = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Where traces go is said once.
_FOR_ALL: Final = ("OTEL_", "TIDEGATE_OTEL_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What all services of one stack are told from."""

    layout: Layout
    ports: PortPlan
    credentials: Credentials
    runtimes_dir: Path
    tokens: Tokens
    # The services ask nobody who they are.
    insecure: bool = False
    # Set while a gateway runs that an older release started, which knows of no tokens.
    admit_old_gateways: bool = False

    @property
    def kafka(self) -> dict[str, str]:
        """Settings of the event bus."""
        return {"TIDEGATE_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{self.ports.kafka}"}

    @property
    def s3(self) -> dict[str, str]:
        """Settings of the object store, with its keys."""
        return {
            "TIDEGATE_S3_ENDPOINT": f"{LOOPBACK}:{self.ports.object_store}",
            "TIDEGATE_S3_BUCKET": ARTIFACT_BUCKET,
            "TIDEGATE_S3_ACCESS_KEY": self.credentials.access_key,
            "TIDEGATE_S3_SECRET_KEY": self.credentials.secret_key,
        }


def service_programs(site: Site, *, caller: Mapping[str, str] = os.environ) -> tuple[Program, ...]:
    """Return the programs of all services.

    Variables ``TIDEGATE_<SERVICE>_...`` of the caller are passed on to that service, ``TIDEGATE_OTEL_...`` and
    ``OTEL_...`` to all; what the stack decides wins.
    """
    ports = site.ports
    gateway = {
        "TIDEGATE_DEPLOYER_GATEWAY_HOST": LOOPBACK,
        "TIDEGATE_DEPLOYER_GATEWAY_PORT": str(ports.gateway),
        "TIDEGATE_DEPLOYER_MODELHOST": f"{LOOPBACK}:{ports.modelhost}",
    }
    sandbox = {"TIDEGATE_VALIDATOR_MODELHOST": f"{LOOPBACK}:{ports.modelhost_sandbox}"}
    imports = {"TIDEGATE_REGISTRY_IMPORT_DIR": str(site.layout.import_dir)}
    return (
        _service(site, "modelhost", ports.modelhost, site.s3 | _modelhost(site, "modelhost"), caller),
        _service(
            site, "modelhost-sandbox", ports.modelhost_sandbox, site.s3 | _modelhost(site, "modelhost-sandbox"), caller
        ),
        _service(site, "registry", ports.registry, site.kafka | site.s3 | imports, caller),
        _service(site, "monitor", ports.monitor, site.kafka, caller),
        _service(site, "validator", ports.validator, site.kafka | site.s3 | sandbox, caller),
        _service(site, "deployer", ports.deployer, site.kafka | gateway, caller),
    )


def _modelhost(site: Site, part: str) -> dict[str, str]:
    return {
        "TIDEGATE_MODELHOST_LISTEN": "unix",
        "TIDEGATE_MODELHOST_SOCKET_DIR": str(site.layout.model_sockets(part)),
        "TIDEGATE_MODELHOST_RUNTIMES_DIR": str(site.runtimes_dir),
    }


def _access(site: Site) -> dict[str, str]:
    if site.insecure:
        return {"TIDEGATE_INSECURE": "true"}
    admitted = {"TIDEGATE_ADMIT_OLD_GATEWAYS": "true"} if site.admit_old_gateways else {}
    return {"TIDEGATE_TOKENS_FILE": str(site.tokens.file)} | admitted


def _service(site: Site, part: str, port: int, settings: Mapping[str, str], caller: Mapping[str, str]) -> Program:
    module = part.partition("-")[0]
    access = _access(site)
    if part in OWN_TOKENS:
        access["TIDEGATE_TOKEN_FILE"] = str(site.tokens.path_of(part))
    prefix = f"TIDEGATE_{module.upper()}_"
    own = {
        f"{prefix}HOST": LOOPBACK,
        f"{prefix}PORT": str(port),
        f"{prefix}METRICS_HOST": LOOPBACK,
        f"{prefix}METRICS_PORT": str(site.ports.metrics()[part]),
        f"{prefix}DATA_DIR": str(site.layout.part(part)),
    }
    passed_on = {name: value for name, value in caller.items() if name.startswith((prefix, *_FOR_ALL))}
    return Program(
        name=part,
        command=(sys.executable, "-m", f"tidegate.{module}"),
        directory=site.layout.part(part),
        environment=_SMALL | passed_on | dict(settings) | own | access | {RELEASE_VARIABLE: this_release()},
        stop_s=SERVICE_STOP_S,
    )
