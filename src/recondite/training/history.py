"""What happened in training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from recondite.training.snapshots import EpochPictures


@dataclass
class History:
    """What happened in training: one row an epoch.

    Args:
        epochs: rows with "epoch" (from 1), "seconds", "loss_<name>" (mean over the epoch) and "validation" (mean
            validation error, None without validation images).
        best_epoch: the epoch whose weights were kept.
        pictures: validation images rebuilt after chosen epochs; None without validation images, or where the detector
            rebuilds no images.
        losses: of each batch in the epoch whose weights were kept, name -> float64 (batches,): "loss_<name>" as the
            batch was learnt from, "validation" after the epoch, where there are validation images.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    pictures: "EpochPictures | None" = field(default=None, compare=False)
    losses: dict[str, NDArray[np.float64]] = field(default_factory=dict, compare=False)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> "History":
        """Return what a saved screen tells of its training, without pictures and losses.

        Raises:
            KeyError, ValueError: parts are missing, or do not belong together.
        """
        epochs, best = facts["epochs"], facts["best_epoch"]
        fine = isinstance(epochs, list) and type(best) is int and 0 <= best <= len(epochs)
        if not fine or not all(isinstance(row, dict) and _is_row(row, {"validation", *epochs[0]}) for row in epochs):
            raise ValueError("the history of training is inconsistent")
        return cls(epochs, best)

    @property
    def best_validation(self) -> float | None:
        """The validation error of the weights that were kept."""
        return self.epochs[self.best_epoch - 1]["validation"] if self.best_epoch else None


def _is_row(row: Mapping[str, Any], names: set[str]) -> bool:
    return names <= set(row) and all(value is None or type(value) in (int, float) for value in row.values())
