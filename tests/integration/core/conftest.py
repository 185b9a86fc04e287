"""Every S3 server that is here: the embedded gateway always, real MinIO in a container or from its binary."""

from __future__ import annotations

from collections.abc import Iterator

import parts
import pytest
from local_servers import minio_binary, minio_server

from tidegate.core.settings import ObjectStoreSettings


@pytest.fixture(scope="module", params=["gateway", "minio"])
def s3_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectStoreSettings]:
    """Run one of them; return where it is and its keys."""
    folder = tmp_path_factory.mktemp("s3")
    image, binary = parts.image("S3_IMAGE"), minio_binary()
    if request.param == "gateway":
        with parts.embedded_object_store(folder) as settings:
            yield settings
    elif image is not None:
        with parts.minio_container(image) as settings:
            yield settings
    elif binary is not None:
        parts.use("MinIO", f"the binary {binary.name}")
        with minio_server(binary, folder) as settings:
            yield settings
    else:
        pytest.skip("no MinIO: neither its image nor a binary (TIDEGATE_MINIO names one) is here")


@pytest.fixture
def any_store(s3_server: ObjectStoreSettings) -> ObjectStoreSettings:
    """Return settings with a bucket of the test's own, which exists."""
    return parts.with_own_bucket(s3_server)
