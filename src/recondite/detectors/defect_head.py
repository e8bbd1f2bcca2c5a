"""How much the places of an image are like known defects: a linear function of what a frozen network saw there."""

import torch
from torch import Tensor, nn

from recondite.detectors.inside import Inside

_HIGHEST, _ADDED = 0.025, 0.5


def most_places(places: int) -> int:
    """Return how many of an image's places speak for it: 2.5 %, at least one."""
    return max(1, round(_HIGHEST * places))


def pooled_values(values: Tensor, cells: Inside | None) -> Tensor:
    """Return the means (N, ...) of the highest 2.5 % of values (N, ..., P) of places, among those that count."""

    def mean(some: Tensor) -> Tensor:
        return some.topk(most_places(some.shape[-1]), dim=-1).values.mean(-1)

    return mean(values) if cells is None else cells.pooled(values, mean)


def sharpened(scores: Tensor, values: Tensor) -> Tensor:
    """Return scores (N,), in standard deviations of normal images, with half of a head's values above 0 added."""
    return scores + _ADDED * values.clamp(min=0)


class DefectHead(nn.Module):
    """The mean of the highest values of an image's places along one direction.

    Places are vectors (N, P, G). Values of images are on the scale of normal ones: mean 0, standard deviation 1.
    `recondite.screen.known_defects` fits it.

    Args:
        places: P.
        size: G.
    """

    direction: Tensor
    normal: Tensor

    def __init__(self, places: int, size: int) -> None:
        super().__init__()
        self.register_buffer("direction", torch.zeros(size))
        # What is taken off at each place: the value of the mean of its normal vectors, and what puts values on scale.
        self.register_buffer("normal", torch.zeros(places))

    def forward(self, places: Tensor, cells: Inside | None) -> Tensor:
        """Return the values of images (N,) by their places, among those that count; None for all."""
        return pooled_values((places * self.direction).sum(2) - self.normal, cells)
