"""Query parameters that a route does not know, or that are there twice, are refused: a typing error must not pass."""

from collections import Counter

from fastapi import Request
from pydantic import BaseModel

from recondite.errors import InputError

_HEALTH = ("/healthz", "/readyz", "/metrics", "/v2/health/")


def strict_query(request: Request) -> None:
    """Check the query of a request; that of a health check or of metrics, where proxies add their own, may be any.

    Raises:
        InputError: a parameter is there twice, or the route takes no such one.
    """
    if request.url.path.startswith(_HEALTH):
        return
    counts = Counter(name for name, _ in request.query_params.multi_items())
    doubled = [name for name, count in counts.items() if count > 1]
    if doubled:
        raise InputError(f"expected each parameter once; got {doubled[0][:50]!r} {counts[doubled[0]]} times")
    fields = request.scope["route"].dependant.query_params
    # A model refuses by itself what it does not know.
    if not any(_is_model(field.field_info.annotation) for field in fields):
        unknown = [name for name in counts if name not in {field.alias for field in fields}]
        if unknown:
            raise InputError(f"this address takes no parameter {unknown[0][:50]!r}")


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
