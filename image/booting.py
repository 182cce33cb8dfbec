# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies on the boot partitions: the selector that every slot shares, and a slot's kernel and root hash.

On a Raspberry Pi: the firmware reads config.txt and starts U-Boot, that runs
boot.scr, which starts the kernel of a slot. The amd64 variant has no kernel: it
is for the guests of the tests, which bring their own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from image.initrd import make_initrd
from image.run import BuildError

if TYPE_CHECKING:
    from image.disk import VerityRoot
    from image.run import Tools

#: Read by whatever starts the kernel: U-Boot on a Raspberry Pi, the tests for a guest.
SETTINGS = "root.env"
SOURCES = Path(__file__).parent / "boot"
#: The boards that the image is for; U-Boot hands on the tree that the firmware chose of these.
#: Not the Pi 5's: Debian's kernel 6.12 has no driver for its card reader (MMC_SDHCI_BRCMSTB).
DEVICE_TREES = ("bcm2711-rpi-*.dtb", "bcm2837-rpi-*.dtb")
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
    shutil.copyfile(root / "usr/share/mesh-relay/relay.toml", selector / "relay.toml")
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if kernels:
        shutil.copyfile(kernels[0], slot / "vmlinuz")
        initrd = slot / "initrd"
        initrd.write_bytes(make_initrd(tools, root))
        tools("zstd", "-q", "-19", "-T1", "--rm", initrd, "-o", slot / "initrd.zst")
        (slot / "initrd.zst").rename(initrd)
        shutil.copyfile(root / "usr/lib/u-boot/rpi_arm64/u-boot.bin", selector / "u-boot.bin")
        shutil.copyfile(SOURCES / "config.txt", selector / "config.txt")
        _copy(root / "usr/lib/raspi-firmware", FIRMWARE, selector)
        (trees,) = root.glob("usr/lib/linux-image-*/broadcom")
        _copy(trees, DEVICE_TREES, selector)
        overlays = selector / "overlays"
        overlays.mkdir()
        source = overlays / "relay-button.dts"
        shutil.copyfile(SOURCES / source.name, source)
        # What it has in __overrides__ is the firmware's, not a gpios property of a device.
        compile_overlay = ("dtc", "-@", "-W", "no-gpios_property", "-I", "dts", "-O", "dtb", "-o")
        tools(*compile_overlay, source.with_suffix(".dtbo"), source)
        source.unlink()
        script = selector / "boot.cmd"
        shutil.copyfile(SOURCES / "boot.cmd", script)
        compile_script = ("mkimage", "-q", "-A", "arm64", "-T", "script", "-C", "none", "-d", script)
        tools(*compile_script, selector / "boot.scr", environ={"SOURCE_DATE_EPOCH": str(epoch)})
        script.unlink()
    for unused in (*root.glob("usr/lib/linux-image-*"), root / "usr/lib/u-boot", root / "usr/lib/raspi-firmware"):
        shutil.rmtree(unused, ignore_errors=True)
    return selector, slot


def describe_root(slot: Path, verity: VerityRoot) -> None:
    """Write down what the kernel is told of the root."""
    (slot / SETTINGS).write_text(verity.boot_settings())


def _copy(folder: Path, patterns: tuple[str, ...], target: Path) -> None:
    for pattern in patterns:
        files = sorted(folder.glob(pattern))
        if not files:
            raise BuildError(f"{folder} has no {pattern}; change that in image/booting.py")
        for file in files:
            shutil.copyfile(file, target / file.name)
