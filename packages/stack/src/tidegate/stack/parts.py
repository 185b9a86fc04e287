"""The parts of the stack: their programs, in the order of their start, and how each says that it is ready."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tidegate.core.bus import create_topics
from tidegate.core.settings import KafkaSettings
from tidegate.stack.gateway import prepare_gateway
from tidegate.stack.kafka import prepare_kafka
from tidegate.stack.object_store import ARTIFACT_BUCKET, UPLOAD_BUCKET, Credentials, prepare_object_store
from tidegate.stack.ports import LOOPBACK, PortPlan
from tidegate.stack.program import Program
from tidegate.stack.readiness import grpc_serving, http_answers, kafka_ready, minio_client, object_store_ready
from tidegate.stack.services import Site, service_programs
from tidegate.stack.tokens import GATEWAY

# What everything else stands on, and what stands on nothing.
FIRST: Final = ("kafka", "object-store", "modelhost", "modelhost-sandbox", "gateway")
SECOND: Final = ("registry", "monitor", "validator", "deployer")
# The gateway's listener comes from the deployer: it is waited for last.
WAITED_FOR: Final = (
    "modelhost", "modelhost-sandbox", "registry", "monitor", "validator", "deployer", "gateway",
)  # fmt: skip
# What all others keep their data in.
STORES: Final = ("kafka", "object-store")
NAMES: Final = (*FIRST, *SECOND)
# Those that give orders stop before those that take them.
STOPPED_FIRST: Final = ("validator", "deployer", "monitor", "registry", "gateway")


def programs(site: Site, *, class_path: str, caller: Mapping[str, str] = os.environ) -> tuple[Program, ...]:
    """Prepare each part's files and return all programs; ``caller`` has settings of the services."""
    layout, ports = site.layout, site.ports
    return (
        prepare_kafka(
            layout.part("kafka"), port=ports.kafka, controller_port=ports.kafka_controller, class_path=class_path
        ),
        prepare_object_store(layout.part("object-store"), port=ports.object_store, credentials=site.credentials),
        prepare_gateway(
            layout.part("gateway"),
            deployer_port=ports.deployer,
            monitor_port=ports.monitor,
            admin_socket=layout.gateway_admin_socket,
            token=site.tokens.read(GATEWAY),
        ),
        *service_programs(site, caller=caller),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """How a part is looked at."""

    name: str
    port: int
    is_ready: Callable[[], bool]


def parts(ports: PortPlan, credentials: Credentials) -> Mapping[str, Part]:
    """Return all parts by name."""
    services = {
        "registry": ports.registry,
        "monitor": ports.monitor,
        "validator": ports.validator,
        "deployer": ports.deployer,
        "modelhost": ports.modelhost,
        "modelhost-sandbox": ports.modelhost_sandbox,
    }
    bootstrap = f"{LOOPBACK}:{ports.kafka}"
    endpoint = f"{LOOPBACK}:{ports.object_store}"
    found = [
        Part(name="kafka", port=ports.kafka, is_ready=lambda: kafka_ready(bootstrap)),
        Part(
            name="object-store",
            port=ports.object_store,
            is_ready=lambda: object_store_ready(endpoint, credentials),
        ),
        Part(name="gateway", port=ports.gateway, is_ready=lambda: http_answers(f"http://{LOOPBACK}:{ports.gateway}/")),
        *(_service(name, port) for name, port in services.items()),
    ]
    return {part.name: part for part in found}


def _service(name: str, port: int) -> Part:
    return Part(name=name, port=port, is_ready=lambda: grpc_serving(f"{LOOPBACK}:{port}"))


def furnish(ports: PortPlan, credentials: Credentials) -> None:
    """Create the topics and buckets that do not exist yet."""
    create_topics(KafkaSettings(bootstrap=f"{LOOPBACK}:{ports.kafka}"))
    client = minio_client(f"{LOOPBACK}:{ports.object_store}", credentials)
    for bucket in (ARTIFACT_BUCKET, UPLOAD_BUCKET):
        if not client.bucket_exists(bucket_name=bucket):
            client.make_bucket(bucket_name=bucket)
