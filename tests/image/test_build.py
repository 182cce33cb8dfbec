# SPDX-License-Identifier: GPL-2.0-or-later
"""The image as a file: the same each time, and nothing in it that its list does not name."""

import hashlib
import json
import re

import pytest

from tests.image.conftest import FIRST, only

pytestmark = pytest.mark.image

#: docs/appliance.md: it has to be downloaded over slow lines.
MAX_COMPRESSED_BYTES = 250_000_000


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_two_builds_are_the_same_to_the_byte(image, second_image, measured):
    measured["reproducible"] = sha256(image) == sha256(second_image)
    assert measured["reproducible"]


def test_what_goes_with_the_image_is_the_same_too(image, second_image):
    for suffix in (".packages.txt", ".cdx.json"):
        first, second = (path.with_suffix("").with_name(path.stem + suffix) for path in (image, second_image))
        assert first.read_text() == second.read_text()


def test_the_compressed_image_is_small_and_its_hash_right(measured):
    packed = only(FIRST.glob("*.img.xz"))
    measured["compressed_bytes"] = packed.stat().st_size
    assert packed.stat().st_size <= MAX_COMPRESSED_BYTES
    assert packed.with_name(f"{packed.name}.sha256").read_text() == f"{sha256(packed)}  {packed.name}\n"


def test_the_selector_has_the_file_to_edit_and_nothing_else_to_break(card):
    assert "::/relay.toml" in card.names("MESH-RELAY")
    assert b"[appliance]" in card.read("MESH-RELAY", "relay.toml")


@pytest.mark.timeout(300)
def test_the_list_names_all_that_is_inside(booted, image):
    document = json.loads(image.with_name(f"{image.stem}.cdx.json").read_text())
    listed = {(item["purl"].split("/")[0], item["name"], item["version"]) for item in document["components"]}

    # Every Debian package leaves its copyright file.
    inside = set(booted.sh("cd /usr/share/doc && ls -d */copyright | cut -d/ -f1").split())
    assert inside == {name for kind, name, _ in listed if kind == "pkg:deb"}

    # Every Python package its metadata.
    folders = booted.sh("cd /opt/mesh-relay/*/lib && ls -d *.dist-info").split()
    python = {re.sub(r"[-_.]+", "-", name).lower(): version for kind, name, version in listed if kind == "pkg:pypi"}
    found = dict(folder.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)
    assert python == {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}

    own_list = booted.sh("cat /usr/share/mesh-relay/packages.txt")
    assert own_list == image.with_name(f"{image.stem}.packages.txt").read_text()
