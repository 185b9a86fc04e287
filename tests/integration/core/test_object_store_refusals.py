"""Wrong keys are the service's own trouble: work waits, and no message is blamed."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from tidegate.core.errors import Unavailable
from tidegate.core.object_store import ObjectStore


@pytest.mark.parametrize("wrong", [{"secret_key": SecretStr("wrong")}, {"access_key": SecretStr("nobody")}])
async def test_refused_keys_make_work_wait(store_settings, wrong):
    store = ObjectStore(store_settings.model_copy(update=wrong))
    with pytest.raises(Unavailable, match="the object store refused") as raised:
        await store.put_bytes("reports/a", b"a")
    assert raised.value.code == "OBJECT_STORE_REFUSED"
    for uri in (store.uri("reports/a"), "s3://tidegate-uploads/model"):
        with pytest.raises(Unavailable) as raised:
            await store.size(uri)
        assert raised.value.code == "OBJECT_STORE_REFUSED"
        with pytest.raises(Unavailable):
            await store.read(uri, limit_bytes=10)
