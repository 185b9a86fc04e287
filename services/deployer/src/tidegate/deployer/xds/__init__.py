"""The Envoy fleet: route tables become Envoy resources, and every proxy gets them in an order that loses no request."""

from tidegate.deployer.xds.fleet import ProxyFleet

__all__ = ["ProxyFleet"]
