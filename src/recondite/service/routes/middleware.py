"""ASGI middleware: request ids, access log, tokens, limits on time and body size."""

import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recondite.service.errors import Failed, ForeignOrigin, Refused, Unauthorised, Unavailable, UnknownHost
from recondite.service.log import LOG
from recondite.service.metrics import Counters
from recondite.service.routes.paths import Paths, of_page
from recondite.service.settings import Limits

COOKIE = "recondite"
FAILED = "the service failed; its log says why"
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/login"})
_ENVELOPE = 1 << 16
_STATUSES = frozenset(HTTPStatus)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Tokens:
    """The tokens that let a client in; none lets everybody in."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    @property
    def needed(self) -> bool:
        """Whether a client must show one."""
        return bool(self._digests)

    def allows(self, token: str) -> bool:
        """Compare with every token, in a time that tells nothing about them."""
        digest = _digest(token)
        return not self._digests or sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def cookie(self, token: str) -> str:
        """Return what a browser that showed this token keeps in its place."""
        return hmac.new(_digest(token), b"recondite page", hashlib.sha256).hexdigest()

    def allows_cookie(self, cookie: str) -> bool:
        """Tell whether `cookie` came from a valid token."""
        made = [hmac.new(digest, b"recondite page", hashlib.sha256).hexdigest().encode() for digest in self._digests]
        return sum(hmac.compare_digest(cookie.encode(), one) for one in made) > 0


class RequestGate:
    """Lets requests pass that may, gives each an id, and writes one line about each into the log.

    Whatever goes wrong behind it is answered in JSON, in the form of the protocol; there are no texts and no HTML.

    Args:
        app: what is behind it.
        tokens: asked for everywhere but on `OPEN_PATHS`.
        counters: of requests.
        limits: of bodies, and of requests at once; routes may have lower limits of their own.
        larger: path -> bytes, where a body may have more.
        hosts: names that requests may give for the service, in capitals or not; empty for all.
        paths: of the application, found out when the first request has been answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        counters: Counters,
        limits: Limits,
        larger: Mapping[str, int],
        hosts: Sequence[str],
        paths: Callable[[], Paths],
    ) -> None:
        self._app, self._tokens, self._counters, self._limits = app, tokens, counters, limits
        self._larger, self._hosts, self._paths, self._active = larger, frozenset(map(str.lower, hosts)), paths, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket" and self._refusal(scope) is not None:
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a socket on, unless its client has gone before it begins, which the page's library cannot bear."""
        first: Message | None = await receive()
        if first is None or first["type"] != "websocket.connect":
            return

        async def receiving() -> Message:
            nonlocal first
            message, first = first, None
            return await receive() if message is None else message

        await self._app(scope, receiving, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()
        scope.setdefault("state", {})["request_id"] = request_id
        status, received, replaced, left = 0, 0, False, False
        # A little over the limit of a file, which comes in an envelope from the page.
        most = self._larger.get(scope["path"], self._limits.body_bytes) + _ENVELOPE

        async def receiving() -> Message:
            nonlocal received, left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            received += len(message.get("body", b""))
            if received > most:
                # Frameworks behind this pass on exceptions of this kind only.
                raise HTTPException(413, "Too large")
            return message

        async def sending(message: Message) -> None:
            nonlocal status, replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                if refusal is None and status >= 400 and _is_foreign(message, scope["path"]):
                    replaced = True
                    await _instead_of(message, scope)(scope, receive, ending)
                    return
            await ending(message)

        async def ending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        self._active += 1
        refusal = self._refusal(scope)
        try:
            if refusal is None:
                await self._app(scope, receiving, sending)
            else:
                await self._refuse(refusal, scope, receive, sending)
        except ClientDisconnect:
            pass
        except Exception as error:
            if left and isinstance(error, KeyError) and of_page(scope["path"]):
                return  # the page's library asks for the method of a request whose client has gone
            LOG.error("failed", exc_info=error)
            if not status:
                await problem(Failed(FAILED), scope)(scope, receive, sending)
        finally:
            self._active -= 1
            self._note(scope, request_id, status or 499, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> Refused | None:
        raw = dict(scope["headers"])
        host, origin = raw.get(b"host"), raw.get(b"origin")
        if self._hosts and host is not None and _name_of(host) not in self._hosts:
            return UnknownHost("this is not a name of this service: give --allow-host NAME, or a --token, to serve it")
        # A page of another site may make a browser send requests here; it cannot hide where they come from.
        if origin is not None and _place_of(origin) != host:
            return ForeignOrigin("requests from the pages of other sites are not accepted")
        if scope["path"] in OPEN_PATHS:
            return None
        if self._active > self._limits.connections:
            return Unavailable(f"{self._limits.connections} requests are being served; that is the limit", 1)
        if not self._tokens.needed:
            return None
        headers = Headers(scope=scope)
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._tokens.allows(token.strip()):
            return None
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        if self._tokens.allows_cookie(cookie):
            return None
        return Unauthorised("expected a valid token: Authorization: Bearer TOKEN")

    async def _refuse(self, refusal: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        if refusal.status == 401 and "text/html" in Headers(scope=scope).get("accept", ""):
            from starlette.responses import RedirectResponse

            wanted = scope["query_string"].decode("latin-1") if scope["path"] == "/" else ""
            await RedirectResponse(f"/login?{wanted}" if wanted else "/login", 303)(scope, receive, send)
        else:
            await problem(refusal, scope)(scope, receive, send)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        # Clients must not be able to make labels.
        method, route = self._paths().label(scope)
        self._counters.requests.labels(method, route, status).inc()
        self._counters.latency.labels(route).observe(seconds)
        LOG.info(
            "request",
            extra={
                "facts": {
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round(1000 * seconds, 2),
                    **scope.get("state", {}).get("facts", {}),
                }
            },
        )


def problem(refusal: Refused, scope: Scope) -> JSONResponse:
    """Return a refusal as a response, in the form that its protocol has."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(max(1, round(refusal.retry_after)))}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    request_id = scope.get("state", {}).get("request_id", "")
    body: object = {"error": {"code": refusal.code, "message": str(refusal), "request_id": request_id}}
    if scope["path"].startswith("/v2"):
        body = {"error": str(refusal)}
    return JSONResponse(body, refusal.status, headers)


def _instead_of(message: Message, scope: Scope) -> JSONResponse:
    """Return the refusal that stands for an error that the page's library, or the framework, has answered."""
    status, allowed = message["status"], dict(message.get("headers", [])).get(b"allow")
    words = HTTPStatus(status).phrase if status in _STATUSES else "Refused"
    response = problem(Failed(FAILED) if status >= 500 else refusal_of(status, words), scope)
    if allowed is not None:
        response.headers["Allow"] = allowed.decode("latin-1")
    return response


def refusal_of(status: int, words: str) -> Refused:
    """Return the refusal with a status of HTTP and its words."""
    refusal = Refused(words)
    refusal.status, refusal.code = status, words.lower().replace(" ", "_")
    return refusal


def _is_foreign(message: Message, path: str) -> bool:
    """Return whether an error was answered by the page's library or the framework, in a form of their own."""
    kind = dict(message.get("headers", [])).get(b"content-type", b"text/plain")
    return of_page(path) or (kind.startswith(b"text/") and path != "/login")


def _place_of(origin: bytes) -> bytes | None:
    """Return the host and port of an origin; None where it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name_of(host: bytes) -> str | None:
    """Return the name in a Host header, without its port; None where it is none."""
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname
    except ValueError:
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
