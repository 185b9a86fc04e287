"""Write the tables of metrics in docs/telemetry.md from the code that declares them; ``--check`` only compares."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "telemetry.md"
BEGIN, END = "<!-- metrics: written by tools/metrics_table.py -->\n", "<!-- end of metrics -->\n"
MODULES = {
    "Every service": "tidegate.core.metrics",
    "registry": "tidegate.registry.metrics",
    "validator": "tidegate.validator.metrics",
    "deployer": "tidegate.deployer.metrics",
    "monitor": "tidegate.monitor.metrics",
    "modelhost": "tidegate.modelhost.metrics",
}


def table(module_name: str) -> str:
    """Return the table of the metrics that a module declares."""
    declared = [
        one for one in vars(importlib.import_module(module_name)).values() if isinstance(one, MetricWrapperBase)
    ]
    lines = ["| name | type | labels | says |", "|---|---|---|---|"]
    for metric in declared:
        for family in metric.describe():
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(metric._labelnames)  # noqa: SLF001  (the library shows them nowhere else)
            lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines)


def document(text: str) -> str:
    """Return ``text`` with current tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(f"### {title}\n\n{table(module)}" for title, module in MODULES.items())
    return f"{before}{BEGIN}\n{tables}\n\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Return 1 if ``--check`` finds the document out of date."""
    text = DOCUMENT.read_text()
    current = document(text)
    if "--check" in arguments:
        if text != current:
            print(f"{DOCUMENT.name} is out of date; run: python tools/metrics_table.py")
        return int(text != current)
    DOCUMENT.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
