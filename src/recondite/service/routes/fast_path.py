"""Fast paths for requests for verdicts, around the framework's routing."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from recondite.errors import ReconditeError

O = TypeVar("O", bound=BaseModel)  # noqa: E741
_NAME = "([A-Za-z0-9._-]{1,64})"


@dataclass(frozen=True)
class _Route:
    """What the log and the metrics know a request by."""

    path: str


class Shortcut:
    """Requests that need no routing.

    Args:
        before: what comes before the name of a screen in their path.
        after: what comes after it, or after its version.
        read: the options of a request, from its query; None where the query is not well formed.
        answer: answers a request for (name, version, options).
    """

    def __init__(
        self,
        before: str,
        after: str,
        read: Callable[[bytes], Any],
        answer: Callable[[Request, str, str | None, Any], Awaitable[Response]],
    ) -> None:
        self.path = re.compile(f"{before}/{_NAME}/(?:versions/{_NAME}/)?{after}")
        self.routes = (_Route(f"{before}/{{name}}/{after}"), _Route(f"{before}/{{name}}/versions/{{version}}/{after}"))
        self.read, self.answer = read, answer


class FastPath:
    """Answers requests for verdicts itself, and leaves all others, and those that are not well formed, to `app`.

    The framework's routes to the same functions stay: they document the requests, and say what is wrong with one. Most
    of its time goes into finding out again and again what the options are.

    Args:
        app: answers all other requests.
        shortcuts: those that are answered here.
        refuse: answers in place of an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        shortcuts: Sequence[Shortcut],
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app, self.shortcuts, self._refuse = app, shortcuts, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            for one in self.shortcuts:
                found = one.path.fullmatch(scope["path"])
                options = one.read(scope["query_string"]) if found else None
                if found is not None and options is not None:
                    name, version = found.groups()
                    scope["route"] = one.routes[version is not None]
                    request = Request(scope, receive)
                    try:
                        response = await one.answer(request, name, version, options)
                    except (ReconditeError, HTTPException) as error:
                        response = await self._refuse(request, error)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def reader_of(options: type[O]) -> Callable[[bytes], O | None]:
    """Return what reads the options of a request from its query."""

    @lru_cache(maxsize=256)
    def read(query: bytes) -> O | None:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        try:
            return options.model_validate(dict(pairs)) if len(dict(pairs)) == len(pairs) else None
        except ValidationError:
            return None

    return read


def no_options(query: bytes) -> tuple[()] | None:
    """Return that there are no options; None where there is a query."""
    return None if query else ()
