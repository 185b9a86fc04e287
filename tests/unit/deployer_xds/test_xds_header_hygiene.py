import re

from hypothesis import given
from hypothesis import strategies as st

from tidegate.deployer.xds.listener import foreign_header_patterns

PREFIX = "x-tidegate-"
PIECES = st.sampled_from(
    ["unit", "preview", "context-", "context", "uni", "pre", "c", "u", "p", "arm", "-", "x", "s", ""]
)


def is_removed(name):
    return any(re.fullmatch(pattern, name) for pattern in foreign_header_patterns())


@given(st.lists(PIECES, max_size=3).map("".join) | st.text("abcdefghijklmnopqrstuvwxyz0123456789-", max_size=12))
def test_only_what_a_client_may_say_stays(rest):
    allowed = rest in {"unit", "preview"} or rest.startswith("context-")
    assert is_removed(PREFIX + rest) is not allowed


@given(st.text("abcdefghijklmnopqrstuvwxyz-", max_size=20).filter(lambda name: not name.startswith(PREFIX)))
def test_headers_of_others_stay(name):
    assert not is_removed(name)
