# SPDX-License-Identifier: GPL-2.0-or-later
"""The image as a file: the same each time, and nothing in it that its list does not name."""

import hashlib
import json
import re
import subprocess

import pytest

from image import minisign
from tests.image.conftest import FIRST, KEY, only

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
        # Debian signs its lists anew several times a day, the same packages or not: also between two builds.
        texts = [re.sub(r"[0-9a-f]{64}  (?=\S+_InRelease)", "", path.read_text()) for path in (first, second)]
        assert texts[0] == texts[1]


def test_the_compressed_image_is_small_and_its_hash_right(measured):
    packed = only(FIRST.glob("*.img.xz"))
    measured["compressed_bytes"] = packed.stat().st_size
    assert packed.stat().st_size <= MAX_COMPRESSED_BYTES
    assert packed.with_name(f"{packed.name}.sha256").read_text() == f"{sha256(packed)}  {packed.name}\n"


def test_the_selector_has_the_file_to_edit_and_nothing_else_to_break(card):
    assert "::/relay.toml" in card.names("MESH-RELAY")
    assert b"[appliance]" in card.read("MESH-RELAY", "relay.toml")
    assert b"<html" in card.read("MESH-RELAY", "handbook/handbook-ar.html")


@pytest.fixture
def real_minisign(tools):
    """minisign(1), as the person has it who downloads an image. Not by chroot, to see the same files."""
    (loader,) = tools.glob("usr/lib64/ld-linux-*")
    (libraries,) = tools.glob("usr/lib/*-linux-gnu")

    def run(*arguments):
        command = [loader, "--library-path", libraries, tools / "usr/bin/minisign", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    return run


def test_minisign_accepts_the_images_signature(real_minisign):
    packed = only(FIRST.glob("*.img.xz"))
    public = minisign.load(KEY).public()
    said = real_minisign("-V", "-m", packed, "-P", public)
    assert said.returncode == 0, said.stderr
    assert re.search("^Trusted comment: mesh-relay .* amd64$", said.stdout, re.MULTILINE)


def test_what_minisign_signs_is_accepted_here(real_minisign, tmp_path):
    file, public = tmp_path / "file", tmp_path / "key.pub"
    file.write_bytes(b"an image")
    real_minisign("-G", "-W", "-p", public, "-s", tmp_path / "key")
    real_minisign("-S", "-W", "-s", tmp_path / "key", "-m", file, "-t", "by minisign")
    signature = (tmp_path / "file.minisig").read_text()
    assert minisign.verify(file, signature, public.read_text().splitlines()[1]) == "by minisign"


@pytest.mark.xdist_group("booted")
@pytest.mark.timeout(300)
def test_the_list_names_all_that_is_inside(booted, image):
    document = json.loads(image.with_name(f"{image.stem}.cdx.json").read_text())
    listed = {(item["purl"].split("/")[0], item["name"], item["version"]) for item in document["components"]}

    # Every Debian package leaves its copyright file, in a folder or through a link; other links are another's.
    names = {name for kind, name, _ in listed if kind == "pkg:deb"}
    folders = set(booted.sh("cd /usr/share/doc && find . -mindepth 2 -maxdepth 2 -name copyright").split())
    assert {folder.split("/")[1] for folder in folders} <= names
    assert names <= set(booted.sh("cd /usr/share/doc && ls -d */copyright | cut -d/ -f1").split())

    # Every Python package its metadata.
    folders = booted.sh("cd /opt/mesh-relay/*/lib && ls -d *.dist-info").split()
    python = {re.sub(r"[-_.]+", "-", name).lower(): version for kind, name, version in listed if kind == "pkg:pypi"}
    found = dict(folder.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)
    assert python == {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}

    own_list = booted.sh("cat /usr/share/mesh-relay/packages.txt")
    assert own_list == image.with_name(f"{image.stem}.packages.txt").read_text()


@pytest.mark.xdist_group("booted")
@pytest.mark.timeout(300)
def test_the_root_knows_what_of_the_drive_is_the_image_s(card, booted):
    """Panic writes over all else there."""
    rows = [line.split(maxsplit=1) for line in booted.sh("cat /usr/share/mesh-relay/own-files").splitlines()]
    files = {name.removeprefix("::/") for name in card.names("MESH-RELAY") if not name.endswith("/")}
    assert {name for _, name in rows} == files - {"relay.toml"}
    for digest, name in rows:
        assert hashlib.sha256(card.read("MESH-RELAY", name)).hexdigest() == digest, name
