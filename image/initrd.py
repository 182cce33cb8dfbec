# SPDX-License-Identifier: GPL-2.0-or-later
"""The initrd of the image, made from the files of the root without running any of them.

Debian's own takes minutes under emulation, and holds what it found on the machine
it was made on. Format: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from image.run import BuildError, Tools

INIT = Path(__file__).parent / "boot" / "init"

#: Drivers between power-on and the root: cards, what hangs on PCIe and USB of a Raspberry
#: Pi, the virtual disks of QEMU, and what lies on top of them.
MODULES = (
    # A Pi 4's card has no power without the regulators; its driver waits for them.
    *("bcm2835_dma", "bcm2835_wdt", "gpio_regulator", "fixed", "sdhci_iproc", "bcm2835", "mmc_block"),
    # A Pi 5's waits for lines and pins as well.
    *("gpio_brcmstb", "pinctrl_brcmstb_bcm2712", "sdhci_brcmstb"),
    *("reset_raspberrypi", "pcie_brcmstb", "xhci_pci", "phy_generic", "dwc2", "usb_storage", "uas", "sd_mod"),
    *("virtio_pci", "virtio_mmio", "virtio_blk"),
    *("dm_mod", "dm_verity", "sha256", "squashfs"),
)
_LIBRARIES = ("usr/lib/aarch64-linux-gnu", "usr/lib")
_FOLDER, _FILE, _PROGRAM, _CONSOLE = 0o040755, 0o100644, 0o100755, 0o020600


@dataclass(slots=True)
class Initrd:
    """Collects files; ``entries`` are mode and content by path without the first slash."""

    root: Path
    tools: Tools
    entries: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add(self, path: str, mode: int, data: bytes = b"") -> None:
        """Add a file or folder, and the folders that it lies in."""
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != ".":
                self.entries.setdefault(str(parent), (_FOLDER, b""))
        self.entries[path] = (mode, data)

    def add_program(self, source: str, target: str) -> None:
        """Add a program with the libraries that it names; ``source`` is a path in the root."""
        if target in self.entries:
            return
        file = self._resolve(source)
        self.add(target, _PROGRAM, file.read_bytes())
        headers = self.tools("readelf", "--dynamic", "--program-headers", file)
        for library in re.findall(r"\(NEEDED\).*\[(.*)\]", headers):
            self.add_program(self._find_library(library), f"lib/{library}")
        interpreter = re.search(r"interpreter: (/.*)\]", headers)
        if interpreter:
            self.add_program(interpreter[1].lstrip("/"), interpreter[1].lstrip("/"))

    def add_modules(self, folder: Path) -> None:
        """Add MODULES and what they need, and the order in which to load them."""
        needs = {}
        for line in (folder / "modules.dep").read_text().splitlines():
            file, _, others = line.partition(":")
            needs[file] = others.split()
        by_name = {_module_name(file): file for file in needs}
        built_in = {_module_name(line) for line in (folder / "modules.builtin").read_text().splitlines()}
        order: list[str] = []

        def visit(file: str) -> None:
            for other in reversed(needs[file]):
                visit(other)
            if file not in order:
                order.append(file)

        for name in MODULES:
            if name in by_name:
                visit(by_name[name])
            elif name not in built_in:
                raise BuildError(f"the kernel has no module {name}; change MODULES in image/initrd.py")
        for file in order:
            data = (folder / file).read_bytes()
            self.add(f"modules/{_module_name(file)}.ko", _FILE, lzma.decompress(data) if file.endswith(".xz") else data)
        self.add("modules/order", _FILE, "".join(f"{_module_name(file)}.ko\n" for file in order).encode())

    @property
    def modules(self) -> set[str]:
        """Names of the modules that were added."""
        return {PurePosixPath(path).stem for path in self.entries if path.endswith(".ko")}

    def pack(self) -> bytes:
        """The archive, in the format newc and not compressed; times and owners are all 0."""
        packed = [_record(number, path, *self.entries[path]) for number, path in enumerate(sorted(self.entries), 1)]
        return b"".join([*packed, _record(0, "TRAILER!!!", 0, b"")])

    def _resolve(self, path: str) -> Path:
        """Follow links as if the root were /."""
        current = PurePosixPath("/")
        parts = list(PurePosixPath(path).parts)
        for _ in range(64):
            if not parts:
                return self.root / current.relative_to("/")
            step = parts.pop(0)
            if step == "..":
                current = current.parent
                continue
            node = self.root / (current / step).relative_to("/")
            if node.is_symlink():
                link = PurePosixPath(node.readlink())
                current = PurePosixPath("/") if link.is_absolute() else current
                parts = [part for part in link.parts if part != "/"] + parts
            else:
                current /= step
        raise BuildError(f"{path}: too many links")

    def _find_library(self, name: str) -> str:
        for folder in _LIBRARIES:
            if (self.root / folder / name).exists() or (self.root / folder / name).is_symlink():
                return f"{folder}/{name}"
        raise BuildError(f"the root has no library {name}")


def make_initrd(tools: Tools, root: Path) -> Initrd:
    """The initrd for the root's only kernel."""
    (modules,) = (root / "usr/lib/modules").iterdir()
    initrd = Initrd(root, tools)
    for folder in ("bin", "dev", "proc", "sys", "sysroot"):
        initrd.add(folder, _FOLDER)
    # Without it, what the first program says is lost.
    initrd.add("dev/console", _CONSOLE)
    initrd.add("init", _PROGRAM, INIT.read_bytes())
    initrd.add_program("usr/bin/busybox", "bin/busybox")
    initrd.add_program("usr/sbin/dmsetup", "bin/dmsetup")
    initrd.add_modules(modules)
    return initrd


def _module_name(file: str) -> str:
    return re.sub(r"\.ko.*", "", PurePosixPath(file.strip()).name).replace("-", "_")


def _record(number: int, path: str, mode: int, data: bytes) -> bytes:
    name = path.encode() + b"\0"
    device = (5, 1) if mode == _CONSOLE else (0, 0)
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in numbers) + name
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)
