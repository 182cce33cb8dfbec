# SPDX-License-Identifier: GPL-2.0-or-later
"""A reader of flattened device trees: https://github.com/devicetree-org/devicetree-specification, chapter 5."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from image.run import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = 0xD00DFEED
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9


@dataclass(slots=True, eq=False)
class Node:
    """``properties`` are bytes by name; ``name`` has the unit address in it."""

    name: str
    parent: Node | None
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    @property
    def path(self) -> str:
        """From the root on, as ``/soc/mmc@fff000``."""
        return f"{self.parent.path.rstrip('/')}/{self.name}" if self.parent else "/"

    @property
    def kind(self) -> str:
        """The name without its unit address: ``mmc``."""
        return self.name.partition("@")[0]

    @property
    def compatible(self) -> list[str]:
        """What the node is, the most exact first."""
        return [name.decode() for name in self.properties.get("compatible", b"").split(b"\0") if name]

    @property
    def enabled(self) -> bool:
        """Whether neither it nor anything that it lies in is switched off."""
        status = self.properties.get("status", b"okay").rstrip(b"\0")
        return status in {b"okay", b"ok"} and (self.parent is None or self.parent.enabled)

    def cells(self, name: str) -> list[int]:
        """A property of 32-bit numbers."""
        data = self.properties.get(name, b"")
        return list(struct.unpack(f">{len(data) // 4}I", data[: len(data) // 4 * 4]))

    def up(self) -> Iterator[Node]:
        """Itself, and what it lies in, up to the root."""
        yield self
        if self.parent:
            yield from self.parent.up()

    def walk(self) -> Iterator[Node]:
        """Itself, and all that lies in it."""
        yield self
        for child in self.children:
            yield from child.walk()


def read(blob: bytes) -> Node:
    """The root of a tree; raise BuildError if it is none."""
    try:
        return _read(blob)
    except (struct.error, ValueError, IndexError) as error:
        raise BuildError(f"not a device tree: {error}") from error


def _read(blob: bytes) -> Node:
    magic, _, at, strings = struct.unpack_from(">4I", blob)
    if magic != _MAGIC:
        raise ValueError(f"it begins with {magic:#x}")
    nodes: list[Node] = []
    while True:
        (token,) = struct.unpack_from(">I", blob, at)
        at += 4
        if token == _BEGIN_NODE:
            end = blob.index(b"\0", at)
            node = Node(blob[at:end].decode(), nodes[-1] if nodes else None)
            if node.parent:
                node.parent.children.append(node)
            nodes.append(node)
            at = (end + 4) & ~3
        elif token == _PROP:
            size, name = struct.unpack_from(">2I", blob, at)
            at += 8
            name += strings
            nodes[-1].properties[blob[name : blob.index(b"\0", name)].decode()] = blob[at : at + size]
            at = (at + size + 3) & ~3
        elif token == _END_NODE:
            # The root's is the last one that counts.
            node = nodes.pop()
            if not nodes:
                return node
        elif token != _NOP:
            raise ValueError(f"token {token}")
