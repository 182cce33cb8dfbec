# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m image`: build an image, make a key, sign and verify, or make the bundle for a machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from image import minisign
from image.build import Request, build
from image.bundle import MACHINES, SUITES, make_bundle
from image.run import BuildError


def main(argv: list[str]) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m image", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("build", help="build an image; as root, in namespaces (.ci/image)")
    command.add_argument("arch", choices=sorted(MACHINES))
    command.add_argument("--output", type=Path, required=True, help="folder for the image and what goes with it")
    command.add_argument("--cache", type=Path, required=True)
    command.add_argument("--work", type=Path, required=True, help="an empty folder; whoever made it removes it")
    command.add_argument("--tools", type=Path, required=True, help="tree of Debian tools")
    command.add_argument("--epoch", type=int, required=True, help="the only time that gets into the image")
    command.add_argument("--fresh", action="store_true", help="fetch and unpack Debian's packages anew")
    command.add_argument("--converge-twice", action="store_true", help="fail if the playbook changes its own work")
    command.add_argument("--uncompressed", action="store_true", help="leave out IMAGE.xz and what goes with it")
    command.add_argument("--key", type=Path, help="sign with the key that `python -m image key` made")
    command.add_argument(
        "--trust", action="append", default=[], metavar="PUBLIC", help="take updates signed with this key, too"
    )
    command.set_defaults(func=_build)

    command = commands.add_parser("bundle", help="make the relay and its packages for one machine; print the file")
    command.add_argument("arch", choices=sorted(MACHINES))
    command.add_argument("python", choices=sorted(SUITES))
    command.add_argument("--cache", type=Path, required=True)
    command.set_defaults(func=_bundle)

    command = commands.add_parser("key", help="make a signing key; print the public one")
    command.add_argument("file", type=Path)
    command.set_defaults(func=_key)

    command = commands.add_parser("verify", help="check FILE against FILE.minisig")
    command.add_argument("file", type=Path)
    command.add_argument("public")
    command.set_defaults(func=_verify)

    arguments = parser.parse_args(argv)
    try:
        arguments.func(arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _build(arguments: argparse.Namespace) -> None:
    arguments.output.mkdir(parents=True, exist_ok=True)
    request = Request(
        arch=arguments.arch,
        epoch=arguments.epoch,
        cache=arguments.cache,
        tools=arguments.tools,
        work=arguments.work,
        fresh=arguments.fresh,
        converge_twice=arguments.converge_twice,
        compress=not arguments.uncompressed,
        key=minisign.load(arguments.key) if arguments.key else None,
        trusted=tuple(arguments.trust),
    )
    for path in build(request, arguments.output):
        print(path)


def _bundle(arguments: argparse.Namespace) -> None:
    print(make_bundle(arguments.arch, arguments.python, arguments.cache))


def _key(arguments: argparse.Namespace) -> None:
    print(minisign.generate(arguments.file).public())


def _verify(arguments: argparse.Namespace) -> None:
    print(minisign.verify(arguments.file, Path(f"{arguments.file}.minisig").read_text(), arguments.public))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
