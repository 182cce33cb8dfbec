# SPDX-License-Identifier: GPL-2.0-or-later
"""All steps of a build, in order."""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from image import booting, sbom
from image import slot as slots
from image.base import make_base
from image.bundle import PREFIX
from image.disk import assemble, compress, make_fat, make_root
from image.driver import add_drivers
from image.layout import SECTOR_BYTES, layout
from image.minisign import SecretKey, sign
from image.rootfs import assert_clean, assert_unchanged, attach, configure, detach, dpkg_status, scrub, unpack
from image.run import Tools, run
from relay import __version__
from relay.appliance.constants import RELEASE
from relay.board.card import OWN_SECTOR, pack_own
from relay.board.manifest import Own
from relay.board.panic import OWN_FILES

NAME = "mesh-relay"
#: Public keys that updates are signed with; docs/release.md says how one is made, and replaced.
KEYS = Path(__file__).with_name("keys")
HANDLERS = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``epoch``: the one time that is in the image, in seconds since 1970. ``work``: an empty folder.

    ``trusted``: public keys, beside that of ``key``, that updates may be signed with.
    """

    arch: str
    epoch: int
    cache: Path
    tools: Path
    work: Path
    fresh: bool
    converge_twice: bool
    compress: bool
    key: SecretKey | None
    trusted: tuple[str, ...] = ()


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
    own = Own(board=request.arch, version=__version__, built=epoch, keys=_trusted(request))
    (shared / RELEASE.name).write_text(own.encode())
    assert_clean(root)

    say("file systems")
    verity = make_root(tools, root, epoch=epoch)
    booting.describe_root(slot, verity)
    table = layout()
    boot = make_fat(tools, table["BOOT_A"], slot, epoch=epoch)
    head = slots.describe(boot, verity.file, board=request.arch, version=__version__, built=epoch)
    made = []
    if request.key:
        update = request.work / f"{name}{slots.SUFFIX}"
        made.append(slots.write_update(slots.signed(head, request.key), boot, verity.file, update))
    slots.finish_root(verity.file, head, table["ROOT_A"])
    contents = {
        "MESH-RELAY": make_fat(tools, table["MESH-RELAY"], selector, epoch=epoch),
        "BOOT_A": boot,
        "BOOT_B": make_fat(tools, table["BOOT_B"], None, epoch=epoch),
        "ROOT_A": verity.file,
    }
    image = request.work / f"{name}.img"
    assemble(tools, table, contents, image)
    with image.open("r+b") as file:
        file.seek(OWN_SECTOR * SECTOR_BYTES)
        file.write(pack_own((shared / OWN_FILES).read_text()))

    made.append(image)
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


def _trusted(request: Request) -> tuple[str, ...]:
    """Public keys whose updates a relay with this image takes."""
    lines = (line.partition("#")[0].strip() for line in KEYS.read_text().splitlines())
    own = (request.key.public(),) if request.key else ()
    return tuple(sorted({*filter(None, lines), *own, *request.trusted}))


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
