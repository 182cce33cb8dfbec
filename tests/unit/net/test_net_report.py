# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio
from pathlib import Path

from relay.config.net import NetConfig, RadioConfig
from relay.control.conditions import with_conditions
from relay.control.status import ComponentStatus, Status
from relay.net import net_report
from relay.net.bridge import Bridge
from relay.net.errors import NotThereError
from relay.net.machine import Machine
from relay.net.net_report import Reporting
from relay.net.radio import RadioTask
from relay.process.reports import Component, decode_report


def report(told):
    """What `relay run` is told now."""
    told.reporter.connected()
    return decode_report(Component.NET, told.reporter.line(0.0)[:-1])


def test_what_lasts_is_told_until_it_is_over(monkeypatch):
    monkeypatch.setattr(net_report, "GRACE_S", 0.02)

    async def main():
        told = Reporting()
        told.trouble("radio air", "no radio")
        told.trouble("access point", "channel 13")
        assert report(told).troubles == ()
        told.trouble("radio air")
        await asyncio.sleep(0.05)
        assert report(told).troubles == ("channel 13",)
        told.trouble("access point", "no radio at all")
        assert report(told).troubles == ("no radio at all",)
        told.trouble("access point")
        # What was over has the same patience again.
        told.trouble("access point", "channel 13")
        assert report(told).troubles == ()

    asyncio.run(main())


def test_a_mesh_that_does_not_come_up_and_a_bridge_without_a_port_are_told(monkeypatch):
    monkeypatch.setattr(net_report, "GRACE_S", 0.0)

    async def main():
        told = Reporting()
        config = NetConfig(bridge=("eth0", "eth1", "wlan0"), radios={"air": RadioConfig(interface="wlan0")})
        machine = Machine(config, links=None, radios=None, record=None, runtime=Path(), reporting=told)
        radio, bridge = RadioTask("air", config.radios["air"], machine), Bridge(machine)
        radio._complain(NotThereError("there is no radio wlan0: plug one in"))
        # Of a radio that is no port yet its own trouble is told.
        bridge._tell({"eth0"})
        await asyncio.sleep(0.01)
        port = "The LAN bridge lacks a port: there is no eth1: plug it in, or name another."
        assert report(told).troubles == ("Wi-Fi between relays is off: there is no radio wlan0: plug one in.", port)
        bridge._tell({"eth0", "eth1"})
        bridge._failed(OSError("an address"))
        await asyncio.sleep(0.01)
        assert report(told).troubles[1:] == ("The LAN bridge does not work: OSError.",)

    asyncio.run(main())


def test_an_access_point_is_up_full_and_lost():
    told = Reporting()
    told.access_point(up=False)
    assert not report(told).up
    for phones in (0, 6, 7, 8, 6, 7):
        told.access_point(up=True, phones=phones, most=7)
    found = report(told)
    assert found.up
    assert (found.gauges["phones"], found.gauges["phones_most"], found.gauges["access_points_up"]) == (7, 7, 1)
    assert (found.counters["access_point_up"], found.counters["access_point_full"]) == (1, 2)
    assert "with 7 phones" in told.summary
    told.access_point(up=False)
    found = report(told)
    assert (found.up, found.gauges["phones"], found.gauges["access_points_up"]) == (False, 0, 0)
    assert found.counters["access_point_lost"] == 1


def test_an_operator_reads_what_it_says_and_of_the_phone_too_many():
    def said(**values):
        row = ComponentStatus(name="net", connected=True, **values)
        return with_conditions(Status(version="1", ready=True, components=[row])).problems()

    [silent] = said()
    assert "relay net runs and cannot work" in silent
    assert said(troubles=["channel 13"]) == ["Wi-Fi, mesh or bridge do not work: channel 13"]
    for phones, problems in ((6, 0), (7, 1), (9, 1)):
        found = said(up=True, gauges={"phones": phones, "phones_most": 7})
        assert len(found) == problems
    assert "the next one cannot join" in found[0]
