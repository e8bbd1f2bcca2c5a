"""Panel: findings of audits, which visitors keep, drop or confirm (see audit.js), and the addresses behind it."""

import asyncio
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from recondite.audits.decided import DecidedAudit, Decision, check_audits
from recondite.errors import InputError
from recondite.service.errors import Unknown, Unusable
from recondite.service.page.frame import View, heading, html
from recondite.service.page.pictures import shown

_MOST_AT_ONCE, _MOST_DECIDED = 120, 10_000
_CACHED = {"Cache-Control": "private, max-age=3600"}


class Decided(BaseModel):
    """What a visitor says of images."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = Field(min_length=1, max_length=_MOST_DECIDED)
    decision: Decision


class Audits:
    """The audits that a service shows, by the names of their folders; each is read when it is first asked for.

    Args:
        folders: as `recondite audit` left them.

    Raises:
        InputError: as `check_audits` says.
    """

    def __init__(self, folders: Sequence[Path | str]) -> None:
        self._folders = check_audits(folders)
        self._open: dict[str, DecidedAudit] = {}
        self._reading = asyncio.Lock()

    async def get(self, name: str) -> DecidedAudit:
        """Return an audit.

        Raises:
            Unknown: there is none of that name.
            InputError: its folder holds no finished audit.
        """
        if name not in self._folders:
            raise Unknown(f"there is no audit {name!r}")
        async with self._reading:
            if name not in self._open:
                self._open[name] = await asyncio.to_thread(DecidedAudit, self._folders[name])
        return self._open[name]


async def panel(view: View) -> None:
    """Build the panel."""
    heading(
        "Audit",
        "Say of what an audit found whether it stays. Nothing is deleted: recondite fit takes the list of what stays.",
    )
    keys = {"k": "keep", "d": "drop", "c": "as proposed", "u": "undo"}
    listed = ", ".join(f"<kbd>{key}</kbd> {what}" for key, what in keys.items())
    html(f'<p class="soft keys">Keys, for what is selected: {listed}</p>')
    names = escape("\n".join(Path(folder).resolve().name for folder in view.service.settings.audits))
    html(f'<audit-findings data-audits="{names}"></audit-findings>')
    view.panels["Audit"] = lambda: None


def add_audits(app: FastAPI, audits: Audits) -> None:
    """Add the addresses by which findings are read and decided on, and lists are taken."""

    @app.get("/page/audits/{audit}", include_in_schema=False)
    async def summary(audit: str) -> dict[str, Any]:
        found = await audits.get(audit)
        return {"kinds": found.kinds(), **found.counts()}

    @app.get("/page/audits/{audit}/findings", include_in_schema=False)
    async def findings(
        audit: str,
        kind: str,
        start: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=_MOST_AT_ONCE)] = _MOST_AT_ONCE,
    ) -> list[dict[str, Any]]:
        return (await audits.get(audit)).findings(kind, start, count)

    @app.get("/page/audits/{audit}/thumbnail", include_in_schema=False)
    async def thumbnail(audit: str, id: str) -> Response:  # noqa: A002
        return _jpeg((await audits.get(audit)).thumbnail(id))

    @app.get("/page/audits/{audit}/picture", include_in_schema=False)
    async def picture(audit: str, id: str) -> Response:  # noqa: A002
        found = await audits.get(audit)
        path = found.original(id)
        if path is None:
            return _jpeg(found.thumbnail(id))
        return await asyncio.to_thread(lambda: shown(path.read_bytes(), None))

    @app.post("/page/audits/{audit}/decisions", include_in_schema=False)
    async def decide(audit: str, said: Decided) -> dict[str, Any]:
        found = await audits.get(audit)
        try:
            await asyncio.to_thread(found.decide, said.ids, said.decision)
        except InputError as error:
            raise Unusable(str(error)) from error
        return {"kinds": found.kinds(), **found.counts(), "said": found.said(said.ids)}

    @app.get("/page/audits/{audit}/{which}.txt", include_in_schema=False)
    async def listed(audit: str, which: Literal["keep", "drop"]) -> Response:
        keep, drop = await asyncio.to_thread((await audits.get(audit)).lists)
        content = "".join(f"{line}\n" for line in (keep if which == "keep" else drop))
        headers = {"Content-Disposition": f'attachment; filename="{which}.txt"'}
        return Response(content.encode("utf-8", "surrogateescape"), headers=headers, media_type="text/plain")


def _jpeg(content: bytes) -> Response:
    if not content:
        raise Unknown("there is no picture of this image")
    return Response(content, media_type="image/jpeg", headers=_CACHED)
