"""The registry as producers, services and people see it."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from registrations import (
    MODEL,
    digest,
    evaluation_bytes,
    event,
    external_bytes,
    maps_bytes,
    onnx_bytes,
    publish,
    training,
    upload,
)

from tidegate.contracts.codec import Record
from tidegate.contracts.names import format_version, parse_version
from tidegate.contracts.topics import TRAINING
from tidegate.registry.numbering.inputs_json import input_from_json, to_json
from tidegate.registry.numbering.versioning import decide
from tidegate.v1 import registry_service_pb2 as api
from tidegate.v1.events_pb2 import ModelBlessed, TrainingCompleted, ValidationPassed
from tidegate.v1.policy_pb2 import Policy
from tidegate.v1.rollout_events_pb2 import Phase, RolloutStep
from tidegate.v1.values_pb2 import Artifact, Signature


async def refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason


def rows_of(site) -> int:
    with sqlite3.connect(site.data_dir / "registry.sqlite3") as connection:
        return int(connection.execute("SELECT count(*) FROM versions").fetchone()[0])


async def test_a_training_becomes_a_numbered_version(any_site):
    site = any_site
    await site.start()
    first = await publish(site, training(site, "one"))
    registered = first.message
    assert (first.type, format_version(registered.version), first.source) == (
        "ModelRegistered",
        "1.0.0",
        "tidegate/registry",
    )
    assert "built-in policy" in registered.reason
    hex_digest = registered.artifact.digest.removeprefix("sha256:")
    assert registered.artifact.uri == f"s3://{site.s3.bucket}/artifacts/sha256/{hex_digest}"
    assert site.stored("artifacts/") == {f"artifacts/sha256/{hex_digest}"}
    assert f"/files/sha256/{digest(evaluation_bytes(3, noise=1.0))[7:]}" in registered.evaluation_uri

    better = await publish(site, training(site, "better", noise=0.3), as_json=True)
    assert (format_version(better.message.version), better.message.decision.rule) == ("1.1.0", "R4")
    again = decide(input_from_json(better.message.decision.inputs_json))
    assert to_json(again.numbers) == better.message.decision.numbers_json
    assert str(again.version) == "1.1.0"

    worse = await publish(site, training(site, "worse", noise=3.0))
    assert format_version(worse.message.version) == "1.1.1"
    breaking = await publish(site, training(site, "breaking", signature=Signature(target_id="cost")))
    assert format_version(breaking.message.version) == "2.0.0"
    old_line = await publish(site, training(site, "old line", major_line=1))
    assert (format_version(old_line.message.version), format_version(old_line.message.baseline)) == ("1.1.2", "1.1.0")
    duplicate = await publish(site, training(site, "one", major_line=1))
    assert (duplicate.type, format_version(duplicate.message.version)) == ("RegistrationDuplicate", "1.0.0")
    sequences = [one.sequence for one in site.events]
    assert sequences == sorted(set(sequences))
    assert await site.stop() == 0


async def test_bad_input_is_refused_with_its_code_and_the_stream_goes_on(site):
    secret = site.data_dir.parent / "secret"
    secret.write_bytes(onnx_bytes("secret"))
    (site.import_dir / "link").symlink_to(secret)
    os.mkfifo(site.import_dir / "pipe")
    (site.import_dir / "good.onnx").write_bytes(onnx_bytes("imported"))
    await site.start()
    good = onnx_bytes("good")
    optional = training(site, "optional")
    optional.signature.inputs[0].optional = True
    cases = {
        "MODEL_NAME_INVALID": training(site, "name", model="Not A Name"),
        "ARTIFACT_MISSING": training(site, "absent", artifact=Artifact(uri=f"s3://{site.s3.bucket}/uploads/absent-")),
        "ARTIFACT_TOO_LARGE": training(site, "large", onnx_bytes(padding=200_000)),
        "ARTIFACT_DIGEST_MISMATCH": training(site, "digest", artifact=Artifact(digest="sha256:" + "0" * 64)),
        "ARTIFACT_SIZE_MISMATCH": training(site, "size", artifact=Artifact(size_bytes=7)),
        "EXTERNAL_DATA": training(site, "external", external_bytes()),
        "TENSOR_EXPECTED": training(site, "zipmap", maps_bytes()),
        "OPTIONAL_WITHOUT_DEFAULT": optional,
        "SOURCE_NOT_ALLOWED": training(site, "source", artifact=Artifact(uri="file:///etc/shadow")),
        "LINK_REFUSED": training(site, "link", artifact=Artifact(uri=f"file://{site.import_dir}/link")),
        "NOT_A_FILE": training(site, "pipe", artifact=Artifact(uri=f"file://{site.import_dir}/pipe")),
        "PICKLE_REFUSED": training(site, "pickle", pickle.dumps({"a": 1})),
        "FORMAT_UNKNOWN": training(site, "unknown", b"what is this"),
        "FORMAT_UNSUPPORTED": training(site, "unsupported", artifact=Artifact(format="tensorflow")),
        "EVALUATION_UNREADABLE": training(site, "evaluation", evaluation_uri=upload(site, "broken", good)),
        "MAJOR_LINE_UNKNOWN": None,
    }
    for code, message in cases.items():
        if message is None:
            continue
        answer = await publish(site, message)
        assert answer.type == "RegistrationRejected", code
        assert [reason.code for reason in answer.message.reasons] == [code]
        assert answer.subject == message.model
    assert rows_of(site) == 0
    assert site.stored("artifacts/") == set()
    assert site.stored("files/") == set()

    topic = TRAINING.full_name(site.kafka.topic_prefix)
    typed = ("ce_type", b"tidegate.v1.TrainingCompleted")
    unprintable = TrainingCompleted(model="\x01").SerializeToString()
    for record in (
        Record(key=b"m", value=b"\xff\xff\xff", headers=(typed,)),
        Record(key=b"m", value=b"{not json", headers=(typed, ("content-type", b"application/json"))),
        Record(key=b"m", value=good),
        Record(key=b"m", value=unprintable, headers=(typed,)),
        Record(key=b"m", value=b"", headers=(typed,)),
    ):
        await site.producer.publish_record(topic, record)
    await site.until(lambda: len(site.set_aside) == 5, what="five dead letters")
    codes = sorted(error.partition(":")[0] for error in site.set_aside)
    assert codes == [
        "BODY_UNREADABLE",
        "BODY_UNREADABLE",
        "EVENT_TYPE_MISSING",
        "MODEL_NAME_INVALID",
        "MODEL_NAME_INVALID",
    ]

    imported = training(site, "import", onnx_bytes("imported"))
    imported.artifact.uri = f"file://{site.import_dir}/good.onnx"
    answer = await publish(site, imported)
    assert (answer.type, format_version(answer.message.version)) == ("ModelRegistered", "1.0.0")
    answer = await publish(site, training(site, "line", major_line=7))
    assert [reason.code for reason in answer.message.reasons] == ["MAJOR_LINE_UNKNOWN"]


async def test_a_request_id_gets_the_same_answer_and_is_not_lent(site):
    await site.start()
    request = training(site, "one", request_id="run-1")
    first = await site.stub.RegisterVersion(api.RegisterVersionRequest(training=request))
    second = await site.stub.RegisterVersion(api.RegisterVersionRequest(training=request))
    assert first == second
    assert not first.duplicate
    assert first.version.name == f"models/{MODEL}/versions/1.0.0"
    other = training(site, "two", request_id="run-1")
    call = site.stub.RegisterVersion(api.RegisterVersionRequest(training=other))
    assert await refused(call) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    answer = await publish(site, other)
    assert [reason.code for reason in answer.message.reasons] == ["REQUEST_ID_REUSED"]
    answer = await publish(site, request)
    assert (answer.type, format_version(answer.message.version)) == ("RegistrationDuplicate", "1.0.0")
    bad = training(site, "bad", b"no model")
    call = site.stub.RegisterVersion(api.RegisterVersionRequest(training=bad))
    assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "FORMAT_UNKNOWN")
    assert rows_of(site) == 1


async def test_policies_are_applied_and_demanded(site):
    await site.start()
    policy = Policy(model=MODEL)
    policy.registration.required.extend(["code_commit"])
    request = api.ApplyPolicyRequest(policy=policy, request_id="p-1")
    applied = await site.stub.ApplyPolicy(request)
    assert applied.policy_revision == 1
    assert applied.policy.registration.gate_metric.name == "roc_auc"
    assert await site.stub.ApplyPolicy(request) == applied
    published = await site.until(
        lambda: [one for one in site.events if one.type == "PolicyApplied"], what="PolicyApplied"
    )
    assert published[0].message.policy == applied.policy
    answer = await publish(site, training(site, "one"))
    assert [(reason.code, reason.field) for reason in answer.message.reasons] == [
        ("FACT_MISSING", "lineage.code_commit")
    ]
    policy.mode = "sometimes"
    call = site.stub.ApplyPolicy(api.ApplyPolicyRequest(policy=policy))
    assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID")
    held = await site.stub.GetPolicy(api.GetPolicyRequest(name=f"models/{MODEL}"))
    assert (held.policy, held.policy_revision) == (applied.policy, 1)
    default = await site.stub.GetPolicy(api.GetPolicyRequest(name="models/unheard-of"))
    assert default.policy_revision == 0


async def test_lookups_pages_lineage_and_aliases(any_site):
    site = any_site
    await site.start()
    for name in ("one", "two", "three"):
        await site.stub.RegisterVersion(api.RegisterVersionRequest(training=training(site, name)))
    parent = f"models/{MODEL}"
    names, token = [], ""
    while True:
        page = await site.stub.ListVersions(api.ListVersionsRequest(parent=parent, page_size=2, page_token=token))
        names += [one.name for one in page.versions]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"{parent}/versions/1.0.{pipeline}" for pipeline in (2, 1, 0)]
    call = site.stub.ListModels(api.ListModelsRequest(page_token="of another list"))
    assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    models = await site.stub.ListModels(api.ListModelsRequest())
    assert [(one.name, one.version_count) for one in models.models] == [(parent, 3)]
    lineage = await site.stub.GetLineage(api.GetLineageRequest(name=f"{parent}/versions/1.0.0"))
    assert "1.0.1" in [format_version(child) for child in lineage.children]
    call = site.stub.GetVersion(api.GetVersionRequest(name=f"{parent}/versions/9.9.9"))
    assert await refused(call) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")

    request = api.SetAliasRequest(parent=parent, alias="golden", version=parse_version("1.0.0"), request_id="a-1")
    alias = (await site.stub.SetAlias(request)).alias
    assert (await site.stub.SetAlias(request)).alias == alias
    found = await site.stub.GetVersion(api.GetVersionRequest(name=f"{parent}@golden"))
    assert (found.version.name, list(found.version.aliases)) == (f"{parent}/versions/1.0.0", ["golden"])
    stale = api.SetAliasRequest(parent=parent, alias="golden", version=parse_version("1.0.1"), request_id="a-2")
    assert await refused(site.stub.SetAlias(stale)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    stale.etag = alias.etag
    moved = (await site.stub.SetAlias(stale)).alias
    assert format_version(moved.version) == "1.0.1"
    assert moved.etag != alias.etag
    reserved = api.SetAliasRequest(parent=parent, alias="stable", version=parse_version("1.0.1"), request_id="a-3")
    assert await refused(site.stub.SetAlias(reserved)) == (grpc.StatusCode.FAILED_PRECONDITION, "ALIAS_RESERVED")


async def test_verdicts_and_rollouts_are_followed(any_site):
    site = any_site
    await site.start()
    version = (await publish(site, training(site, "one"))).message.version
    second = (await publish(site, training(site, "two"))).message.version
    name = f"models/{MODEL}/versions/{format_version(version)}"

    async def validation():
        return (await site.stub.GetVersion(api.GetVersionRequest(name=name))).version.validation

    async def aliases():
        model = (await site.stub.GetModel(api.GetModelRequest(name=f"models/{MODEL}"))).model
        return {one.alias: format_version(one.version) for one in model.aliases}

    assert await validation() == "unknown"
    # Both events of one verdict share a sequence.
    passed = event(ValidationPassed(model=MODEL, version=version), source="tidegate/validator", sequence=4)
    blessed = event(ModelBlessed(model=MODEL, version=version), source="tidegate/validator", sequence=4)
    for sent in (passed, passed, blessed):
        await site.producer.publish(sent)
    await site.until(lambda: _equals(validation(), "blessed"), what="blessed")

    async def step(phase, candidate, sequence, stable=None):
        message = RolloutStep(
            rollout_id=f"r-{candidate}", model=MODEL, sequence=sequence, candidate=candidate, stable=stable, phase=phase
        )
        await site.producer.publish(event(message, source="tidegate/deployer", sequence=sequence))

    await step(Phase.PHASE_STARTING, version, 1)
    await site.until(lambda: _equals(aliases(), {"candidate": "1.0.0"}), what="a candidate")
    await step(Phase.PHASE_SETTLING, version, 2)
    await step(Phase.PHASE_PROMOTED, version, 3)
    await site.until(lambda: _equals(aliases(), {"stable": "1.0.0"}), what="a stable version")
    await step(Phase.PHASE_STARTING, second, 4, version)
    await step(Phase.PHASE_SETTLING, second, 5, version)
    await site.until(lambda: _equals(aliases(), {"stable": "1.0.1", "candidate": "1.0.1"}), what="the switch")
    await step(Phase.PHASE_ROLLED_BACK, second, 6, version)
    await site.until(lambda: _equals(aliases(), {"stable": "1.0.0"}), what="the way back")
    # Old news: nothing moves. The step after it shows that it was handled.
    await step(Phase.PHASE_SETTLING, second, 5, version)
    await step(Phase.PHASE_STARTING, second, 7, version)
    await site.until(lambda: _equals(aliases(), {"stable": "1.0.0", "candidate": "1.0.1"}), what="the next rollout")
    moved = [
        (one.message.alias, format_version(one.message.version) if one.message.HasField("version") else None)
        for one in site.events
        if one.type == "AliasMoved"
    ]
    assert moved[:3] == [("candidate", "1.0.0"), ("stable", "1.0.0"), ("candidate", None)]
    assert moved.count(("stable", "1.0.1")) == 1


async def _equals(found, wanted) -> bool:
    return await found == wanted


async def test_no_acknowledged_registration_loses_its_event_by_kill(any_site):
    site = any_site
    await site.start()
    acknowledged = []
    for number in range(12):
        request = training(site, f"model {number}", request_id=f"run-{number}")
        call = site.stub.RegisterVersion(api.RegisterVersionRequest(training=request))
        acknowledged.append((await call).version.name.rpartition("/")[2])
        if number % 4 == 3:
            await site.stop(signal.SIGKILL)
            await site.start()

    def published():
        return {format_version(one.message.version) for one in site.events if one.type == "ModelRegistered"}

    await site.until(lambda: published() >= set(acknowledged), what="every acknowledged version is published")
    assert len(set(acknowledged)) == len(acknowledged)
    ids = {}
    for one in site.events:
        number = format_version(one.message.version)
        assert ids.setdefault(number, one.id) == one.id
