# SPDX-License-Identifier: GPL-2.0-or-later
"""What documents point to is there: files, folders, headings, targets of make."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
OURS = re.compile(r"(?:relay|tests|docs|image|ansible|bench|\.ci|\.github)/[\w./*@-]*")
FILE = re.compile(r"[\w@-]+\.(?:py|md|toml|json|txt|service)")

each = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def heading(line):
    """As the hosting platforms make an anchor of it."""
    return re.sub(r"[^\w -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


@each
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), target
        if anchor:
            headings = [heading(line) for line in there.read_text().splitlines() if line.startswith("#")]
            assert anchor in headings, target


@each
def test_every_path_that_is_named_exists(document):
    for line in document.read_text().splitlines():
        # Within a line (of a table, mostly) a file is in the folder that was named last.
        folder = None
        for code in re.findall(r"`([^`]+)`", line):
            if OURS.fullmatch(code):
                assert list(ROOT.glob(code.rstrip("/"))), f"{code} in: {line}"
                folder = ROOT / code if code.endswith("/") else (ROOT / code).parent
            elif folder and FILE.fullmatch(code) and document.name == "architecture.md":
                assert (folder / code).exists(), f"{code}, said to be in {folder.relative_to(ROOT)}, in: {line}"


@each
def test_every_target_of_make_exists(document):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`|and )make ([a-z][a-z0-9-]*)(?=[`\s]|$)", document.read_text(), re.MULTILINE)
    assert set(named) <= targets


def test_every_document_can_be_found_from_the_readme():
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        document = waiting.pop().resolve()
        if document in found or document.suffix != ".md":
            continue
        found.add(document)
        waiting += [document.parent / target for target in re.findall(r"\]\(([^)#\s:]+)\)", document.read_text())]
    assert set(DOCUMENTS) <= found


def test_the_hosted_workflow_runs_what_everybody_runs():
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "run: .ci/run\n" in text
    # Nobody else's code, unless somebody decides so and says here which commit of it.
    assert "uses:" not in text
    limits = map(int, re.findall(r"[a-z-]+:(\d+)", (ROOT / ".ci/run").read_text()))
    assert int(re.search(r"timeout-minutes: (\d+)", text)[1]) >= sum(limits)
