"""What counts of a batch of images whose screen looks at a region, and pooling over that alone."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from recondite.data.regions import MID_GREY, Mask, touched
from recondite.statistics.error_maps import smoothed


class Inside:
    """What counts of a batch of N images, on a grid (H, W).

    Args:
        shared: (H, W), where that is the same for all images.
        own: bool (N, H, W), of each image; in place of `shared`.
    """

    def __init__(self, shared: Mask | None, own: Tensor | None = None) -> None:
        self._shared, self._own = shared, own

    @classmethod
    def found(cls, pixels: Tensor) -> "Inside":
        """Return what counts of images (N, C, H, W) with masks of their own, as `Preprocessing` painted them."""
        return cls(None, (pixels != float(MID_GREY)).any(1))

    def of(self, images: slice) -> "Inside":
        """Return it for some of the images."""
        return Inside(self._shared, None if self._own is None else self._own[images])

    def on(self, height: int, width: int) -> "Inside":
        """Return the cells of a coarser grid, spread over the images, that any pixel inside lies in."""
        if self._shared is not None:
            return Inside(touched(self._shared, height, width))
        assert self._own is not None
        return Inside(None, adaptive_max_pool2d(self._own[:, None].float(), (height, width))[:, 0] > 0)

    def mask(self, like: Tensor) -> Tensor:
        """Return bool (1 or N, 1, H, W), on the device of a tensor."""
        if self._own is not None:
            return self._own[:, None]
        assert self._shared is not None
        return torch.from_numpy(self._shared)[None, None].to(like.device)

    def counted(self, values: Tensor) -> list[Tensor]:
        """Return those of values (N, ..., H W) that count: one tensor where they are the same places, or N of one."""
        if self._shared is not None:
            return [values.index_select(-1, torch.from_numpy(np.flatnonzero(self._shared)).to(values.device))]
        assert self._own is not None
        return [one[None, ..., inside] for one, inside in zip(values, self._own.flatten(1), strict=True)]

    def pooled(self, values: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a function makes of those of values (N, ..., H W) that count: (N,)."""
        return torch.cat([pool(some) for some in self.counted(values)])

    def filled(self, maps: Tensor, other: Tensor) -> Tensor:
        """Return maps (N, C, H, W) with those of another outside."""
        return torch.where(self.mask(maps), maps, other)

    def blanked(self, maps: Tensor) -> Tensor:
        """Return maps (N, C, H, W) with 0 outside, or an image's lowest value where that is negative."""
        lowest = self.filled(maps, torch.full_like(maps, torch.inf)).amin((1, 2, 3), keepdim=True)
        return self.filled(maps, lowest.clamp(max=0).expand_as(maps))

    def smoothed(self, maps: Tensor, sigma: float) -> Tensor:
        """Return maps (N, C, H, W) smoothed as by `smoothed`, by what lies inside alone; outside is arbitrary."""
        weights = smoothed(self.mask(maps).to(maps.dtype), sigma)
        total = smoothed(self.filled(maps, torch.zeros_like(maps)), sigma)
        return total / weights.clamp(min=torch.finfo(maps.dtype).tiny)


def only_inside(rebuilt: Tensor, x: Tensor, inside: Inside | None) -> Tensor:
    """Return a batch rebuilt (N, C, H, W) with the images' own pixels outside, where there is no error then."""
    return rebuilt if inside is None else inside.filled(rebuilt, x)


def mean_of_places(features: Tensor, inside: Inside | None) -> Tensor:
    """Return the mean of features (N, F, ...) over their places, or over those that count of a grid (N, F, h, w)."""
    if inside is None or features.ndim != 4:
        return features.flatten(2).mean(2)
    return inside.on(*features.shape[2:]).pooled(features.flatten(2), lambda some: some.mean(2))


def spread_out(maps: Tensor, size: Sequence[int], cells: Inside | None) -> Tensor:
    """Return maps of places (N, 1, h, w) interpolated to a size, (N, 1, H, W), between places that count."""
    if cells is None:
        return interpolate(maps, size=size, mode="bilinear")
    weights = interpolate(cells.mask(maps).to(maps.dtype), size=size, mode="bilinear")
    total = interpolate(cells.filled(maps, torch.zeros_like(maps)), size=size, mode="bilinear")
    return total / weights.clamp(min=torch.finfo(maps.dtype).tiny)


def in_one_row(distances: Tensor, cells: Inside | None) -> Tensor:
    """Return distances of images or places (N, P) in one row, without those of places that do not count."""
    if cells is None or distances.shape[1] == 1:
        return distances.flatten()
    return torch.cat([some.flatten() for some in cells.counted(distances)])
