# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page in a real browser: phone and desktop, four languages, light and dark, with and without scripts.

The screenshots are in build/pages, to be looked at.
"""

import contextlib
import itertools
import socket
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from relay.control.status import ClockStatus, ComponentStatus
from relay.pages.language import LANGUAGES
from relay.pages.render import REFRESH_S
from relay.process.shelf import Entry, write_list
from tests.pages.serving import TOKEN, crowded, served, well, with_link_down, with_links_down

pytestmark = [pytest.mark.pages, pytest.mark.timeout(300)]

SHOTS = Path(__file__).parents[2] / "build" / "pages"
#: For what has to come, also beside other work.
PATIENCE_MS = 60_000
SIZES = {"phone": {"width": 360, "height": 740}, "desktop": {"width": 1280, "height": 900}}
#: Where the text of a page is smaller than this, in pixels.
SMALL = """least => [...document.querySelectorAll("body *")].filter(element =>
    [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
    && parseFloat(getComputedStyle(element).fontSize) < least
    && element.checkVisibility()).map(element => element.outerHTML.slice(0, 80))"""
#: Elements that reach beyond the page's edge.
WIDE = """() => document.documentElement.scrollWidth > innerWidth
    ? [...document.querySelectorAll("main *")].filter(element => element.getBoundingClientRect().right > innerWidth
        || element.getBoundingClientRect().left < 0).map(element => element.outerHTML.slice(0, 80)) : []"""

#: Has a page ask for whatever a page can ask for, and returns by which parts of its policy that was refused.
FOREIGN = """async ([origin, expected]) => {
    const refused = new Set();
    document.addEventListener("securitypolicyviolation", event => refused.add(event.effectiveDirective));
    const add = (tag, attributes) => {
        const element = Object.assign(document.createElement(tag), attributes);
        document.body.append(element);
        return element;
    };
    add("img", {src: origin});
    add("script", {src: origin});
    add("script", {textContent: "document.title = 1"});
    add("style", {textContent: "body { background: url(" + origin + ") }"});
    add("link", {rel: "stylesheet", href: origin});
    add("link", {rel: "prefetch", href: origin});
    add("iframe", {src: origin});
    add("object", {data: origin});
    add("video", {src: origin});
    add("p", {}).setAttribute("style", "color: red");
    add("p", {}).setAttribute("onclick", "document.title = 1");
    new FontFace("x", "url(" + origin + ")").load().catch(() => 0);
    await Promise.allSettled([fetch(origin), fetch(origin, {mode: "no-cors"})]);
    navigator.sendBeacon(origin, "x");
    try { new WebSocket(origin.replace("http", "ws")); } catch {}
    try { new EventSource(origin); } catch {}
    add("form", {action: origin, method: "post"}).submit();
    for (let turn = 0; turn < 100 && !expected.every(one => refused.has(one)); turn++)
        await new Promise(resolve => setTimeout(resolve, 100));
    return [...refused];
}"""
#: Of the parts of a policy, those.
REFUSED = [
    *("connect-src", "font-src", "form-action", "frame-src", "img-src", "media-src", "object-src"),
    *("script-src-attr", "script-src-elem", "style-src-attr", "style-src-elem"),
]


@pytest.fixture(scope="module")
def browser():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # It sees our pages alone, and root has no sandbox.
        opened = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield opened
        opened.close()


class Place:
    """A page that somebody looks at, before and after something goes wrong: ``(url, mend, spoil)``."""

    def __init__(self, url, mend=lambda: None, spoil=None):
        self.url, self.mend, self.spoil = url, mend, spoil


@pytest.fixture(scope="module")
def relays(tmp_path_factory):
    works = tmp_path_factory.mktemp("portal") / "works"
    listing = works.with_name("list.json")
    names = ("Chat app-1.2.apk", "map.pdf", "a" * 100)
    write_list(
        [Entry(name=name, size=1 << 22, sha256="" if name == "map.pdf" else "5a" * 32) for name in names], listing
    )
    one, twenty = well(), crowded()
    both = {engine: dict(engine.changes) for engine in (one, twenty)}

    def mend():
        works.write_text("yes\n")
        for engine, changes in both.items():
            engine.changes = dict(changes)

    mend()
    with served(one, twenty, works=works, listing=listing) as (of_one, of_twenty, portal):
        yield {
            "one": Place(f"{of_one}/", mend, lambda: with_link_down(one)),
            "twenty": Place(f"{of_twenty}/", mend, lambda: with_links_down(twenty)),
            "about": Place(f"{of_one}/about", mend, lambda: with_link_down(one)),
            "portal": Place(f"{portal}/", mend, lambda: works.write_text("trouble\n")),
            "shelf": Place(f"{portal}/shelf/", mend),
        }


class Visit:
    """A page as somebody sees it; notes what it asks for, and what the browser complains about."""

    def __init__(self, browser, url, *, has_clock=False, **settings):
        """``has_clock``: one that the test turns forward."""
        self.context = browser.new_context(**{"viewport": SIZES["desktop"], "locale": "en", **settings})
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.url = url
        if has_clock:
            self.page.clock.install()
        self.page.goto(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def text(self):
        """All that there is to be read, however it is laid out."""
        return self.page.locator("main").text_content().split()

    def judge(self):
        """What any page has to be, whatever is on it."""
        origin = self.url.split("/", 3)[:3]
        assert [url for url in self.asked if url.split("/", 3)[:3] != origin] == []
        # The portal has no icon, and a browser that misses one says so.
        assert [text for text in self.complaints if "404" not in text] == []
        assert self.page.evaluate(SMALL, 12) == []
        assert self.page.evaluate(WIDE) == []

    def judge_by_axe(self, *rules):
        """What the library finds that looks for hindrances: by ``rules``, or by all of them, which takes a second."""
        options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
        found = Axe().run(self.page, options=options).response["violations"]
        assert [(one["id"], one["impact"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []

    def shoot(self, name):
        """Keep a picture of all of it."""
        self.page.screenshot(path=SHOTS / f"{name}.jpg", full_page=True, type="jpeg", quality=70)

    def look(self, name, *, axe):
        """Have it on both sizes, light and dark; ``axe``: those of the two in which something may hinder somebody."""
        for size, viewport in SIZES.items():
            self.page.set_viewport_size(viewport)
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme=scheme)
                self.shoot(f"{name}-{size}-{scheme}")
                if scheme in axe:
                    # Of what the library looks at, colours alone are others in the dark.
                    self.judge_by_axe(*(["color-contrast"] if scheme == "dark" else []))
            self.judge()


#: Where the library looks: a second each, so not twice at what is the same to it. That depends on no language, but on
#: its direction, which has no colours of its own. Of twenty links, those that are up stand beside those that are not;
#: and the page for everybody is one, on the access point and beside the operator's.
JUDGED = {
    "en": {
        **dict.fromkeys(("one-before", "one-after", "twenty-after", "about-after"), ("light", "dark")),
        **dict.fromkeys(("portal-before", "portal-after", "shelf-before"), ("light", "dark")),
    },
    "ar": dict.fromkeys(("one-after", "twenty-after", "portal-after", "shelf-before"), ("light",)),
}


@pytest.mark.parametrize("language", LANGUAGES, ids=[language.code for language in LANGUAGES])
@pytest.mark.parametrize("name", ["one", "twenty", "about", "portal", "shelf"])
def test_it_can_be_read_by_everybody(browser, relays, name, language):
    """On phone and desktop, light and dark, with scripts and without, before and after something goes wrong.

    What does not need a page of its own is changed in one; and one without a script is the same without scripts.
    """
    place, of, axe = relays[name], f"{name}-{language.code}", JUDGED.get(language.code, {})
    place.mend()
    is_live = name in {"one", "twenty"}
    with contextlib.ExitStack() as stack:
        visit = stack.enter_context(Visit(browser, place.url, locale=language.code, has_clock=is_live))
        page, visits = visit.page, [visit]
        assert page.evaluate("document.scripts.length") == is_live
        if is_live:
            visits.append(
                plain := stack.enter_context(
                    Visit(browser, place.url, locale=language.code, java_script_enabled=False, viewport=SIZES["phone"])
                )
            )
            plain.shoot(f"{of}-no-scripts-before")
        before = visit.text()
        for one in visits:
            assert one.text() == before
            root = one.page.locator("html")
            assert root.get_attribute("lang") == language.code
            assert root.get_attribute("dir") == language.direction
        if name == "shelf":
            page.locator("summary").first.click()
        visit.look(f"{of}-before", axe=axe.get(f"{name}-before", ()))
        if place.spoil is None:
            return
        place.spoil()
        if is_live:
            page.clock.fast_forward((REFRESH_S + 1) * 1000)
            page.locator("#health.bad, #health.warn").wait_for(timeout=PATIENCE_MS)
            # "Read again", in whatever language.
            plain.page.locator("footer a").nth(1).click()
        else:
            page.reload()
        after = visit.text()
        assert after != before
        if is_live:
            # What the script made of it is what whoever comes now gets.
            assert plain.text() == after
            plain.shoot(f"{of}-no-scripts-after")
            plain.judge()
            for one in visits:
                assert one.page.locator("#around .state.bad svg").first.is_visible()
                assert one.page.locator("#links .bad").first.is_visible()
        visit.look(f"{of}-after", axe=axe.get(f"{name}-after", ()))


def test_who_reads_on_keeps_his_place_while_the_page_comes_up_to_date(browser):
    engine = well()
    with served(engine) as (url, _), Visit(browser, f"{url}/", locale="fr", has_clock=True) as visit:
        page = visit.page
        assert page.locator("#health.ok").is_visible()
        assert "eth0" in page.locator("#around").inner_text()
        assert page.locator("#remarks, #parts").count() == 0
        with_link_down(engine)
        # Of what comes and goes with what there is to say, some was not there.
        engine.clock = ClockStatus()
        engine.changes["components"] = [ComponentStatus(name="ble", connected=True, up=True)]
        page.locator("#clock-form [name=token]").fill("half a tok")
        page.clock.fast_forward((REFRESH_S + 1) * 1000)
        page.locator("#health.bad").wait_for(timeout=PATIENCE_MS)
        assert page.locator("#clock-form [name=token]").input_value() == "half a tok"
        assert "Personne ne peut joindre ce relais" in page.locator("#health").inner_text()
        assert "en panne" in page.locator("#links").inner_text()
        assert "quelle heure il est" in page.locator("#remarks").inner_text()
        assert page.locator("#health + #remarks, #links + #parts").count() == 2
        engine.set_clock(1_800_000_000)
        page.clock.fast_forward((REFRESH_S + 1) * 1000)
        page.locator("#remarks").wait_for(state="detached", timeout=PATIENCE_MS)
        visit.judge()


@pytest.mark.parametrize("name", ["one", "portal", "shelf"])
def test_the_policy_admits_nothing_from_elsewhere(browser, relays, name):
    """Somebody brings markup into a page: nothing that it names is asked for, and no form goes there."""
    relays[name].mend()
    with socket.create_server(("127.0.0.1", 0)) as foreign, Visit(browser, relays[name].url) as visit:
        url = f"http://127.0.0.1:{foreign.getsockname()[1]}/"
        assert set(REFUSED) <= set(visit.page.evaluate(FOREIGN, [url, REFUSED]))
        foreign.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                # The browser connects where a frame or form may lead before it asks the policy, and says nothing there.
                with contextlib.closing(foreign.accept()[0]) as connection:
                    connection.settimeout(1)
                    with contextlib.suppress(TimeoutError):
                        assert connection.recv(1) == b""
        assert visit.page.url == visit.url


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_the_clock_is_set_from_the_phone_in_hand(browser, scripts):
    engine = well()
    before = engine.clock
    settings = {"viewport": SIZES["phone"], "timezone_id": "Asia/Kathmandu", "java_script_enabled": scripts}
    with served(engine) as (url, _), Visit(browser, f"{url}/?lang=es", **settings) as visit:
        page = visit.page
        if scripts:
            # What the phone shows, in its zone, which is 5 hours 45 minutes from Greenwich.
            assert page.locator("[name=offset]").input_value() == "345"
            shown = page.evaluate(
                "new Date(document.querySelector('[name=time]').value + ':00+05:45').getTime() - Date.now()"
            )
            assert abs(shown) < 120_000
        page.locator("[name=time]").fill("2026-05-01T12:30")
        page.locator("[name=offset]").select_option("345")
        page.locator("[name=token]").fill("no token of ours")
        page.locator("#clock-form button").click()
        assert page.locator(".said.bad").is_visible()
        assert engine.clock == before
        page.locator("[name=time]").fill("2026-05-01T12:30")
        page.locator("[name=offset]").select_option("345")
        page.locator("[name=token]").fill(TOKEN)
        page.locator("#clock-form button").click()
        assert "La hora" not in page.locator(".said").inner_text()
        assert page.locator(".said.ok").is_visible()
        assert page.locator("html").get_attribute("lang") == "es"
        page.screenshot(path=SHOTS / f"clock-{scripts}.png", full_page=True)
    # 06:45 in Greenwich.
    assert engine.clock.hour == 1777617900 // 3600


def test_a_language_is_chosen_by_hand_and_stays(browser, relays):
    with Visit(browser, relays["one"].url, locale="fr") as visit:
        page = visit.page
        page.locator("nav a", has_text="العربية").click()
        assert page.locator("html").get_attribute("dir") == "rtl"
        page.locator("footer a").first.click()
        assert page.locator("html").get_attribute("lang") == "ar"
        page.locator(".brand").click()
        assert page.locator("html").get_attribute("lang") == "ar"
        assert visit.context.cookies() == []


def test_all_can_be_done_by_keyboard(browser, relays):
    with Visit(browser, relays["one"].url) as visit:
        page = visit.page
        seen = []
        for _ in itertools.repeat(None, 30):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
            focus = "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(focus) != "none", seen[-1]
        assert {"English", "time", "offset", "token", "Give the relay this time", "status.json"} <= set(seen)
