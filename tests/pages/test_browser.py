# SPDX-License-Identifier: GPL-2.0-or-later
"""Every page in a real browser: phone and desktop, four languages, light and dark, with and without scripts.

The screenshots are in build/pages, to be looked at.
"""

import itertools
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from relay.pages.language import LANGUAGES
from relay.pages.render import REFRESH_S
from relay.process.shelf import Entry, write_list
from tests.pages.serving import TOKEN, crowded, served, well, with_link_down

pytestmark = [pytest.mark.pages, pytest.mark.timeout(300)]

SHOTS = Path(__file__).parents[2] / "build" / "pages"
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


@pytest.fixture(scope="module")
def browser():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # It sees our pages alone, and root has no sandbox.
        opened = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def relays(tmp_path_factory):
    works = tmp_path_factory.mktemp("portal") / "works"
    works.write_text("yes\n")
    listing = works.with_name("list.json")
    names = ("Chat app-1.2.apk", "map.pdf", "a" * 100)
    write_list(
        [Entry(name=name, size=1 << 22, sha256="" if name == "map.pdf" else "5a" * 32) for name in names], listing
    )
    with served(well(), crowded(), works=works, listing=listing) as (one, twenty, portal):
        yield {
            "one": f"{one}/",
            "twenty": f"{twenty}/",
            "about": f"{twenty}/about",
            "portal": f"{portal}/",
            "shelf": f"{portal}/shelf/",
        }


class Visit:
    """A page as somebody sees it; notes what it asks for, and what the browser complains about."""

    def __init__(self, browser, url, **settings):
        self.context = browser.new_context(**{"viewport": SIZES["desktop"], "locale": "en", **settings})
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.url = url
        self.page.goto(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def judge(self, *, by_axe=True):
        """What any page has to be; ``by_axe``: also what the library finds that looks for hindrances, for seconds."""
        origin = self.url.split("/", 3)[:3]
        assert [url for url in self.asked if url.split("/", 3)[:3] != origin] == []
        # The portal has no icon, and a browser that misses one says so.
        assert [text for text in self.complaints if "404" not in text] == []
        assert self.page.evaluate(SMALL, 12) == []
        assert self.page.evaluate(WIDE) == []
        if not by_axe:
            return
        found = Axe().run(self.page).response["violations"]
        assert [(one["id"], one["impact"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []


#: What hinders somebody does not depend on the language, but on its direction; of each page one is light and one dark.
JUDGED = {("en", "phone"), ("ar", "desktop")}
#: Each page in each language on each size; light and dark in turn, so that each page, language and size meets both.
VISITS = [
    (page, language, size, "dark" if (number + turn) % 2 else "light")
    for number, page in enumerate(("one", "twenty", "about", "portal", "shelf"))
    for turn, (language, size) in enumerate(
        [(language, size) for language in LANGUAGES for size in SIZES]
        if number % 2
        else [(language, size) for size in SIZES for language in LANGUAGES]
    )
    # The portal shows the same page; and of the shelf's there is little that is not in the others.
    if page not in {"about", "shelf"} or language.code in {"en", "ar"}
]


@pytest.mark.parametrize(
    ("name", "language", "size", "scheme"),
    VISITS,
    ids=[f"{name}-{language.code}-{size}-{scheme}" for name, language, size, scheme in VISITS],
)
def test_it_can_be_read_by_everybody(browser, relays, name, language, size, scheme):
    settings = {"viewport": SIZES[size], "color_scheme": scheme, "locale": language.code}
    with Visit(browser, relays[name], **settings) as visit:
        root = visit.page.locator("html")
        assert root.get_attribute("lang") == language.code
        assert root.get_attribute("dir") == language.direction
        if name == "shelf":
            visit.page.locator("summary").first.click()
        visit.judge(by_axe=(language.code, size) in JUDGED)
        visit.page.screenshot(path=SHOTS / f"{name}-{language.code}-{size}-{scheme}.png", full_page=True)


def test_every_page_language_and_size_is_seen_light_and_dark():
    for part in range(3):
        seen = {(visit[part] if part != 1 else visit[1].code, visit[3]) for visit in VISITS}
        assert len(seen) == 2 * len({key for key, _ in seen})


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_a_link_that_goes_down_is_on_the_page(browser, scripts):
    engine = well()
    with served(engine) as (url, _), Visit(browser, f"{url}/", java_script_enabled=scripts, locale="fr") as visit:
        page = visit.page
        if scripts:
            page.clock.install()
            page.goto(f"{url}/")
        assert page.locator("#health.ok").is_visible()
        assert "eth0" in page.locator("#around").inner_text()
        page.screenshot(path=SHOTS / f"before-{scripts}.png", full_page=True)
        with_link_down(engine)
        if scripts:
            # Somebody reads on where he is, with a part of the page unfolded.
            page.locator("#clock-form [name=token]").fill("half a tok")
            page.clock.fast_forward((REFRESH_S + 1) * 1000)
            page.locator("#health.bad").wait_for(timeout=5000)
            assert page.locator("#clock-form [name=token]").input_value() == "half a tok"
            visit.judge()
        else:
            page.locator("footer a", has_text="Relire").click()
        assert page.locator("#health.bad").is_visible()
        assert "Personne ne peut joindre ce relais" in page.locator("#health").inner_text()
        assert page.locator("#around .state.bad svg").is_visible()
        assert "en panne" in page.locator("#links").inner_text()
        page.screenshot(path=SHOTS / f"after-{scripts}.png", full_page=True)


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
    with Visit(browser, relays["one"], locale="fr") as visit:
        page = visit.page
        page.locator("nav a", has_text="العربية").click()
        assert page.locator("html").get_attribute("dir") == "rtl"
        page.locator("footer a").first.click()
        assert page.locator("html").get_attribute("lang") == "ar"
        page.locator(".brand").click()
        assert page.locator("html").get_attribute("lang") == "ar"
        assert visit.context.cookies() == []


def test_all_can_be_done_by_keyboard(browser, relays):
    with Visit(browser, relays["one"]) as visit:
        page = visit.page
        seen = []
        for _ in itertools.repeat(None, 30):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
            focus = "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(focus) != "none", seen[-1]
        assert {"English", "time", "offset", "token", "Give the relay this time", "status.json"} <= set(seen)
