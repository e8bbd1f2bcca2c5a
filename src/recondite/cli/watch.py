"""recondite watch."""

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from recondite.cli.flags import (
    Alpha,
    Confidence,
    Device,
    Group,
    Output,
    Score,
    ScreenFolder,
    Statistics,
    check_flags_count,
    load_screen,
)
from recondite.data.addresses import without_secrets
from recondite.data.mqtt import MqttAddress, MqttSender, mqtt_address
from recondite.data.outbox import Outbox
from recondite.errors import InputError
from recondite.progress import counted, say

_CAMERA = "Camera"


def watch(
    screen: ScreenFolder,
    folder: Path | None = None,
    /,
    *,
    output: Output,
    move: Path | None = None,
    link: Path | None = None,
    settle_seconds: float = 2.0,
    patience_seconds: float = 30.0,
    poll_seconds: float = 1.0,
    idle_seconds: float | None = None,
    region: Path | None = None,
    mqtt: str | None = None,
    camera: Annotated[str | None, Parameter(group=_CAMERA)] = None,
    every_seconds: Annotated[float, Parameter(group=_CAMERA)] = 0.0,
    save: Annotated[Path | None, Parameter(group=_CAMERA)] = None,
    save_which: Annotated[Literal["flagged", "all"], Parameter(group=_CAMERA)] = "flagged",
    score: Score = None,
    alpha: Alpha = None,
    confidence: Confidence = None,
    group: Group = None,
    statistics: Statistics = False,
    device: Device = "cpu",
) -> None:
    """Judge images as they arrive in a folder, or frames of a camera or film, one row each, until SIGTERM or Ctrl-C.

    Run the same command again to go on: nothing is judged twice, and nothing that came meanwhile is lost.

    Parameters
    ----------
    folder
        Folder to watch, with its sub-folders.
    output
        Table to append to, .csv or .jsonl, with the columns of `recondite predict`.
    move
        Move each file that was judged into a sub-folder of this folder: inlier, outlier or invalid.
    link
        Put a link to each file there instead.
    settle_seconds
        Seconds without a change after which a file is completely written.
    patience_seconds
        The same for a file that cannot be read, before it gets its row as invalid.
    poll_seconds
        Seconds between two looks into the folder.
    idle_seconds
        End after so many seconds without a new image; by default never.
    region
        Folder with one mask per image, for a screen that was fitted with one; an image waits for its mask.
    mqtt
        Broker and topic, mqtt://HOST:1883/TOPIC (mqtts:// for TLS), that every row is sent to, as TOPIC/VERDICT, in the
        background. Variables RECONDITE_MQTT_USER and RECONDITE_MQTT_PASSWORD sign in.
    camera
        Number of a camera (0), a film, or the address of a stream (rtsp://HOST/PATH), in place of the folder.
    every_seconds
        Seconds between two frames; by default all of a film, and as many of a camera as can be judged.
    save
        Folder for frames as PNG, each in a sub-folder by its verdict.
    save_which
        With --save: which frames; flagged: outliers and invalid ones.
    """
    from recondite.data.growing import check_growing

    check_growing(output)
    if (folder is None) == (camera is None):
        raise InputError("expected a folder to watch, or --camera; and not both")
    if move is not None and link is not None:
        raise InputError("expected --move or --link, and not both")
    if camera is not None and (move or link):
        raise InputError("a camera has no files to move or link: --save keeps its frames")
    if camera is None and save is not None:
        raise InputError("--save is for frames of a camera: --move or --link sort files")
    if camera is not None and region is not None:
        raise InputError("frames of a camera have no masks of their own: leave --region out")
    waits: dict[str, object] = {"settle_seconds": settle_seconds, "patience_seconds": patience_seconds}
    waits |= {"poll_seconds": poll_seconds, "idle_seconds": idle_seconds}
    flags = watch.__kwdefaults__
    check_flags_count(camera is None, "with a camera: they are of a folder", flags, **waits)
    check_flags_count(camera is not None, "without a camera: give --camera", flags, every_seconds=every_seconds)
    check_flags_count(save is not None, "where no frames are saved: give --save too", flags, save_which=save_which)
    for name, seconds in (("settle", settle_seconds), ("patience", patience_seconds), ("poll", poll_seconds)):
        if not seconds >= 0:
            raise InputError(f"expected --{name}-seconds >= 0; got {seconds!r}")
    address = None if mqtt is None else mqtt_address(mqtt)
    judge = load_screen(screen, alpha, confidence, device, score, others=[folder or camera])
    from recondite.screen.promise import promise
    from recondite.screen.watch import VERDICTS, watch_folder, watch_frames

    source = folder or without_secrets(camera)

    def begun() -> None:
        print(f"watching {source} into {output}; Ctrl-C ends it", file=sys.stderr, flush=True)

    rows: dict[str, Any] = {"group": group, "statistics": statistics, "begun": begun}
    counts: Counter[str] = Counter()
    with _until_stopped() as stopped, _told(address) as tell:
        if folder is not None:
            sort_into: Any = ("move", move) if move else ("link", link) if link else None
            judged = watch_folder(
                judge,
                folder,
                output,
                sort_into=sort_into,
                settle=settle_seconds,
                patience=patience_seconds,
                poll=poll_seconds,
                idle=idle_seconds,
                region=region,
                stopped=stopped,
                **rows,
            )
        else:
            from recondite.data.camera import open_frames

            assert camera is not None
            wanted = VERDICTS if save_which == "all" else ("outlier", "invalid")
            saved = None if save is None else (save, wanted)
            frames = open_frames(camera, every_seconds)
            judged = watch_frames(judge, frames, output, save=saved, stopped=stopped, **rows)
        for records in judged:
            tell(records)
            for record in records:
                counts[record["verdict"]] += 1
                if record["verdict"] != "inlier":
                    print(_in_words(record), flush=True)
    words = ", ".join(f"{counts[word]:,} {word}" for word in VERDICTS)
    print(f"{counted(counts.total(), 'image')}: {words}")
    print(promise(judge))
    print(f"table:  {output}")


def _in_words(record: dict[str, Any]) -> str:
    why = record["error"] if record["error"] is not None else f"p = {record['p_value']:.3g}"
    return f"{record['verdict']}: {record['id']} ({why})"


@contextmanager
def _told(address: MqttAddress | None) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """Yield what sends rows to a broker in the background; it does nothing without one."""
    if address is None:
        yield lambda records: None  # noqa: ARG005
        return

    def count(result: str, messages: int) -> None:
        if result == "dropped":
            say(f"{counted(messages, 'row')} for the broker of MQTT dropped; the table has all")

    sender = MqttSender(address)
    outbox = Outbox[tuple[str, bytes]](
        "outbox-mqtt",
        lambda some, dropped: sender.send(some),  # noqa: ARG005
        lambda error: say(f"MQTT: {error}"),
        count,
    )
    try:
        yield lambda records: outbox.put((row["verdict"], json.dumps(row).encode()) for row in records)
    finally:
        outbox.close()
        sender.close()


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set, in the main thread; a second one ends the process as ever."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stopped.set()
        for one, handler in earlier.items():
            signal.signal(one, handler)

    for number in earlier:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
