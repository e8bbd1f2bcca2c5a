"""How much an image is like known defects: a linear head on what a frozen network saw at its oddest places."""

import torch
from torch import Tensor, nn

from recondite.detectors.inside import Inside

_ODDEST, _ADDED = 0.05, 0.5


class DefectHead(nn.Module):
    """A linear function of the mean of the oddest 5 % of an image's places.

    Places are vectors (N, P, G), each measured from the mean of normal vectors of that place and whitened by a
    covariance that all places share; the longest are the oddest. Values are on the scale of normal images: mean 0,
    standard deviation 1. `recondite.screen.known_defects` fits it.

    Args:
        places: P.
        size: G.
    """

    means: Tensor
    whitening: Tensor
    middle: Tensor
    weight: Tensor
    offset: Tensor

    def __init__(self, places: int, size: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(places, size))
        self.register_buffer("whitening", torch.zeros(size, size))
        self.register_buffer("middle", torch.zeros(size))
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("offset", torch.zeros(()))

    def oddest(self, places: Tensor, cells: Inside | None) -> Tensor:
        """Return the mean of the oddest places (N, G), whitened, among those that count; None for all."""
        whitened = ((places - self.means) @ self.whitening).transpose(1, 2)

        def mean(some: Tensor) -> Tensor:
            count = max(1, round(_ODDEST * some.shape[2]))
            chosen = some.square().sum(1).topk(count, dim=1).indices[:, None]
            return some.gather(2, chosen.expand(-1, some.shape[1], -1)).mean(2)

        return mean(whitened) if cells is None else cells.pooled(whitened, mean)

    def forward(self, oddest: Tensor) -> Tensor:
        """Return values (N,) of what `oddest` gave."""
        found: Tensor = ((oddest - self.middle) * self.weight).sum(1) - self.offset
        return found

    def sharpened(self, scores: Tensor, oddest: Tensor) -> Tensor:
        """Return scores (N,), in standard deviations of normal images, with half of the values added."""
        found: Tensor = scores + _ADDED * self(oddest)
        return found
