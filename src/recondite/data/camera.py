"""Frames of a camera, a stream or a film, through OpenCV (extra `camera`)."""

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from recondite.data.addresses import without_secrets
from recondite.data.identity import identity_of
from recondite.errors import InputError
from recondite.progress import say

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_PATIENCE = 5.0


class Frame(NamedTuple):
    """One frame.

    Args:
        number: of the frame, from 0.
        name: its id.
        picture: RGB.
    """

    number: int
    name: str
    picture: Image.Image


def open_frames(source: str, every: float = 0.0) -> "Camera | Film":
    """Open a film, a camera or a stream.

    Args:
        source: a file; the number of a camera; or the address of a stream, such as rtsp://.
        every: seconds between two frames that are looked at; 0 for all of a film, and as many of a camera as can be.

    Raises:
        InputError: OpenCV is missing, or it opens no such thing.
    """
    if not every >= 0:
        raise InputError(f"expected seconds between frames >= 0; got {every!r}")
    if source.isdecimal() or "://" in source:
        return Camera(source, every)
    if not Path(source).is_file():
        given = without_secrets(source)
        raise InputError(f"expected the number of a camera, a film or the address of a stream; got {given!r}")
    return Film(Path(source), every)


class Film:
    """The frames of a file, in order; each that is due is given, however long the last one took.

    Args:
        path: of the file.
        every: seconds of the film between two frames; 0 for all.

    Raises:
        InputError: OpenCV is missing, or it reads no film there.
    """

    def __init__(self, path: Path, every: float = 0.0) -> None:
        self.name, self._path = path.name, path
        self.identity = identity_of(path)
        """Differs for another film, and for one that was written anew."""
        capture = _opened(str(path))
        rate = float(capture.get(_cv2().CAP_PROP_FPS))
        self._expected = int(capture.get(_cv2().CAP_PROP_FRAME_COUNT))
        capture.release()
        self._step = max(1, round(every * rate)) if rate > 0 else 1

    def some(self, most: int, start: int, stopped: threading.Event) -> Iterator[Sequence[Frame]]:
        """Yield at most so many frames at a time.

        Args:
            most: at once.
            start: the first frame that is looked at.
            stopped: ends it.
        """
        capture = _opened(str(self._path))
        frames: list[Frame] = []
        number = 0
        try:
            while not stopped.is_set() and capture.grab():
                if number >= start and number % self._step == 0:
                    read, pixels = capture.retrieve()
                    if read:
                        frames.append(Frame(number, f"{self.name}#{number:06d}", _picture(pixels)))
                number += 1
                if len(frames) == most:
                    yield frames
                    frames = []
        finally:
            capture.release()
        if frames:
            yield frames
        if not stopped.is_set() and number < self._expected:
            say(f"{self.name} ends after {number:,} of {self._expected:,} frames: it may be damaged")


class Camera:
    """The newest frame of a camera or stream, again and again; those that come meanwhile are let go.

    Args:
        source: the number of a camera, or the address of a stream.
        every: seconds between two frames.

    Raises:
        InputError: OpenCV is missing, or it opens no such camera.
    """

    identity = None

    def __init__(self, source: str, every: float = 0.0) -> None:
        self.name = f"camera-{source}" if source.isdecimal() else without_secrets(source).partition("://")[2]
        self._source, self._every = source, every
        self._capture = _opened(source)
        self._newest: Any = None
        self._fresh = threading.Condition()

    def some(self, most: int, start: int, stopped: threading.Event) -> Iterator[Sequence[Frame]]:  # noqa: ARG002
        """Yield one frame at a time, until `stopped` is set; a camera that fails is opened again, as often as needed.

        Args:
            most: as in `Film`; there is only one newest frame.
            start: the number of the first.
            stopped: ends it.
        """
        over = threading.Event()
        reader = threading.Thread(target=self._read, args=(over,), name="camera", daemon=True)
        reader.start()
        due, number = time.monotonic(), start
        try:
            while not stopped.is_set():
                pixels = self._next()
                if pixels is None:
                    continue
                now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                yield [Frame(number, f"{self.name}/{now}", _picture(pixels))]
                number += 1
                due = max(due + self._every, time.monotonic() - self._every)
                stopped.wait(max(0.0, due - time.monotonic()))
        finally:
            over.set()
            reader.join(_PATIENCE)

    def _next(self) -> Any:
        """Return the newest frame when there is one that was not given yet; None where none comes for a while."""
        with self._fresh:
            if self._newest is None:
                self._fresh.wait(0.2)
            pixels, self._newest = self._newest, None
            return pixels

    def _read(self, over: threading.Event) -> None:
        pause = _FIRST_PAUSE
        while not over.is_set():
            read, pixels = self._capture.read()
            if read:
                pause = _FIRST_PAUSE
                with self._fresh:
                    self._newest = pixels
                    self._fresh.notify()
                continue
            if pause == _FIRST_PAUSE:
                say(f"{self.name} gives no frames; opening it again until it does")
            self._capture.release()
            over.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._capture = _capture(self._source)
        self._capture.release()


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError("cameras and films need OpenCV: pip install 'recondite[camera]'") from error
    return cv2


def _capture(source: str) -> Any:
    return _cv2().VideoCapture(int(source) if source.isdecimal() else source)


def _opened(source: str) -> Any:
    capture = _capture(source)
    if not capture.isOpened():
        raise InputError(f"OpenCV opens no camera, film or stream {without_secrets(source)!r}")
    return capture


def _picture(pixels: Any) -> Image.Image:
    """Return a frame, which OpenCV has as blue, green, red, or grey."""
    return Image.fromarray(pixels if pixels.ndim == 2 else pixels[:, :, ::-1].copy())
