"""Looking at images on a Ray cluster: workers decode and compute, this process alone writes."""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from recondite import __version__
from recondite.audits.walk import Backbone, LookingHere, Together, Unseen
from recondite.errors import InputError, ReconditeError, SourceError

_AT_ONCE, _AHEAD, _TRIES = 64, 2, 3


class LookingThere:
    """Looks at images in workers of a cluster; batches and threads are those of this process, and so are the bits.

    Files are read where they are looked at, and must be seen there at the same place; arrays, and what is in tars and
    Parquet files, travel. A batch whose worker dies is looked at again elsewhere, three times at most.

    Args:
        ray: the module, connected.
        here: looks at images in this process.
        small: as in `Backbone`; None without one.
        workers: how many; by default as many as fit.
    """

    def __init__(self, ray: Any, here: LookingHere, small: bool | None, workers: int | None) -> None:
        self.shape, self.width = here.shape, here.width
        self._ray, self._small = ray, small
        threads = torch.get_num_threads()
        fits = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        self._count = workers or fits
        self._remote = ray.remote(_Worker).options(
            num_cpus=threads if workers is None else 1,
            max_restarts=-1,
            max_task_retries=_TRIES,
            scheduling_strategy="SPREAD",
        )
        self._threads = threads

    def at(self, entries: Iterable[Unseen], known: Container[bytes]) -> Iterator[Together]:
        rest, given = iter(entries), self._ray.put(known)
        workers = [self._remote.remote([given], self._small, self._threads) for _ in range(self._count)]
        ahead: deque[Any] = deque()
        try:
            self._greet(workers)
            number = 0
            while chunk := list(islice(rest, _AT_ONCE)):
                ahead.append((chunk[0][0], workers[number % len(workers)].see.remote(chunk)))
                number += 1
                if len(ahead) > _AHEAD * len(workers):
                    yield self._got(*ahead.popleft())
            while ahead:
                yield self._got(*ahead.popleft())
        finally:
            for worker in workers:
                self._ray.kill(worker)

    def _greet(self, workers: Sequence[Any]) -> None:
        own = _versions()
        for versions in self._ray.get([worker.versions.remote() for worker in workers]):
            if versions != own:
                raise InputError(f"expected the versions {own} on every machine of the cluster; got {versions}")

    def _got(self, first: str, answer: Any) -> Together:
        try:
            found: Together = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError | SourceError):
                raise type(error.cause)(str(error.cause)) from error
            raise
        except self._ray.exceptions.RayError as error:
            raise ReconditeError(f"workers died on the {_AT_ONCE} images from {first!r} on: {error}") from error
        return found


class _Worker:
    """A process of the cluster that looks at images."""

    def __init__(self, known: Sequence[Any], small: bool | None, threads: int) -> None:
        import ray

        torch.set_num_threads(threads)
        self._known: Container[bytes] = ray.get(known[0])
        self._here = LookingHere(None if small is None else Backbone(small))

    def versions(self) -> dict[str, str]:
        return _versions()

    def see(self, chunk: Sequence[Unseen]) -> Together:
        return self._here.together(chunk, self._known)


def _versions() -> dict[str, str]:
    return {"recondite": __version__, "torch": torch.__version__}
