"""The tokens that a stack makes for itself, and those that people add."""

import importlib.util
import json
from pathlib import Path

import pytest

from tidegate.contracts.access import Role
from tidegate.core.callers import Callers, read_callers
from tidegate.core.errors import AlreadyExists, InvalidInput, NotFound
from tidegate.stack.tokens import (
    LOCAL,
    OWN_TOKENS,
    Tokens,
    callers_in,
    create_token,
    ensure_tokens,
    revoke_token,
)


@pytest.fixture
def tokens(tmp_path):
    made = Tokens(file=tmp_path / "tokens.json", folder=tmp_path / "tokens")
    ensure_tokens(made)
    return made


def test_a_stack_makes_its_own_readable_by_their_owner_alone(tokens):
    known = Callers(callers_in(tokens.file))
    for name, role in OWN_TOKENS.items():
        caller = known.with_token(tokens.read(name))
        assert (caller.name, caller.role) == (name, role)
        assert tokens.path_of(name).stat().st_mode & 0o777 == 0o600
        assert tokens.read(name) not in tokens.file.read_text()
    assert tokens.file.stat().st_mode & 0o777 == 0o600
    assert len({tokens.read(name) for name in OWN_TOKENS}) == len(OWN_TOKENS)


def test_made_once_and_others_stay(tokens):
    create_token(tokens.file, name="ci", role=Role.PRODUCER)
    before, own = tokens.file.read_text(), tokens.read(LOCAL)
    ensure_tokens(tokens)
    assert (tokens.file.read_text(), tokens.read(LOCAL)) == (before, own)
    tokens.path_of(LOCAL).unlink()
    ensure_tokens(tokens)
    assert tokens.read(LOCAL) not in {"", own}
    known = Callers(callers_in(tokens.file))
    assert known.with_token(own) is None
    assert known.with_token(tokens.read(LOCAL)).name == LOCAL


def test_created_and_revoked(tokens):
    token = create_token(tokens.file, name="ci", role=Role.PRODUCER, models="churn")
    caller = Callers(callers_in(tokens.file)).with_token(token)
    assert (caller.name, caller.role, caller.models) == ("ci", Role.PRODUCER, "churn")
    with pytest.raises(AlreadyExists):
        create_token(tokens.file, name="ci", role=Role.READER)
    revoke_token(tokens.file, "ci")
    assert Callers(callers_in(tokens.file)).with_token(token) is None
    with pytest.raises(NotFound):
        revoke_token(tokens.file, "ci")


def test_tokens_may_be_made_before_the_first_start(tmp_path):
    tokens = Tokens(file=tmp_path / "stack" / "tokens.json", folder=tmp_path / "stack" / "tokens")
    token = create_token(tokens.file, name="ci", role=Role.PRODUCER)
    ensure_tokens(tokens)
    assert Callers(callers_in(tokens.file)).with_token(token).name == "ci"
    with pytest.raises(NotFound):
        revoke_token(tmp_path / "none" / "tokens.json", "ci")


@pytest.mark.parametrize(("given", "field"), [({"name": "a b"}, "name"), ({"name": "a", "models": "A/"}, "models")])
def test_what_is_no_caller_is_refused_and_changes_nothing(tokens, given, field):
    before = tokens.file.read_text()
    with pytest.raises(InvalidInput) as raised:
        create_token(tokens.file, role=Role.READER, **given)
    assert (raised.value.code, raised.value.field) == ("TOKEN_INVALID", field)
    assert tokens.file.read_text() == before


def test_the_tokens_of_the_compose_file_are_in_its_list():
    path = Path(__file__).parents[3] / "deploy" / "new_env.py"
    spec = importlib.util.spec_from_file_location("new_env", path)
    new_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(new_env)
    text = new_env.filled((path.parent / "compose.env.example").read_text())
    lines = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    known = Callers(read_callers(lines["TIDEGATE_TOKENS"].strip("'"), source="x"))
    assert known.with_token(lines["ADMIN_TOKEN"]).role is Role.ADMIN
    for part in ("DEPLOYER", "VALIDATOR", "GATEWAY"):
        assert known.with_token(lines[f"{part}_TOKEN"]).role is Role.SERVICE
    assert json.loads(lines["TIDEGATE_TOKENS"].strip("'"))["tokens"]
