"""The fleet of proxies: the newest table of a model wins, all leased proxies acknowledge, a bad one harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

import structlog
from envoy.service.discovery.v3 import ads_pb2_grpc

from tidegate.core.clock import utc_now
from tidegate.deployer.metrics import PROXIES, REFUSALS
from tidegate.deployer.xds.listener import gateway_listener
from tidegate.deployer.xds.ordering import ModelResources, Models, ProxyState, is_settled
from tidegate.deployer.xds.resources import encode, model_resources
from tidegate.deployer.xds.server import DiscoveryServicer, ProxySession
from tidegate.deployer.xds.tuning import GatewayAddress, GatewayCaller, GatewayTuning
from tidegate.v1.rollout_events_pb2 import RouteApplied, RouteTable

LEASE_S: Final = 60.0
APPLIED_WAIT_S: Final = 5.0

OnApplied: TypeAlias = Callable[[RouteApplied], None]
OnRefused: TypeAlias = Callable[[str, int, int, str], None]

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class _Proxy:
    """A proxy that is connected, or was within the lease."""

    state: ProxyState = field(default_factory=ProxyState)
    session: ProxySession | None = None
    lease: asyncio.TimerHandle | None = None


@dataclass(kw_only=True, slots=True)
class _Shift:
    """The newest table of one model on its way to the proxies."""

    resources: ModelResources
    decided_time: datetime | None
    deadline: asyncio.TimerHandle | None = None
    is_late: bool = False
    reported: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    last_time: datetime | None = None
    applied: set[str] = field(default_factory=set)


class ProxyFleet:
    """Brings route tables to all proxies and says when they have them; to be used in one event loop.

    A proxy that reconnects gets what the fleet holds at that moment, so a control plane that starts anew must know all
    its tables first: apply them before the server starts, or begin with ``is_restoring`` and end with :meth:`restored`.
    """

    def __init__(
        self,
        gateway_host: str,
        gateway_port: int,
        *,
        lease_s: float = LEASE_S,
        applied_wait_s: float = APPLIED_WAIT_S,
        tuning: GatewayTuning | None = None,
        callers: Sequence[GatewayCaller] = (),
        is_restoring: bool = False,
        on_applied: OnApplied | None = None,
        on_refused: OnRefused | None = None,
    ) -> None:
        """Make a fleet whose proxies listen on ``gateway_host:gateway_port``.

        Args:
            gateway_host: Address that every proxy listens on.
            gateway_port: Port that every proxy listens on.
            lease_s: A proxy that has disconnected counts as missing for so long.
            applied_wait_s: After so long without all acknowledgements, ``on_applied`` names the missing.
            tuning: Times and sizes of the gateway.
            callers: Who may ask for predictions; none = everybody.
            is_restoring: Send nothing until :meth:`restored`.
            on_applied: Called in the event loop; again whenever the answer changes.
            on_refused: Called with model, epoch, revision and Envoy's message when a proxy refused a table.

        """
        self._tuning = tuning or GatewayTuning()
        self._lease_s = lease_s
        self._applied_wait_s = applied_wait_s
        self._on_applied = on_applied
        self._on_refused = on_refused
        self._proxies: dict[str, _Proxy] = {}
        self._shifts: dict[str, _Shift] = {}
        self._is_restoring = is_restoring
        self._desired: dict[str, ModelResources] = {}
        self._accepted: dict[str, ModelResources] = {}
        self.listener = encode(
            gateway_listener(GatewayAddress(host=gateway_host, port=gateway_port), self._tuning, callers)
        )

    @property
    def desired(self) -> Models:
        """Resources that every proxy shall have, by model."""
        return self._desired

    @property
    def is_restoring(self) -> bool:
        """True while some tables may be unknown yet: proxies keep what they have."""
        return self._is_restoring

    @property
    def drain_s(self) -> float:
        """How long clusters that no route names any more stay."""
        return self._tuning.drain_s

    @property
    def node_ids(self) -> tuple[str, ...]:
        """The proxies that hold a lease."""
        return tuple(sorted(self._proxies))

    def add_to_server(self, server: Any) -> None:
        """Serve ADS on ``server`` (a ``grpc.aio.Server``)."""
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(DiscoveryServicer(self), server)

    def apply(self, table: RouteTable, *, decided_time: datetime | None) -> bool:
        """Start to bring ``table`` to all proxies; return False if it is not newer than what is there.

        ``decided_time`` is when this process decided it; None for what it has read, which nobody measures.

        Raises:
            InvalidInput: The table is not legal; nothing changes, for this model or another.

        """
        resources = model_resources(table, self._tuning)
        before = self._shifts.get(table.model)
        if before is not None and resources.key <= before.resources.key:
            if resources.key == before.resources.key and before.decided_time is None and not before.reported:
                # What we decide we may read before we hear that it is committed.
                before.decided_time = decided_time
            return False
        if before is not None and before.deadline is not None:
            before.deadline.cancel()
        shift = _Shift(resources=resources, decided_time=decided_time)
        loop = asyncio.get_running_loop()
        shift.deadline = loop.call_later(self._applied_wait_s, self._on_late, shift)
        self._shifts[table.model] = shift
        self._desired = {**self._desired, table.model: resources}
        # In the loop's next turn, so that tables applied together travel together.
        loop.call_soon(self._wake_all)
        return True

    def restored(self) -> None:
        """Say that all tables are known: proxies are served from now on."""
        self._is_restoring = False
        asyncio.get_running_loop().call_soon(self._wake_all)

    def on_connected(self, session: ProxySession) -> ProxyState:
        """Take a new stream of a proxy in place of its older one."""
        proxy = self._proxies.setdefault(session.node_id, _Proxy())
        if proxy.lease is not None:
            proxy.lease.cancel()
            proxy.lease = None
        if proxy.session is not None:
            proxy.state = proxy.session.state
            proxy.session.close()
        proxy.session = session
        self._count_proxies()
        log.info("proxy connected", node=session.node_id, proxies=len(self._proxies))
        return proxy.state

    def on_progress(self, session: ProxySession) -> None:
        """See which shifts ``session`` has ended."""
        proxy = self._proxies.get(session.node_id)
        if proxy is None or proxy.session is not session:
            return
        for shift in [*self._shifts.values()]:
            self._settle(shift, session)
            self._report(shift)

    def on_refusal(self, session: ProxySession, guilty: tuple[ModelResources, ...], message: str) -> None:
        """Take the guilty model back to what proxies have accepted; the others go on."""
        REFUSALS.inc()
        log.error(
            "proxy refused resources",
            node=session.node_id,
            models=[f"{resources.model}/{resources.epoch}/{resources.revision}" for resources in guilty],
            message=message,
        )
        for resources in guilty:
            if self._desired.get(resources.model) != resources:
                continue
            accepted = self._accepted.get(resources.model)
            others = {model: kept for model, kept in self._desired.items() if model != resources.model}
            self._desired = others if accepted is None else {**others, resources.model: accepted}
            if self._on_refused is not None:
                self._on_refused(resources.model, resources.epoch, resources.revision, message)
        asyncio.get_running_loop().call_soon(self._wake_all)

    def on_disconnected(self, session: ProxySession) -> None:
        """Keep the proxy's lease, then forget it."""
        proxy = self._proxies.get(session.node_id)
        if proxy is None or proxy.session is not session:
            return
        proxy.state = session.state
        proxy.session = None
        self._count_proxies()
        proxy.lease = asyncio.get_running_loop().call_later(self._lease_s, self._drop, session.node_id)
        log.warning("proxy disconnected", node=session.node_id, lease_s=self._lease_s)

    def close(self) -> None:
        """Cancel the timers and end the streams; proxies go on with what they have."""
        for proxy in self._proxies.values():
            if proxy.lease is not None:
                proxy.lease.cancel()
            if proxy.session is not None:
                proxy.session.close()
        for shift in self._shifts.values():
            if shift.deadline is not None:
                shift.deadline.cancel()

    def _wake_all(self) -> None:
        for proxy in [*self._proxies.values()]:
            if proxy.session is not None:
                proxy.session.wake()
                # A table whose content is already there needs no push.
                self.on_progress(proxy.session)

    def _settle(self, shift: _Shift, session: ProxySession) -> None:
        if is_settled(session.state, shift.resources):
            if session.node_id not in shift.applied:
                shift.applied.add(session.node_id)
                shift.last_time = utc_now()
            self._accepted[shift.resources.model] = shift.resources
        else:
            shift.applied.discard(session.node_id)

    def _drop(self, node_id: str) -> None:
        del self._proxies[node_id]
        self._count_proxies()
        log.warning("proxy dropped, its lease has ended", node=node_id, proxies=len(self._proxies))
        for shift in self._shifts.values():
            shift.applied.discard(node_id)
            self._report(shift)

    def _count_proxies(self) -> None:
        connected = sum(proxy.session is not None for proxy in self._proxies.values())
        PROXIES.labels("connected").set(connected)
        PROXIES.labels("missing").set(len(self._proxies) - connected)

    def _on_late(self, shift: _Shift) -> None:
        shift.is_late = True
        self._report(shift)

    def _report(self, shift: _Shift) -> None:
        """Tell what is new: complete, or (once late) who is missing."""
        applied = tuple(sorted(shift.applied))
        missing = tuple(sorted(set(self._proxies) - shift.applied))
        complete = bool(applied) and not missing
        if shift.reported == (applied, missing) or not (complete or shift.is_late):
            return
        shift.reported = (applied, missing)
        if complete and shift.deadline is not None:
            shift.deadline.cancel()
        resources = shift.resources
        latency_ms = _latency_ms(shift, is_complete=complete)
        # Who comes later has not waited for the decision.
        shift.decided_time = None if complete else shift.decided_time
        report = RouteApplied(
            model=resources.model,
            epoch=resources.epoch,
            revision=resources.revision,
            applied=applied,
            missing=missing,
            complete=complete,
            latency_ms=latency_ms,
        )
        log.info("route applied" if complete else "route not applied everywhere", **_fields(report))
        if self._on_applied is not None:
            self._on_applied(report)


def _latency_ms(shift: _Shift, *, is_complete: bool) -> float:
    """Return how long the decision has been under way, in milliseconds; 0 where this process did not make it."""
    if shift.decided_time is None:
        return 0.0
    latest = shift.last_time if is_complete and shift.last_time is not None else utc_now()
    return max(0.0, (latest - shift.decided_time).total_seconds() * 1000)


def _fields(report: RouteApplied) -> dict[str, Any]:
    return {
        "model": report.model,
        "epoch": report.epoch,
        "revision": report.revision,
        "applied": [*report.applied],
        "missing": [*report.missing],
        "latency_ms": round(report.latency_ms, 1),
    }
