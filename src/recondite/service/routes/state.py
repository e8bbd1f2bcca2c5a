"""State that every route shares."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection, Request

from recondite.service.engine.admission import InFlightLimit
from recondite.service.engine.database import lack_of_room
from recondite.service.engine.drafts import Drafts
from recondite.service.engine.drift import DriftWatch
from recondite.service.engine.jobs import Jobs
from recondite.service.engine.judging import Judge
from recondite.service.engine.registry import Shelf
from recondite.service.engine.reloads import Reloads
from recondite.service.engine.store import Store
from recondite.service.errors import Unavailable
from recondite.service.metrics import Counters
from recondite.service.routes.middleware import Tokens
from recondite.service.settings import Settings
from recondite.service.shared_metrics import SharedMetrics


@dataclass(kw_only=True)
class Service:
    """What one service is made of.

    Args:
        settings: as given.
        shelf: the screens.
        reloads: of new versions.
        store: the events.
        judge: gives verdicts.
        counters: for metrics.
        watch: for drift.
        tokens: for the page's login.
        jobs: done in the background; None where none are taken.
        shared: metrics of all workers; None where there is one process.
        drafts: screens being made; None where visitors make none.
        draining: whether it is going down and takes no new load.
    """

    settings: Settings
    shelf: Shelf
    reloads: Reloads
    store: Store
    judge: Judge
    counters: Counters
    watch: DriftWatch
    tokens: Tokens
    jobs: Jobs | None = None
    shared: SharedMetrics | None = None
    drafts: Drafts | None = None
    draining: bool = False
    bodies: InFlightLimit = field(init=False)

    def __post_init__(self) -> None:
        self.bodies = InFlightLimit(self.settings.limits.all_bytes, "bytes")

    @property
    def hangs(self) -> bool:
        """Whether a step of judging has taken so much longer than anybody waits that it will not end."""
        longest = max(self.judge.line.seconds_at_one_step().values())
        return longest > self.settings.limits.seconds + self.settings.hang_seconds

    async def metrics(self) -> bytes:
        """Return the metrics, of all workers where there are several, in the text format of Prometheus."""
        return self.counters.text() if self.shared is None else await asyncio.to_thread(self.shared.text)

    async def trouble(self) -> list[str]:
        """Return why the service is not ready; nothing where it is."""
        found = ["the service is going down"] if self.draining else []
        if not self.shelf.ready:
            found.append("a screen is not loaded")
        stalled = self.judge.trouble()
        found += [] if stalled is None else [stalled]
        try:
            await self.store.ping()
        except Unavailable as error:
            found.append(str(error))
        found += await asyncio.to_thread(self._trouble_with_disks)
        return found

    def _trouble_with_disks(self) -> list[str]:
        database = self.store.files.path
        found = None if database is None else lack_of_room(database.parent)
        kept = self.judge.kept.trouble() if self.settings.keep != "none" else None
        return [one for one in (found, kept) if one is not None]


def service_of(connection: HTTPConnection) -> Service:
    """Return the service that a request has come to."""
    service = connection.app.state.service
    assert isinstance(service, Service)
    return service


def request_id_of(connection: HTTPConnection) -> str:
    """Return the id of a request."""
    return str(connection.scope["state"]["request_id"])


def departure_of(request: Request) -> Callable[[], Awaitable[None]]:
    """Return what returns when the client of a request whose body has been read goes away."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return left


def note(connection: HTTPConnection, **facts: object) -> None:
    """Add facts to the line that the log will have about a request."""
    connection.scope["state"].setdefault("facts", {}).update(facts)
