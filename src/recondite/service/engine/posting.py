"""Messages posted as JSON to addresses of the operator's."""

import json
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

from recondite.data.addresses import without_secrets

_TIMEOUT = 10.0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows none: the usual way asks the other address without the message, and takes its answer for a success."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Redirects)


def post(url: str, message: Mapping[str, Any]) -> None:
    """Post a message, and return when the address has taken it.

    Raises:
        OSError: it cannot be reached, answers with an error or in another protocol, or redirects.
    """
    request = urllib.request.Request(url, json.dumps(message).encode(), {"Content-Type": "application/json"})
    try:
        with _OPENER.open(request, timeout=_TIMEOUT):
            pass
    except HTTPError as error:
        location = error.headers.get("Location")
        if location is None:
            raise
        where = without_secrets(location)
        raise OSError(f"a message cannot follow a redirect: start the service with where it leads, {where}") from error
    except HTTPException as error:
        raise OSError(f"no answer in HTTP came: {error!r}") from error
