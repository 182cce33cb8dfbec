# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay.toml says can change what other programs' files say in its own place, and nowhere else.

Any value is refused, or reaches the file of nft, hostapd, dnsmasq or systemd-networkd so
that the real program takes the file and understands all else in it as it does with harmless values.
"""

import configparser
import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.appliance.check import check
from relay.appliance.network import draw_segment
from relay.appliance.plan import Facts, make_plan
from relay.config.file import ConfigError
from relay.config.toml_write import write_toml

pytestmark = [pytest.mark.tools]

FACTS = Facts(segment=draw_segment(lambda count: bytes(range(count))), stand_in=hashlib.sha256(b"drawn").hexdigest())
#: Harmless values, each unlike all others, so that what stands for it is found in a program's own words.
PLAIN = {
    "hostname": "plainhost",
    "mesh_name": "plainmesh",
    "mesh_interface": "plain0",
    "access_point_name": "plainphones",
    "access_point_password": "plainpassword",
    "access_point_interface": "plain1",
    "ethernet_interface": "plain2",
    "country": "DE",
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#: Quotes, remarks, patterns, separators, ends of lines and of statements of all of them.
HOSTILE = st.text("a0\"'`*?[]!#;,=/\\{}()|&$%@<>~^ \t\n\r\0.-_:üЖ\u2028\u202e", max_size=20)
EMBEDDED = st.builds("{}{}{}".format, st.sampled_from(["x", "wifi0", "plain"]), HOSTILE, st.sampled_from(["", "y"]))
VALUES = HOSTILE | EMBEDDED | st.text(max_size=64)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(PLAIN, VALUES),
        "ssh_keys": st.lists(VALUES | st.builds("{}{}".format, st.just(KEY), VALUES), max_size=2),
        "lan_bridge": st.booleans(),
        "status_page": st.sampled_from(["off", "ethernet", "everywhere"]),
    },
)


def program(name):
    found = shutil.which(name)
    assert found, f"{name} is not there; `PATH=$PATH:$(.ci/tools):/usr/sbin` provides what the tests call"
    return found


def alone(*command, **options):
    """Run a program in a network namespace of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return subprocess.run(
        ["unshare", *user, "--net", *command], capture_output=True, text=True, check=False, timeout=30, **options
    )


def files_of(appliance):
    document = {"appliance": {"access_point": True, **PLAIN, **appliance}}
    plan = make_plan(check(write_toml(document).encode(), Path("relay.toml")), FACTS)
    return {file.path.name: file.content.decode() for file in plan.files}


def rules(text):
    """The rules as the kernel has them."""
    nft = program("nft")
    found = alone(
        "sh", "-c", f"{nft} -c -f - <<'E' && {nft} -f - <<'E' && {nft} -j list ruleset\n{text}\nE\n{text}\nE\n"
    )
    assert found.returncode == 0, found.stderr
    ruleset = json.loads(found.stdout)["nftables"]
    return json.dumps(
        [{kind: {**item, "handle": 0} for kind, item in entry.items()} for entry in ruleset if "metainfo" not in entry]
    )


def keys(text):
    return [line.partition("=")[0] for line in text.split("\n")]


def taken_by_hostapd(text, folder):
    path = folder / "hostapd.conf"
    path.write_text(text)
    found = alone(program("hostapd"), "-i", "nosuch0", path)
    # There is no radio, which it finds after it has read all of its file.
    assert "Failed to initialize driver" in found.stdout, found.stdout


def taken_by_dnsmasq(text, folder):
    path = folder / "dnsmasq.conf"
    path.write_text(text)
    found = subprocess.run(
        [program("dnsmasq"), "--test", f"--conf-file={path}"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def structure(text):
    parser = configparser.ConfigParser(strict=False)
    parser.read_file(io.StringIO(text))
    return {section: sorted(parser[section]) for section in parser}


# What nft read as a rule that lets everything in; each line below is of another program.
@example(appliance={"access_point_interface": 'x*"accept;#'})
@example(appliance={"mesh_interface": "*"})
@example(appliance={"ethernet_interface": "eth*"})
@example(appliance={"access_point_interface": "!wlan0", "lan_bridge": True})
@example(appliance={"access_point_interface": "all"})
@example(appliance={"access_point_name": 'a"#\\ \u202e', "access_point_password": '"#\\$(x) ; = '})
@example(appliance={"hostname": "a/b"})
@example(appliance={"ssh_keys": [f"{KEY} x\nssh-ed25519 y", "ssh-ed25519 ü"]})
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(appliance=DOCUMENTS)
def test_any_value_is_refused_or_stays_in_its_place(appliance):
    with contextlib.suppress(ConfigError):
        stays_in_its_place(appliance)


@pytest.mark.parametrize("bridge", [False, True])
def test_harmless_values_pass_all_of_it(bridge):
    """Else the one above could pass by refusing everything."""
    stays_in_its_place({"lan_bridge": bridge, "ssh_keys": [KEY], "access_point_name": "Café #1", "hostname": "a-1"})


def stays_in_its_place(appliance):
    found = files_of(appliance)
    shape = {name: value for name, value in appliance.items() if name in {"lan_bridge", "status_page"}}
    # What is "" there is none, and makes other files.
    empty = {name: value for name, value in appliance.items() if value == ""}
    harmless = files_of({**shape, **empty, "ssh_keys": [KEY] * len(appliance.get("ssh_keys", ()))})
    expected = rules(harmless["nftables.conf"])
    for name, plain in PLAIN.items():
        if name.endswith("_interface") and appliance.get(name, plain) != plain:
            expected = expected.replace(json.dumps(plain), json.dumps(appliance[name]))
    assert rules(found["nftables.conf"]) == expected
    for name in found.keys() & {
        "hostapd.conf",
        "hostapd-unprotected.conf",
        "phones.conf",
        "segment.conf",
        "authorized_keys",
    }:
        assert keys(found[name]) == keys(harmless[name]) or name == "authorized_keys"
        assert len(found[name].splitlines()) == len(harmless[name].splitlines())
        assert "\0" not in found[name]
    for name in found:
        if name.endswith(".network"):
            assert structure(found[name]) == structure(harmless[name])
    with tempfile.TemporaryDirectory() as folder:
        if "hostapd.conf" in found:
            taken_by_hostapd(found["hostapd.conf"], Path(folder))
        for name in found.keys() & {"phones.conf", "segment.conf"}:
            taken_by_dnsmasq(found[name], Path(folder))
