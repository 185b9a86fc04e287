"""A decision's inputs and numbers as the JSON that its event carries, so that it can be made again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from tidegate.registry.numbering.comparison import PairedNumbers
from tidegate.registry.numbering.signatures import SignatureSpec, TensorSpec
from tidegate.registry.numbering.versioning import (
    Comparison,
    Contender,
    DecisionInput,
    Fingerprint,
    Gate,
    VerdictNumbers,
    VersionNumber,
)


def to_json(value: DecisionInput | VerdictNumbers) -> str:
    """Return ``value`` as canonical JSON: sorted names, no spaces; floats survive bit for bit."""
    return json.dumps(asdict(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def input_from_json(text: str) -> DecisionInput:
    """Return the input that :func:`to_json` wrote."""
    raw = json.loads(text)
    comparison = raw["comparison"]
    return DecisionInput(
        fingerprint=_fingerprint(raw["fingerprint"]),
        signature=_signature(raw["signature"]),
        gate=Gate(**raw["gate"]),
        comparison=Comparison(
            **comparison
            | {
                "overall": PairedNumbers(**comparison["overall"]) if comparison["overall"] else None,
                "slices": tuple(PairedNumbers(**numbers) for numbers in comparison["slices"]),
            }
        ),
        newest_major=raw["newest_major"],
        line_top=VersionNumber(**raw["line_top"]) if raw["line_top"] else None,
        baseline=_contender(raw["baseline"]),
        twin=_contender(raw["twin"]),
    )


def _contender(raw: dict[str, Any] | None) -> Contender | None:
    if raw is None:
        return None
    return Contender(
        version=VersionNumber(**raw["version"]),
        fingerprint=_fingerprint(raw["fingerprint"]),
        signature=_signature(raw["signature"]),
    )


def _fingerprint(raw: dict[str, Any]) -> Fingerprint:
    return Fingerprint(**raw | {"data_digests": tuple(raw["data_digests"])})


def _signature(raw: dict[str, Any]) -> SignatureSpec:
    return SignatureSpec(
        inputs=tuple(_tensor(tensor) for tensor in raw["inputs"]),
        outputs=tuple(_tensor(tensor) for tensor in raw["outputs"]),
        target_id=raw["target_id"],
    )


def _tensor(raw: dict[str, Any]) -> TensorSpec:
    return TensorSpec(**raw | {"shape": tuple(raw["shape"]), "categories": tuple(raw["categories"])})
