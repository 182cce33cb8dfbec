# SPDX-License-Identifier: GPL-2.0-or-later
"""What people do to relay.toml, and what the relay makes of it."""

import json

import pytest

from tests.image.lan import Lan
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(400)]

COUNTRY = '[appliance]\ncountry = "DE"\nhostname = "gate"\n'

FILES = {
    "empty": b"",
    "windows": b"\xef\xbb\xbf" + COUNTRY.replace("\n", "\r\n").encode(),
    "wrong": b'[appliance]\ncountry = "DE"\naccess_point = perhaps\n',
    "binary": bytes(range(256)) * 16,
    "huge": b"# far too much\n" * 200_000,
}
MISTAKEN = {"empty", "wrong", "binary", "huge"}
REFUSED = "relay.toml has a mistake and is not used"
FETCH = """python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:9470/").read().decode())'"""


def status_file(card, timeout_s=40):
    """relay-status.txt, which is written when all is up."""
    wait_until(
        "relay-status.txt is there", lambda: "::/relay-status.txt" in card.names("MESH-RELAY"), timeout_s, pause_s=1
    )
    return card.read("MESH-RELAY", "relay-status.txt").decode("utf-8-sig")


@pytest.mark.parametrize("kind", sorted(FILES))
def test_the_relay_relays_with_any_relay_toml(card, boot, kind):
    card.write("MESH-RELAY", "relay.toml", FILES[kind])
    appliance = boot(card)
    assert appliance.wait_booted() == "running", appliance.explain()
    assert json.loads(appliance.run("relay", "status", "--json").stdout)["store"]["writable"]
    notices = json.loads(appliance.sh("cat /run/mesh-relay-config/notices.json"))["notices"]
    assert any(notice["code"] == "config" for notice in notices) == (kind in MISTAKEN), notices
    if kind == "windows":
        assert appliance.sh("hostname").strip() == "gate"
    # On the card, on the page, on the screen and by the light.
    text = status_file(card)
    assert ("MISTAKE" in text) == (kind in MISTAKEN), text
    page = appliance.sh(FETCH)
    assert (REFUSED in page) == (kind in MISTAKEN), page
    screen = appliance.run("timeout", "10", "relay", "appliance", "screen", check=False).stdout
    assert (REFUSED in " ".join(screen.split())) == (kind in MISTAKEN), screen
    light = json.loads(appliance.run("relay", "board", "status").stdout)["light"]
    assert (light == "config") == (kind in MISTAKEN), light


def test_the_relay_relays_without_relay_toml(card, boot):
    card.remove("MESH-RELAY", "relay.toml")
    appliance = boot(card)
    assert appliance.wait_booted() == "running", appliance.explain()
    assert json.loads(appliance.run("relay", "status", "--json").stdout)["store"]["writable"]


def test_an_operator_with_a_key_gets_in_and_nobody_else(card, boot):
    appliance = boot(card)
    assert appliance.wait_booted() == "running", appliance.explain()
    assert appliance.show("ssh.service", "ActiveState")["ActiveState"] == "inactive"

    key = appliance.sh("ssh-keygen -q -t ed25519 -N '' -f /run/key && cat /run/key.pub").strip()
    card.write("MESH-RELAY", "relay.toml", f'[appliance]\nssh_keys = ["{key}"]\n'.encode())
    # As the next start does.
    appliance.sh("systemctl restart relay-appliance.service && systemctl start ssh.service")
    options = (
        "-i /run/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o LogLevel=ERROR"
    )
    shown = appliance.sh(
        f"ssh {options} operator@127.0.0.1 'id --user --name; relay status --socket /run/mesh-relay/control.sock'"
    )
    assert shown.startswith("operator\nrelay ")
    # Not root, and so by way of `relay board`.
    assert "goes by" in appliance.sh(f"ssh {options} operator@127.0.0.1 relay clock set now")
    assert json.loads(appliance.run("relay", "status", "--json").stdout)["clock"]["source"] == "operator"
    assert appliance.run("sh", "-c", f"ssh {options} root@127.0.0.1 true", check=False).code != 0
    allowed = appliance.sh("sshd -T").lower().splitlines()
    assert {"permitrootlogin no", "passwordauthentication no", "kbdinteractiveauthentication no"} <= set(allowed)


LIBP2P = """\
[libp2p]
enabled = true
interfaces = ["eth0"]
gateway = "0.0.0.0:4280"
"""


@pytest.fixture
def own_cable():
    """Named before `boot` in a test: what is plugged in ends before it."""
    with Lan() as lan:
        yield lan


def test_berty_and_ipfs_are_there_for_who_switches_them_on_and_behind_the_packet_filter(own_cable, card, boot):
    card.write("MESH-RELAY", "relay.toml", LIBP2P.encode())
    appliance = boot(card, network=own_cable.port())
    assert appliance.wait_booted() == "running", appliance.explain()
    unit = "relay-libp2p.service"
    found = appliance.show(unit, "ActiveState", "Result", "NRestarts")
    assert (found["ActiveState"], found["Result"]) == ("active", "success"), appliance.journal(unit)

    def up():
        status = json.loads(appliance.run("relay", "status", "--json").stdout)
        return any(part["name"] == "libp2p" and part["state"] == "up" for part in status["components"])

    # On a cable without a router it serves the segment first, and has an address of its own then.
    wait_until(lambda: appliance.journal(unit), up, 90, pause_s=1)
    assert appliance.sh("ss --no-header -tln 'sport = 4271'")
    assert appliance.sh("ss --no-header -tln 'sport = 4280'")
    rules = appliance.sh("nft list chain inet relay everywhere")
    for port in (4271, 4280):
        assert f'iifname "eth0" tcp dport {port} accept' in rules, rules
    pid = appliance.show(unit, "MainPID")["MainPID"]
    assert appliance.sh(f"stat -c %u /proc/{pid}").strip() != "0"
    assert appliance.show(unit, "NRestarts")["NRestarts"] == "0"


def test_it_works_with_no_radio_at_all(card, boot):
    appliance = boot(card, arguments=("mac80211_hwsim.radios=0",))
    assert appliance.wait_booted() == "running", appliance.explain()
    assert "wlan" not in appliance.sh("ls /sys/class/net")


def test_a_clock_that_stands_at_1970_or_2040_is_no_reason_to_stop(card, boot):
    card.write("MESH-RELAY", "relay.toml", b'[clock]\ntrust = "system"\n')
    appliance = boot(card)
    assert appliance.wait_booted() == "running", appliance.explain()
    ask = (
        'python3 -c \'import http.client as h; c = h.HTTPConnection("127.0.0.1", 9470); '
        'c.request("GET", "/{}"); print(c.getresponse().read().decode())\''
    )
    for year, is_refused in ((1970, True), (2040, False)):
        appliance.sh(f"date -s {year}-01-02; systemctl restart mesh-relay.service")
        status = json.loads(appliance.run("relay", "status", "--json").stdout)
        assert status["store"]["writable"]
        # One that cannot be right is told by all that tells, and not gone by.
        said = "The clock of this machine cannot be right"
        metric = f'relay_condition{{condition="clock_refused",severity="warning"}} {float(is_refused)}'
        assert ("clock_refused" in {one["name"] for one in status["conditions"]}) is is_refused
        assert status["clock"]["trusted"] is not is_refused
        assert metric in appliance.sh(ask.format("metrics"))
        assert (said in appliance.sh(ask.format(""))) is is_refused
        # Just after the start other things may be said there, too.
        assert ("clock_refused" in appliance.sh(ask.format("healthz"))) is is_refused
