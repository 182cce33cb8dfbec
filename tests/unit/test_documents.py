# SPDX-License-Identifier: GPL-2.0-or-later
"""What documents point to is there: files, folders, headings, targets of make."""

import ast
import functools
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


@functools.cache
def functions_of(path):
    tree = ast.parse((ROOT / path).read_text() if (ROOT / path).exists() else "")
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@each
def test_every_test_that_is_named_exists(document):
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", document.read_text())
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []


def notes_of(text):
    """By their labels: a line that begins with [^label]: and those after it that are indented."""
    return dict(re.findall(r"^\[\^([\w-]+)\]:((?:.*\n)(?: {4}.*\n)*)", text, re.MULTILINE))


@each
def test_every_note_is_there_and_something_leads_to_it(document):
    text = document.read_text()
    referred = re.findall(r"\[\^([\w-]+)\](?!:)", text)
    assert set(referred) == notes_of(text).keys()


def test_each_cannot_of_the_threat_model_has_a_note_that_names_a_test_or_says_that_there_is_none():
    text = (ROOT / "docs/threat-model.md").read_text()
    notes, cells, column = notes_of(text), [], None
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if not line.startswith("|"):
            column = None
        elif found := {"cannot", "does"} & set(row):
            column = row.index(found.pop())
        elif column is not None and (cell := row[column]) and set(cell) != {"-"}:
            cells.append(cell)
    assert len(cells) > 60
    for cell in cells:
        labels = re.findall(r"\[\^([\w-]+)\]", cell)
        assert labels, cell
    for label, note in notes.items():
        assert "::test_" in note or "no test" in note.lower(), label


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
