"""The web page: judge, review, threshold, monitor, perturb, latent space."""

from math import ceil
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from recondite.service.routes.logins import FailedLogins
from recondite.service.routes.middleware import COOKIE, Tokens
from recondite.service.routes.state import Service
from recondite.service.settings import Settings

_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Recondite: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body class="login">
<main><form method="post" action="/login"><h1>Recondite</h1><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<p role="alert">{said}</p><button>Sign in</button></form></main></body></html>"""


def add_page(app: FastAPI, settings: Settings) -> None:
    """Add the page at / and the sign-in at /login to an application; it loads nothing from elsewhere."""
    from nicegui import ui

    from recondite.service.page.frame import stylesheet

    tokens, style, failed = Tokens(settings.tokens), stylesheet(), FailedLogins()

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
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, tokens.cookie(token), httponly=True, samesite="strict", max_age=12 * 3600)
        return answer

    @ui.page("/", title="Recondite", language="en-GB", response_timeout=60)
    async def page() -> None:
        service = app.state.service
        assert isinstance(service, Service)
        await _build(service)

    ui.run_with(app, mount_path="/", title="Recondite", favicon="🔎", show_welcome_message=False)


async def _build(service: Service) -> None:
    """Build the page for one visitor."""
    from nicegui import ui

    from recondite.service.page import judge, latent, monitor, perturb, review, threshold
    from recondite.service.page.frame import View, html, stylesheet

    ui.add_css(stylesheet())
    ui.colors(primary="#0b5cad", negative="#b42318", positive="#17663a")
    view = View(service, service.shelf.names[0])
    panels = (
        ("Judge", judge.panel),
        ("Review", review.panel),
        ("Threshold", threshold.panel),
        ("Monitor", monitor.panel),
        ("Perturb", perturb.panel),
        ("Map", latent.panel),
    )
    with (
        ui.element("header").classes("top w-full"),
        ui.row().classes("wrap items-center justify-between").style("padding-bottom: 4px"),
    ):
        html('<h1 class="brand">Recondite</h1>').classes(remove="w-full")
        names = service.shelf.names

        def choose(event: Any) -> None:
            view.name, view.alpha, view.seen = event.value, None, []
            view.changed()

        if len(names) > 1:
            ui.select(names, value=view.name, label="Screen", on_change=choose).props("dense outlined").classes("w-48")
        else:
            ui.label(f"screen {names[0]}").classes("soft")
    with ui.element("div").classes("w-full"):

        def look(event: Any) -> None:
            view.tab = event.value
            view.changed()

        with ui.tabs(on_change=look).classes("wrap").props('align="left" no-caps') as tabs:
            for name, _ in panels:
                ui.tab(name)
        with (
            ui.tab_panels(tabs, value="Judge", animated=False)
            .classes("wrap")
            .props("keep-alive")
            .style("background: transparent")
        ):
            for name, panel in panels:
                with ui.tab_panel(name).style("padding: 0"):
                    await panel(view)
