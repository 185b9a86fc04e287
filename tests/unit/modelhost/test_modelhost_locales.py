from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tidegate.modelhost import locales
from tidegate.modelhost.locales import Locales, is_installed


@pytest.fixture
def is_missing(monkeypatch):
    monkeypatch.setattr(locales, "is_installed", lambda: False)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"...StringNormalizer...")
    return path


def test_the_c_library_says_which_locales_it_has():
    assert is_installed("C.UTF-8")
    assert not is_installed("xx_XX.UTF-8")


@pytest.mark.skipif(not Path("/usr/share/i18n/locales/en_US").is_file(), reason="needs the package locales")
def test_the_locale_is_made_once_where_it_is_missing(is_missing, monkeypatch, tmp_path, model):
    folder = Locales(tmp_path).folder_for(model)
    assert [path.name for path in folder.iterdir()] == ["en_US.UTF-8"]
    assert (folder / "en_US.UTF-8" / "LC_CTYPE").is_file()
    monkeypatch.setattr(shutil, "which", lambda _: pytest.fail("it is there already"))
    assert Locales(tmp_path).folder_for(model) == folder


@pytest.mark.parametrize("program", [None, "/bin/false", "/bin/absent"])
def test_where_it_cannot_be_made_the_host_goes_on_without(is_missing, monkeypatch, tmp_path, model, program):
    monkeypatch.setattr(shutil, "which", lambda _: program)
    assert Locales(tmp_path).folder_for(model) is None


def test_nothing_is_made_where_the_system_has_it(monkeypatch, tmp_path, model):
    monkeypatch.setattr(locales, "is_installed", lambda: True)
    assert Locales(tmp_path).folder_for(model) is None
    assert list(tmp_path.iterdir()) == [model]


def test_nothing_is_made_for_a_model_without_text(is_missing, tmp_path, model):
    model.write_bytes(b"...MatMul...")
    assert Locales(tmp_path).folder_for(model) is None
    assert list(tmp_path.iterdir()) == [model]
