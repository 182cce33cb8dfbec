# SPDX-License-Identifier: GPL-2.0-or-later
"""What the image is once it runs."""

import json
import re
import urllib.request

import pytest

from tests.image.lan import ip
from tests.image.ports import listening
from tests.waiting import wait_until

pytestmark = [pytest.mark.image, pytest.mark.timeout(400), pytest.mark.xdist_group("booted")]

#: Keys of the figures of systemd-analyze security, 0 (nothing could go wrong) to 10, that the README has.
MEASURED = {
    "mesh-relay.service": "exposure_run",
    "relay-net.service": "exposure_net",
    "relay-ble.service": "exposure_ble",
    "relay-board.service": "exposure_board",
}
EXPOSURE = 2.5
#: They mount for all others, so they have no mount namespace of their own; for a second, and nobody talks to them but
#: an operator who logged in.
MORE_EXPOSED = {"relay-data.service": 9.0, "relay-unlock@.service": 9.0}
#: What a browser on the relay itself would get.
FETCH = """python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:9470{}").read().decode())'"""


def test_all_units_are_up(booted, measured):
    failed = booted.failed_units()
    measured["failed_units"] = len(failed)
    assert not failed, booted.explain()


#: With what is started and stays, and with what may have nothing to do here.
SERVICES = ("mesh-relay.service", "relay-board.service", "relay-console.service", "relay-ble.service")
MAY_REST = (
    "relay-shelf.service",
    "relay-bitchat.service",
    "relay-libp2p.service",
    "relay-net.service",
    "relay-appliance.service",
    "relay-firewall.service",
    "relay-data.service",
)


@pytest.mark.parametrize("unit", [*SERVICES, *MAY_REST])
def test_each_service_came_up_at_the_first_attempt(booted, unit):
    found = booted.show(unit, "ActiveState", "Result", "NRestarts")
    states = ("active",) if unit in SERVICES else ("active", "inactive", "deactivating")
    assert found["ActiveState"] in states, booted.journal(unit)
    assert found["Result"] == "success", booted.journal(unit)
    assert int(found.get("NRestarts", 0)) == 0, booted.journal(unit)


def test_the_relay_relays(booted):
    status = json.loads(booted.run("relay", "status", "--json").stdout)
    assert not status["store"]["durable"]
    assert status["store"]["writable"]


def test_status_page_and_metrics_answer(booted):
    page = booted.sh(FETCH.format("/"))
    assert "<html" in page
    metrics = booted.sh(FETCH.format("/metrics"))
    assert re.search(r"^relay_build_info\{.*\} 1\.0$", metrics, re.MULTILINE)


def test_nothing_listens_but_what_the_readme_lists(booted):
    # Where nobody else does it serves its cable, after a while.
    served = {"67/udp", "53/udp", "53/tcp"}
    wait_until(lambda: str(listening(booted)), lambda: listening(booted) >= served, 60, pause_s=1)
    found = listening(booted)
    assert found >= {"4270/tcp", "5353/udp", "9470/tcp"}


def test_the_root_is_never_written_and_always_checked(booted):
    assert booted.sh("findmnt --noheadings --output FSTYPE,OPTIONS /").split()[0] == "squashfs"
    assert "verity" in booted.sh("cat /sys/block/dm-0/dm/name /sys/block/dm-0/dm/uuid; cat /proc/cmdline")
    for path in ("/usr/x", "/etc/x", "/opt/x"):
        assert booted.run("touch", path, check=False).code != 0


def test_what_is_written_goes_to_memory_or_to_the_partition_for_data(booted):
    kinds = set(booted.sh("findmnt --noheadings --list --output FSTYPE,OPTIONS | grep -w rw | cut -d' ' -f1").split())
    assert kinds & {"ext4", "vfat", "squashfs"} == {"ext4"}
    mounted = booted.sh("findmnt --noheadings --list --types ext4 --output TARGET").split()
    assert sorted(mounted) == ["/data", "/var/lib/private/mesh-relay"]
    assert booted.sh("findmnt --noheadings --output SOURCE /data") == "/dev/mapper/mesh-relay-data\n"
    assert booted.sh("ls /var/log/journal 2>/dev/null || true") == ""


def test_nobody_can_log_in(booted):
    assert booted.sh("cut -d: -f2 /etc/shadow | sort -u").split() in (["*"], ["!", "*"], ["!", "!*", "*"], ["!*", "*"])
    units = booted.sh("systemctl list-units --plain --no-legend --all '*getty*.service' | grep -w active || true")
    assert units == ""
    assert booted.show("ssh.service", "ActiveState")["ActiveState"] == "inactive"


def test_the_hardware_restarts_what_hangs(booted):
    text = booted.sh("systemctl show --property=RuntimeWatchdogUSec")
    seconds = re.fullmatch(r"RuntimeWatchdogUSec=(\d+)s\n", text)
    assert seconds, text
    assert 0 < int(seconds[1]) <= 15


def test_python_is_compiled_ahead(booted):
    said = booted.run("python3", "-v", "-I", "/usr/bin/relay", "status", timeout_s=60).stderr
    # "code object from" a compiled file, or from the source if there is none.
    assert "code object from '/opt/mesh-relay/" in said
    assert not re.findall(r"^# code object from '?(\S+[.]py)'?$", said, re.MULTILINE)


def test_nothing_was_killed_for_want_of_memory(booted):
    assert "Out of memory" not in booted.sh("journalctl --no-pager -k -o cat")
    # What is left for the page cache and for peaks.
    assert int(booted.sh("awk '/MemAvailable/ {print $2}' /proc/meminfo")) > 150_000


def test_services_are_sandboxed(booted, measured):
    units = booted.sh("cd /etc/systemd/system; ls -d mesh-relay.service relay-*.service").split()
    assert set(units) >= MEASURED.keys() | MORE_EXPOSED.keys()
    for unit in units:
        text = booted.sh(f"systemd-analyze security --offline=true --no-pager /etc/systemd/system/{unit}")
        level = float(re.search(r"Overall exposure level for .*: ([0-9.]+)", text)[1])
        if unit in MEASURED:
            measured[MEASURED[unit]] = level
        assert level <= MORE_EXPOSED.get(unit, EXPOSURE), text


def test_who_listens_to_strangers_is_not_root_and_knows_no_secret(booted):
    # Without a radio in relay.toml it has nothing to do and is not there.
    assert booted.show("relay-net.service", "DynamicUser")["DynamicUser"] == "yes"
    for unit in ("mesh-relay", "relay-ble", "relay-segment@eth0", "relay-console"):
        pid = booted.show(f"{unit}.service", "MainPID")["MainPID"]
        assert int(pid), booted.journal(f"{unit}.service")
        assert booted.sh(f"stat -c %u /proc/{pid}").strip() != "0"
    given = booted.sh("find /run/credentials -name mesh-secret").split()
    assert given == ["/run/credentials/mesh-relay.service/mesh-secret"]


def test_relay_net_may_say_whom_the_kernel_believes_and_change_nothing_else_of_it(booted):
    unit = booted.sh("cat /etc/systemd/system/relay-net.service")
    wanted = re.findall(
        r"^((?:DynamicUser|AmbientCap|CapabilityB|Protect|ReadWrite|Private|NoNew)\w*=.*)$", unit, re.MULTILINE
    )
    properties = [word for line in wanted for word in ("-p", line)]
    script = (
        "cd /proc/sys; echo 1 > net/ipv6/conf/lo/accept_ra && echo 0 > net/ipv6/conf/lo/accept_ra && "
        "echo 0 > net/ipv4/conf/lo/accept_redirects && ! echo 1 > kernel/panic"
    )
    booted.run("systemd-run", "--pipe", "--wait", "--quiet", *properties, "sh", "-c", script)


def test_addresses_are_random_at_each_start(booted):
    first = booted.sh("cat /sys/class/net/eth0/address").strip()
    assert int(first[:2], 16) & 2, "a locally administered address"
    assert booted.sh("cat /etc/machine-id").strip() not in ("", "uninitialized")


def test_the_status_page_answers_on_the_cable(booted, cable):
    """The relay serves the segment, since nobody else does: it has an address there, and answers at it."""
    address = wait_address(booted)
    own = ".".join([*address.split(".")[:3], "200"])
    ip("address", "add", f"{own}/24", "dev", cable.name)
    answer = urllib.request.urlopen(f"http://{address}:9470/metrics", timeout=20).read()
    assert b"relay_build_info" in answer


def wait_address(appliance):
    """The relay's IPv4 address on the cable."""
    return wait_until(
        lambda: appliance.sh("networkctl --no-pager status eth0; ip address; systemctl status 'relay-*'"),
        lambda: re.search(r"inet ([0-9.]+)/", appliance.sh("ip -4 address show dev eth0 scope global")),
        60,
        pause_s=1,
    )[1]


def test_what_a_store_in_memory_holds_survives_the_death_of_the_relay(booted):
    """What protocol section 6.4 promises of a volatile store, whose folder is the service's own."""
    booted.sh("touch /var/cache/mesh-relay/kept && systemctl kill --signal=KILL mesh-relay.service")

    def is_back():
        found = booted.show("mesh-relay.service", "NRestarts", "ActiveState")
        return int(found["NRestarts"]) > 0 and found["ActiveState"] == "active"

    wait_until(lambda: booted.journal("mesh-relay.service"), is_back, 60, pause_s=1)
    booted.sh("test -e /var/cache/mesh-relay/kept && rm /var/cache/mesh-relay/kept")
    assert json.loads(booted.run("relay", "status", "--json").stdout)["store"]["writable"]
