# SPDX-License-Identifier: GPL-2.0-or-later
"""The root file system as Debian's packages leave it, before the playbook."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from image.run import ROOT, BuildError, digest, run

if TYPE_CHECKING:
    from pathlib import Path

SUITE = "trixie"
#: The radios' firmware is not free software; nothing else is taken from there.
COMPONENTS = "main non-free-firmware"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ROLES = ROOT / "ansible" / "roles"

#: Copyright files stay: the licences ask for that.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
)
#: Files get the time of the image when it is packed; until then, any that stays the same.
EPOCH = "1735689600"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """``archive``: SHA-256 of the Release files that the packages came by."""

    tar: Path
    archive: str


def packages(arch: str) -> list[str]:
    """Names of all Debian packages that are asked for, those of the roles included, in order."""
    names = set()
    for line in (ROOT / "image" / "packages.txt").read_text().splitlines():
        name, _, only = line.partition("#")[0].strip().partition(":")
        if name and only in ("", arch):
            names.add(name)
    for defaults in sorted(ROLES.glob("*/defaults/main.yml")):
        for key, value in yaml.safe_load(defaults.read_text()).items():
            if key.endswith(("__packages", f"__packages_{arch}")):
                names.update(value)
    return sorted(names)


def make_base(arch: str, cache: Path, *, fresh: bool) -> Base:
    """Unpack and configure the packages into a tar, or find the one of an earlier day unless ``fresh``."""
    wanted = packages(arch)
    key = digest(arch.encode(), "\n".join(wanted).encode(), (ROOT / "image/base.py").read_bytes())
    tar = cache / f"image-base-{arch}-{key}.tar"
    archive = tar.with_suffix(".sha256")
    if fresh or not tar.exists():
        part = tar.with_suffix(f".part{os.getpid()}.tar")
        _mmdebstrap(arch, wanted, part, archive)
        part.rename(tar)
    return Base(tar=tar, archive=archive.read_text())


def _mmdebstrap(arch: str, wanted: list[str], tar: Path, archive: Path) -> None:
    mirror = _mirror()
    settings = [
        line
        for line in run(["apt-config", "dump"]).splitlines()
        if line.startswith(("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check"))
    ]
    options = tar.with_suffix(".apt")
    options.write_text("\n".join([*settings, 'Apt::Install-Recommends "false";']) + "\n")
    options.chmod(0o644)
    signed = f"deb [signed-by={KEYRING}]"
    record = f'cd "$1/var/lib/apt/lists" && sha256sum *_InRelease | sed "s/  .*_dists_/  /" >"{archive}"'
    try:
        run(
            [
                shutil.which("mmdebstrap") or "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                f"--architectures={arch}",
                f"--include={','.join(wanted)}",
                f"--aptopt={options}",
                *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
                f"--customize-hook={record}",
                SUITE,
                str(tar),
                f"{signed} {mirror} {SUITE} {COMPONENTS}",
                f"{signed} {mirror}-security {SUITE}-security {COMPONENTS}",
            ],
            # The kernel's package then makes no initrd, which takes minutes under emulation; image/initrd.py does.
            environ={"SOURCE_DATE_EPOCH": EPOCH, "INITRD": "No", "TMPDIR": str(tar.parent), **_proxies()},
        )
    finally:
        options.unlink()


def _mirror() -> str:
    found = subprocess.run(
        [  # noqa: S607 - apt is where Debian puts it
            "apt-get", "indextargets", "--format", "$(REPO_URI)",
            "Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main",
        ],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.split()  # fmt: skip
    if not found:
        raise BuildError("apt on this machine has no Debian mirror; add one to /etc/apt/sources.list")
    return found[0].rstrip("/")


def _proxies() -> dict[str, str]:
    return {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
