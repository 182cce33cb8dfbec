# SPDX-License-Identifier: GPL-2.0-or-later
import asyncio

from relay.control.status import ComponentStatus
from relay.net import reporting
from relay.net.reporting import Reporting
from relay.process.reports import Component, decode_report


def report(told):
    """What `relay run` is told now."""
    told.reporter.connected()
    return decode_report(Component.NET, told.reporter.line(0.0)[:-1])


def test_what_lasts_is_told_until_it_is_over(monkeypatch):
    monkeypatch.setattr(reporting, "GRACE_S", 0.02)

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
    silent = ComponentStatus(name="net", connected=True)
    assert silent.problems() == ["relay net does not work; see its log"]
    assert ComponentStatus(name="net", connected=True, troubles=["channel 13"]).problems() == ["channel 13"]
    for phones, problems in ((6, 0), (7, 1), (9, 1)):
        full = ComponentStatus(name="net", connected=True, up=True, gauges={"phones": phones, "phones_most": 7})
        assert len(full.problems()) == problems
    assert "the next one cannot join" in full.problems()[0]
