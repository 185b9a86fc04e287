"""Traps of the workspace that no other check sees."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_member_claims_the_shared_namespace():
    stray = [
        path for pattern in ("packages/*", "services/*") for path in ROOT.glob(f"{pattern}/src/tidegate/__init__.py")
    ]
    assert stray == []


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_each_service_has_the_same_rooms():
    for name in ("registry", "validator", "deployer", "monitor"):
        home = ROOT / "services" / name
        rooms = home / "src" / "tidegate" / name
        for file in ("__main__.py", "settings.py", "agents.py", "service.py", "store.py", "metrics.py"):
            assert (rooms / file).is_file(), f"{name} has no {file}"
        assert (home / "Dockerfile").is_file()
        assert (home / "README.md").is_file()


def test_services_depend_on_nothing_but_contracts_and_core():
    for project in (ROOT / "services").glob("*/pyproject.toml"):
        document = tomllib.loads(project.read_text())
        ours = {text for text in document["project"]["dependencies"] if text.startswith("tidegate-")}
        assert ours == {"tidegate-contracts", "tidegate-core"}, project
