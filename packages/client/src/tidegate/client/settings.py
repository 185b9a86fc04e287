"""Where a client finds the parts of Tidegate: from the environment, else from an embedded stack that runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic_settings import BaseSettings

from tidegate.core.errors import InvalidInput
from tidegate.core.settings import CallerSettings, KafkaSettings, ObjectStoreSettings

STACK_FILE: Final = Path(".tidegate") / "stack.json"
STACK_VARIABLE: Final = "TIDEGATE_STACK"
DEFAULT_REGISTRY_ADDRESS: Final = "127.0.0.1:7404"
DEFAULT_DEPLOYER_ADDRESS: Final = "127.0.0.1:7405"
DEFAULT_GATEWAY_URL: Final = "http://127.0.0.1:7403"
DEFAULT_UPLOAD_BUCKET: Final = "tidegate-uploads"

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSettings:
    """Addresses of the parts; ``source`` says, for people, where they come from."""

    kafka: KafkaSettings
    object_store: ObjectStoreSettings
    caller: CallerSettings = field(default_factory=CallerSettings)
    registry_address: str = DEFAULT_REGISTRY_ADDRESS
    deployer_address: str = DEFAULT_DEPLOYER_ADDRESS
    gateway_url: str = DEFAULT_GATEWAY_URL
    upload_bucket: str = DEFAULT_UPLOAD_BUCKET
    source: str = "the environment"


def load_settings(
    *, environ: Mapping[str, str] | None = None, stack: Path | None = None, start: Path | None = None
) -> ClientSettings:
    """Return the settings.

    A variable of the environment wins over the stack's. The stack is ``stack`` (its folder, or its ``stack.json``),
    else what TIDEGATE_STACK names, else ``.tidegate/stack.json`` in ``start`` (default: here) or a folder above it.

    Raises:
        InvalidInput: A stack was named that has no readable ``stack.json``.

    """
    variables = dict(os.environ if environ is None else environ)
    named = stack or (Path(variables[STACK_VARIABLE]) if variables.get(STACK_VARIABLE) else None)
    path = _named_file(named) if named else find_stack_file(start or Path.cwd())
    offered = read_stack_environment(path) if path else {}
    merged = offered | {name: text for name, text in variables.items() if name.startswith("TIDEGATE_")}
    return ClientSettings(
        kafka=_from_variables(KafkaSettings, merged, "TIDEGATE_KAFKA_"),
        object_store=_from_variables(ObjectStoreSettings, merged, "TIDEGATE_S3_"),
        caller=_from_variables(CallerSettings, merged, "TIDEGATE_"),
        registry_address=merged.get("TIDEGATE_REGISTRY_ADDRESS", DEFAULT_REGISTRY_ADDRESS),
        deployer_address=merged.get("TIDEGATE_DEPLOYER_ADDRESS", DEFAULT_DEPLOYER_ADDRESS),
        gateway_url=merged.get("TIDEGATE_GATEWAY_URL", DEFAULT_GATEWAY_URL).rstrip("/"),
        upload_bucket=merged.get("TIDEGATE_UPLOAD_BUCKET", DEFAULT_UPLOAD_BUCKET),
        source=str(path) if path else "the environment",
    )


def find_stack_file(start: Path) -> Path | None:
    """Return ``.tidegate/stack.json`` in ``start`` or the nearest folder above it."""
    folder = start.resolve()
    return next((each / STACK_FILE for each in (folder, *folder.parents) if (each / STACK_FILE).is_file()), None)


def read_stack_environment(path: Path) -> dict[str, str]:
    """Return the variables (key ``env``) in the ``stack.json`` at ``path``.

    Raises:
        InvalidInput: The file can't be read, or has no mapping ``env``.

    """
    try:
        document = json.loads(path.read_text())
        return {str(name): str(text) for name, text in document["env"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{path} does not describe a stack: {error!r}",
            code="STACK_UNREADABLE",
            hint="start one with `tidegate up`, or name its folder with --stack",
        ) from None


def _named_file(named: Path) -> Path:
    candidates = (named, named / "stack.json", named / STACK_FILE)
    return next((path for path in candidates if path.is_file()), named / "stack.json")


def _from_variables(kind: type[S], variables: Mapping[str, str], prefix: str) -> S:
    names = {field: prefix + field.upper() for field in kind.model_fields}
    given: dict[str, Any] = {field: variables[name] for field, name in names.items() if name in variables}
    return kind(**given)
