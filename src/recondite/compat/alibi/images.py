"""Batches with the channels last or first, and back again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.images import SMALLEST_SIDE, as_array
from recondite.errors import InputError


@dataclass(frozen=True)
class Layout:
    """How a batch was laid out.

    Args:
        channels: "last" for (N, H, W, C), "first" for (N, C, H, W), "none" for (N, H, W) and for vectors (N, D).
        axes: the number of axes.
    """

    channels: str
    axes: int

    def restored(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return a batch (N, C, H, W), or vectors, in this layout."""
        if self.channels == "last":
            return np.ascontiguousarray(np.moveaxis(batch, 1, -1))
        return batch[:, 0] if self.axes == 3 else batch


def channels_first(X: object) -> tuple[NDArray[Any], Layout]:
    """Return a batch as (N, C, H, W), or vectors (N, D) as they are, and the layout it came in.

    An axis shorter than 8 is the one of the channels, since no side of an image may be so short.

    Raises:
        InputError: it is no such batch.
    """
    batch = as_array(np.asarray(X) if isinstance(X, list) else X)
    if len(batch) == 0 if batch.ndim else True:
        raise InputError(f"expected at least one image; got an array of shape {batch.shape}")
    if batch.ndim == 2:
        return batch, Layout("none", 2)
    if batch.ndim == 3:
        return batch[:, None], Layout("none", 3)
    if batch.ndim != 4 or (batch.shape[1] < SMALLEST_SIDE and batch.shape[3] < SMALLEST_SIDE):
        raise InputError(f"expected a batch (N, H, W, C), (N, C, H, W), (N, H, W) or (N, D); got {batch.shape}")
    if batch.shape[3] < SMALLEST_SIDE:
        return np.moveaxis(batch, -1, 1), Layout("last", 4)
    return batch, Layout("first", 4)
