"""The client that counts failures says nothing rather than "none" when it could not have seen any."""

from __future__ import annotations

import json

import pytest

from bench.client import CheckedClient, _is_answer_to
from tidegate.core.errors import TidegateError


def answer(number: object) -> bytes:
    return json.dumps({"outputs": [{"name": "echo", "data": [number]}]}).encode()


@pytest.mark.parametrize("body", [b"", b"not json", b"{}", answer("x"), answer(8)])
def test_what_is_not_the_answer_to_the_request_is_wrong_whatever_it_is(body):
    assert _is_answer_to(7, answer(7))
    assert not _is_answer_to(7, body)


def test_a_client_that_sent_too_little_has_shown_nothing():
    client = CheckedClient("http://127.0.0.1:1/", rate_per_s=100.0)
    client.seen.answered = 900
    client._check_sent(10.0)
    client.seen.answered = 100
    with pytest.raises(TidegateError, match="sent 100 of 1000 requests"):
        client._check_sent(10.0)
