"""A small client of the service."""

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from recondite.errors import ReconditeError
from recondite.service.schemas import Answer, EventOut, Events, ScreenOut

_TRY_AGAIN = (429, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 0.1, 5.0, 60.0


class ServiceError(ReconditeError):
    """The service refused a request, or could not be reached.

    Args:
        message: what it said.
        status: of HTTP; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks a service for verdicts; waits and tries again where the service is busy or has just gone.

    A request whose connection broke may have been answered already: asked again, it is recorded a second time.

    Args:
        url: of the service, such as http://127.0.0.1:8080.
        token: where it asks for one.
        seconds: until an answer.
        tries: of each request that the service is too busy for, or that was lost on the way.
        transport: of httpx, for tests.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        seconds: float = 60.0,
        tries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=seconds, transport=transport)
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def screens(self) -> list[ScreenOut]:
        """Return what is served.

        Raises:
            ServiceError: the service refused, or could not be reached.
        """
        return [ScreenOut(**one) for one in self._ask("GET", "/v1/screens").json()]

    def predict(
        self,
        screen: str,
        images: Mapping[str, bytes] | Sequence[bytes | Path],
        *,
        version: str | None = None,
        alpha: float | None = None,
        group: str = "",
        heat_map: bool = False,
        reconstruction: bool = False,
        explain: bool = False,
        keep: bool | None = None,
        labels: Sequence[str] | None = None,
        confidence: Sequence[float] | None = None,
    ) -> Answer:
        """Return verdicts on images, in their order.

        Args:
            screen: its name.
            images: name -> the bytes of an image file; or such bytes, or paths of files, which are read here.
            version: of the screen; its default by default.
            alpha: the false-alarm rate; that of the screen by default.
            group: of the calibration, where the screen has groups.
            heat_map, reconstruction, explain: what to return beside the verdicts.
            keep: keep the images on the service; None for its own rule.
            labels: what a classifier of yours says about each; the guard's decisions come with the verdicts.
            confidence: its largest softmax probability of each.

        Raises:
            ServiceError: the service refused, or could not be reached.
        """
        named = images if isinstance(images, Mapping) else dict(_named(images))
        sent: list[dict[str, Any]] = [
            {"id": name, "data": base64.b64encode(content).decode()} for name, content in named.items()
        ]
        for name, given in (("label", labels), ("confidence", confidence)):
            if given is not None:
                sent = [{**one, name: value} for one, value in zip(sent, given, strict=True)]
        path = f"/v1/screens/{screen}" + ("" if version is None else f"/versions/{version}") + "/predict"
        asked: dict[str, Any] = {"heat_map": heat_map, "reconstruction": reconstruction, "explain": explain}
        optional = {"alpha": alpha, "group": group or None, "keep": keep}
        asked |= {name: value for name, value in optional.items() if value is not None}
        return Answer(**self._ask("POST", path, params=asked, json={"images": sent}).json())

    def events(self, **chosen: Any) -> Iterator[EventOut]:
        """Yield events, newest first.

        Args:
            chosen: screen, verdict, label, before, after, as in the service's documentation.

        Raises:
            ServiceError: the service refused, or could not be reached.
        """
        while True:
            page = Events(**self._ask("GET", "/v1/events", params=chosen).json())
            yield from page.events
            if page.before is None:
                return
            chosen["before"] = page.before

    def label(self, event: str, label: str, note: str = "") -> EventOut:
        """Say what the image of an event really is: inlier, outlier or skip.

        Raises:
            ServiceError: the service refused, or could not be reached.
        """
        return EventOut(**self._ask("POST", f"/v1/events/{event}/labels", json={"label": label, "note": note}).json())

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        wait = _FIRST_WAIT
        for left in reversed(range(self._tries)):
            try:
                response = self._http.request(method, path, **request)
            except httpx.HTTPError as error:
                if not left or not isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
                    raise ServiceError(f"{self._http.base_url}: {error or type(error).__name__}") from error
                time.sleep(wait)
            else:
                if not left or not _is_passing(response):
                    break
                time.sleep(_asked_to_wait(response, wait))
            wait = min(2 * wait, _LONGEST_WAIT)
        if response.is_success:
            return response
        raise ServiceError(f"{response.status_code}: {_message(response)}", response.status_code)


def _is_passing(response: httpx.Response) -> bool:
    """Return whether another try may do: the service is busy, or a proxy has lost the replica that it had asked.

    Ray Serve then answers 500 in plain text; an error of the service's own is in JSON and stays.
    """
    lost = response.status_code == 500 and "json" not in response.headers.get("Content-Type", "")
    return lost or response.status_code in _TRY_AGAIN


def _asked_to_wait(response: httpx.Response, otherwise: float) -> float:
    """Return the seconds that an answer asks to wait, a minute at most; proxies may name a date instead."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_ASKED) if asked.isascii() and asked.isdecimal() else otherwise


def _named(images: Sequence[bytes | Path]) -> Iterator[tuple[str, bytes]]:
    for place, image in enumerate(images):
        yield (f"{place}", image) if isinstance(image, bytes) else (f"{place} {image.name}", image.read_bytes())


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
