# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers of a Raspberry Pi that Debian's arm64 kernel comes without.

Debian has their source, and leaves them out. They are compiled from the source package of exactly the
kernel that the root has, with Debian's headers and compiler for that kernel: made for any other, the
kernel refuses them. udev loads them by their aliases, as all others.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from image.base import mmdebstrap
from image.run import BuildError, digest, run
from image.sbom import Package

if TYPE_CHECKING:
    from image.run import Tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """``source`` and the ``headers`` of the tree that it includes, as paths in the kernel's source."""

    source: str
    licence: str
    headers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the module's file, without .ko."""
        return PurePosixPath(self.source).stem


DRIVERS = (
    # Tells of a weak supply, where the firmware knows of it (CONFIG_SENSORS_RASPBERRYPI_HWMON).
    Driver(source="drivers/hwmon/raspberrypi-hwmon.c", licence="GPL-2.0-or-later"),
    # The serial line to a Pi 5's Bluetooth (CONFIG_SERIAL_8250_BCM7271, which asks for ARCH_BRCMSTB).
    Driver(
        source="drivers/tty/serial/8250/8250_bcm7271.c",
        licence="GPL-2.0-only",
        headers=("drivers/tty/serial/8250/8250.h", "drivers/tty/serial/serial_mctrl_gpio.h"),
    ),
)

#: Arguments: the kernel's release, its series (7.3), the drivers without .c, all files of the source. In a tree that
#: has the same paths each time, since the compiler writes them down; and without types for BPF, which nobody looks at.
_COMPILE = """
cd /src
for file in $4; do set -- "$@" "linux-source-$2/$file"; done
release=$1 series=$2 drivers=$3
shift 4
tar -xJf "/usr/src/linux-source-$series.tar.xz" --strip-components=1 "$@"
for driver in $drivers; do echo "obj-m += $driver.o"; done >Makefile
make -C "/usr/src/linux-headers-$release" M=/src CONFIG_DEBUG_INFO_BTF_MODULES= modules
for driver in $drivers; do aarch64-linux-gnu-strip --strip-debug "$driver.ko"; done
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


def add_drivers(tools: Tools, root: Path, cache: Path, packages: list[Package]) -> list[Package]:
    """Put the drivers beside the modules of the root's only kernel; return how they are to be listed.

    :param packages: what is installed in the root; the kernel's version is found there
    """
    (modules,) = (root / "usr/lib/modules").iterdir()
    release = modules.name
    (version,) = (item.version for item in packages if item.name == f"linux-image-{release}")
    made = _make_drivers(tools, release, version, cache)
    updates = modules / "updates"
    updates.mkdir()
    for driver in DRIVERS:
        shutil.copyfile(made / f"{driver.name}.ko", updates / f"{driver.name}.ko")
    tools("depmod", "--basedir", root, release)
    source = {"name": f"linux-source-{_series(version)}", "version": version, "source": f"linux {version}"}
    return [Package(kind="deb", arch="all", licence=driver.licence, part=driver.source, **source) for driver in DRIVERS]


def _series(version: str) -> str:
    """7.3 of 7.3.4-1~bpo13+1."""
    return ".".join(version.split(".")[:2])


def _make_drivers(tools: Tools, release: str, version: str, cache: Path) -> Path:
    """Compile them, or find those of an earlier day; return the folder."""
    key = digest(release.encode(), version.encode(), Path(__file__).read_bytes())
    made = cache / f"drivers-{release}-{key}"
    if not made.exists():
        tree = tools.work / "driver"
        _unpack_compiler(tree, release, version)
        drivers = [driver.source.removesuffix(".c") for driver in DRIVERS]
        files = [file for driver in DRIVERS for file in (driver.source, *driver.headers)]
        run(
            ["chroot", tree, "sh", "-ec", _COMPILE, "sh", release, _series(version), " ".join(drivers), " ".join(files)]
        )
        part = made.with_name(f"{made.name}.part{os.getpid()}")
        part.mkdir()
        for driver in drivers:
            shutil.copy(tree / "src" / f"{driver}.ko", part)
        part.rename(made)
        shutil.rmtree(tree)
    return made


def _unpack_compiler(tree: Path, release: str, version: str) -> None:
    """A Debian with all that the drivers are compiled from, of just this version."""
    host = run(["dpkg", "--print-architecture"]).strip()
    common = release.removesuffix("-arm64")
    wanted = (
        *("gcc-14-aarch64-linux-gnu", "make", f"linux-kbuild-{common}={version}"),
        *(f"linux-headers-{common}-common={version}", f"linux-source-{_series(version)}={version}"),
    )
    try:
        mmdebstrap(
            tree,
            wanted,
            *("--variant=essential", f"--architectures={','.join(dict.fromkeys([host, 'arm64']))}"),
            f"--customize-hook={_UNPACK_HEADERS}",
            environ={"HEADERS": f"linux-headers-{release}:arm64={version}"},
        )
    except BuildError as error:
        raise BuildError(
            f"{error}\nThe drivers could not be made for the kernel {release} {version}. If the archive has a newer "
            "one by now, and that one's headers and source no more: make image ARGS=--fresh takes the packages of today"
        ) from error
