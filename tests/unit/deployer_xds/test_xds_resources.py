"""Golden files: what a proxy gets for a set of route tables. Write them anew with TIDEGATE_WRITE_GOLDEN=1."""

import json
import os
from pathlib import Path

import pytest
from google.protobuf import json_format

from tidegate.contracts.names import parse_version
from tidegate.core.errors import InvalidInput
from tidegate.deployer.xds.resources import gateway_resources, model_resources
from tidegate.deployer.xds.tuning import GatewayAddress, GatewayTuning
from tidegate.v1.rollout_events_pb2 import ArmRole, RouteArm, RouteLine, RouteTable

GOLDEN = Path(__file__).parent / "golden"
MILLION = 1_000_000


def arm(version, weight, *, role=ArmRole.ARM_ROLE_STABLE, endpoints=None):
    return RouteArm(
        version=parse_version(version),
        role=role,
        weight_millionths=weight,
        endpoints=[f"unix:/run/{version}.sock"] if endpoints is None else endpoints,
    )


def line(*arms, fallback=None, **fields):
    result = RouteLine(major=arms[0].version.major, arms=arms, **fields)
    if fallback:
        result.fallback_version.CopyFrom(parse_version(fallback))
    return result


def table(*lines, model="churn", epoch=3, revision=7):
    return RouteTable(model=model, epoch=epoch, revision=revision, lines=lines)


CANDIDATE = ArmRole.ARM_ROLE_CANDIDATE
CASES = {
    "no_models": [],
    "one_stable": [table(line(arm("1.0.0", MILLION)))],
    "canary_with_fallback": [
        table(line(arm("1.0.0", 900_000), arm("1.1.0", 100_000, role=CANDIDATE), fallback="1.0.0"))
    ],
    "settling_keeps_old_stable_warm": [
        table(line(arm("1.0.0", 0), arm("1.1.0", MILLION, role=CANDIDATE), fallback="1.0.0"))
    ],
    "two_lines_follow_the_first": [table(line(arm("2.0.0", MILLION)), line(arm("1.4.2", MILLION)))],
    "sticky_by_unit": [
        table(
            line(
                arm("1.0.0", 500_000),
                arm("1.1.0", 500_000, role=CANDIDATE),
                fallback="1.0.0",
                assignment=RouteLine.ASSIGNMENT_UNIT,
                salt="churn-1.1.0-0badcafe",
            )
        )
    ],
    "many_models_in_order_and_endpoints_of_all_kinds": [
        table(line(arm("1.0.0", MILLION, endpoints=["modelhost:9001", "127.0.0.1:9002"])), model="fraud"),
        table(line(arm("1.0.0", MILLION, endpoints=["10.0.0.1:80", "[::1]:81"])), model="churn"),
        table(model="gone"),
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_resources_equal_the_golden_file(name):
    resources = gateway_resources(CASES[name], GatewayAddress(host="127.0.0.1", port=7403), GatewayTuning())
    text = json.dumps(
        {
            "clusters": {key: json_format.MessageToDict(it) for key, it in resources.clusters.items()},
            "route_configuration": json_format.MessageToDict(resources.route_configuration),
            "listener": json_format.MessageToDict(resources.listener),
        },
        indent=1,
        sort_keys=True,
    )
    path = GOLDEN / f"{name}.json"
    if os.environ.get("TIDEGATE_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (table(line(arm("1.0.0", 999_999))), "line 1: weights sum to 999999, expected 1000000"),
        (table(line(arm("1.0.0", MILLION), arm("1.1.0", 1))), "weights sum to 1000001"),
        (table(RouteLine(major=1)), "weights sum to 0"),
        (table(line(arm("1.0.0", MILLION)), line(arm("1.1.0", MILLION))), "lines have MAJOR"),
        (table(line(arm("1.0.0", 1), arm("1.0.0", 999_999))), "expected each once"),
        (table(line(arm("1.0.0", 1), arm("2.0.0", 999_999))), "version is 2.0.0, expected MAJOR 1"),
        (table(line(arm("1.0.0", MILLION), fallback="1.2.0")), "fallback is 1.2.0, expected one of"),
        (table(line(arm("1.0.0", MILLION, endpoints=[]))), "1.0.0 has no endpoint"),
        (table(line(arm("1.0.0", MILLION, endpoints=["nowhere"]))), "endpoint is 'nowhere'"),
        (table(line(arm("1.0.0", MILLION, endpoints=["host:70000"]))), "endpoint is 'host:70000'"),
        (table(line(arm("1.0.0", MILLION, endpoints=["unix:/" + "x" * 107]))), "at most 107 bytes"),
        (table(line(arm("1.0.0", MILLION, role=ArmRole.ARM_ROLE_SHADOW))), "role of 1.0.0 is ARM_ROLE_SHADOW"),
        (table(line(arm("1.0.0", MILLION), assignment=RouteLine.ASSIGNMENT_SESSION)), "ASSIGNMENT_SESSION"),
        (table(line(arm("1.0.0", MILLION), salt="\\9")), "salt is"),
        (table(line(arm("1.0.0", MILLION), contextual="{}")), "contextual"),
        (table(line(arm("1.0.0", MILLION)), model="Not legal"), "model is 'Not legal'"),
    ],
)
def test_table_that_a_proxy_would_refuse_is_refused_here(bad, fault):
    with pytest.raises(InvalidInput) as refusal:
        model_resources(bad, GatewayTuning())
    assert refusal.value.code == "ROUTE_TABLE_INVALID"
    assert fault in str(refusal.value)


def test_route_timeout_leaves_room_for_both_attempts():
    tuning = GatewayTuning(per_try_timeout_s=5)
    assert tuning.route_timeout_s > 2 * tuning.per_try_timeout_s
