# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies on the boot partitions: the selector that every slot shares, and a slot's kernel and root hash.

On a Raspberry Pi: the firmware, which a Pi 5 has on its board, reads config.txt and
starts U-Boot, that runs boot.scr, which starts the kernel of a slot. The amd64 variant
has no kernel: it is for the guests of the tests, which bring their own.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from image import boards
from image.initrd import make_initrd
from image.run import BuildError
from image.uboot import without_prompt
from relay.board.panic import OWN_FILES, RESTORED

if TYPE_CHECKING:
    from image.disk import VerityRoot
    from image.run import Tools

#: Read by whatever starts the kernel: U-Boot on a Raspberry Pi, the tests for a guest.
SETTINGS = "root.env"
EDITED = "relay.toml"
SOURCES = Path(__file__).parent / "boot"
#: Handbook, card and poster, made by `relay appliance papers`.
PAPERS = sorted((Path(__file__).parents[1] / "docs/organisers").iterdir())
SHELF_NOTE = """\
Files in this folder are offered to phones on the access point, at http://10.42.70.1/shelf/
Names of letters, digits, spaces and . _ + - ( ); 64 files at most; folders are not offered.
"""
#: The boards that the image is for; U-Boot hands on the tree that the firmware chose of these.
DEVICE_TREES = ("bcm2711-rpi-*.dtb", "bcm2712-rpi-*.dtb", "bcm2712-d-rpi-*.dtb", "bcm2837-rpi-*.dtb")
#: What config.txt adds to the tree of a Pi 5.
LIGHT, LIGHT_TREES = "relay-light", "bcm2712-*.dtb"
#: The smallest variants, which gpu_mem=16 in config.txt selects, and those for whoever changes that.
FIRMWARE = ("bootcode.bin", "start_cd.elf", "start4cd.elf", "start.elf", "start4.elf")
FIRMWARE += ("fixup_cd.dat", "fixup4cd.dat", "fixup.dat", "fixup4.dat")


def take_kernel(tools: Tools, root: Path, *, epoch: int) -> tuple[Path, Path]:
    """Copy out of the root what starts it; return the folders for MESH-RELAY and for a slot.

    Has to come before the root loses its /boot. Everything else of it may go, too,
    since nothing of a read-only root is ever installed or updated.
    """
    selector, slot = tools.work / "selector", tools.work / "slot"
    selector.mkdir()
    slot.mkdir()
    shutil.copyfile(root / "usr/share/mesh-relay/relay.toml", selector / EDITED)
    for paper in PAPERS:
        (selector / "handbook").mkdir(exist_ok=True)
        shutil.copyfile(paper, selector / "handbook" / paper.name)
    # Empty, but for what says what it is for; a name that is not offered.
    (selector / "shelf").mkdir()
    (selector / "shelf" / "_what-belongs-here.txt").write_text(SHELF_NOTE, newline="\r\n")
    for kernel in (root / "usr/lib/modules").glob("*/vmlinuz"):
        modules = kernel.parent
        shutil.copyfile(kernel, slot / "vmlinuz")
        initrd = make_initrd(tools, root)
        (slot / "initrd").write_bytes(initrd.pack())
        tools("zstd", "-q", "-19", "-T1", "--rm", slot / "initrd", "-o", slot / "initrd.zst")
        (slot / "initrd.zst").rename(slot / "initrd")
        (selector / "u-boot.bin").write_bytes(
            without_prompt((root / "usr/lib/u-boot/rpi_arm64/u-boot.bin").read_bytes())
        )
        shutil.copyfile(SOURCES / "config.txt", selector / "config.txt")
        _copy(root / "usr/lib/raspi-firmware", FIRMWARE, selector)
        _copy(modules / "dtb/broadcom", DEVICE_TREES, selector)
        _compile_overlays(tools, selector)
        boards.assert_drivers(_trees(tools, selector), boards.Drivers.of(modules), initrd.modules)
        script = selector / "boot.cmd"
        shutil.copyfile(SOURCES / "boot.cmd", script)
        compile_script = ("mkimage", "-q", "-A", "arm64", "-T", "script", "-C", "none", "-d", script)
        tools(*compile_script, selector / "boot.scr", environ={"SOURCE_DATE_EPOCH": str(epoch)})
        script.unlink()
        for copied in ("vmlinuz", "config", "System.map"):
            (modules / copied).unlink()
        shutil.rmtree(modules / "dtb")
    _list_own(selector, root / "usr/share/mesh-relay")
    for link in root.glob("usr/lib/linux-image-*"):
        link.unlink()
    for unused in (root / "usr/lib/u-boot", root / "usr/lib/raspi-firmware"):
        shutil.rmtree(unused, ignore_errors=True)
    return selector, slot


def _list_own(selector: Path, shared: Path) -> None:
    """Tell the root what MESH-RELAY has from the image: panic writes over all else there (relay/board/panic.py).

    The card knows it as well (image/build.py), for the software that comes later. Not relay.toml, which is to be
    edited: it goes as well.
    """
    files = sorted(path for path in selector.rglob("*") if path.is_file() and path.name != EDITED)
    rows = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(selector)}" for path in files]
    (shared / OWN_FILES).write_text("".join(f"{row}\n" for row in rows))
    for name in RESTORED:
        if (selector / name).exists():
            shutil.copyfile(selector / name, shared / name)


def describe_root(slot: Path, verity: VerityRoot) -> None:
    """Write down what the kernel is told of the root."""
    (slot / SETTINGS).write_text(verity.boot_settings())


def _compile_overlays(tools: Tools, selector: Path) -> None:
    overlays = selector / "overlays"
    overlays.mkdir()
    for original in sorted(SOURCES.glob("*.dts")):
        source = overlays / original.name
        shutil.copyfile(original, source)
        # Quiet about numbers whose meaning is in the tree that it is for.
        tools("dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", source.with_suffix(".dtbo"), source)
        source.unlink()


def _trees(tools: Tools, selector: Path) -> list[Path]:
    """The device trees as the firmware hands them on."""
    changed = tools.work / "trees"
    changed.mkdir()
    trees = {tree.name: tree for tree in selector.glob("*.dtb")}
    for tree in sorted(selector.glob(LIGHT_TREES)):
        trees[tree.name] = changed / tree.name
        tools("fdtoverlay", "-i", tree, "-o", changed / tree.name, selector / f"overlays/{LIGHT}.dtbo")
    return [trees[name] for name in sorted(trees)]


def _copy(folder: Path, patterns: tuple[str, ...], target: Path) -> None:
    for pattern in patterns:
        files = sorted(folder.glob(pattern))
        if not files:
            raise BuildError(f"{folder} has no {pattern}; change that in image/booting.py")
        for file in files:
            shutil.copyfile(file, target / file.name)
