"""Whether an image is still the one that was looked at before: what is found by a name is not taken up by it alone."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.datasets import ImageSet
from recondite.data.items import Deferred, Page
from recondite.data.masks import MaskedByFile


def identity_of(source: object) -> str | None:
    """Return a digest that differs for another image, or for the same file when it was written anew.

    Of a file it is made of its whole path, size and times of change (so a link that was pointed elsewhere counts), of
    an object in a store of its address, size and version, of an array or bytes of the content; of an image with a mask
    of its own, of the mask too. The file itself is not read.

    Args:
        source: an image, as `ImageSet.entry` gives it.

    Returns:
        32 hexadecimal digits; None where nothing tells it from another, or it is not there.
    """
    facts = _facts(source)
    return None if facts is None else hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def _facts(source: object) -> list[Any] | None:
    if isinstance(source, MaskedByFile):
        mask = source.path()
        parts = [_facts(source.source), None if mask is None else _facts(mask)]
        return None if None in parts else parts
    if isinstance(source, Deferred):
        return source.identity()
    if isinstance(source, Page):
        whole_file = _facts(source.path)
        return None if whole_file is None else [*whole_file, source.frame]
    if isinstance(source, str | Path):
        whole = os.path.abspath(source)
        try:
            found = os.stat(whole)  # noqa: PTH116  a million of them: half the time of Path.stat
        except (OSError, ValueError):
            return None
        return [os.fsencode(whole).hex(), found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    if isinstance(source, bytes | bytearray | memoryview):
        return ["bytes", hashlib.blake2b(source, digest_size=16).hexdigest()]
    if isinstance(source, np.ndarray) and source.dtype.kind in "biuf":
        content = hashlib.blake2b(np.ascontiguousarray(source).data, digest_size=16).hexdigest()
        return [str(source.dtype), list(source.shape), content]
    return None


@dataclass(frozen=True)
class WatchedImages(ImageSet):
    """Images whose identities are noted when they are about to be read; `items` is another set of images.

    An image that changes after that has another identity next time, whatever of it was read.
    """

    identities: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, images: ImageSet) -> "WatchedImages":
        """Return a set of images, not a stream, to be watched."""
        return cls(images, images.ids, parallel=images.parallel, masks=images.masks)

    def entries(self, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any, str]]:
        for name, source, label in self.items.entries(skip):
            self.identities[name] = identity_of(source)
            yield name, source, label
