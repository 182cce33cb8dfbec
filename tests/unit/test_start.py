# SPDX-License-Identifier: GPL-2.0-or-later
"""What `relay run` loads before it takes an envelope: on a small board that is most of its start."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from relay.cli import _PROCESSES, build_parser

#: For pages, metrics, discovery and other commands; each is a tenth of a start, or nearly.
LATER = {
    "jinja2",
    "prometheus_client",
    "relay.cli.bulletin",
    "relay.cli.messages",
    "relay.run.metrics",
    "relay.run.web",
    "statistics",
    "zeroconf",
}


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [action] = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return action.choices


def test_the_first_envelope_waits_for_nothing_that_it_does_not_need():
    script = (
        "import sys; from relay.cli import build_parser; build_parser('run').parse_args(['run']); "
        "from relay.config.file import load_config; import relay.run.app; print(*sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(found.stdout.split())
    assert "relay.core.node" in loaded
    assert loaded & LATER == set()


@pytest.mark.parametrize("name", _PROCESSES)
def test_a_process_has_the_options_that_it_has_among_all_commands(name):
    alone, among_all = commands(build_parser(name)), commands(build_parser())
    assert len(alone) < len(among_all)
    assert alone[name].format_help() == among_all[name].format_help()


def test_what_is_no_process_of_a_relay_has_all_commands():
    whole = commands(build_parser()).keys()
    assert commands(build_parser("send")).keys() == whole
    assert commands(build_parser("--help")).keys() == whole
