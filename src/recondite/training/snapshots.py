"""The same few validation images, rebuilt after chosen epochs of training: how a network learns, to look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.spool import Rows

MOST_PICTURES, _AUTO = 10, 6
_MOST_BYTES = 1 << 20


@dataclass
class EpochPictures:
    """Validation images and their reconstructions, as 8-bit pictures.

    Args:
        images: uint8 (n, C, H, W).
        epochs: after which they were rebuilt; 0 is before the first.
        rebuilt: uint8 (n, C, H, W) for each of these epochs.
    """

    images: NDArray[np.uint8]
    epochs: list[int] = field(default_factory=list)
    rebuilt: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, epoch: int, rebuilt: NDArray[np.floating[Any]]) -> None:
        """Keep the reconstructions (n, C, H, W), in image units, after an epoch."""
        self.epochs.append(epoch)
        self.rebuilt.append(_eight_bit(rebuilt))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return all as arrays by name, to be saved."""
        shape = (len(self.epochs), *self.images.shape)
        return {
            "images": self.images,
            "epochs": np.array(self.epochs, dtype=np.int64),
            "rebuilt": np.array(self.rebuilt, dtype=np.uint8).reshape(shape),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> "EpochPictures":
        """Return what `tensors` gave.

        Raises:
            ValueError, KeyError: the arrays are missing or do not belong together.
        """
        images, epochs, rebuilt = (tensors[name] for name in ("images", "epochs", "rebuilt"))
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or rebuilt.dtype != np.uint8
            or rebuilt.shape != (len(epochs), *images.shape)
        ):
            raise ValueError(f"the pictures of epochs are inconsistent: {images.shape}, {rebuilt.shape}")
        return cls(images, [int(epoch) for epoch in epochs], list(rebuilt))


def first_pictures(validation: Rows) -> EpochPictures:
    """Return the first ten validation images, fewer of large ones, not yet rebuilt."""
    room = _MOST_BYTES // prod(validation.pixels.shape[1:])
    return EpochPictures(_eight_bit(validation.take(slice(0, min(MOST_PICTURES, max(1, room))))))


def picture_epochs(wanted: str, epochs: int) -> frozenset[int]:
    """Return after which epochs pictures are made.

    Args:
        wanted: "auto" for six evenly spaced, from 0 to the last; "every"; "none"; or numbers joined by commas.
        epochs: of training.

    >>> sorted(picture_epochs("auto", 20))
    [0, 4, 8, 12, 16, 20]
    """
    if wanted == "none":
        return frozenset()
    if wanted == "every":
        return frozenset(range(epochs + 1))
    if wanted == "auto":
        return frozenset(round(epoch) for epoch in np.linspace(0, epochs, _AUTO))
    return frozenset(int(epoch) for epoch in wanted.split(","))


def _eight_bit(images: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (np.clip(np.nan_to_num(images), 0, 1) * 255).round().astype(np.uint8)
    return pixels
