"""The dashboard and the alerts ask for nothing that is not there, and the document lists what is."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from metric_names import MODULES, labels_by_sample

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = json.loads((ROOT / "deploy/grafana/tidegate.json").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
# Of Prometheus itself, and of the client library on Linux.
OTHERS = {"up": set(), "process_cpu_seconds_total": set(), "process_resident_memory_bytes": set()}
KNOWN = labels_by_sample() | OTHERS
GIVEN_BY_SCRAPE = {"job", "instance", "le"}


def selectors(node: Any) -> list[Any]:
    """Return every selector of a parsed query."""
    if isinstance(node, promql.VectorSelector):
        return [node]
    if isinstance(node, promql.MatrixSelector):
        return [node.vector_selector]
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr")] + list(getattr(node, "args", []))
    return [found for child in below if child is not None for found in selectors(child)]


def parsed(query: str) -> Any:
    """Parse a query as Grafana would send it."""
    return promql.parse(query.replace("$__rate_interval", "1m").replace("$model", "m"))


def assert_exists(query: str) -> None:
    found = selectors(parsed(query))
    assert found, query
    for selector in found:
        assert selector.name in KNOWN, f"{selector.name} is no metric: {query}"
        wanted = {matcher.name for matcher in selector.matchers.matchers}
        assert wanted <= KNOWN[selector.name] | GIVEN_BY_SCRAPE, f"{selector.name} has not all of {wanted}: {query}"
    grouped = {name.strip() for names in re.findall(r"\bby \(([^)]*)\)", query) for name in names.split(",")}
    assert grouped <= GIVEN_BY_SCRAPE.union(*(KNOWN[selector.name] for selector in found)), query


@pytest.mark.parametrize(("title", "query"), TARGETS)
def test_dashboard_asks_for_what_is_there(title, query):
    assert_exists(query)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_is_there_and_say_what_to_think(rule):
    assert_exists(rule["expr"])
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert promql.parse_duration(rule.get("for", "1s"))


def test_alerts_have_names_of_their_own():
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))


def test_a_query_for_what_is_not_there_is_found():
    for wrong in ("rate(tidegate_nothing_total[1m])", 'tidegate_deployer_rollouts{model="m"}', "sum by (x) (up)"):
        with pytest.raises(AssertionError):
            assert_exists(wrong)


def test_every_metric_is_shown_somewhere():
    shown = {selector.name for _, query in TARGETS for selector in selectors(parsed(query))}
    shown |= {selector.name for rule in RULES for selector in selectors(parsed(rule["expr"]))}
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    declared = {re.sub(r"_(bucket|sum|count)$", "", name) for name in labels_by_sample()}
    # Compared by hand when a route hangs: pending says whether one does.
    assert declared - bases == {
        "tidegate_deployer_route_revision",
        "tidegate_deployer_route_acknowledged_revision",
    }


def test_dashboard_has_the_shape_that_grafana_wants():
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    label_values = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["model"]["query"]["query"])
    assert label_values
    assert label_values[2] in KNOWN[label_values[1]]
    for panel in PANELS:
        assert panel["type"] in {"timeseries", "stat"}
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        assert all(target["expr"].strip() for target in panel["targets"])


def test_panels_do_not_overlap():
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_every_service_is_scraped_at_the_embedded_stacks_ports():
    from tidegate.stack.ports import PortPlan

    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    assert jobs == {name: [f"{name}:{port}"] for name, port in PortPlan.from_base(7400).metrics().items()}
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]


def test_document_lists_every_metric():
    done = subprocess.run(
        [sys.executable, "tools/metrics_table.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_module_declares_metrics_of_its_own():
    names = [name for module in MODULES for name in labels_by_sample(importlib.import_module(module))]
    assert len(names) == len(set(names))
