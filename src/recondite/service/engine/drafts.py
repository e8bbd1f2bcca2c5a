"""Screens being made on the page: good images come in, another process fits, and the outcome can be tried out.

Each draft is a folder in `.drafts` of the collection, so that it survives a reload of the page and a restart of the
service; what is being fitted then is fitted anew when asked to.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recondite.data.artifacts import holds_manifest
from recondite.data.files import atomic_file
from recondite.data.formats import is_image_name, suffix_of
from recondite.data.masks import open_region
from recondite.errors import InputError
from recondite.screen.known_defects import FEWEST_DEFECTS, MOST_DEFECTS
from recondite.service.engine.decoding import Sent, measure, printable
from recondite.service.engine.fitting import DEFECTS, IMAGES, POLYGONS, RESULT, SCREEN, TASK
from recondite.service.engine.job_sources import MOST_IMAGES, JobSource
from recondite.service.engine.no_pictures import not_a_picture
from recondite.service.errors import Busy, TooLarge, Unknown
from recondite.service.log import LOG
from recondite.service.settings import Limits
from recondite.statistics.calibration import check_promise

ARCHIVES = "/page/drafts/archive"
"""Where archives of good images are sent, which may be larger than other bodies."""
State = Literal["collecting", "fitting", "fitted"]
Kind = Literal["images", "defects"]
"""Good images, or images of known defects; also the folders of them."""
_MOST: dict[Kind, int] = {IMAGES: MOST_IMAGES, DEFECTS: MOST_DEFECTS}
_FOLDER, _LOG, _ARCHIVE, _DISCARDED = ".drafts", "fit.log", "archive", ".discarded"
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_DRAFTS, _MOST_REFUSALS, _MOST_SHOWN = 4, 20, 60
_LONGEST_NAME = 80
_GONE = "this screen is not being made any more: it was published or discarded"
_NOT_UNDERSTOOD = "the fit said what is not understood; the log says what"
_PATIENCE = 10.0


@dataclass
class Draft:
    """A screen being made.

    Args:
        folder: of what it is made of.
        images, defects: file name -> bytes of good images and of known defects, in the order in which they came.
        size: bytes of all of them.
        state: collecting images, fitting, or fitted.
        refused: kind -> how many files were left out.
        refusals: kind -> the latest of them, and why.
        step, done, total: how far the fit is; the total may be unknown.
        began: seconds since 1970, when the fit began.
        coming: how many images, archives and places are being taken in.
        publishing: whether it is being published: it stays as it is meanwhile.
        error: why the fit failed, or that it was cancelled.
    """

    folder: Path
    images: dict[str, int] = field(default_factory=dict)
    defects: dict[str, int] = field(default_factory=dict)
    size: int = 0
    state: State = "collecting"
    refused: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(_MOST, 0))
    refusals: dict[Kind, list[str]] = field(default_factory=lambda: {kind: [] for kind in _MOST})
    step: str = ""
    done: int = 0
    total: int | None = None
    began: float = 0.0
    coming: int = 0
    publishing: bool = False
    error: str | None = None

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self.folder.name

    @property
    def screen(self) -> Path:
        """The folder of its screen, when it is fitted."""
        return self.folder / SCREEN

    @contextmanager
    def taking_in(self) -> Iterator[None]:
        """While images come, nothing is fitted: it would be fitted on some of them."""
        self.coming += 1
        try:
            yield
        finally:
            self.coming -= 1

    @property
    def fit(self) -> str | None:
        """Tells what was fitted last from what was before; None where nothing is fitted."""
        return str((self.folder / RESULT).stat().st_mtime_ns) if self.state == "fitted" else None

    def of(self, kind: Kind) -> dict[str, int]:
        """Return file name -> bytes of the images of a kind."""
        return self.images if kind == IMAGES else self.defects

    def next_number(self, kind: Kind) -> int:
        """Return the number of the next image of a kind."""
        return 1 + max((int(name.partition("-")[0]) for name in self.of(kind)), default=0)

    def image(self, name: str, kind: Kind = IMAGES) -> Path:
        """Return the file of an image.

        Raises:
            Unknown: there is none of this name.
        """
        if name not in self.of(kind):
            raise Unknown("there is no such image")
        return self.folder / kind / name

    def forget(self, name: str, kind: Kind) -> None:
        """Count an image no more."""
        self.size -= self.of(kind).pop(name, 0)

    def refuse(self, why: str, kind: Kind) -> None:
        """Take down that a file of a kind was left out."""
        self.refused[kind] += 1
        self.refusals[kind] = [*self.refusals[kind], why][-_MOST_REFUSALS:]

    def to_json(self) -> dict[str, Any]:
        """Return it as it stands, for the page."""
        polygons = self.folder / POLYGONS
        return {
            "id": self.id,
            "state": self.state,
            "count": len(self.images),
            "bytes": self.size,
            "next": {kind: self.next_number(kind) for kind in _MOST},
            "images": sorted(self.images)[:_MOST_SHOWN],
            "defects": sorted(self.defects),
            "refused": self.refused,
            "refusals": self.refusals,
            "polygons": json.loads(polygons.read_text(encoding="utf-8")) if polygons.exists() else None,
            "step": self.step,
            "done": self.done,
            "total": self.total,
            "seconds": time.time() - self.began if self.state == "fitting" else None,
            "error": self.error,
            "fit": self.fit,
            "result": self._result() if self.state == "fitted" else None,
        }

    def _result(self) -> Any:
        return json.loads((self.folder / RESULT).read_text(encoding="utf-8"))


class Drafts:
    """The drafts of a service; one is fitted at a time.

    Args:
        collection: where the screens go that they become.
        limits: of requests; each image is within them.
        most_bytes: of the images of a draft.
    """

    def __init__(self, collection: Path, limits: Limits, most_bytes: int) -> None:
        self._folder, self._limits, self._most_bytes = collection / _FOLDER, limits, most_bytes
        for path in self._folder.glob(f"*{_DISCARDED}"):
            shutil.rmtree(path, ignore_errors=True)
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        found = [path for path in folders if _ID.fullmatch(path.name)]
        self._drafts = {path.name: _read(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)}
        self._closing = False
        self._fits: dict[str, tuple[asyncio.subprocess.Process, asyncio.Task[None]]] = {}

    def all(self) -> list[Draft]:
        """Return all drafts, newest first."""
        return list(self._drafts.values())[::-1]

    def get(self, draft: str) -> Draft:
        """Return a draft.

        Raises:
            Unknown: there is none.
        """
        if draft not in self._drafts:
            raise Unknown(_GONE)
        return self._drafts[draft]

    def begin(self) -> Draft:
        """Begin a screen.

        Raises:
            Busy: too many are being made.
        """
        if len(self._drafts) >= _MOST_DRAFTS:
            raise Busy(f"{_MOST_DRAFTS} screens are being made: publish or discard one of them", 60)
        draft = Draft(self._folder / os.urandom(16).hex())
        for kind in _MOST:
            (draft.folder / kind).mkdir(parents=True)
        self._drafts[draft.id] = draft
        return draft

    async def add(
        self, draft: Draft, name: str, content: bytes, kind: Kind = IMAGES, number: int | None = None
    ) -> None:
        """Add an image of a kind; one that cannot be used is refused, and the draft says why.

        It is learnt from in the order of the numbers, which say where it stands among images that are sent together,
        whichever of them comes first; by default it is the next.

        Raises:
            Busy: the draft is being fitted.
            TooLarge: the images of the draft would be too many, or have too many bytes.
        """
        _check_collecting(draft)
        name = printable(name.replace("\\", "/").rpartition("/")[2]) or "image"
        # Reserved before the first await, so that images that come together are counted together.
        if draft.size + len(content) > self._most_bytes:
            raise TooLarge(f"expected images of at most {self._most_bytes:,} bytes in all")
        held = draft.of(kind)
        if len(held) >= _MOST[kind]:
            raise TooLarge(f"expected at most {_MOST[kind]:,} {'images' if kind == IMAGES else 'known defects'}")
        number = draft.next_number(kind) if number is None else number
        while (file := _file_name(number, name, content)) in held:
            number += 1
        held[file] = len(content)
        draft.size += len(content)
        try:
            with draft.taking_in():
                why = await asyncio.to_thread(self._keep, draft.folder / kind / file, name, content)
        except BaseException:
            draft.forget(file, kind)
            if draft.id not in self._drafts:
                raise Unknown(_GONE) from None
            raise
        if why is not None:
            draft.forget(file, kind)
            draft.refuse(why, kind)
        self._back_to_collecting(draft)

    async def add_all(self, draft: Draft, source: JobSource, kind: Kind = IMAGES) -> None:
        """Add what an archive, or a place, holds; raises as `add`."""
        _check_collecting(draft)
        with draft.taking_in():
            for index, name in enumerate(source.names):
                try:
                    content = await asyncio.to_thread(source.read, index, self._limits.body_bytes)
                except (InputError, OSError) as error:
                    draft.refuse(f"{printable(name)}: {error}", kind)
                    continue
                await self.add(draft, name, content, kind)

    def archive(self, draft: Draft) -> Path:
        """Return where to write an archive that comes."""
        _check_collecting(draft)
        return draft.folder / f"{_ARCHIVE}-{os.urandom(8).hex()}"

    def remove(self, draft: Draft, name: str, kind: Kind = IMAGES) -> None:
        """Take an image out; what was fitted with it is forgotten."""
        _check_collecting(draft)
        draft.image(name, kind).unlink(missing_ok=True)
        draft.forget(name, kind)
        self._back_to_collecting(draft)

    def restrict(self, draft: Draft, polygons: Mapping[str, Any] | None) -> None:
        """Say where images count, as polygons (see `recondite.data.masks`); None for everywhere.

        Raises:
            InputError: they are none.
        """
        _check_collecting(draft)
        if polygons is None:
            (draft.folder / POLYGONS).unlink(missing_ok=True)
        else:
            open_region(polygons)
            with atomic_file(draft.folder / POLYGONS) as temporary:
                temporary.write_text(json.dumps(polygons), encoding="utf-8")
        self._back_to_collecting(draft)

    async def fit(self, draft: Draft, alpha: float | None, suspects: bool) -> None:
        """Begin to fit, in another process.

        Args:
            draft: that has images.
            alpha: the false-alarm rate; None for what so many images allow.
            suspects: leave out images that lie far out.

        Raises:
            InputError: there are no images, no such alpha, or too few known defects.
            Busy: this or another draft is being fitted, or images are still coming.
        """
        _check_collecting(draft)
        if draft.coming:
            raise Busy("images are still coming: try again when they are there", 2)
        check_promise(alpha, None)
        if not draft.images:
            raise InputError("expected good images; there are none yet")
        if 0 < len(draft.defects) < FEWEST_DEFECTS:
            raise InputError(
                f"expected {FEWEST_DEFECTS} to {MOST_DEFECTS} known defects; got {len(draft.defects)}: add more, or "
                "leave these out"
            )
        if any(one.state == "fitting" for one in self._drafts.values()):
            raise Busy("another screen is being fitted: try again when it is done", 10)
        self._back_to_collecting(draft)
        task = {"alpha": alpha, "contamination": "auto" if suspects else None}
        draft.state, draft.step, draft.done, draft.total, draft.error = "fitting", "starting", 0, None, None
        draft.began = time.time()
        (draft.folder / TASK).write_text(json.dumps(task), encoding="utf-8")
        try:
            process = await self._started(draft)
        except OSError:
            draft.state = "collecting"
            raise
        self._fits[draft.id] = process, asyncio.create_task(self._follow(draft, process))

    async def cancel(self, draft: Draft) -> None:
        """End the fit of a draft, if there is one."""
        found = self._fits.get(draft.id)
        if found is None:
            return
        process, task = found
        draft.error = "The fit was cancelled."
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        _, waiting = await asyncio.wait([task], timeout=_PATIENCE)
        if waiting:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait([task])

    async def discard(self, draft: Draft) -> None:
        """Delete a draft and what is being done for it."""
        discarded = draft.folder.with_suffix(_DISCARDED)
        with suppress(FileNotFoundError):
            draft.folder.rename(discarded)  # where that fails it stays: a restart would find it again
        self._drafts.pop(draft.id, None)
        await self.cancel(draft)
        await asyncio.to_thread(shutil.rmtree, discarded, True)

    async def close(self) -> None:
        """End all fits; who looks again later is told so."""
        self._closing = True
        for draft in self.all():
            await self.cancel(draft)

    async def _started(self, draft: Draft) -> asyncio.subprocess.Process:
        with (draft.folder / _LOG).open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "recondite.service.engine.fitting", str(draft.folder)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    async def _follow(self, draft: Draft, process: asyncio.subprocess.Process) -> None:
        """Read what the fit says until it ends."""
        assert process.stdout is not None
        error = None
        try:
            async for line in process.stdout:
                said = json.loads(line)
                error = said.get("error", error)
                draft.step, draft.done, draft.total = (
                    said.get(name, getattr(draft, name)) for name in ("step", "done", "total")
                )
        except ValueError:  # a line that is too long, or none of its own
            LOG.exception("a fit is not understood")
            error = _NOT_UNDERSTOOD
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        try:
            code = await process.wait()
        finally:
            del self._fits[draft.id]
            if not self._closing:
                (draft.folder / TASK).unlink(missing_ok=True)
        if code == 0 and draft.error is None:
            draft.state = "fitted"
        else:
            draft.state, draft.error = "collecting", draft.error or error or _how_it_ended(code)

    def _keep(self, path: Path, name: str, content: bytes) -> str | None:
        """Write an image down, and return None; or why it is none that can be learnt from."""
        why = not_a_picture(name, content)
        if why is not None:
            return why
        head = measure(Sent(name, content), self._limits.pixels)
        if head.error is not None:
            return f"{name}: {head.error}"
        try:
            path.write_bytes(content)
        except OSError:  # a part of it must not be learnt from
            path.unlink(missing_ok=True)
            raise
        return None

    def _back_to_collecting(self, draft: Draft) -> None:
        """Forget what was fitted, as the images or the region are others now."""
        if draft.state == "fitted" or draft.screen.exists():
            shutil.rmtree(draft.screen, ignore_errors=True)
            (draft.folder / RESULT).unlink(missing_ok=True)
        draft.state = "collecting"


def _check_collecting(draft: Draft) -> None:
    if draft.state == "fitting":
        raise Busy("this screen is being fitted: cancel that first", 10)
    if draft.publishing:
        raise Busy("this screen is being published", 10)


def _file_name(number: int, name: str, content: bytes) -> str:
    """Return what an image is called in its folder: its number, what can be kept of its name, and a known suffix."""
    stem, dot, suffix = name.rpartition(".")
    suffix = f".{suffix.lower()}"
    if not dot or not is_image_name(f"a{suffix}"):
        stem, suffix = name, suffix_of(content)
    kept = re.sub(r"[^\w.() -]", "_", stem).encode()[:_LONGEST_NAME].decode(errors="ignore")
    return f"{number:05d}-{kept}{suffix}"


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"the fit was killed (signal {-code}), perhaps for want of memory: try fewer or smaller images"
    return f"the fit ended with status {code}"


def _read(folder: Path) -> Draft:
    """Return the draft that the service had in a folder when it ended."""
    for path in folder.glob(f"{_ARCHIVE}-*"):
        path.unlink(missing_ok=True)
    for kind in _MOST:
        (folder / kind).mkdir(exist_ok=True)
    images, defects = (
        {path.name: path.stat().st_size for path in sorted((folder / kind).iterdir())} for kind in (IMAGES, DEFECTS)
    )
    fitted = holds_manifest(folder / SCREEN) and (folder / RESULT).is_file()
    size = sum(images.values()) + sum(defects.values())
    draft = Draft(folder, images, defects, size, "fitted" if fitted else "collecting")
    if not fitted and (folder / TASK).exists():
        draft.error = "The service ended while this screen was being fitted: fit it again."
    return draft
