"""The web page: overview, judge, review, threshold, monitor, perturb, latent space, and screens made in the browser."""

import warnings
from contextlib import suppress
from html import escape
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from recondite.errors import InputError
from recondite.progress import counted
from recondite.reports.words import p_text
from recondite.screen.promise import nothing, promise
from recondite.service.routes.logins import FailedLogins
from recondite.service.routes.middleware import COOKIE, Tokens
from recondite.service.routes.state import Service
from recondite.service.settings import Settings

if TYPE_CHECKING:
    from recondite.service.page.frame import View
    from recondite.service.page.pictures import Uploads

_EVERY = 2.0
_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Recondite: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body class="login">
<main><form method="post"><h1>Recondite</h1><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<p role="alert">{said}</p><button>Sign in</button></form></main></body></html>"""


def add_page(app: FastAPI, settings: Settings) -> None:
    """Add the page at / and the sign-in at /login to an application; it loads nothing from elsewhere."""
    from nicegui import ui

    from recondite.service.page.audits import Audits, add_audits
    from recondite.service.page.drafts import add_drafts
    from recondite.service.page.frame import stylesheet
    from recondite.service.page.pictures import Uploads, add_pictures

    tokens, style, failed, uploads = Tokens(settings.tokens), stylesheet(), FailedLogins(), Uploads()
    add_pictures(app, uploads)
    if settings.new_screens:
        add_drafts(app, uploads)
    if settings.audits:
        add_audits(app, Audits(settings.audits))

    @app.head("/", include_in_schema=False)
    async def there() -> HTMLResponse:
        return HTMLResponse()

    @app.get("/login", include_in_schema=False)
    async def sign_in() -> HTMLResponse:
        return HTMLResponse(_LOGIN.format(style=style, said=""))

    @app.post("/login", include_in_schema=False)
    async def signed_in(request: Request, token: Annotated[str, Form()] = "") -> Response:
        address = request.client.host if request.client else ""
        wait = ceil(failed.wait(address))
        if wait:
            said = f"Too many tokens were not valid: try again in {wait} s."
            return HTMLResponse(_LOGIN.format(style=style, said=said), 429, {"Retry-After": str(wait)})
        right = tokens.allows(token)
        failed.note(address, right)
        if not right:
            return HTMLResponse(_LOGIN.format(style=style, said="That token is not valid."), 401)
        wanted = request.url.query  # what the visitor had asked for
        answer = RedirectResponse(f"/?{wanted}" if wanted else "/", 303)
        answer.set_cookie(COOKIE, tokens.cookie(token), httponly=True, samesite="strict", max_age=12 * 3600)
        return answer

    @ui.page("/", title="Recondite", language="en-GB", response_timeout=60, dark=None)
    async def page(screen: str = "", panel: str = "", alpha: str = "") -> None:
        service = app.state.service
        assert isinstance(service, Service)
        await _build(service, uploads, screen, panel, alpha)

    # Looking for its server, the toolkit asks every object in memory for its class, one of torch's among them.
    warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)
    # Seconds without a connection after which what a visitor had judged is forgotten, and his page begins anew. The
    # browser is asked for a sign of life in .8 of that time and may take .4 of it, long enough for a busy machine.
    ui.run_with(app, mount_path="/", title="Recondite", favicon="🔎", show_welcome_message=False, reconnect_timeout=30)


async def _build(service: Service, uploads: "Uploads", screen: str, panel: str, alpha: str) -> None:
    """Build the page for one visitor, as its address says: `screen`, `panel` and `alpha`, where they make sense."""
    from nicegui import ui

    from recondite.service.page import audits, judge, latent, monitor, overview, perturb, review, screens, threshold
    from recondite.service.page.frame import View, failed, html, script, stylesheet

    panels = {
        "Overview": overview.panel,
        "Judge": judge.panel,
        "Review": review.panel,
        "Threshold": threshold.panel,
        "Monitor": monitor.panel,
        "Perturb": perturb.panel,
        "Map": latent.panel,
    }
    names = service.shelf.names
    if service.drafts is not None:
        panels = {**panels, "Screens": screens.panel} if names else {"Screens": screens.panel}
    if service.settings.audits:
        panels["Audit"] = audits.panel
    ui.add_css(stylesheet())
    ui.add_head_html(f"<script>{script()}</script>")
    ui.colors(primary="#0b5cad", negative="#b42318", positive="#17663a")
    first = panel.capitalize() if panel.capitalize() in panels else next(iter(panels))
    view = View(service, uploads, screen if screen in names else next(iter(names), ""), first)
    if names:
        with suppress(ValueError, InputError):
            view.alphas[view.name] = view.served.at(float(alpha)).alpha

    with ui.element("header").classes("top w-full"), ui.element("div").classes("wrap bar"):
        html('<h1 class="brand">Recondite</h1>').classes(remove="w-full")

        shown = view.served if names else None

        @ui.refreshable
        def about() -> None:
            nonlocal shown
            shown = view.served
            html(_about(view)).classes("about", remove="w-full")

        def follow() -> None:
            """Say that another version has become the default, by which this page judges from now on."""
            now = view.served
            if shown is not None and (shown.name, shown.version) != (now.name, now.version):
                about.refresh()
                view.changed()
                ui.notify(f"Version {now.version} of {now.name} is served now.")

        if names:
            about()
            ui.timer(_EVERY, follow)

        def choose(event: Any) -> None:
            view.name = event.value
            view.remember()
            ui.run_javascript("remembered({event: null})")
            about.refresh()
            view.changed()

        if len(names) > 1:
            select = ui.select(names, value=view.name, label="Screen", on_change=choose)
            select.props("dense outlined options-dense").classes("screens")
    if screen and screen not in names:
        failed(f"There is no screen {screen}" + (f"; this is {view.name}." if names else "."))
    with ui.element("div").classes("w-full"):

        def look(event: Any) -> None:
            if event.value == view.tab:
                return  # while the page is built
            view.tab = event.value
            view.remember()
            view.changed()

        with ui.tabs(on_change=look).classes("wrap tabs") as tabs:
            tabs.props('align="left" no-caps dense outside-arrows mobile-arrows')
            for name in panels:
                ui.tab(name)

        def turn_to(name: str) -> None:
            tabs.set_value(name)

        view.turn_to = turn_to
        with ui.tab_panels(tabs, value=first, animated=False).classes("wrap panels").props("keep-alive"):
            for name, build in panels.items():
                with ui.tab_panel(name).style("padding: 0"):
                    await build(view)
    view.changed()


def _about(view: "View") -> str:
    """Say which screen this is and what it promises, as HTML."""
    served, sizes = view.served, view.served.screen.calibrator.sizes
    screen = served.at(view.alpha)
    low, high = (f"{100 * rate:.2g}" for rate in screen.false_alarm_interval)
    count = min(sizes.values())
    groups = f", the smallest of {counted(len(sizes), 'group')}" if len(sizes) > 1 else ""
    alpha = p_text(screen.alpha) + (" on this page" if view.alpha is not None else "")
    facts = {"screen": served.name, "version": served.version, "alpha": alpha}
    listed = " ".join(f"<span>{name} <b>{escape(value)}</b></span>" for name, value in facts.items())
    rate = "nothing is promised" if nothing(screen) else f"true rate {low} to {high} %"
    return f'{listed} <span title="{escape(promise(screen))}">calibrated on {count:,}{groups}: {rate}</span>'
