"""The generated messages have the contract's field names, in the contract's order."""

import pytest
from google.protobuf import descriptor_pool

from tidegate.v1 import (  # noqa: F401
    events_pb2,
    monitoring_events_pb2,
    policy_pb2,
    registry_service_pb2,
    rollout_events_pb2,
    rollout_service_pb2,
    values_pb2,
)

CONTRACT = {
    "Version": "major minor pipeline",
    "Artifact": "uri digest size_bytes format",
    "Tensor": "name datatype shape optional nullable min max categories",
    "Signature": "inputs outputs target_id",
    "Dataset": "role uri digest schema_digest",
    "Lineage": "code_repository code_commit datasets config_digest pipeline_name pipeline_digest pipeline_run_id "
    "environment_digest preprocessing_digests parent code_coverage",
    "Metric": "name value higher_is_better slice sample_count dataset_digest",
    "ModelCard": "description intended_use owner contacts links limitations",
    "Reason": "code message field",
    "TrainingCompleted": "model artifact signature lineage metrics evaluation_uri reference_data_uri "
    "sample_requests_uri tags card request_id major_line",
    "ModelRegistered": "model version sequence artifact signature lineage metrics change baseline reason decision "
    "policy policy_revision actor evaluation_uri reference_data_uri sample_requests_uri tags card",
    "RegistrationRejected": "model request_id reasons actor",
    "RegistrationDuplicate": "model version request_id",
    "VersionApproved": "model version actor reason",
    "AliasMoved": "model alias version previous_version actor rollout_id",
    "PolicyApplied": "model policy_revision policy actor",
    "ValidationPassed": "model version checks report_uri report_digest",
    "ValidationFailed": "model version checks report_uri report_digest reasons log_tail",
    "Check": "suite name outcome observed bound detail",
    "ModelBlessed": "model version runtimes warmup_uri policy policy_revision override_actor",
    "RuntimeBlessing": "runtime runtime_digest mode load_time_ms latency_ms_p99 peak_memory_bytes sandbox",
    "RolloutCommand": "request_id verb model rollout_id version mode actor reason",
    "RolloutStep": "rollout_id model sequence candidate stable strategy phase step_index arms route_epoch "
    "route_revision reason evidence cause policy_revision",
    "RouteTable": "model epoch revision lines",
    "RouteLine": "major arms assignment salt fallback_version contextual preview_version",
    "RouteApplied": "model epoch revision applied missing complete latency_ms refusal",
    "PredictionBatch": "model node_id route_epoch route_revision start_time end_time columns dropped_count",
    "PredictionColumns": "prediction_id assigned_arm served_arm attempts status_code latency_us unit_hash propensity "
    "decision_id features outputs",
    "OutcomeBatch": "model rows",
    "OutcomeRow": "prediction_id label reward observed_time revision",
    "MetricReport": "model rollout_id version window_start window_end requests errors latency_ms_p50 latency_ms_p90 "
    "latency_ms_p99 guards outcomes weight_millionths log_gap cumulative_regret",
    "EvidenceReached": "rollout_id model version guard kind evidence inputs_json first_evidence_time",
    "MetricBreach": "rollout_id model version guard kind evidence inputs_json first_evidence_time",
    "DriftDetected": "model version features statistic threshold window_start window_end",
    "Policy": "model registration validation rollout guards mode",
}


@pytest.mark.parametrize("message", sorted(CONTRACT))
def test_fields_and_their_order(message):
    descriptor = descriptor_pool.Default().FindMessageTypeByName(f"tidegate.v1.{message}")
    by_number = sorted(descriptor.fields, key=lambda field: field.number)
    wanted = CONTRACT[message].split()
    assert [field.name for field in by_number][: len(wanted)] == wanted


def test_phases_are_the_contracts():
    wanted = (
        "PENDING STARTING SHADOWING STEPPING EXPERIMENTING HOLDING PAUSED AWAITING_APPROVAL SETTLING PROMOTED "
        "ROLLING_BACK ROLLED_BACK ABORTED SUPERSEDED"
    )
    phases = [value.name.removeprefix("PHASE_") for value in rollout_events_pb2.Phase.DESCRIPTOR.values]
    assert phases == ["UNSPECIFIED", *wanted.split()]


@pytest.mark.parametrize(
    ("module", "service", "calls"),
    [
        (
            registry_service_pb2,
            "RegistryService",
            "RegisterVersion GetVersion ListVersions GetModel GetLineage SetAlias ApplyPolicy GetPolicy",
        ),
        (
            rollout_service_pb2,
            "RolloutService",
            "GetRollout ListRollouts WatchRollouts PauseRollout ResumeRollout ApproveRollout AbortRollout PromoteRollout RollbackModel",
        ),
    ],
)
def test_services_have_the_contracts_calls(module, service, calls):
    methods = module.DESCRIPTOR.services_by_name[service].methods_by_name
    for name in calls.split():
        assert methods[name].input_type.name == f"{name}Request"
        assert methods[name].output_type.name == f"{name}Response"
