"""Progress of long work: a bar on a terminal, plain lines elsewhere, nothing unless asked."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Advance = Callable[[int, str], None]
"""Called as advance(steps, note) while the work goes on."""
Listener = Callable[[str, int, int | None], None]
"""Called as listener(description, done, total) while the work goes on."""

_SECONDS_BETWEEN_LINES = 10.0
_LOG = logging.getLogger("recondite")
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def say(text: str) -> None:
    """Say something that whoever runs this should know, as a warning of the logger "recondite".

    It goes to standard error, unless the program has set up logging otherwise.
    """
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
        _LOG.warning(text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with what it counts, which takes an s where no other plural is given.

    >>> counted(1, "image"), counted(1200, "image"), counted(0, "entry", "entries")
    ('1 image', '1,200 images', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def is_terminal(stream: object) -> bool:
    """Return whether a standard stream is a terminal; a program may have put anything with a `write` in its place."""
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and bool(isatty())


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """While the block runs, tell a function of the progress that is asked for, and show none."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def progress(description: str, total: int | None, shown: bool) -> Iterator[Advance]:
    """Show how far the work is, on standard error.

    Args:
        description: what is being done.
        total: number of steps; None if unknown.
        shown: False for silence. Programs without a console, whose standard error is None, see nothing either.
    """
    listener = _LISTENER.get()
    if shown and listener is not None:
        yield _telling(listener, description, total)
    elif (
        not shown or sys.stderr is None or os.environ.get("RANK", "0") != "0"
    ):  # of several processes, the first speaks
        yield lambda _steps, _note: None
    elif is_terminal(sys.stderr):
        with _bar(description, total) as advance:
            yield advance
    else:
        with _lines(description, total) as advance:
            yield advance


def _telling(listener: Listener, description: str, total: int | None) -> Advance:
    done = 0
    listener(description, done, total)

    def advance(steps: int, _note: str) -> None:
        nonlocal done
        done += steps
        listener(description, done, total)

    return advance


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(steps: int, note: str) -> None:
            bar.update(task, advance=steps)
            if note:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(description: str, total: int | None) -> Iterator[Advance]:
    start = last = time.monotonic()
    done = 0

    def line(note: str) -> None:
        of = f"/{total}" if total is not None else ""
        print(
            f"{description}: {done}{of} in {time.monotonic() - start:.0f} s {note}".rstrip(),
            file=sys.stderr,
            flush=True,
        )

    def advance(steps: int, note: str) -> None:
        nonlocal done, last
        done += steps
        if done != total and time.monotonic() - last > _SECONDS_BETWEEN_LINES:  # the last line comes at the end
            last = time.monotonic()
            line(note)

    yield advance
    line("")
