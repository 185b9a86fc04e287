"""Pages lead somewhere, and name what the contract has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("services/*/README.md")]
GLOSSARY = ROOT / "docs" / "glossary.md"
# In the glossary's column of the contract, but said elsewhere than in the protos: headers, topics, columns of files.
SAID_ELSEWHERE = ("ce_", "expected_", "x-tidegate-", "tidegate.", "ErrorInfo", "settle_s")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if not re.match(r"[a-z]+:", target):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_the_glossary_names_what_the_contract_has():
    contract = "\n".join(path.read_text() for path in ROOT.glob("proto/tidegate/v1/*.proto"))
    rows = [line.split(" | ") for line in GLOSSARY.read_text().splitlines() if line.startswith("| **")]
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 4, row
        for word in re.findall(r"`([^`]+)`", row[2]):
            if not word.startswith(SAID_ELSEWHERE):
                assert re.search(rf"\b(?:PHASE_)?{word.split('.')[0]}\b", contract), word
