"""stack.json: what is remembered of a stack between commands, and what clients are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tidegate.core.errors import InvalidInput
from tidegate.stack.layout import Layout
from tidegate.stack.object_store import ARTIFACT_BUCKET, UPLOAD_BUCKET, ensure_credentials
from tidegate.stack.ports import LOOPBACK, PortPlan
from tidegate.stack.private import write_private
from tidegate.stack.tokens import LOCAL

FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A stack as it was last seen."""

    port_base: int
    ports: PortPlan
    running: bool = False
    pids: Mapping[str, int] = field(default_factory=dict)


def client_environment(layout: Layout, ports: PortPlan) -> dict[str, str]:
    """Return the variables by which clients find this stack."""
    return {
        "TIDEGATE_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{ports.kafka}",
        "TIDEGATE_S3_ENDPOINT": f"{LOOPBACK}:{ports.object_store}",
        "TIDEGATE_S3_BUCKET": ARTIFACT_BUCKET,
        "TIDEGATE_UPLOAD_BUCKET": UPLOAD_BUCKET,
        "TIDEGATE_S3_CREDENTIALS_FILE": str(layout.credentials),
        "TIDEGATE_REGISTRY_ADDRESS": f"{LOOPBACK}:{ports.registry}",
        "TIDEGATE_DEPLOYER_ADDRESS": f"{LOOPBACK}:{ports.deployer}",
        "TIDEGATE_MONITOR_ADDRESS": f"{LOOPBACK}:{ports.monitor}",
        "TIDEGATE_VALIDATOR_ADDRESS": f"{LOOPBACK}:{ports.validator}",
        "TIDEGATE_MODELHOST_ADDRESS": f"{LOOPBACK}:{ports.modelhost}",
        "TIDEGATE_MODELHOST_SANDBOX_ADDRESS": f"{LOOPBACK}:{ports.modelhost_sandbox}",
        "TIDEGATE_GATEWAY_URL": f"http://{LOOPBACK}:{ports.gateway}",
        "TIDEGATE_IMPORT_DIR": str(layout.import_dir),
        "TIDEGATE_TOKEN_FILE": str(layout.tokens / LOCAL),
    }


def document(layout: Layout, record: Record) -> dict[str, Any]:
    """Return ``record`` as it stands in stack.json, without the keys."""
    return {
        "format": FORMAT,
        "data_dir": str(layout.root),
        "running": record.running,
        "port_base": record.port_base,
        "ports": asdict(record.ports),
        "pids": dict(record.pids),
        "env": client_environment(layout, record.ports),
    }


def save(layout: Layout, record: Record) -> None:
    """Write stack.json, readable by its owner alone since clients find the object store's keys in it."""
    whole = document(layout, record)
    if layout.credentials.exists():
        keys = ensure_credentials(layout.credentials)
        whole["env"] |= {"TIDEGATE_S3_ACCESS_KEY": keys.access_key, "TIDEGATE_S3_SECRET_KEY": keys.secret_key}
    write_private(layout.record, json.dumps(whole, indent=2) + "\n")


def load(layout: Layout) -> Record | None:
    """Return what stack.json says, or None if the stack was never started.

    Raises:
        InvalidInput: The file is damaged.

    """
    try:
        found = json.loads(layout.record.read_text())
        base = int(found["port_base"])
        return Record(
            port_base=base,
            ports=PortPlan.completed({str(name): int(port) for name, port in found["ports"].items()}, base=base),
            running=bool(found["running"]),
            pids={str(name): int(pid) for name, pid in found["pids"].items()},
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(layout.record, error) from None


def _damaged(path: Path, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"{path} is damaged: {type(error).__name__}: {error}",
        code="RECORD_UNREADABLE",
        hint="delete it; ports are chosen anew, and nothing else is lost",
    )
