"""A backbone that sees one image at a time, on each core another."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier, Lock

import torch
from torch import Tensor, nn

from recondite.networks.backbones import Backbone

_MAKING_WORKERS = Lock()
_SOME = 16


class OneByOne(nn.Module):
    """Looks at each image of a batch by itself, so that its features do not depend on the others.

    Several are looked at at the same time, each by one thread: large images take longer when threads share one. What
    pads a batch, black images, costs nothing. A network of your own is left to all threads, one image after the other.

    Args:
        backbone: as it was fitted.
        black: a batch of one (1, C, H, W), all zeros, of the images that will come.
    """

    def __init__(self, backbone: Backbone, black: Tensor) -> None:
        super().__init__()
        self.layers, self._threaded = backbone.layers, not backbone.network_given
        # Weights are laid out for as many threads as will use them.
        self._ready = workers_here().submit(backbone.ready, black).result() if self._threaded else backbone
        self._of_black = self._seen([black])[0]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what the backbone does."""
        black = [_is_black(image) for image in x]
        seen = iter(self._seen([image[None] for image, dark in zip(x, black, strict=True) if not dark]))
        parts = [self._of_black if dark else next(seen) for dark in black]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _seen(self, images: list[Tensor]) -> list[list[Tensor]]:
        """Return what the backbone gives for each image (1, C, H, W)."""
        return list(workers_here().map(self._look, images)) if self._threaded else [self._look(x) for x in images]

    def _look(self, image: Tensor) -> list[Tensor]:
        with torch.no_grad():  # which each thread has to say for itself
            features: list[Tensor] = self._ready(image)
        return features


def _is_black(image: Tensor) -> bool:
    """Return whether every value of an image (C, H, W) is 0; most images show in a few of their pixels that not."""
    return not bool(image[:, ::_SOME, ::_SOME].any()) and not bool(image.any())


def workers_here() -> ThreadPoolExecutor:
    """Return as many workers as torch has threads here."""
    with _MAKING_WORKERS:
        return _workers(os.getpid(), torch.get_num_threads())


@lru_cache(maxsize=1)
def _workers(process: int, count: int) -> ThreadPoolExecutor:  # noqa: ARG001  threads do not outlive a fork
    """Return workers of one thread each."""
    started = Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # settles it for this thread, whatever others set later
        started.wait()

    workers = ThreadPoolExecutor(count, "recondite-backbone", initializer=start)
    for _ in range(count):
        workers.submit(int)
    started.wait()
    torch.set_num_threads(count)  # which the workers have changed for all that is not theirs
    return workers
