# SPDX-License-Identifier: GPL-2.0-or-later
"""Running other programs, on this machine and in the tree of Debian tools."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from relay.core.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The folder of this clone.
ROOT = Path(__file__).parents[1]
#: What programs see of the environment, so that nobody's locale or settings get into an image.
CLEAN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/root"}
#: Where the tree of tools sees the folder that is worked in; .ci/debian makes this mount point.
INSIDE = Path("/cache")


class BuildError(RelayError):
    """The image cannot be built; ``str()`` says why, with the output of the program that failed."""


def run(
    command: list[str | Path], *, environ: Mapping[str, str] | None = None, cwd: Path | None = None, text: str = ""
) -> str:
    """Run ``command`` in a clean environment with ``text`` on its standard input; return what it prints."""
    done = subprocess.run(
        command,
        env={**CLEAN_ENVIRONMENT, **(environ or {})},
        cwd=cwd,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"{command[0]} failed with status {done.returncode}:\n{done.stdout[-8000:]}")
    return done.stdout


def digest(*parts: bytes) -> str:
    """A name for a thing in the cache: 16 hexadecimal digits over all that it is made from."""
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """A tree of Debian programs newer than this machine's (mke2fs, mksquashfs, mtools)."""

    tree: Path
    work: Path

    def __call__(self, *command: str | Path, environ: Mapping[str, str] | None = None, text: str = "") -> str:
        """Run a program of the tree; paths below ``work`` are the same in there."""
        inside = [self._translate(part) for part in command]
        return run(["chroot", self.tree, *inside], environ=environ, text=text)

    def _translate(self, part: str | Path) -> str:
        return str(INSIDE / part.relative_to(self.work)) if isinstance(part, Path) else part

    def attach(self) -> None:
        """Mount the working folder; the namespace that .ci/image made takes it away again."""
        run(["mount", "--bind", self.work, self.tree / INSIDE.relative_to("/")])
        run(["mount", "-t", "tmpfs", "tmpfs", self.tree / "tmp"])
