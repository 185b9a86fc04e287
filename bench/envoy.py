"""What the full Tidegate route costs Envoy: CPU a request, against a plain Envoy with one static route.

Both have the same upstream, the same load and one worker; rounds alternate, and every ratio is of one run.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import envoys, load, parts, procfs
from bench.results import Goal, Metric, Report
from bench.route_variants import VARIANTS, WHOLE, fixed_listener
from bench.stats import Sample
from tidegate.contracts.names import parse_version
from tidegate.core.clock import utc_now
from tidegate.core.errors import Unavailable
from tidegate.core.grpc_server import GrpcServer
from tidegate.core.settings import AccessSettings, KafkaSettings
from tidegate.deployer.xds import ProxyFleet
from tidegate.deployer.xds.resources import gateway_resources
from tidegate.deployer.xds.tuning import WEIGHT_TOTAL, GatewayAddress, GatewayTuning
from tidegate.stack.gateway import prepare_gateway
from tidegate.stack.ports import LOOPBACK, free_ports
from tidegate.v1.rollout_events_pb2 import ArmRole, RouteApplied, RouteArm, RouteLine, RouteTable

MODEL: Final = "bench"
STABLE: Final = "1.0.0"
CANDIDATE: Final = "1.1.0"
CANDIDATE_WEIGHT: Final = 200_000
CONNECTIONS: Final = 8
ROUND_S: Final = 4.0
QUICK_ROUND_S: Final = 1.0
ROUNDS: Final = 12
FEATURE_ROUNDS: Final = 6
QUICK_ROUNDS: Final = 2
QUICK_FEATURES: Final = 2
RATIO_MAX: Final = 1.5
APPLIED_S: Final = 30.0
DRIVEN: Final = (
    "full: the resources of tidegate.deployer.xds for a canary of two arms (80/20), brought by ADS to the stack's "
    "gateway program, with header hygiene, fallback by composite cluster and retry, response headers, and the upstream "
    "log over gRPC to the real monitor, which writes to a real broker; plain: one static route to one cluster, no log. "
    f"The same upstream on unix sockets, one worker each, wrk with {CONNECTIONS} connections, a POST of a prediction "
    "request. Feature rows: the full route, fixed in a file, without that feature, against the same with it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A proxy under load."""

    name: str
    pid: int
    port: int


def canary_table(sockets: Mapping[str, Path], *, fallback: bool = True) -> RouteTable:
    """Return the route table of a canary of two versions of MAJOR line 1."""
    line = RouteLine(major=1, assignment=RouteLine.ASSIGNMENT_REQUEST)
    weights = {
        STABLE: (ArmRole.ARM_ROLE_STABLE, WEIGHT_TOTAL - CANDIDATE_WEIGHT),
        CANDIDATE: (ArmRole.ARM_ROLE_CANDIDATE, CANDIDATE_WEIGHT),
    }
    for version, (role, weight) in weights.items():
        endpoints = [f"unix:{sockets[version]}"]
        line.arms.append(
            RouteArm(version=parse_version(version), role=role, weight_millionths=weight, endpoints=endpoints)
        )
    if fallback:
        line.fallback_version.CopyFrom(parse_version(STABLE))
    return RouteTable(model=MODEL, epoch=1, revision=1, lines=[line])


def cpu_us_per_request(target: Target, *, seconds: float) -> float:
    """Load ``target`` for ``seconds`` and return its CPU microseconds a request."""
    url = f"http://{LOOPBACK}:{target.port}/v2/models/{MODEL}/infer"
    before = procfs.cpu_s(target.pid)
    burst = load.burst(url, body=load.infer_body(), seconds=seconds, connections=CONNECTIONS)
    used = procfs.cpu_s(target.pid) - before
    if burst.failed:
        raise Unavailable(
            f"{burst.failed} of {burst.requests} requests through {target.name} failed, expected none",
            code="BENCH_REQUESTS_FAILED",
        )
    return used / burst.requests * 1e6


def alternate(targets: Sequence[Target], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Load the targets in turn, round by round; the order turns round each time, so that a drift hits all alike."""
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for number in range(rounds):
        for target in targets if number % 2 == 0 else reversed(targets):
            found[target.name].append(cpu_us_per_request(target, seconds=seconds))
    return found


@asynccontextmanager
async def full_route(sockets: Mapping[str, Path], monitor_port: int, folder: Path) -> AsyncIterator[Target]:
    """Run the stack's gateway with the real control plane in this process."""
    (port,) = free_ports(1)
    applied: asyncio.Queue[RouteApplied] = asyncio.Queue()
    fleet = ProxyFleet(LOOPBACK, port, on_applied=applied.put_nowait)
    server = GrpcServer(service_names=[], access=AccessSettings(insecure=True))
    fleet.add_to_server(server.server)
    xds_port = await server.start(LOOPBACK, 0)
    fleet.apply(canary_table(sockets), decided_time=utc_now())
    made = prepare_gateway(
        folder / "gateway",
        deployer_port=xds_port,
        monitor_port=monitor_port,
        admin_socket=folder / "admin.sock",
        token="",
    )
    context = envoys.serving(made, port, folder)
    child = await asyncio.to_thread(context.__enter__)
    try:
        async with asyncio.timeout(APPLIED_S):
            while not (await applied.get()).complete:
                continue
        yield Target(name="full", pid=child.process.pid, port=port)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
        fleet.close()
        await server.stop()


def feature_targets(
    sockets: Mapping[str, Path], monitor_port: int, folder: Path, stack: ExitStack, *, names: Sequence[str]
) -> list[Target]:
    """Start one proxy for each variant of the route."""
    targets = []
    for name in names:
        (port,) = free_ports(1)
        change = VARIANTS[name]
        table = canary_table(sockets, fallback=change is not None)
        resources = gateway_resources([table], GatewayAddress(host=LOOPBACK, port=port), GatewayTuning())
        listener = fixed_listener(resources, change)
        child = stack.enter_context(
            envoys.fixed(
                name.replace(" ", "-"),
                listener,
                resources.clusters,
                port=port,
                monitor_port=monitor_port,
                folder=folder,
            )
        )
        targets.append(Target(name=name, pid=child.process.pid, port=port))
    return targets


async def measure(folder: Path, kafka: KafkaSettings, *, quick: bool) -> tuple[dict[str, list[float]], ...]:
    """Return CPU microseconds a request: of full and plain, then of the variants."""
    seconds, rounds = (QUICK_ROUND_S, QUICK_ROUNDS) if quick else (ROUND_S, ROUNDS)
    names = [*VARIANTS][:QUICK_FEATURES] if quick else [*VARIANTS]
    with ExitStack() as stack:
        sockets = stack.enter_context(envoys.upstreams((STABLE, CANDIDATE), folder))
        _, monitor_port = stack.enter_context(parts.monitor(kafka, folder))
        (plain_port,) = free_ports(1)
        plain = stack.enter_context(envoys.plain(plain_port, sockets[STABLE], folder))
        async with full_route(sockets, monitor_port, folder) as full:
            pair = [full, Target(name="plain", pid=plain.process.pid, port=plain_port)]
            await asyncio.to_thread(alternate, pair, rounds=1, seconds=seconds)  # warm
            both = await asyncio.to_thread(alternate, pair, rounds=rounds, seconds=seconds)
        variants = feature_targets(sockets, monitor_port, folder, stack, names=names)
        rounds = QUICK_ROUNDS if quick else FEATURE_ROUNDS
        features = await asyncio.to_thread(alternate, variants, rounds=rounds, seconds=seconds)
    return both, features


def _feature_metric(name: str) -> str:
    return "cpu a request, fixed in a file" if name == WHOLE else f"cpu a request, without {name}"


def run(*, quick: bool) -> Report:
    """Run the benchmark; raises ToolMissing without wrk."""
    load.wrk_path()
    with tempfile.TemporaryDirectory(prefix="tg") as name:
        folder = Path(name)
        with parts.broker(folder / "kafka") as kafka:
            both, features = asyncio.run(measure(folder, kafka, quick=quick))
    full, plain = both["full"], both["plain"]
    ratios = Sample.of([one / other for one, other in zip(full, plain, strict=True)])
    whole = statistics.median(features[WHOLE])
    rows = [
        Metric(
            metric="cpu a request, full route",
            value=statistics.median(full),
            unit="us",
            reference=statistics.median(plain),
            against="plain Envoy",
            goal=Goal(of="ratio", at_most=RATIO_MAX),
            sample=Sample.of(full),
        ),
        Metric(metric="ratio of neighbouring rounds, median", value=ratios.p50, unit="x", sample=ratios),
        *(
            Metric(
                metric=_feature_metric(name),
                value=statistics.median(values),
                unit="us",
                reference=whole,
                against=WHOLE,
                sample=Sample.of(values),
            )
            for name, values in features.items()
        ),
    ]
    note = f"ratio of neighbouring rounds: {ratios.smallest:.2f} to {ratios.largest:.2f} over {ratios.count} pairs"
    return Report(name="envoy", driven=DRIVEN, metrics=rows, notes=[note])
