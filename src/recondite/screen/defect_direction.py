"""The direction in which known defects lie from good images' oddest places, and how surely scores tell defects."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.detectors.defect_head import DefectHead, most_places, pooled_values
from recondite.detectors.inside import Inside
from recondite.statistics.axes import principal_axes

_SMALLEST_VARIANCE, _SMALLEST_SPREAD = 0.01, 1e-9
_SHRINKAGE, _MADE_UP_SHARE = 0.8, 0.5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Whitening:
    """Measures places from their means among good images, by a covariance that all places share.

    Args:
        means: float64 (P, G).
        matrix: float64 (G, G), its columns the directions.
        cells: which places count; None for all.
    """

    means: Tensor
    matrix: Tensor
    cells: Inside | None

    @classmethod
    def of(cls, good: Iterable[Tensor], counted: NDArray[np.intp], cells: Inside | None) -> Self:
        """Learn it from the places of good images, batches (n, P, G), of which these count."""
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        some = torch.from_numpy(counted)
        for places in good:
            count += len(places)
            total = total + places.double().sum(0)
            flat = places[:, some].double().flatten(0, 1)
            products = products + flat.T @ flat
        means = total / count
        own = means[some]
        covariance = (products / count - own.T @ own) / len(some) * (count / (count - 1))
        ridge = _SMALLEST_VARIANCE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
        variances, directions = principal_axes(covariance + ridge)
        return cls(means, directions / variances.clamp(min=_SMALLEST_SPREAD).sqrt(), cells)

    def whitened(self, places: Tensor) -> Tensor:
        """Return places (n, P, G), whitened, in the precision that they came in."""
        return (places - self.means.to(places)) @ self.matrix.to(places)

    def oddest(self, places: Tensor) -> Tensor:
        """Return the longest 2.5 % of whitened places (n, M, G) among those that count, longest first."""
        whitened = self.whitened(places)
        values = whitened if self.cells is None else self.cells.counted(whitened.transpose(1, 2))[0].transpose(1, 2)
        chosen = values.square().sum(2).topk(most_places(values.shape[1]), dim=1).indices
        return values.gather(1, chosen[:, :, None].expand(-1, -1, values.shape[2]))


@dataclass(frozen=True)
class Direction:
    """A direction among whitened places.

    Args:
        weight: float64 (G,).
        middle: float64, the value of the middle of good images' oddest places.
    """

    weight: Tensor
    middle: Tensor

    @classmethod
    def of(cls, good: Tensor, made_up: Tensor, defects: Tensor) -> Self:
        """Return the linear discriminant of the oddest places (n, M, G) of defects and of good images.

        The difference of their means, and half of that of made-up defects, in the metric of the covariance of
        good images' places, eight tenths of which are its mean variance.
        """
        places = good.flatten(0, 1).double()
        middle = places.mean(0)
        apart, own = (some.flatten(0, 1).double().mean(0) - middle for some in (defects, made_up))
        centred = places - middle
        covariance = centred.T @ centred / len(centred)
        mean_variance = covariance.diagonal().mean().clamp(min=_SMALLEST_SPREAD)
        shrunk = (1 - _SHRINKAGE) * covariance
        shrunk.diagonal().add_(_SHRINKAGE * mean_variance)
        weight = torch.linalg.solve(shrunk, apart + _MADE_UP_SHARE * own)
        return cls(weight, middle @ weight)


def values_along(
    directions: list[Direction], whitening: Whitening, images: Iterable[Tensor], scale: float = 1.0
) -> Floats:
    """Return the values (N, D) of images along directions.

    Args:
        directions: D of them.
        whitening: that they belong to.
        images: their places, batches (n, P, G).
        scale: of whitened places; above 1 for images that the means were learnt from.
    """
    weights = torch.stack([one.weight for one in directions], dim=1).float()
    middles = torch.stack([one.middle for one in directions]).float()
    found = []
    for places in images:
        values = scale * whitening.whitened(places) @ weights - middles
        found.append(pooled_values(values.transpose(1, 2), whitening.cells).double().numpy())
    return np.concatenate(found)


def head_along(direction: Direction, whitening: Whitening, good: Floats) -> DefectHead:
    """Return a head whose values are those along a direction, on the scale of good images' values (N,)."""
    head = DefectHead(*whitening.means.shape)
    weight = whitening.matrix @ direction.weight / spread(good)
    head.direction.copy_(weight)
    head.normal.copy_(whitening.means @ weight + (direction.middle + float(good.mean())) / spread(good))
    return head


def spread(values: Floats) -> float:
    """Return their standard deviation, or a tiny one."""
    return max(float(values.std()), _SMALLEST_SPREAD)


def told(good: Floats, defects: Floats) -> Floats:
    """Return how surely each defect (n,) is told from good images by scores, in [0, 1].

    It is the share of good images that score lower, each counted by a normal distribution with the spread of good
    scores in place of a step: unlike an AUROC it still tells few defects apart that are all beyond the good images.
    """
    from scipy.special import ndtr

    found: Floats = ndtr((defects[:, None] - good) / spread(good)).mean(axis=1)
    return found
