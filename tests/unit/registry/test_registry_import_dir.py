"""Files below the import folder, and nothing else."""

from __future__ import annotations

import os

import pytest

from tidegate.registry.intake.import_dir import open_import
from tidegate.registry.intake.rejection import Rejected


@pytest.fixture
def imports(tmp_path):
    folder = (tmp_path / "imports").resolve()
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "model.onnx").write_bytes(b"model")
    (folder / "with space").write_bytes(b"spaced")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(folder / "deep")
    os.mkfifo(folder / "pipe")
    return folder


def code_of(uri, folder):
    with pytest.raises(Rejected) as caught:
        os.close(open_import(uri, folder, "artifact.uri"))
    assert caught.value.reasons[0].field == "artifact.uri"
    return caught.value.code


@pytest.mark.parametrize(("name", "content"), [("deep/model.onnx", b"model"), ("with%20space", b"spaced")])
def test_a_regular_file_below_is_opened(imports, name, content):
    with os.fdopen(open_import(f"file://{imports}/{name}", imports, "artifact.uri"), "rb") as stream:
        assert stream.read() == content


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("/etc/shadow", "SOURCE_NOT_ALLOWED"),
        ("{folder}/../secret", "SOURCE_NOT_ALLOWED"),
        ("{folder}/deep/../../secret", "SOURCE_NOT_ALLOWED"),
        ("{folder}/%2e%2e/secret", "SOURCE_NOT_ALLOWED"),
        ("{folder}2/secret", "SOURCE_NOT_ALLOWED"),
        ("{folder}", "SOURCE_NOT_ALLOWED"),
        ("{folder}/a%00b", "SOURCE_NOT_ALLOWED"),
        ("host{folder}/deep/model.onnx", "SOURCE_NOT_ALLOWED"),
        ("{folder}/link", "LINK_REFUSED"),
        ("{folder}/linked/model.onnx", "LINK_REFUSED"),
        ("{folder}/deep", "NOT_A_FILE"),
        ("{folder}/pipe", "NOT_A_FILE"),
        ("{folder}/deep/model.onnx/x", "NOT_A_FILE"),
        ("{folder}/absent", "ARTIFACT_MISSING"),
    ],
)
def test_everything_else_is_refused(imports, name, code):
    assert code_of("file://" + name.format(folder=imports), imports) == code


def test_without_an_import_folder_nothing_is_allowed(imports):
    assert code_of(f"file://{imports}/deep/model.onnx", None) == "SOURCE_NOT_ALLOWED"
