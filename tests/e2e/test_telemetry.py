"""On call: one version's whole story in the logs, as one trace, and in numbers, on the real stack."""

from __future__ import annotations

import importlib
import json
import urllib.request
from typing import Any

import pytest
from collector import Collector, Seen
from metric_names import families
from prometheus_client.parser import text_string_to_metric_families
from world import World, running_world

from tidegate.core import tracing
from tidegate.stack import record
from tidegate.stack.demo.models import train_aircraft_table, train_logistic_regression
from tidegate.v1 import rollout_events_pb2 as pb

pytestmark = pytest.mark.timeout(600)

POLICY = """
model: flight-delay
registration: {required: [owner, description, metrics]}
validation: {metrics: [{name: roc_auc, min: 0.55}]}
rollout:
  on_major: {strategy: canary, steps: [0.3, 1.0], bake_s: 1}
  on_minor: {strategy: canary, steps: [0.3, 1.0], bake_s: 1}
  on_pipeline: {strategy: canary, steps: [0.3, 1.0], bake_s: 1}
  settle_s: 1
guards:
  items:
    - {metric: error_rate, margin: 0.05, floor: 0.2}
    - {metric: latency_ms, quantile: 0.9, ratio: 20, ceiling: 5000}
"""
SERVICES = ("registry", "validator", "deployer", "monitor")


@pytest.fixture(scope="module")
def collector():
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def world(tmp_path_factory, flights, collector):
    """Run a stack that is told of the collector, and a training pipeline that traces itself."""
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    pipeline = TracerProvider(resource=Resource.create({"service.name": "training-pipeline"}))
    pipeline.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{collector.endpoint}/v1/traces")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE_OTEL_ENDPOINT", collector.endpoint)
        patch.setattr(tracing, "_TRACER", pipeline.get_tracer("training"))
        with running_world(tmp_path_factory.mktemp("world"), flights) as running:
            yield running
    pipeline.shutdown()


@pytest.fixture(scope="module")
def rolled_back(world: World, flights) -> Any:
    """Deliver a version, roll the next one back; return the event that says so."""
    world.policy(POLICY)
    world.reaches(world.publishes(train_logistic_regression(flights)), pb.PHASE_PROMOTED)
    with world.live_traffic():
        version = world.publishes(train_aircraft_table(flights))
        step = world.reaches(version, pb.PHASE_ROLLED_BACK)
    return world.log.wait_for("the last step", lambda event: event.message == step)


def log_lines(world: World, part: str) -> list[dict[str, Any]]:
    lines = world.stack.layout.log(part).read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("service", SERVICES)
def test_one_correlation_id_finds_the_story_in_every_services_log(world, rolled_back, service):
    told = [line for line in log_lines(world, service) if line.get("correlation_id") == rolled_back.correlation_id]
    expected = {
        "registry": "version registered",
        "validator": "validated",
        "deployer": "decided",
        "monitor": "finding",
    }
    line = next(line for line in told if line["event"] == expected[service])
    assert line["service"] == service
    assert line["trace_id"] == rolled_back.traceparent[3:35]
    assert len(line["span_id"]) == 16
    assert line["timestamp"]
    assert all(one["model"] == "flight-delay" for one in told if "model" in one)


def test_logs_are_json_lines(world, rolled_back):
    for service in SERVICES:
        lines = world.stack.layout.log(service).read_text().splitlines()
        assert lines
        assert not [line for line in lines if not line.startswith("{")][:5], service


def ancestors(spans: list[Seen], span_id: str) -> list[Seen]:
    """Return the span and all above it, the root first."""
    by_id = {span.span_id: span for span in spans}
    chain: list[Seen] = []
    while span_id:
        if span_id not in by_id:
            return []
        chain.insert(0, by_id[span_id])
        span_id = chain[0].parent_id
    return chain


def test_one_trace_leads_from_the_training_to_the_rollback(rolled_back, collector):
    trace_id, span_id = rolled_back.traceparent[3:35], rolled_back.traceparent[36:52]
    chain = collector.wait_for("whole chain of spans", lambda spans: ancestors(spans, span_id))
    assert {span.trace_id for span in chain} == {trace_id}
    assert [span.start_ns for span in chain] == sorted(span.start_ns for span in chain)
    way = [(span.service.removeprefix("tidegate-"), span.name) for span in chain]
    assert way[:3] == [
        ("training-pipeline", "send tidegate.training"),
        ("registry", "process tidegate.training"),
        ("registry", "send tidegate.registry"),
    ]
    # The registry tells the validator, that the deployer, that the monitor, which has it rolled back.
    moves = [service for place, (service, _) in enumerate(way) if not place or way[place - 1][0] != service]
    assert moves == ["training-pipeline", "registry", "validator", "deployer", "monitor", "deployer"]
    for step in (
        ("validator", "process tidegate.registry"),
        ("validator", "send tidegate.validation"),
        ("deployer", "process tidegate.validation"),
        ("monitor", "process tidegate.rollouts"),
        ("monitor", "judge"),
        ("monitor", "send tidegate.monitoring"),
        ("deployer", "process tidegate.monitoring"),
    ):
        assert step in way, way
    assert way[-1] == ("deployer", "send tidegate.rollouts")
    kinds = {span.name.partition(" ")[0]: span.kind for span in chain}
    assert (kinds["send"], kinds["process"], kinds["judge"]) == ("PRODUCER", "CONSUMER", "INTERNAL")
    assert all(
        span.attributes["messaging.system"] == "kafka" for span in chain if span.kind in {"PRODUCER", "CONSUMER"}
    )


def test_the_trace_shows_the_trial_and_the_model_server_that_it_asked_for(rolled_back, collector):
    trace_id = rolled_back.traceparent[3:35]

    def names(spans: list[Seen]) -> set[tuple[str, str, str]]:
        return {(span.service, span.kind, span.name) for span in spans if span.trace_id == trace_id}

    wanted = {
        ("tidegate-validator", "INTERNAL", "trial whole"),
        ("tidegate-validator", "INTERNAL", "trial query"),
        ("tidegate-modelhost", "SERVER", "tidegate.v1.ModelHostService/StartServer"),
        ("tidegate-registry", "CONSUMER", "process tidegate.rollouts"),
    }
    collector.wait_for("spans of the trial", lambda spans: wanted <= names(spans))


def test_what_time_repeats_has_no_spans(rolled_back, collector):
    assert not [span for span in collector.spans if "predictions" in span.name or "state" in span.name]
    assert not [span for span in collector.spans if span.attributes.get("cloudevents.event_type") == "MetricReport"]


def scrape(world: World) -> dict[str, dict[str, float]]:
    """Return the samples of each part, by name with labels."""
    found: dict[str, dict[str, float]] = {}
    ports = record.load(world.stack.layout).ports.metrics()
    for part, port in ports.items():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples]
        found[part] = {_key(sample): sample.value for sample in samples}
    return found


def _key(sample: Any) -> str:
    labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


@pytest.mark.parametrize("part", [*SERVICES, "modelhost", "modelhost-sandbox"])
def test_every_declared_metric_is_served(world, part):
    port = record.load(world.stack.layout).ports.metrics()[part]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        served = {family.name for family in text_string_to_metric_families(answer.read().decode())}
    modules = ("tidegate.core.metrics", f"tidegate.{part.partition('-')[0]}.metrics")
    declared = {family.name for name in modules for family in families(importlib.import_module(name))}
    assert declared <= served


def test_the_numbers_tell_the_story(world, rolled_back):
    found = scrape(world)
    registry, validator, deployer = found["registry"], found["validator"], found["deployer"]
    assert registry["tidegate_registry_registrations_total{change=FIRST}"] == 1
    assert registry["tidegate_events_consumed_total{topic=training}"] == 2
    assert registry["tidegate_registry_outbox_events"] == 0
    assert validator["tidegate_validator_verdicts_total{result=blessed}"] == 2
    assert validator["tidegate_validator_trials_in_progress"] == 0
    assert validator["tidegate_validator_trial_seconds_count{stage=whole}"] == 2
    assert deployer["tidegate_deployer_decisions_total{event=MetricBreached}"] >= 1
    assert deployer["tidegate_deployer_rollout_steps_total{phase=ROLLED_BACK}"] == 1
    assert deployer["tidegate_deployer_route_ack_seconds_count{cause=breach}"] == 1
    assert deployer["tidegate_deployer_weight_ratio{model=flight-delay,role=STABLE}"] == 1
    assert deployer["tidegate_deployer_weight_ratio{model=flight-delay,role=CANDIDATE}"] == 0
    assert deployer["tidegate_deployer_proxies{state=connected}"] == 1
    assert deployer["tidegate_deployer_transaction_seconds_count"] > 0
    monitor = found["monitor"]
    assert monitor["tidegate_monitor_log_entries_total{result=taken}"] > 0
    assert monitor["tidegate_monitor_findings_total{finding=breach,guard=error_rate}"] == 1
    assert monitor["tidegate_monitor_requests_judged_total{role=candidate}"] > 0
    assert monitor["tidegate_events_produced_total{topic=predictions}"] > 0
    assert found["modelhost"]["tidegate_modelhost_starts_total"] >= 2
    assert found["modelhost"]["tidegate_modelhost_servers{state=READY}"] >= 1
    resident = [value for name, value in found["modelhost"].items() if "server_resident_bytes" in name]
    assert max(resident) > 1 << 20
    assert found["modelhost-sandbox"]["tidegate_modelhost_servers{state=READY}"] == 0
    assert all(samples["process_resident_memory_bytes"] > 0 for samples in found.values())
    method = "tidegate.v1.ModelHostService/StartServer"
    assert found["modelhost-sandbox"][f"tidegate_grpc_requests_total{{code=OK,method={method}}}"] >= 2


def test_status_says_where_the_numbers_are(world):
    ports = {part.name: part.metrics_port for part in world.stack.status().parts}
    assert ports["registry"] > 0
    assert ports["kafka"] == 0
