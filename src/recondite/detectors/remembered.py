"""What frozen networks made of whole images, kept on disk while a fit may ask for it again."""

import hashlib
import os
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST = 200_000  # images; what tells where they are takes some 50 MB of memory
_Key = tuple[Hashable, bytes]


class _Vectors:
    """Float32 vectors (F,) in a file, by their keys."""

    def __init__(self, file: int) -> None:
        self._file, self._end = file, 0
        self._places: dict[_Key, tuple[int, int]] = {}

    def of(self, keys: list[_Key]) -> NDArray[np.float32] | None:
        """Return vectors (N, F); None unless all are there."""
        places = [self._places[key] for key in keys if key in self._places]
        if not keys or len(places) < len(keys):
            return None
        content = b"".join(os.pread(self._file, size, start) for start, size in places)
        return np.frombuffer(bytearray(content), dtype=np.float32).reshape(len(keys), -1)

    def add(self, keys: list[_Key], vectors: NDArray[np.float32]) -> None:
        """Take vectors (N, F), but none for which there is no room: it can be looked for again."""
        for key, vector in zip(keys, vectors, strict=True):
            if key in self._places or len(self._places) >= _MOST:
                continue
            try:
                written = os.pwrite(self._file, np.ascontiguousarray(vector).data, self._end)
            except OSError:
                return
            if written == vector.nbytes:
                self._places[key] = self._end, written
                self._end += written


_KEPT: ContextVar[_Vectors | None] = ContextVar("vectors", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Keep what networks make of whole images meanwhile; within another `remembering` it does nothing."""
    if _KEPT.get() is not None:
        yield
        return
    with tempfile.TemporaryFile(prefix="recondite-", buffering=0) as file:
        token = _KEPT.set(_Vectors(file.fileno()))
        try:
            yield
        finally:
            _KEPT.reset(token)


def remembers() -> bool:
    """Whether anything is kept here and now."""
    return _KEPT.get() is not None


def remember(network: Hashable, x: Tensor, vectors: Tensor) -> None:
    """Keep what a network made of images, if anything is kept.

    Args:
        network: stands for it and its very weights.
        x: (N, *shape).
        vectors: (N, F).
    """
    kept = _KEPT.get()
    if kept is not None and vectors.dtype == torch.float32 and not x.is_meta:
        kept.add(_keys(network, x), vectors.detach().cpu().numpy())


def recalled(network: Hashable, x: Tensor) -> Tensor | None:
    """Return what `remember` was given for images of these pixels (N, F); None unless it was for all of them."""
    kept = _KEPT.get()
    found = None if kept is None or x.is_meta else kept.of(_keys(network, x))
    return None if found is None else torch.from_numpy(found).to(x.device)


def _keys(network: Hashable, x: Tensor) -> list[_Key]:
    pixels = x.detach().cpu().contiguous().numpy()
    return [(network, hashlib.blake2b(image.data, digest_size=16).digest()) for image in pixels]
