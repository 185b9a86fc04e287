"""Who is in a file of tokens, and what is none."""

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tidegate.contracts.access import ACCESS, Role, model_of
from tidegate.core.callers import Caller, digest_of_token, read_callers
from tidegate.core.errors import InvalidInput, PermissionDenied
from tidegate.core.settings import AccessSettings
from tidegate.v1.registry_service_pb2 import GetVersionRequest, RegisterVersionRequest

ONE = {"name": "ci", "role": "producer", "sha256": digest_of_token("one")}


def document(*entries):
    return json.dumps({"tokens": entries})


def test_a_caller_is_read_as_it_stands():
    text = document(ONE | {"models": "churn", "expires": "2027-01-31T01:00:00+01:00"})
    (found,) = read_callers(text, source="x")
    assert (found.name, found.role, found.models) == ("ci", Role.PRODUCER, "churn")
    assert found.has_expired(datetime(2027, 1, 31, tzinfo=UTC))
    assert not found.has_expired(datetime(2027, 1, 30, 23, 59, 59, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Invalid JSON"),
        ("[]", "should be"),
        ("{}", "tokens"),
        (document(ONE | {"role": "root"}), "tokens.0.role"),
        (document(ONE | {"sha256": "abc"}), "tokens.0.sha256"),
        (document(ONE | {"sha256": ""}), "expected either sha256"),
        (document(ONE | {"certificate": "gateway-1"}), "expected either sha256"),
        (document(ONE | {"expires": "2027-01-31T00:00:00"}), "tokens.0.expires"),
        (document(ONE | {"model": "churn"}), "tokens.0.model"),
        (document(ONE, ONE | {"name": "cd"}), "two callers have the sha256"),
        (document(ONE, ONE | {"sha256": digest_of_token("two")}), "two callers have the name 'ci'"),
    ],
)
def test_what_is_no_list_is_told_with_its_place(text, told):
    with pytest.raises(InvalidInput) as raised:
        read_callers(text, source="/tokens.json")
    assert raised.value.code == "TOKENS_UNREADABLE"
    assert told in str(raised.value)
    assert "/tokens.json" in str(raised.value)


def test_a_digest_is_not_shown_with_what_is_wrong():
    with pytest.raises(InvalidInput) as raised:
        read_callers(document(ONE | {"role": "root"}), source="x")
    assert ONE["sha256"] not in str(raised.value)


@pytest.mark.parametrize("role", Role)
def test_everybody_reads_and_an_admin_does_everything(role):
    assert role.covers(Role.READER)
    assert Role.ADMIN.covers(role)
    assert [other for other in Role if other.covers(role)] == [
        other for other in Role if other in {role, Role.ADMIN} or role is Role.READER
    ]


def test_who_promotes_is_not_who_consents():
    approve = ACCESS["/tidegate.v1.RolloutService/ApproveRollout"].role
    assert not Role.OPERATOR.covers(approve)
    assert not Role.APPROVER.covers(ACCESS["/tidegate.v1.RolloutService/PromoteRollout"].role)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("models/churn", "churn"),
        ("models/churn/versions/1.2.3", "churn"),
        ("models/churn@stable", "churn"),
        ("models/eu.churn@stable", "eu.churn"),
        ("models/", ""),
        ("churn", "churn"),
        ("", ""),
        ("x/models/churn", "x/models/churn"),
    ],
)
def test_the_model_in_a_name(name, model):
    assert model_of(GetVersionRequest(name=name), "name") == model


def test_the_model_in_a_message_within():
    request = RegisterVersionRequest()
    request.training.model = "churn"
    assert model_of(request, "training.model") == "churn"
    assert model_of(RegisterVersionRequest(), "training.model") == ""


def test_a_bound_caller_touches_its_models_only():
    bound = Caller(name="ci", role=Role.ADMIN, models="eu.")
    bound.check_model("eu.churn")
    for model in ("us.churn", "", "e"):
        with pytest.raises(PermissionDenied):
            bound.check_model(model)


@pytest.mark.parametrize("insecure", ["", "0", "false"])
def test_a_server_without_a_lock_does_not_start(monkeypatch, insecure):
    for name in ("TIDEGATE_TOKENS", "TIDEGATE_TOKENS_FILE", "TIDEGATE_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    if insecure:
        monkeypatch.setenv("TIDEGATE_INSECURE", insecure)
    with pytest.raises(ValidationError, match="nobody could call"):
        AccessSettings()
