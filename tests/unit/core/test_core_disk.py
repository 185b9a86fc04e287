"""A full disk makes work wait; any other fault of the disk is a fault."""

from __future__ import annotations

import errno

import pytest

from tidegate.core.disk import full_disk_is_unavailable
from tidegate.core.errors import Unavailable


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_unavailable(number):
    with pytest.raises(Unavailable, match="no room on the disk at /data/model") as raised, full_disk_is_unavailable():
        raise OSError(number, "No space left on device", "/data/model")
    assert raised.value.code == "DISK_FULL"


def test_other_faults_are_raised_as_they_are():
    with pytest.raises(PermissionError), full_disk_is_unavailable():
        raise PermissionError(errno.EACCES, "Permission denied")
