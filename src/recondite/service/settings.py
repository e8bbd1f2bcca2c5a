"""Settings of one service."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from recondite.data.addresses import check_webhook
from recondite.data.mqtt import mqtt_address
from recondite.errors import InputError

Keep = Literal["none", "flagged", "all"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may ask for.

    Args:
        body_bytes: Bytes in the body of one request; more are refused with 413.
        all_bytes: Bytes in all requests being served; more are refused with 429.
        images: Images in one request; more are refused with 413.
        waiting: Images in all requests being served; more are refused with 429.
        pixels: Pixels of one image before it is resized; an image with more is invalid.
        request_pixels: Pixels in the images of one request; more are refused with 413, before they are decoded.
        all_pixels: Pixels in the images of all requests being served; more are refused with 429.
        seconds: Seconds until the answer, unless a request asks for fewer; after that, 503.
        body_seconds: Seconds until the body has arrived; after that, 408.
        connections: Connections open at once; more close idle ones, and more requests at once are refused with 503.
    """

    body_bytes: int = 32 << 20
    all_bytes: int = 512 << 20
    images: int = 256
    waiting: int = 1024
    pixels: int = 25_000_000
    request_pixels: int = 100_000_000
    all_pixels: int = 400_000_000
    seconds: float = 30.0
    body_seconds: float = 20.0
    connections: int = 1000

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name) > 0:
                raise InputError(f"expected {one.name} > 0; got {getattr(self, one.name)!r}")
        if self.request_pixels > self.all_pixels:
            raise InputError(
                f"expected request_pixels of at most all_pixels, {self.all_pixels:,}; got {self.request_pixels:,}"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a service is made with but its address.

    Args:
        screens: folders, or NAME=FOLDER; see `recondite.service.engine.registry`.
        store: database of events, an URL of SQLAlchemy: sqlite:///events.db or postgresql://user@host/name.
        tokens: any of which lets a client in; empty lets everybody in.
        hosts: names that requests may give for the service; empty for all.
        keep: which images are kept beside their events.
        images: the folder they are kept in.
        keep_bytes: the oldest kept images are deleted over this size.
        keep_days: kept images are deleted after as many days; None for no such limit.
        reload_seconds: how often the folders of screens are looked at for new versions; 0 for never.
        webhook: an address that a drift alarm is posted to.
        verdict_webhook: an address that verdicts are posted to; see `recondite.service.engine.outlets`.
        verdict_webhook_p: those with a p-value at or below it, in (0, 1], and invalid images.
        mqtt: a broker and a topic that every verdict is sent to; see `recondite.data.mqtt.mqtt_address`.
        hang_seconds: after which one of several workers that does not respond is replaced.
        drift_false_alarm: the chance that a stream without drift ever raises an alarm, in (0, 1).
        limits: of requests.
        page: whether there is a page for people at /.
        jobs: a folder for batch jobs; None to take none.
        job_bytes: bytes of the archive of one job, and of the images of a new screen; more are refused with 413.
        job_places: folders and addresses of stores that jobs and new screens may name, and what is below them.
        collection: a folder whose sub-folders are screens with versions, served too; None for no such folder.
        audits: folders of finished audits, whose findings visitors of the page keep, drop or confirm.
        new_screens: whether visitors of the page may make screens, which need a `collection`, and publish versions.
    """

    screens: Sequence[str] = ()
    store: str = "sqlite:///events.db"
    tokens: Sequence[str] = ()
    hosts: Sequence[str] = ()
    keep: Keep = "none"
    images: Path = Path("event-images")
    keep_bytes: int = 1 << 30
    keep_days: float | None = None
    reload_seconds: float = 5.0
    webhook: str | None = None
    verdict_webhook: str | None = None
    verdict_webhook_p: float = 0.01
    mqtt: str | None = None
    hang_seconds: float = 20.0
    drift_false_alarm: float = 0.01
    limits: Limits = field(default_factory=Limits)
    page: bool = True
    jobs: Path | None = None
    job_bytes: int = 1 << 30
    job_places: Sequence[str] = ()
    collection: Path | None = None
    audits: Sequence[str] = ()
    new_screens: bool = False

    def __post_init__(self) -> None:
        if not self.screens and self.collection is None:
            raise InputError("expected at least one screen")
        if self.new_screens and (self.collection is None or not self.page):
            raise InputError("expected a collection and the page, where screens are made; leave new_screens out")
        if self.audits and not self.page:
            raise InputError("expected the page, where audits are shown; leave audits out")
        if any(len(token) < 8 for token in self.tokens):
            raise InputError("expected tokens of at least 8 characters")
        if not 0 < self.drift_false_alarm < 1:
            raise InputError(f"expected drift_false_alarm in (0, 1); got {self.drift_false_alarm!r}")
        if not self.hang_seconds > 0:
            raise InputError(f"expected hang_seconds > 0; got {self.hang_seconds!r}")
        if not self.reload_seconds >= 0:
            raise InputError(f"expected reload_seconds >= 0; got {self.reload_seconds!r}")
        for name in ("keep_bytes", "job_bytes"):
            if not getattr(self, name) > 0:
                raise InputError(f"expected {name} > 0; got {getattr(self, name)!r}")
        if self.keep_days is not None and not self.keep_days > 0:
            raise InputError(f"expected keep_days > 0; got {self.keep_days!r}")
        for url in (self.webhook, self.verdict_webhook):
            if url is not None:
                check_webhook(url)
        if self.mqtt is not None:
            mqtt_address(self.mqtt)
        if not 0 < self.verdict_webhook_p <= 1:
            raise InputError(f"expected verdict_webhook_p in (0, 1]; got {self.verdict_webhook_p!r}")
        if self.keep not in ("none", "flagged", "all"):
            raise InputError(f"expected keep to be none, flagged or all; got {self.keep!r}")
