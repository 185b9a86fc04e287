"""Where the broker's jars come from, and which are wanted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidegate.core.errors import InvalidInput
from tidegate.stack.maven import CENTRAL_URL, cache_dir, class_path, read_lock, repository_url, without_user

SETTINGS = """<?xml version="1.0"?>
<settings{namespace}><mirrors>{mirrors}</mirrors></settings>"""
NAMESPACE = ' xmlns="http://maven.apache.org/SETTINGS/1.2.0"'


def mirror(of: str, url: str) -> str:
    return f"<mirror><id>m</id><mirrorOf>{of}</mirrorOf><url>{url}</url></mirror>"


def settings(folder: Path, *mirrors: str, namespace: str = "") -> Path:
    path = folder / "settings.xml"
    path.write_text(SETTINGS.format(namespace=namespace, mirrors="".join(mirrors)))
    return path


def test_lock_names_each_jar_once_by_digest_and_maven_path():
    jars = read_lock()
    assert len(jars) == 45
    assert len({jar.path for jar in jars}) == 45
    for jar in jars:
        assert re.fullmatch(r"[0-9a-f]{64}", jar.sha256)
        group, _, _ = jar.path.rpartition("/")
        artifact, version = group.split("/")[-2:]
        assert jar.path.endswith(f"/{artifact}-{version}.jar")


def test_broker_of_the_lock_is_the_documented_one():
    assert "org/apache/kafka/kafka_2.13/4.4.0/kafka_2.13-4.4.0.jar" in {jar.path for jar in read_lock()}


def test_central_is_the_default(tmp_path):
    assert repository_url({}, settings=tmp_path / "missing.xml") == CENTRAL_URL


def test_variable_wins_over_the_settings(tmp_path):
    path = settings(tmp_path, mirror("central", "https://settings.test/maven"))
    environ = {"TIDEGATE_MAVEN_URL": "https://variable.test/maven/"}
    assert repository_url(environ, settings=path) == "https://variable.test/maven"


@pytest.mark.parametrize("namespace", ["", NAMESPACE])
@pytest.mark.parametrize("of", ["central", "*", "external:*", "other, central", "*,!snapshots"])
def test_mirror_of_central_in_mavens_settings_is_used(tmp_path, namespace, of):
    path = settings(tmp_path, mirror(of, "https://mirror.test/maven/"), namespace=namespace)
    assert repository_url({}, settings=path) == "https://mirror.test/maven"


@pytest.mark.parametrize("of", ["other", "*,!central", ""])
def test_mirror_of_something_else_is_not_used(tmp_path, of):
    assert repository_url({}, settings=settings(tmp_path, mirror(of, "https://mirror.test"))) == CENTRAL_URL


def test_first_fitting_mirror_is_used(tmp_path):
    path = settings(
        tmp_path, mirror("other", "https://a.test"), mirror("central", "https://b.test"), mirror("*", "https://c.test")
    )
    assert repository_url({}, settings=path) == "https://b.test"


def test_settings_that_are_no_xml_are_named(tmp_path):
    path = tmp_path / "settings.xml"
    path.write_text("<settings>")
    with pytest.raises(InvalidInput, match=r"settings\.xml is not XML") as raised:
        repository_url({}, settings=path)
    assert "TIDEGATE_MAVEN_URL" in raised.value.hint


def test_variable_that_is_no_url_is_refused():
    with pytest.raises(InvalidInput, match="TIDEGATE_MAVEN_URL is 'mirror'") as raised:
        repository_url({"TIDEGATE_MAVEN_URL": "mirror"})
    assert raised.value.code == "MAVEN_URL_INVALID"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TIDEGATE_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/tidegate")),
        ({}, Path.home() / ".cache" / "tidegate"),
    ],
)
def test_cache_is_outside_the_repository_and_can_be_moved(environ, expected):
    assert cache_dir(environ) == expected


def test_messages_never_show_the_mirrors_password():
    assert without_user("https://me:secret@mirror.test:8443/maven") == "https://mirror.test:8443/maven"


def test_class_path_is_exactly_the_given_files(tmp_path):
    assert class_path((tmp_path / "a.jar", tmp_path / "b.jar")) == f"{tmp_path}/a.jar:{tmp_path}/b.jar"
