"""New versions of screens: one process looks for them; further workers follow it, one after the other."""

import asyncio

from recondite.service.engine.drift import DriftWatch
from recondite.service.engine.registry import Served, Shelf
from recondite.service.sharing import Worker

_LOOK_SECONDS = 0.2
_LONGEST_LOAD = 60.0


class Reloads:
    """Loads new versions into a shelf.

    Args:
        shelf: the screens of this process.
        worker: which of several this is; None for the only one.
        watch: for drift; lets go of versions that are gone.
    """

    def __init__(self, shelf: Shelf, worker: Worker | None, watch: DriftWatch) -> None:
        self._shelf, self._worker, self._watch = shelf, worker, watch
        self._one_at_a_time = asyncio.Lock()

    async def begin(self) -> None:
        """Load what is there."""
        worker = self._worker
        generation = 0 if worker is None else worker.numbers.generation.value
        await self._shelf.refresh()
        if worker is not None:
            worker.numbers.loaded[worker.number] = generation

    async def look(self) -> list[Served]:
        """Load what is new, and return it; when it returns, the other workers have loaded it too, or take very long."""
        async with self._one_at_a_time:
            before = self._signatures()
            fresh = await self._shelf.refresh()
            self._watch.keep_only({(one.name, one.version) for one in self._shelf.all()})
            worker = self._worker
            if worker is not None and self._signatures() != before:
                worker.numbers.generation.value += 1
                worker.numbers.loaded[worker.number] = worker.numbers.generation.value
                await worker.until_all_have_loaded(_LONGEST_LOAD)
            return fresh

    async def follow(self) -> None:
        """Load what the first worker has loaded, until cancelled."""
        worker = self._worker
        assert worker is not None
        while True:
            if worker.is_behind():
                generation = worker.numbers.generation.value
                await worker.until_earlier_have_loaded(_LONGEST_LOAD)
                await self._shelf.refresh()
                worker.numbers.loaded[worker.number] = generation
            await asyncio.sleep(_LOOK_SECONDS)

    def _signatures(self) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(one.name, one.version, one.signature) for one in self._shelf.all()]
