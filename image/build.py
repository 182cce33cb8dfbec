# SPDX-License-Identifier: GPL-2.0-or-later
"""All steps of a build, in order."""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from image import booting, sbom
from image.base import make_base
from image.bundle import PREFIX
from image.disk import assemble, compress, make_fat, make_root
from image.driver import add_drivers
from image.layout import layout
from image.minisign import SecretKey, sign
from image.rootfs import assert_clean, assert_unchanged, attach, configure, detach, dpkg_status, scrub, unpack
from image.run import Tools, run
from relay import __version__

NAME = "mesh-relay"
HANDLERS = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``epoch``: the one time that is in the image, in seconds since 1970. ``work``: an empty folder."""

    arch: str
    epoch: int
    cache: Path
    tools: Path
    work: Path
    fresh: bool
    converge_twice: bool
    compress: bool
    key: SecretKey | None


def build(request: Request, output: Path) -> list[Path]:
    """Build into ``output``; return the files made there."""
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"== [{time.monotonic() - started:4.0f} s] {what}", file=sys.stderr, flush=True)

    epoch = request.epoch
    tools = Tools(tree=request.tools, work=request.work)
    tools.attach()
    name = f"{NAME}-{request.arch}-{__version__}"

    # The namespace's new /proc hides the one that .ci/emulate wrote to; mmdebstrap looks there.
    if not (HANDLERS / "register").exists():
        run(["mount", "-t", "binfmt_misc", "binfmt_misc", HANDLERS])
    say(f"Debian packages for {request.arch}")
    base = make_base(request.arch, request.cache, fresh=request.fresh)
    root = request.work / "root"
    unpack(base.tar, root)
    attach(root)
    say("the playbook")
    configure(root, request.cache, request.work)
    if request.converge_twice:
        say("the playbook again")
        assert_unchanged(configure(root, request.cache, request.work))
    detach(root)
    packages = [*sbom.debian_packages(dpkg_status(root)), *sbom.python_packages(_lib(root))]
    if request.arch == "arm64":
        say("the drivers that the kernel lacks")
        packages += add_drivers(tools, root, request.cache, packages)
    say("scrubbing and compiling")
    selector, slot = booting.take_kernel(tools, root, epoch=epoch)
    scrub(root, request.tools, epoch=epoch)
    shared = root / "usr/share" / NAME
    shared.mkdir(exist_ok=True)
    (shared / "packages.txt").write_text(sbom.listing(packages))
    assert_clean(root)

    say("file systems")
    verity = make_root(tools, root, epoch=epoch)
    booting.describe_root(slot, verity)
    table = layout()
    contents = {
        "MESH-RELAY": make_fat(tools, table["MESH-RELAY"], selector, epoch=epoch),
        "BOOT_A": make_fat(tools, table["BOOT_A"], slot, epoch=epoch),
        "BOOT_B": make_fat(tools, table["BOOT_B"], None, epoch=epoch),
        "ROOT_A": verity.file,
    }
    image = request.work / f"{name}.img"
    assemble(tools, table, contents, image)

    made = [image]
    made.append(_write(request.work / f"{name}.packages.txt", sbom.listing(packages)))
    document = sbom.cyclonedx(
        packages, name=NAME, version=__version__, arch=request.arch, epoch=epoch, archive=base.archive
    )
    made.append(_write(request.work / f"{name}.cdx.json", document))
    if request.compress:
        say("compressing")
        packed = compress(tools, image)
        made += [packed, _write(packed.with_name(f"{packed.name}.sha256"), f"{_sha256(packed)}  {packed.name}\n")]
        if request.key:
            comment = f"{NAME} {__version__} {request.arch}"
            made.append(_write(packed.with_name(f"{packed.name}.minisig"), sign(packed, request.key, comment)))
    say("done")
    return [_publish(path, output) for path in made]


def _lib(root: Path) -> Path:
    (lib,) = (root / PREFIX.relative_to("/")).glob("*/lib")
    return lib


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _publish(path: Path, output: Path) -> Path:
    """Copy to the output folder, which may be on another file system; an image's holes are kept."""
    target = output / path.name
    run(["cp", "--sparse=always", "--force", path, target])
    return target
