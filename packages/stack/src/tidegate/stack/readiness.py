"""Whether a part answers: one short question each, in the part's own language."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import grpc
import urllib3
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from tidegate.stack.object_store import Credentials

ANSWER_S: Final = 2.0


def answers(host: str, port: int) -> bool:
    """Return whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def kafka_ready(bootstrap: str) -> bool:
    """Return whether the broker lists its topics."""
    host, _, port = bootstrap.rpartition(":")
    # The client's own retries are slow and loud: ask only where somebody listens.
    if not answers(host, int(port)):
        return False
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap, client_id="tidegate-stack", request_timeout_ms=5000, bootstrap_timeout_ms=5000
        )
    except (KafkaError, OSError):
        return False
    try:
        admin.list_topics()
    except (KafkaError, OSError):
        return False
    else:
        return True
    finally:
        admin.close()


def minio_client(endpoint: str, credentials: Credentials) -> Minio:
    """Return a client that gives up fast."""
    return Minio(
        endpoint,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        secure=False,
        region="us-east-1",
        http_client=urllib3.PoolManager(timeout=urllib3.Timeout(total=ANSWER_S), retries=False),
    )


def object_store_ready(endpoint: str, credentials: Credentials) -> bool:
    """Return whether the store lists its buckets for ``credentials``."""
    try:
        minio_client(endpoint, credentials).list_buckets()
    except (MinioException, HTTPError, OSError):
        return False
    return True


def grpc_serving(address: str) -> bool:
    """Return whether the gRPC server at ``address`` says SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def socket_answers(path: Path) -> bool:
    """Return whether something accepts connections on the unix socket at ``path``."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_S)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def http_answers(url: str) -> bool:
    """Return whether an HTTP server answers there, whatever it says."""
    # No proxy of the caller's stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_S):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
