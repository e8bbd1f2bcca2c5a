"""The paths that there are, so that no others come to the page's library, to metrics or to the framework's answers."""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Route
from starlette.types import Scope

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OF_PAGE = ("/_nicegui/", "/_nicegui_ws/")


class Paths:
    """The paths of an application.

    Args:
        routes: of the application; those that were taken over from routers too.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = list(_flat(routes))
        self.patterns = frozenset(route.path for route in self._routes)
        """As routes have them, such as /v1/events/{event}."""

    def methods(self, path: str) -> list[str]:
        """Return the methods that a path takes; none where there is no such path."""
        found = {method for route in self._routes if route.path_regex.match(path) for method in route.methods or ()}
        return sorted(found)

    def label(self, scope: Scope) -> tuple[str, str]:
        """Return (method, route) of a request as metrics call it: one of a few, whatever visitors send."""
        method = scope["method"] if scope["method"] in METHODS else "other"
        pattern = getattr(scope.get("route"), "path", "")
        if pattern in self.patterns:
            return method, pattern
        return ("GET" if method == "GET" else "other", "page") if of_page(scope["path"]) else ("other", "other")


def of_page(path: str) -> bool:
    """Return whether a path is that of the page for people, or of what it loads."""
    return path in ("/", "/favicon.ico") or path.startswith(_OF_PAGE)


def _flat(routes: Iterable[BaseRoute]) -> Iterable[Route]:
    for route in routes:
        router = getattr(route, "original_router", None)  # how newer versions of the framework take over a router
        if router is not None:
            yield from _flat(router.routes)
        elif isinstance(route, Route):
            yield route
