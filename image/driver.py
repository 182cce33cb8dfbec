# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver by which a Raspberry Pi tells of a weak supply; Debian's arm64 kernel comes without it.

Debian has its source, and leaves it out (CONFIG_SENSORS_RASPBERRYPI_HWMON). It is compiled from the
source package of exactly the kernel that the root has, with Debian's headers and compiler for that
kernel: made for any other, the kernel refuses it. Where the firmware knows of the supply the kernel
asks for platform:raspberrypi-hwmon, and udev loads what has that alias.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

# Private over there, and so they stay: whoever touches base.py has all bases made anew.
from image.base import KEYRING, SUITE, _mirror, _proxies
from image.run import BuildError, digest, run
from image.sbom import Package

if TYPE_CHECKING:
    from image.run import Tools

NAME = "raspberrypi-hwmon"
SOURCE = f"drivers/hwmon/{NAME}.c"
#: What the source says of itself.
LICENCE = "GPL-2.0-or-later"

#: Arguments: the kernel's release, its series (6.12). In a tree that has the same paths each time, since
#: the compiler writes them down; and without types for BPF, which nothing here looks at.
_COMPILE = f"""
cd /src
tar -xJf "/usr/src/linux-source-$2.tar.xz" --strip-components=3 "linux-source-$2/{SOURCE}"
echo "obj-m := {NAME}.o" >Makefile
make -C "/usr/src/linux-headers-$1" M=/src CONFIG_DEBUG_INFO_BTF_MODULES= modules
aarch64-linux-gnu-strip --strip-debug {NAME}.ko
"""
#: Installed as packages are, the headers would bring a kernel and one more compiler along.
_UNPACK_HEADERS = """
set -e
mkdir "$1/src"
cd "$1/src"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq download "$HEADERS"
dpkg-deb --extract ./*.deb "$1"
rm ./*.deb
"""


def add_driver(tools: Tools, root: Path, cache: Path, packages: list[Package]) -> Package:
    """Put the driver beside the modules of the root's only kernel; return how it is to be listed.

    :param packages: what is installed in the root; the kernel's version is found there
    """
    (modules,) = (root / "usr/lib/modules").iterdir()
    release = modules.name
    (version,) = (item.version for item in packages if item.name == f"linux-image-{release}")
    made = _make_driver(tools, release, version, cache)
    updates = modules / "updates"
    updates.mkdir()
    shutil.copyfile(made, updates / f"{NAME}.ko")
    tools("depmod", "--basedir", root, release)
    source = f"linux-source-{_series(version)}"
    return Package(
        kind="deb", name=source, version=version, arch="all", source=f"linux {version}", licence=LICENCE, part=SOURCE
    )


def _series(version: str) -> str:
    """6.12 of 6.12.117-1."""
    return ".".join(version.split(".")[:2])


def _make_driver(tools: Tools, release: str, version: str, cache: Path) -> Path:
    """Compile it, or find that of an earlier day."""
    key = digest(release.encode(), version.encode(), Path(__file__).read_bytes())
    module = cache / f"{NAME}-{release}-{key}.ko"
    if not module.exists():
        tree = tools.work / "driver"
        _unpack_compiler(tree, release, version)
        run(["chroot", tree, "sh", "-ec", _COMPILE, "sh", release, _series(version)])
        part = module.with_suffix(f".part{os.getpid()}")
        shutil.copyfile(tree / "src" / f"{NAME}.ko", part)
        part.rename(module)
        shutil.rmtree(tree)
    return module


def _unpack_compiler(tree: Path, release: str, version: str) -> None:
    """A Debian with all that the driver is compiled from, of just this version."""
    host = run(["dpkg", "--print-architecture"]).strip()
    common = release.removesuffix("-arm64")
    wanted = (
        *("gcc-14-aarch64-linux-gnu", "make", f"linux-kbuild-{common}={version}"),
        *(f"linux-headers-{common}-common={version}", f"linux-source-{_series(version)}={version}"),
    )
    options = tree.with_suffix(".apt")
    # How this machine reaches its mirror.
    ways = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check")
    options.write_text("".join(line for line in run(["apt-config", "dump"]).splitlines(True) if line.startswith(ways)))
    options.chmod(0o644)
    mirror = _mirror()
    signed = f"deb [signed-by={KEYRING}]"
    try:
        run(
            [
                *("mmdebstrap", "--mode=root", "--variant=essential", f"--aptopt={options}"),
                f"--architectures={','.join(dict.fromkeys([host, 'arm64']))}",
                f"--include={','.join(wanted)}",
                f"--customize-hook={_UNPACK_HEADERS}",
                *(SUITE, tree, f"{signed} {mirror} {SUITE} main"),
                f"{signed} {mirror}-security {SUITE}-security main",
            ],
            environ={
                "HEADERS": f"linux-headers-{release}:arm64={version}",
                "TMPDIR": str(tree.parent),
                **_proxies(),
            },
        )
    except BuildError as error:
        raise BuildError(
            f"{error}\n{NAME} could not be made for the kernel {release} {version}. If the archive has a newer one "
            "by now, and that one's headers and source no more: make image ARGS=--fresh takes the packages of today"
        ) from error
