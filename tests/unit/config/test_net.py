# SPDX-License-Identifier: GPL-2.0-or-later
import re
from pathlib import Path

import pytest

from relay.config.file import ConfigError, parse_config
from relay.config.net import NetConfig, RadioConfig


def parse(text):
    section = parse_config(text.encode(), Path("relay.toml"), {"HOME": "/home/someone"}).net
    assert isinstance(section, NetConfig)
    return section


def the_problem(text):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    (problem,) = caught.value.problems
    return problem.line, problem.message


def test_an_empty_section_changes_nothing():
    assert parse("[net]\n[tcp]\nport = 4270\n") == NetConfig()
    assert not NetConfig().radios
    assert not NetConfig().bridge


def test_a_whole_section():
    config = parse(
        '[net]\ncountry = "DE"\nbridge = ["eth0", "bat0"]\n'
        '[net.radios.far]\ninterface = "wlan1"\nmode = "ibss"\nchannel = 36\nbatman = true\nrate_cap_mbit = 6\n'
        '[net.radios.near]\nmesh_id = "camp"\nsecret = "correct horse"\nbatman = true\n'
    )
    assert config.country == "DE"
    assert config.radios["far"] == RadioConfig(
        interface="wlan1", mode="ibss", channel=36, batman=True, rate_cap_mbit=6.0
    )
    assert config.radios["far"].mhz == 5180
    assert config.radios["near"].mesh_id == "camp"
    assert config.uses_batman
    assert config.bridges_batman


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ('[net]\ncountry = "xx"\n', 2, "two letters"),
        ("[net]\nradios = 1\n", 2, r"\[net.radios.NAME\]"),
        ("[net]\nbridge = ['eth0']\n", 2, "two interfaces"),
        ("[net]\nbridge = ['eth0', 'eth0']\n", 2, "once"),
        ("[net]\nbridge = ['eth0', 'br-mesh']\n", 2, "cannot be bridged"),
        ("[net]\nbridge = ['eth0', 'bat0']\n", 2, "batman = true"),
        ("[net.radios.a]\n\nchanel = 1\n", 3, "did you mean channel"),
        ("[net.radios.a]\nchannel = 15\n", 2, "a channel"),
        ("[net.radios.a]\nchannel = true\n", 2, "a channel"),
        ("[net.radios.a]\nmode = 'adhoc'\n", 2, '"mesh" or "ibss"'),
        ("[net.radios.a]\ninterface = 1\n", 2, "in quotes"),
        ("[net.radios.a]\nmesh_id = ''\n", 2, "1 to 32 bytes"),
        ("[net.radios.a]\nmesh_id = 'äääääääääääääääää'\n", 2, "1 to 32 bytes"),
        ("[net.radios.a]\nsecret = 'short'\n", 2, "12 characters"),
        ("[net.radios.a]\nsecret = 'aaaaaaaaaaaa'\n", 2, "anybody tries"),
        ('[net.radios.a]\nsecret = "with a\\ttab in it"\n', 2, "no tabs"),
        ("[net.radios.a]\nmode = 'ibss'\nsecret = 'correct horse'\n", 3, "no SAE"),
        ("[net.radios.a]\ninterface = 'wlan0'\n[net.radios.b]\ninterface = 'wlan0'\n", 2, "two radios"),
        (
            "[net]\nbridge = ['eth0', 'wlan0']\n[net.radios.a]\ninterface = 'wlan0'\nmode = 'ibss'\n",
            2,
            'batman = true and bridge "bat0"',
        ),
        (
            "[net]\nbridge = ['eth0', 'wlan0']\n[net.radios.a]\ninterface = 'wlan0'\nbatman = true\n",
            2,
            'bridge "bat0" instead',
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_remedy(text, line, remedy):
    at, message = the_problem(text)
    assert at == line
    assert re.search(remedy, message), message


def test_a_secret_is_never_shown():
    text = "[net.radios.a]\nsecret = 'correct horse'\nchannel = 99\n"
    assert "correct" not in the_problem(text)[1]
    assert "correct" not in repr(parse(text.replace("99", "1")))


def test_the_cell_of_an_ibss_is_an_address_of_its_own_kind():
    cells = {RadioConfig(mesh_id=name).cell for name in ("a", "b", "c")}
    assert len(cells) == 3
    assert all(len(cell) == 6 and cell[0] & 3 == 2 for cell in cells)
