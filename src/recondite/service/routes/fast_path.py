"""Fast path for predict requests, around the framework's routing."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from recondite.errors import ReconditeError

O = TypeVar("O", bound=BaseModel)  # noqa: E741
_PATH = re.compile(r"/v1/screens/([A-Za-z0-9._-]{1,64})/(?:versions/([A-Za-z0-9._-]{1,64})/)?predict")
_PATTERNS = ("/v1/screens/{name}/predict", "/v1/screens/{name}/versions/{version}/predict")


@dataclass(frozen=True)
class _Route:
    """What the log and the metrics know a request by."""

    path: str


_ROUTES = tuple(_Route(path) for path in _PATTERNS)


class FastPath(Generic[O]):
    """Answers requests for verdicts itself, and leaves all others, and those that are not well formed, to `app`.

    The framework's route to the same function stays: it documents the request, and says what is wrong with one. Most
    of its time goes into finding out again and again what the options are.

    Args:
        app: answers all other requests.
        options: of a request, from its query.
        predict: answers a request for (name, version, options).
        refuse: answers in place of an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        options: type[O],
        predict: Callable[[Request, str, str | None, O], Awaitable[Response]],
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app, self._predict, self._refuse = app, predict, refuse

        @lru_cache(maxsize=256)
        def read(query: bytes) -> O | None:
            pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
            try:
                return options.model_validate(dict(pairs)) if len(dict(pairs)) == len(pairs) else None
            except ValidationError:
                return None

        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        options = self._read(scope["query_string"]) if found else None
        if found is None or options is None:
            await self._app(scope, receive, send)
            return
        name, version = found.groups()
        scope["route"] = _ROUTES[version is not None]
        request = Request(scope, receive)
        try:
            response = await self._predict(request, name, version, options)
        except (ReconditeError, HTTPException) as error:
            response = await self._refuse(request, error)
        await response(scope, receive, send)
