"""Jars over real HTTP: only the pinned bytes are ever used."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tidegate.core.errors import Unavailable
from tidegate.stack import maven
from tidegate.stack.maven import Jar, fetch_jars
from tidegate.stack.ports import free_ports

BODY = bytes(range(256)) * 1000
JARS = tuple(
    Jar(path=f"org/test/{name}/1/{name}-1.jar", sha256=hashlib.sha256(name.encode() + BODY).hexdigest())
    for name in ("first", "second", "third")
)


class Repository(ThreadingHTTPServer):
    """Serves JARS; ``fault`` says what is wrong with the second one."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = ""
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/maven2"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.split("/")[4]
        body = name.encode() + BODY
        fault = self.server.fault if name == "second" else ""
        if fault == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write({"altered": body[::-1], "truncated": body[:-1000]}.get(fault, body))

    def log_message(self, *_):
        """Stay silent."""


@pytest.fixture
def repository():
    server = Repository()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_second_tries(monkeypatch):
    monkeypatch.setattr(maven, "RETRIES", 0)


def test_jars_are_announced_downloaded_and_then_kept(repository, tmp_path):
    said, steps = [], []
    for _ in range(2):
        paths = fetch_jars(
            JARS,
            cache=tmp_path,
            url=repository.url,
            announce=said.append,
            progress=lambda done, total: steps.append((done, total)),
        )
    assert [path.read_bytes() for path in paths] == [name.encode() + BODY for name in ("first", "second", "third")]
    assert len(repository.asked) == 3
    assert len(said) == 1
    assert "44.6 MB" in said[0]
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("altered", "DOWNLOAD_CORRUPT", "second-1.jar from .* is not the pinned file"),
        ("truncated", "DOWNLOAD_FAILED", "second-1.jar can't be downloaded"),
        ("missing", "DOWNLOAD_FAILED", "second-1.jar can't be downloaded .*404"),
    ],
)
def test_bad_download_is_an_error_and_never_kept(repository, tmp_path, fault, code, said):
    repository.fault = fault
    with pytest.raises(Unavailable, match=said) as raised:
        fetch_jars(JARS, cache=tmp_path, url=repository.url)
    assert raised.value.code == code
    assert "TIDEGATE_MAVEN_URL" in raised.value.hint
    assert not (tmp_path / "maven" / JARS[1].path).exists()
    repository.fault = ""
    assert len(fetch_jars(JARS, cache=tmp_path, url=repository.url)) == 3


@pytest.mark.parametrize("damage", [b"", BODY])
def test_damaged_file_in_the_cache_is_fetched_again(repository, tmp_path, damage):
    paths = fetch_jars(JARS, cache=tmp_path, url=repository.url)
    paths[0].write_bytes(damage)
    assert fetch_jars(JARS, cache=tmp_path, url=repository.url)[0].read_bytes() == b"first" + BODY


def test_mirror_that_is_away_is_named_without_its_password(tmp_path):
    (port,) = free_ports(1)
    with pytest.raises(Unavailable) as raised:
        fetch_jars(JARS, cache=tmp_path, url=f"http://me:secret@127.0.0.1:{port}/maven2")
    assert f"from http://127.0.0.1:{port}/maven2" in str(raised.value)
    assert "secret" not in str(raised.value)
