"""The page of reason codes and the source tell of the same codes, however a code is declared."""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pool import Default

from tidegate.v1 import events_pb2, modelhost_service_pb2, rollout_events_pb2, values_pb2

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reason-codes.md"
SOURCES = (*ROOT.glob("packages/*/src"), *ROOT.glob("services/*/src"), ROOT / "runtimes" / "kserve-onnx")
# Generated code has no codes of ours, the simulation gives names to what people wish.
NOT_READ = {".venv", "v1", "simulation"}
CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
# Texts that look like codes and are none: variables of the environment that are not ours, words of Envoy's and Kafka's.
# (Our own variables begin with TIDEGATE_; values of the contract's enums are known from it.)
NO_CODES = {
    *("DATA_DIR", "METRICS_HOST", "METRICS_PORT"),
    *("LC_ALL", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("MINIO_ROOT_PASSWORD", "MINIO_ROOT_USER"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    *("UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
    *("CLUSTER_PROVIDED", "OVERWRITE_IF_EXISTS_OR_ADD", "REJECT_REQUEST", "STRICT_DNS", "V4_PREFERRED"),
    *("SASL_PLAINTEXT", "SASL_SSL", "TRANSACTIONAL_ID"),
}


@cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    paths = [path for source in SOURCES for path in source.rglob("*.py")]
    ours = [path for path in paths if not NOT_READ & set(path.relative_to(ROOT).parts)]
    # Python up to 3.11.7 miscounts its depth where a collection lets another thread parse meanwhile (cpython 106905).
    gc.disable()
    try:
        return tuple((path.relative_to(ROOT), ast.parse(path.read_text())) for path in ours)
    finally:
        gc.enable()


def named_code(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what is given as ``code``: to a call, or as the default of a parameter."""
    if isinstance(node, ast.keyword) and node.arg == "code":
        yield node.value
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        both = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        yield from (default for name, default in both if name.arg == "code" and default is not None)


def literals(node: ast.AST) -> Iterator[str]:
    """Yield each text that is a code by its form, or stands where a code does, or is the head of a message."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
        yield node.value
    if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
        head = re.match(rf"({CODE.pattern}): ", str(node.values[0].value))
        if head:
            yield head[1]
    for given in named_code(node):
        if isinstance(given, ast.Constant) and given.value:
            yield str(given.value)


def contract_words() -> set[str]:
    """Return the values of the contract's enums, without the enums' names in front."""
    words: set[str] = set()
    for module in (events_pb2, modelhost_service_pb2, rollout_events_pb2, values_pb2):
        file = Default().FindFileByName(module.DESCRIPTOR.name)
        enums = [*file.enum_types_by_name.values()]
        enums += [enum for message in file.message_types_by_name.values() for enum in message.enum_types]
        words |= {text for enum in enums for value in enum.values for text in suffixes(value.name)}
    return words


def suffixes(name: str) -> Iterator[str]:
    parts = name.split("_")
    yield from ("_".join(parts[start:]) for start in range(len(parts)))


def codes_of_source() -> dict[str, str]:
    none = NO_CODES | contract_words()
    return {
        text: f"{path}:{getattr(node, 'lineno', '')}"
        for path, tree in trees()
        for node in ast.walk(tree)
        for text in literals(node)
        if text not in none and not text.startswith("TIDEGATE_")
    }


def codes_of_page() -> list[str]:
    cells = re.findall(r"^\| (`[^|]+) \|", PAGE.read_text(), flags=re.MULTILINE)
    return [code for cell in cells for code in re.findall(r"`([A-Z0-9_]+)`", cell)]


def test_every_code_of_the_source_is_on_the_page():
    on_page = {*codes_of_page()}
    missing = {code: where for code, where in codes_of_source().items() if code not in on_page}
    assert not missing, "on docs/reason-codes.md (or, if it is no reason code, in NO_CODES of this test) is no"


def test_every_code_of_the_page_is_in_the_source():
    assert {*codes_of_page()} - codes_of_source().keys() == set()


def test_a_code_is_written_out_where_it_is_given():
    made = [
        f"{path}:{given.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        for given in named_code(node)
        if isinstance(given, ast.JoinedStr | ast.BinOp)
    ]
    assert made == []


def test_what_is_called_no_code_is_still_there():
    texts = {text for _, tree in trees() for node in ast.walk(tree) for text in literals(node)}
    assert texts >= NO_CODES


def test_each_row_says_what_it_means_and_what_to_do():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert all(cells), row
