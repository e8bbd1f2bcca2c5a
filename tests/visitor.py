"""A visitor of the page in a real browser, with every address but its own blocked."""

import os
import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A slow machine may take long; nothing here waits longer than it must.
WAIT = 120_000


class Visitor:
    def __init__(self, browser, url, **context):
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.blocked, self.errors = [], []
        self.url = url
        self.page.route("**/*", self.route)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)

    def route(self, route):
        if route.request.url.startswith((self.url, "data:", "blob:")):
            route.continue_()
        else:
            self.blocked.append(route.request.url)
            route.abort()

    def open(self, panel):
        self.page.get_by_role("tab", name=panel).click()
        self.see(panel if panel != "Judge" else "Judge images", role="heading")

    def see(self, text, role=None):
        found = self.page.get_by_role(role, name=text) if role else self.page.get_by_text(text)
        found.locator("visible=true").first.wait_for()

    def shoot(self, name):
        folder = os.environ.get("RECONDITE_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    def check(self, name):
        self.page.wait_for_function("!document.querySelector('.q-notification')")
        self.shoot(name)
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        bad = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert not bad, f"{name}: {bad}"

    def close(self):
        self.context.close()
        assert not self.blocked, "the page must not load anything from elsewhere"
        assert not self.errors
