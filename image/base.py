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
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SUITE = "trixie"
#: The radios' firmware is not free software; nothing else is taken from there.
COMPONENTS = "main non-free-firmware"
#: Which packages come from Debian's backports, and the kernel's series.
PREFERENCES = ROOT / "image" / "backports"
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
    recipe = (path.read_bytes() for path in (ROOT / "image/base.py", PREFERENCES))
    key = digest(arch.encode(), "\n".join(wanted).encode(), *recipe)
    tar = cache / f"image-base-{arch}-{key}.tar"
    archive = tar.with_suffix(".sha256")
    if fresh or not tar.exists():
        part = tar.with_suffix(f".part{os.getpid()}.tar")
        _unpack_base(arch, wanted, part, archive)
        part.rename(tar)
    return Base(tar=tar, archive=archive.read_text())


def mmdebstrap(target: Path, wanted: Iterable[str], *options: str, environ: Mapping[str, str] | None = None) -> None:
    """Unpack Debian packages, by this machine's way to its mirror, as a tar or folder ``target``.

    :param wanted: names, or NAME=VERSION
    :param options: more of mmdebstrap's
    """
    mirror = _mirror()
    settings = [
        line
        for line in run(["apt-config", "dump"]).splitlines()
        if line.startswith(("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check"))
    ]
    apt = target.with_suffix(".apt")
    apt.write_text("\n".join([*settings, 'Apt::Install-Recommends "false";']) + "\n")
    apt.chmod(0o644)
    signed = f"deb [signed-by={KEYRING}]"
    prefer = f'mkdir -p "$1/etc/apt/preferences.d" && cp "{PREFERENCES}" "$1/etc/apt/preferences.d/"'
    try:
        run(
            [
                shutil.which("mmdebstrap") or "mmdebstrap",
                *("--mode=root", f"--include={','.join(wanted)}", f"--aptopt={apt}", f"--setup-hook={prefer}"),
                *options,
                *(SUITE, target),
                f"{signed} {mirror} {SUITE} {COMPONENTS}",
                f"{signed} {mirror}-security {SUITE}-security {COMPONENTS}",
                f"{signed} {mirror} {SUITE}-backports {COMPONENTS}",
            ],
            environ={"TMPDIR": str(target.parent), **_proxies(), **(environ or {})},
        )
    except BuildError as error:
        raise BuildError(
            f"{error}\nIf it is the kernel that has no candidate: Debian's backports have another series of it by now "
            f"than {PREFERENCES.relative_to(ROOT)} names; that file says what to do"
        ) from error
    finally:
        apt.unlink()


def _unpack_base(arch: str, wanted: list[str], tar: Path, archive: Path) -> None:
    record = f'cd "$1/var/lib/apt/lists" && sha256sum *_InRelease | sed "s/  .*_dists_/  /" >"{archive}"'
    mmdebstrap(
        tar,
        wanted,
        *("--variant=minbase", f"--architectures={arch}", *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS)),
        f"--customize-hook={record}",
        # The kernel's package then makes no initrd, which takes minutes under emulation; image/initrd.py does.
        environ={"SOURCE_DATE_EPOCH": EPOCH, "INITRD": "No"},
    )


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
