# SPDX-License-Identifier: GPL-2.0-or-later
"""What the image is built by, as far as it needs neither root nor a build."""

import base64
import json

import pytest

from image import minisign, sbom
from image.layout import ALIGN_SECTORS, TYPE_EXTENDED, layout
from image.run import BuildError

STATUS = """\
Package: base-files
Status: install ok installed
Architecture: amd64
Version: 13.8

Package: libgcc-s1
Status: install ok installed
Architecture: amd64
Source: gcc-14 (14.2.0-19)
Version: 14.2.0-19+b1

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


def test_partitions_follow_each_other_aligned():
    table = layout()
    end = 0
    for item in sorted(table.partitions, key=lambda item: item.start):
        assert item.start % ALIGN_SECTORS == 0
        assert item.start >= end
        # Logical partitions lie inside of the extended one.
        end = item.start if item.type == TYPE_EXTENDED else item.start + item.size
    assert end < table.sectors


def test_the_selector_is_the_only_drive_that_a_desktop_shows():
    assert [item.label for item in layout().partitions if item.type == 0x0C] == ["MESH-RELAY"]


@pytest.fixture
def signed(tmp_path):
    file = tmp_path / "image.xz"
    file.write_bytes(b"an image")
    key = minisign.generate(tmp_path / "key")
    return file, key


def test_a_signature_is_accepted_with_its_comment(signed):
    file, key = signed
    assert minisign.verify(file, minisign.sign(file, key, "mesh-relay 1"), key.public()) == "mesh-relay 1"


def test_a_key_file_is_read_back_and_closed_to_others(signed, tmp_path):
    _, key = signed
    assert minisign.load(tmp_path / "key") == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("signed")
def test_a_key_is_never_overwritten(tmp_path):
    with pytest.raises(BuildError, match="does not exist yet"):
        minisign.generate(tmp_path / "key")


@pytest.mark.parametrize("change", ["file", "comment", "signature", "key", "cut"])
def test_whatever_is_changed_the_signature_is_refused(signed, tmp_path, change):
    file, key = signed
    text = minisign.sign(file, key, "mesh-relay 1")
    public = key.public()
    if change == "file":
        file.write_bytes(b"another")
    elif change == "comment":
        text = text.replace("mesh-relay 1", "mesh-relay 2")
    elif change == "signature":
        lines = text.splitlines()
        lines[1] = lines[1][:40] + ("A" if lines[1][40] != "A" else "B") + lines[1][41:]
        text = "\n".join(lines)
    elif change == "key":
        public = minisign.generate(tmp_path / "other").public()
    else:
        text = "\n".join(text.splitlines()[:2])
    with pytest.raises(BuildError):
        minisign.verify(file, text, public)


def test_keys_and_signatures_are_laid_out_as_minisign_does(tmp_path):
    """Symmetry alone would not show that; the key is the first of RFC 8032, section 7.1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = minisign.SecretKey(number=bytes(range(8)), seed=seed)
    # "Ed", the number, and RFC 8032's public key for that seed.
    expected = "4564" + bytes(range(8)).hex() + "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert base64.b64decode(key.public()).hex() == expected
    file = tmp_path / "f"
    file.write_bytes(b"")
    lines = minisign.sign(file, key, "c").splitlines()
    assert lines[0].startswith("untrusted comment: ")
    assert base64.b64decode(lines[1])[:10] == b"ED" + bytes(range(8))
    assert len(base64.b64decode(lines[1])) == 74
    assert lines[2] == "trusted comment: c"
    assert len(base64.b64decode(lines[3])) == 64


def test_the_package_list_has_what_is_installed_with_its_source():
    assert sbom.listing(sbom.debian_packages(STATUS)) == (
        "deb base-files 13.8 amd64 base-files 13.8\ndeb libgcc-s1 14.2.0-19+b1 amd64 gcc-14 14.2.0-19\n"
    )


def test_of_a_package_that_gave_one_file_the_list_names_that():
    driver = sbom.Package(kind="deb", name="linux-source-6.12", version="6.12.1-1", arch="all", part="drivers/a.c")
    assert sbom.listing([driver]) == "deb linux-source-6.12 6.12.1-1 all drivers/a.c\n"


def test_the_sbom_names_each_package_by_its_url():
    nacl = sbom.Package(kind="pypi", name="PyNaCl", version="1.6.2", licence="Apache-2.0")
    driver = sbom.Package(kind="deb", name="linux-source-6.12", version="6.12.1-1", arch="all", part="drivers/a.c")
    packages = [*sbom.debian_packages(STATUS), nacl, driver]
    about = {"name": "mesh-relay", "version": "1", "arch": "amd64", "epoch": 0, "archive": "ab  trixie\n"}
    text = sbom.cyclonedx(packages, **about)
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX"
    assert [component["purl"] for component in document["components"]] == [
        "pkg:deb/debian/base-files@13.8?arch=amd64",
        "pkg:deb/debian/libgcc-s1@14.2.0-19%2Bb1?arch=amd64",
        "pkg:pypi/pynacl@1.6.2",
        "pkg:deb/debian/linux-source-6.12@6.12.1-1?arch=all#drivers/a.c",
    ]
    assert document["metadata"]["timestamp"] == "1970-01-01T00:00:00Z"
    # The same packages give the same document, to the byte.
    assert text == sbom.cyclonedx(packages, **about)
