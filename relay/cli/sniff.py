# SPDX-License-Identifier: GPL-2.0-or-later
"""`relay sniff`: what a listener sees (docs/sniff.md)."""

# ruff: noqa: PLC0415 - scapy takes long to import, and only this command needs it

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay.core.errors import RelayError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from relay.core.noise import KeyPair
    from relay.sniff.capture import Frame
    from relay.sniff.linkable import Report
    from relay.sniff.sniffer import Sniffer

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse gives it no public name

#: Files are kept apart by the upper bits of a frame's adapter.
_FILE_SHIFT: Final = 48


class SniffError(RelayError):
    """The command cannot do what was asked; the message has the remedy."""


def add_parsers(commands: Commands) -> None:
    """Add this module's command."""
    sniff = commands.add_parser("sniff", help="show what a listener sees of relays, live or from a capture")
    sniff.add_argument("interface", nargs="?", help="listen here: eth0, wlan0 ..., or hci0 for Bluetooth")
    sniff.add_argument(
        "--read", type=Path, action="append", metavar="FILE", help="read a capture: pcap, pcapng or btsnoop"
    )
    sniff.add_argument("--json", action="store_true", help="print JSON, an object a line")
    sniff.add_argument("--stats", action="store_true", help="print figures of each session at the end, and no events")
    sniff.add_argument(
        "--linkable",
        action="store_true",
        help="print what joins two addresses or sessions, and no events; exit status 1 if there is anything",
    )
    sniff.add_argument(
        "--address-seconds", type=float, metavar="N", help="with --linkable: how long one address may be in use"
    )
    sniff.add_argument(
        "--port", type=int, action="append", metavar="N", help="also a TCP port of relays; announced ones are learnt"
    )
    sniff.add_argument("--seconds", type=float, metavar="N", help="listen so long; by default until Ctrl-C")
    sniff.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="look for this relay.key in the clear; it opens nothing (docs/sniff.md says why)",
    )
    sniff.set_defaults(func=_sniff)


def _sniff(arguments: argparse.Namespace) -> int:
    if bool(arguments.interface) == bool(arguments.read):
        raise SniffError("name either an interface, such as eth0 or hci0, or a capture with --read FILE")
    # What scapy remarks about captures and routes is not for our user.
    logging.getLogger("scapy").setLevel(logging.CRITICAL)
    try:
        from relay.config.settings import DEFAULT_PORT
        from relay.sniff.linkable import MAX_ADDRESS_S, Linkage
        from relay.sniff.sniffer import Sniffer
    except ModuleNotFoundError as error:
        raise SniffError(f"{error.name} is missing; install it with: pip install 'mesh-relay[sniff]'") from error
    key = _load_key(arguments.key) if arguments.key else None
    linkage = None
    if arguments.linkable:
        linkage = Linkage(max_address_s=arguments.address_seconds or MAX_ADDRESS_S)
    sniffer = Sniffer(ports={DEFAULT_PORT, *(arguments.port or ())}, linkage=linkage, key=key)
    failure = _run(arguments, sniffer)
    status = 0 if failure is None else 1
    if arguments.stats:
        _print_streams(sniffer, as_json=arguments.json)
    if linkage is not None:
        report = linkage.report()
        _print_report(report, as_json=arguments.json)
        status = status if report.is_clean else 1
    _print_end(sniffer, as_json=arguments.json)
    if key is not None and sniffer.key_seen:
        status = 1
    if failure is not None:
        print(failure, file=sys.stderr)
    return status


def _load_key(path: Path) -> KeyPair:
    from relay.run.keyfile import load_key

    key = load_key(path)
    if key is None:
        raise SniffError(f"{path}: no such file; `relay key` tells whether this relay has a key")
    return key


def _run(arguments: argparse.Namespace, sniffer: Sniffer) -> RelayError | None:
    """Feed the sniffer and print its events; return why a capture ended too early, if it did."""
    from relay.sniff.capture import DamagedCaptureError

    is_quiet = arguments.stats or arguments.linkable
    failure = None
    try:
        for frame in _frames(arguments, sniffer):
            events = sniffer.feed(frame)
            if not is_quiet:
                for event in events:
                    print(event.json() if arguments.json else event.line(), flush=bool(arguments.interface))
    except KeyboardInterrupt:
        pass
    except DamagedCaptureError as error:
        failure = error
    for event in sniffer.finish():
        if not is_quiet:
            print(event.json() if arguments.json else event.line())
    return failure


def _frames(arguments: argparse.Namespace, sniffer: Sniffer) -> Iterator[Frame]:
    import dataclasses

    from relay.sniff.capture import read_capture

    if arguments.interface:
        from relay.sniff.live import listen

        yield from listen(arguments.interface, sniffer.counts, seconds=arguments.seconds)
        return
    for index, path in enumerate(arguments.read):
        for frame in read_capture(path):
            yield dataclasses.replace(frame, adapter=index << _FILE_SHIFT | frame.adapter) if index else frame


def _print_streams(sniffer: Sniffer, *, as_json: bool) -> None:
    from relay.sniff.sniffer import stream_json, stream_lines

    for stream in sniffer.streams.summaries():
        if stream.is_told:
            print(json.dumps(stream_json(stream)) if as_json else "\n".join(stream_lines(stream)))


def _print_report(report: Report, *, as_json: bool) -> None:
    if as_json:
        for kind, findings in (("linked", report.findings), ("software", report.software)):
            for one in findings:
                value = {"field": one.field, "value": one.value.hex(), "who": one.who, "detail": one.detail}
                print(json.dumps({"event": kind, **value}))
    else:
        for one in report.findings:
            print(f"LINKED  {one.words()}")
        for one in report.software:
            print(f"software, not device: {one.words()}")
    compared = f"{report.epochs} addresses and {report.sessions} sessions compared"
    if as_json:
        what = {"epochs": report.epochs, "sessions": report.sessions, "dropped": report.dropped}
        print(json.dumps({"event": "report", "is_clean": report.is_clean, **what}))
    elif report.is_clean:
        print(f"{compared}: nothing joins them")
    elif report.epochs + report.sessions < 2:
        print(f"{compared}: too few to tell anything")
    else:
        dropped = f", {report.dropped} values left out" if report.dropped else ""
        print(f"{compared}: {len(report.findings)} found{dropped}")


def _print_end(sniffer: Sniffer, *, as_json: bool) -> None:
    """What was passed over, and the key; on standard error, since it is no event."""
    counts = sniffer.counts.as_dict()
    if as_json:
        end = {"event": "end", "frames": sniffer.frames, "passed": counts, "key_seen": sniffer.key_seen}
        print(json.dumps(end | {"streams_forgotten": sniffer.streams.forgotten}))
        return
    passed = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in counts.items())
    forgotten = f"; {sniffer.streams.forgotten} sessions forgotten" if sniffer.streams.forgotten else ""
    print(f"{sniffer.frames} frames" + (f"; passed over: {passed}" if passed else "") + forgotten, file=sys.stderr)
    if sniffer.has_key:
        seen = f"stood in the clear {sniffer.key_seen} times" if sniffer.key_seen else "was not seen in the clear"
        print(f"the key {seen}; it opens nothing (docs/sniff.md)", file=sys.stderr)
