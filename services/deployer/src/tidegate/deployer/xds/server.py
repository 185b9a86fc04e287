"""ADS, state of the world: one stream a proxy, answers in the order that :mod:`ordering` plans."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from tidegate.deployer.xds.clusters import TYPE_PREFIX
from tidegate.deployer.xds.ordering import (
    ClusterPush,
    ModelResources,
    Models,
    ProxyState,
    Push,
    RoutePush,
    on_accepted,
    on_refused,
    on_sent,
    plan,
)
from tidegate.deployer.xds.resources import content_version, encode, merge_routes

CLUSTER_TYPE: Final = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
LISTENER_TYPE: Final = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE_TYPE: Final = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"

log = structlog.get_logger(__name__)


class Hub(Protocol):
    """What a session needs of the fleet."""

    @property
    def desired(self) -> Models:
        """Resources that every proxy shall have."""

    @property
    def is_restoring(self) -> bool:
        """True while some tables may be unknown yet."""

    @property
    def listener(self) -> bytes:
        """The serialized listener."""

    @property
    def drain_s(self) -> float:
        """How long a request can be under way, in seconds."""

    def on_connected(self, session: ProxySession) -> ProxyState:
        """Return what is known of the proxy; any older session of it is closed."""

    def on_progress(self, session: ProxySession) -> None:
        """Note that the proxy acknowledged something."""

    def on_refusal(self, session: ProxySession, guilty: tuple[ModelResources, ...], message: str) -> None:
        """Note a refusal; ``guilty`` is empty while there are several suspects."""

    def on_disconnected(self, session: ProxySession) -> None:
        """Note the end of the stream."""


class ProxySession:
    """One stream of one proxy: requests in, responses out; all in one event loop."""

    def __init__(self, *, node_id: str, hub: Hub) -> None:
        self.node_id = node_id
        self._hub = hub
        # At most one response a type is under way, so this never holds more than a few.
        self._responses: asyncio.Queue[discovery_pb2.DiscoveryResponse | None] = asyncio.Queue()
        self._nonces = itertools.count(1)
        self._nonce_by_type: dict[str, str] = {}
        self._clusters_subscribed = False
        self._had_config = False
        self._drained: asyncio.TimerHandle | None = None
        self.state = hub.on_connected(self)

    def on_request(self, request: discovery_pb2.DiscoveryRequest) -> None:
        """Take one subscription, acknowledgement or refusal."""
        nonce = self._nonce_by_type.get(request.type_url, "")
        if request.response_nonce and request.response_nonce != nonce:
            return  # an answer to a response that a newer one has replaced
        refused = request.HasField("error_detail")
        match request.type_url:
            case type_url if type_url == LISTENER_TYPE:
                self._on_listener_request(request, refused=refused)
            case type_url if type_url in (CLUSTER_TYPE, ROUTE_TYPE):
                self._on_resource_request(request, refused=refused)
            case other:
                log.warning("proxy asked for an unknown type", node=self.node_id, type_url=other)
        self.wake()

    def wake(self) -> None:
        """Send what the plan says, if anything."""
        desired = self._hub.desired
        is_unknown = self.state.clusters is None and not desired and self._had_config
        if not self._clusters_subscribed or self._hub.is_restoring or is_unknown:
            # A proxy that has a configuration keeps it until this process knows its tables again.
            return
        push = plan(self.state, desired, self._now_s())
        if push is None:
            self._wake_when_drained()
        else:
            self.state = on_sent(self.state, push)
            self._send(_type_of(push), cluster_bodies(push) if isinstance(push, ClusterPush) else route_bodies(push))

    def close(self) -> None:
        """End the stream after what is queued."""
        if self._drained is not None:
            self._drained.cancel()
        self._responses.put_nowait(None)

    async def responses(self) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Yield what to write to the proxy, until :meth:`close`."""
        while (response := await self._responses.get()) is not None:
            yield response

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _wake_when_drained(self) -> None:
        """Come back when the next cluster may go; all that is due now has been planned."""
        if self._drained is not None:
            self._drained.cancel()
            self._drained = None
        due = [known.until for known in self.state.draining.values() if known.until > self._now_s()]
        if due:
            self._drained = asyncio.get_running_loop().call_at(min(due), self.wake)

    def _on_listener_request(self, request: discovery_pb2.DiscoveryRequest, *, refused: bool) -> None:
        if refused:
            log.error("proxy refused the listener", node=self.node_id, message=request.error_detail.message)
        elif not request.response_nonce and request.version_info != content_version([self._hub.listener]):
            self._send(LISTENER_TYPE, [self._hub.listener])

    def _on_resource_request(self, request: discovery_pb2.DiscoveryRequest, *, refused: bool) -> None:
        if not request.response_nonce:
            self._subscribe(request)
        elif refused:
            refusal = on_refused(self.state)
            self.state = refusal.state
            self._hub.on_refusal(self, refusal.guilty, request.error_detail.message)
            return
        elif _type_of(self.state.outstanding) == request.type_url:
            drained_s = self._now_s() + self._hub.drain_s
            self.state = on_accepted(self.state, self._hub.desired, drained_s=drained_s)
        self._hub.on_progress(self)

    def _subscribe(self, request: discovery_pb2.DiscoveryRequest) -> None:
        if request.type_url == CLUSTER_TYPE:
            self._had_config = bool(request.version_info)
            self._clusters_subscribed = True
            self.state = resume_clusters(self.state, request.version_info, self._hub.desired)
        else:
            self.state = resume_routes(self.state, request.version_info, self._hub.desired)

    def _send(self, type_url: str, bodies: Iterable[bytes]) -> None:
        resources = [*bodies]
        nonce = str(next(self._nonces))
        self._nonce_by_type[type_url] = nonce
        response = discovery_pb2.DiscoveryResponse(
            version_info=content_version(resources),
            type_url=type_url,
            nonce=nonce,
            resources=[AnyMessage(type_url=type_url, value=body) for body in resources],
        )
        self._responses.put_nowait(response)


def cluster_bodies(push: ClusterPush) -> list[bytes]:
    """Return the clusters of ``push`` in order of their names."""
    return [push.clusters[name] for name in sorted(push.clusters)]


def route_bodies(push: Push) -> list[bytes]:
    """Return the one RouteConfiguration of ``push``."""
    return [encode(merge_routes(push.models))]


def resume_clusters(state: ProxyState, version: str, desired: Models) -> ProxyState:
    """Return what is known of a proxy that begins a stream and says that it has clusters ``version``.

    The remembered state holds if the version proves it; a control plane that has restarted remembers nothing, but
    recognizes the content that it would send.
    """
    candidates = [state.clusters] if state.clusters is not None else []
    if isinstance(state.outstanding, ClusterPush):
        candidates.append(state.outstanding.clusters)
    candidates.append({name: body for model in desired.values() for name, body in model.clusters.items()})
    for clusters in candidates:
        if version and version == content_version(clusters[name] for name in sorted(clusters)):
            return replace(state, clusters=clusters, outstanding=None, routes_subscribed=False)
    return replace(state, clusters=None, outstanding=None, routes_subscribed=False)


def resume_routes(state: ProxyState, version: str, desired: Models) -> ProxyState:
    """Return what is known of a proxy that begins to ask for routes and says that it has ``version``."""
    known = [models for models in (state.models, desired) if models is not None]
    for models in known:
        if version and version == content_version(route_bodies(RoutePush(models=models))):
            return replace(state, models=models, routes_subscribed=True)
    return replace(state, models=None, routes_subscribed=True)


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """``envoy.service.discovery.v3.AggregatedDiscoveryService`` for many proxies."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def StreamAggregatedResources(  # noqa: N802  # the name in the proto
        self, request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest], context: Any
    ) -> None:
        """Serve one proxy until its stream ends."""
        first = await anext(request_iterator, None)
        if first is None:
            return
        session = ProxySession(node_id=first.node.id, hub=self._hub)
        writer = asyncio.create_task(_write(session, context), name=f"xds-write-{session.node_id}")
        reader = asyncio.create_task(_read(session, first, request_iterator), name=f"xds-read-{session.node_id}")
        try:
            await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._hub.on_disconnected(session)
            for task in (writer, reader):
                task.cancel()
            results = await asyncio.gather(writer, reader, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    log.info("stream of a proxy ended", node=session.node_id, cause=repr(result))


async def _write(session: ProxySession, context: Any) -> None:
    async for response in session.responses():
        await context.write(response)


async def _read(
    session: ProxySession,
    first: discovery_pb2.DiscoveryRequest,
    requests: AsyncIterator[discovery_pb2.DiscoveryRequest],
) -> None:
    session.on_request(first)
    async for request in requests:
        session.on_request(request)


def _type_of(push: Push | None) -> str:
    if push is None:
        return ""
    return CLUSTER_TYPE if isinstance(push, ClusterPush) else ROUTE_TYPE
