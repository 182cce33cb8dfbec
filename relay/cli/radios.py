# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of the processes that hold the radios."""
# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that the others start fast

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.core.errors import RelayError

if TYPE_CHECKING:
    from types import ModuleType

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives it no public name


_CONFIG_HELP: Final = "relay.toml (default: the usual places)"


class MissingExtraError(RelayError):
    """Packages that this command needs are not installed."""


def add_parsers(commands: Commands) -> None:
    """Add this module's commands."""
    ble = commands.add_parser("ble", help="run the relay's Bluetooth in the foreground, beside `relay run`")
    ble.add_argument("--config", type=Path, metavar="PATH", help=_CONFIG_HELP)
    ble.set_defaults(func=_ble)

    bitchat = commands.add_parser("bitchat", help="join bitchat's mesh in the foreground, beside `relay run`")
    bitchat.add_argument("--config", type=Path, metavar="PATH", help=_CONFIG_HELP)
    bitchat.set_defaults(func=_bitchat)

    libp2p = commands.add_parser("libp2p", help="serve envelopes to IPFS in the foreground, beside `relay run`")
    libp2p.add_argument("--config", type=Path, metavar="PATH", help=_CONFIG_HELP)
    libp2p.set_defaults(func=_libp2p)

    net = commands.add_parser("net", help="run the relay's ad-hoc Wi-Fi and LAN bridge in the foreground")
    net.add_argument("--config", type=Path, metavar="PATH", help=_CONFIG_HELP)
    net.set_defaults(func=_net)
    net_commands = net.add_subparsers(metavar="COMMAND")
    probe = net_commands.add_parser("probe", help="say what each radio can do, and what to do about the rest")
    # Given before the command it counts as well: a default here would overwrite it.
    probe.add_argument("--config", type=Path, metavar="PATH", default=argparse.SUPPRESS, help=_CONFIG_HELP)
    probe.add_argument("--json", action="store_true", help="print it as JSON")
    probe.set_defaults(func=_net_probe)
    undo = net_commands.add_parser("undo", help="put the network back as `relay net` found it, after it was killed")
    undo.set_defaults(func=_net_undo)


def _ble(arguments: argparse.Namespace) -> int:
    from relay.config.file import load_config

    config = load_config(arguments.config)
    try:
        from relay.ble import app
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is missing; install the extra: pip install 'mesh-relay[core,ble]', "
            "which needs the packages libdbus-1-dev, libgirepository-2.0-dev and a C compiler, "
            "or use the system's python3-dbus and python3-gi"
        ) from error
    return app.run(config)


def _bitchat(arguments: argparse.Namespace) -> int:
    from relay.config.file import load_config

    config = load_config(arguments.config)
    try:
        from relay.bitchat_gateway import app
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is missing; install the extra: pip install 'mesh-relay[core]'"
        ) from error
    return app.run(config)


def _libp2p(arguments: argparse.Namespace) -> int:
    from relay.config.file import load_config

    config = load_config(arguments.config)
    try:
        from relay.libp2p import app
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is missing; install the extra: pip install 'mesh-relay[core]'"
        ) from error
    return app.run(config)


def _net(arguments: argparse.Namespace) -> int:
    from relay.config.file import load_config
    from relay.process.notify import Notifier

    config = load_config(arguments.config)
    app = _net_app()
    net = config.net
    if not net.radios and not net.bridge and not net.access_point:
        # No failure: an appliance has the service, and not every one has a radio for it.
        print(
            "nothing to do: relay.toml names no radios ([net.radios.NAME]), no bridge (net.bridge) and no access point",
            file=sys.stderr,
        )
        # The service manager takes an end without that for a failure, and would start it again for ever.
        Notifier(os.environ).ready("nothing to do")
        return 0
    status: int = app.run(config)
    return status


def _net_probe(arguments: argparse.Namespace) -> int:
    from relay.config import paths
    from relay.config.file import default_config, load_config

    path = arguments.config or paths.find_config(os.environ)
    # The system's may hold a secret, and be root's alone, as on the appliance: the radios can be told of all the same.
    config = load_config(path) if arguments.config or (path and os.access(path, os.R_OK)) else default_config()
    _net_app()
    from relay.net import probe

    document = probe.probe(config.net)
    print(json.dumps(document) if arguments.json else probe.text(document))
    return 0


def _net_undo(_: argparse.Namespace) -> int:
    app = _net_app()
    problems = app.run_undo(app.record_folder(os.environ))
    for problem in problems:
        print(f"could not put back {problem}", file=sys.stderr)
    return 1 if problems else 0


def _net_app() -> ModuleType:
    try:
        from relay.net import app
    except ImportError as error:
        raise MissingExtraError(
            f"{error.name} is missing; install the extra: pip install 'mesh-relay[core,net]'"
        ) from error
    return app
