# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.pages.picture`: the picture of the operator's page in README.md (docs/pictures/page.png)."""

from pathlib import Path

from playwright.sync_api import sync_playwright

from relay.control.status import LinkState, LinkStatus
from tests.pages.serving import served, well

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "page.png"
SIZE = {"width": 1000, "height": 640}


def main():
    """Draw it."""
    PICTURE.parent.mkdir(exist_ok=True)
    engine = well()
    engine.changes["relays"] = 3
    engine.changes["links"] += [
        LinkStatus(kind="tcp", interface="wifi0", state=LinkState.UP, clients=23),
        LinkStatus(kind="tcp", interface="wifi1", state=LinkState.UP, relays=2),
        LinkStatus(kind="ble", interface="hci0", state=LinkState.UP, relays=1, clients=6),
    ]
    with served(engine) as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, locale="en", color_scheme="light")
        page.goto(f"{url}/")
        page.screenshot(path=PICTURE)
        browser.close()
    print(PICTURE)


if __name__ == "__main__":
    main()
