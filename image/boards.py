# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the image has a driver for each part of a board that a relay needs.

The device trees are asked, not a list: what a part is (its ``compatible``), what it lies in and what it is fed by, its
clocks, voltages, pins and interrupts, each of which is another part that needs a driver first. A driver is one that the
kernel would find: by an alias of a module, or in the kernel itself.
"""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from image.devicetree import Node, read
from image.run import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Parts by the generic name of their node (Devicetree Specification, section 2.2.2), and LEDs by what they are.
PARTS = ("bluetooth", "ethernet", "mmc", "usb", "watchdog", "wifi")
_LIGHTS = "gpio-leds"
#: What every board has that has Wi-Fi, which are the ones that the handbook recommends.
_EVERY = frozenset({"bluetooth", "card", "light", "usb", "watchdog"})
#: Properties that name other nodes, and the property over there that tells how many numbers follow each name; after
#: supplier_bindings in the kernel's drivers/of/property.c.
_SUPPLIERS = {
    "clocks": "#clock-cells",
    "dmas": "#dma-cells",
    "firmware": "",
    "interrupts-extended": "#interrupt-cells",
    "mboxes": "#mbox-cells",
    "mmc-pwrseq": "",
    "msi-parent": "",
    "phys": "#phy-cells",
    "power-domains": "#power-domain-cells",
    "resets": "#reset-cells",
}
_SUPPLIER_ENDINGS = {"-supply": "", "-gpio": "#gpio-cells", "gpios": "#gpio-cells"}
#: Parts without a node: a driver makes them itself, and the kernel then asks for theirs by this name.
_MADE = {"brcm,bcm2835-pm-wdt": "platform:bcm2835-wdt", "snps,dwc3": "platform:xhci-hcd"}
#: Maker and device of what a bus finds by itself.
_ON_BUS = re.compile(r"(pci|usb)([0-9a-f]{1,4}),([0-9a-f]{1,4})")


@dataclass(slots=True, kw_only=True)
class Drivers:
    """What a kernel has: ``modules`` by the alias that asks for them, aliases of its own (``built_in``), and itself."""

    folder: Path
    kernel: bytes
    modules: dict[str, set[str]] = field(default_factory=dict)
    built_in: set[str] = field(default_factory=set)
    _found: dict[tuple[str, ...], set[str] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Drivers:
        """Read ``folder``, below usr/lib/modules: after depmod, with the uncompressed kernel."""
        drivers = cls(folder=folder, kernel=(folder / "vmlinuz").read_bytes())
        for line in (folder / "modules.alias").read_text().splitlines():
            if line.startswith("alias "):
                alias, module = line.removeprefix("alias ").rsplit(maxsplit=1)
                drivers.modules.setdefault(alias, set()).add(module)
        for entry in (folder / "modules.builtin.modinfo").read_bytes().decode(errors="replace").split("\0"):
            drivers.built_in.add(entry.partition(".alias=")[2])
        return drivers

    def find(self, node: Node) -> set[str] | None:
        """The modules that take the node, one of which is enough; none if the kernel does; None if nothing does."""
        names = tuple(node.compatible)
        if names not in self._found:
            self._found[names] = self._find(node, names)
        return self._found[names]

    def made_by(self, node: Node) -> list[str]:
        """Aliases that nothing answers to, of parts without a node that the node's driver makes."""
        aliases = [_MADE[name] for name in node.compatible if name in _MADE]
        return [alias for alias in aliases if alias not in self.modules and alias not in self.built_in]

    def _find(self, node: Node, names: tuple[str, ...]) -> set[str] | None:
        if any(f"of:N*T*C{name}" in self.built_in for name in names):
            return set()
        on_sdio = bool(node.parent and node.parent.kind == "mmc")
        found = set().union(*map(self._ask, names)) or (self._on_sdio(names) if on_sdio else set())
        # A hub is USB's own. And what has no alias, as an interrupt controller, is in a table of the kernel, where
        # each name fills a field.
        hub = bool(node.children) and any(_ON_BUS.fullmatch(name) for name in names)
        if found or not (hub or any(b"\0" + name.encode() + b"\0" in self.kernel for name in names)):
            return found or None
        return set()

    def _ask(self, name: str) -> set[str]:
        on_bus = _ON_BUS.fullmatch(name)
        if not on_bus:
            return self.modules.get(f"of:N*T*C{name}", set())
        vendor, device = int(on_bus[2], 16), int(on_bus[3], 16)
        start = f"pci:v{vendor:08X}d{device:08X}sv" if on_bus[1] == "pci" else f"usb:v{vendor:04X}p{device:04X}d"
        return set().union(*(modules for alias, modules in self.modules.items() if alias.startswith(start)))

    def _on_sdio(self, names: tuple[str, ...]) -> set[str]:
        """The drivers for SDIO that know the name: such a chip is found by its number, which no tree has."""
        candidates = set().union(*(modules for alias, modules in self.modules.items() if alias.startswith("sdio:")))
        return {
            module
            for module in candidates
            for file in self.folder.glob(f"kernel/**/{module}.ko.xz")
            if any(name.encode() + b"\0" in lzma.decompress(file.read_bytes()) for name in names)
        }


def needed(part: Node) -> Iterator[Node]:
    """The part with all that lies in it, and each other node that has to have a driver before these work."""
    (*_, root) = part.up()
    by_handle = {handle: node for node in root.walk() for handle in node.cells("phandle")}
    seen: list[Node] = []
    todo = [node for node in part.walk() if node.enabled]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.append(node)
            todo += [*_suppliers(node, by_handle), *([node.parent] if node.parent else [])]
    # The root is the board, which is no device; nor is a group of nodes.
    return (node for node in seen if node.compatible and node.parent)


def _suppliers(node: Node, by_handle: dict[int, Node]) -> Iterator[Node]:
    for name in node.properties:
        endings = [cells for ending, cells in _SUPPLIER_ENDINGS.items() if name.endswith(ending)]
        if name in _SUPPLIERS or endings:
            count = _SUPPLIERS[name] if name in _SUPPLIERS else endings[0]
            numbers = node.cells(name)
            while numbers:
                supplier = by_handle.get(numbers.pop(0))
                if supplier:
                    # The kernel does not wait for what is switched off.
                    yield from [supplier] if supplier.enabled else []
                    del numbers[: (supplier.cells(count) or [0])[0]]
        elif re.fullmatch(r"pinctrl-\d+", name):
            yield from (by_handle[handle] for handle in node.cells(name) if handle in by_handle)
    if "interrupts" in node.properties:
        above = next((up for up in node.up() if "interrupt-parent" in up.properties), None)
        if above and above.cells("interrupt-parent")[0] in by_handle:
            yield by_handle[above.cells("interrupt-parent")[0]]


def parts(tree: Node) -> Iterator[tuple[str, Node]]:
    """What a relay needs of a board, with a name for it: the card, and PARTS, and lights."""
    for node in tree.walk():
        if not node.enabled or not node.compatible:
            continue
        if _LIGHTS in node.compatible:
            yield "light", node
        elif node.kind == "mmc" and not any(child.kind == "wifi" for child in node.children):
            yield "card", node
        # A hub is a part of USB, and of no board.
        elif node.kind in PARTS and not (node.kind == "usb" and node.parent and node.parent.kind == "usb"):
            yield node.kind, node


def assert_drivers(trees: list[Path], drivers: Drivers, initrd: set[str]) -> None:
    """Raise BuildError for a part of one of the boards that has no driver; the card's have to be in the initrd.

    :param initrd: names of the modules there, with - as _
    """
    faults = []
    for path in trees:
        found_parts = list(parts(read(path.read_bytes())))
        kinds = {what for what, _ in found_parts}
        if "wifi" in kinds and not kinds >= _EVERY:
            faults.append(f"{path.name}: in the tree is no {', '.join(sorted(_EVERY - kinds))}")
        for what, part in found_parts:
            for node in needed(part):
                found = drivers.find(node)
                about = f"{path.name}: {what} needs {node.path} ({', '.join(node.compatible)}), and"
                if found is None:
                    faults.append(f"{about} nothing drives that")
                elif what == "card" and found and not found & initrd:
                    faults.append(f"{about} {', '.join(sorted(found))} is not in MODULES of image/initrd.py")
                faults += [f"{about} nothing answers to {alias}" for alias in drivers.made_by(node)]
    if faults:
        raise BuildError("\n".join(["drivers are missing:", *dict.fromkeys(faults)]))
