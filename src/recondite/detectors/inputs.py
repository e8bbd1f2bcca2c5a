"""What a detector makes of images before its networks see them: one shape, grey outside of a region, network units."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.data.artifacts import Tensors
from recondite.data.images import Preprocessing
from recondite.data.regions import MID_GREY, Mask
from recondite.data.spool import Rows
from recondite.detectors.inside import Inside

Moments = NDArray[np.float64]


class Inputs(nn.Module):
    """The images of a detector.

    Args:
        shape: (C, H, W) for images in [0, 1], or (D,) for vectors, which are standardised column by column.

    Raises:
        InputError: the shape is neither.
    """

    shift: Tensor
    scale: Tensor
    region: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(shape=tuple(shape))
        self.shape = self.preprocessing.shape
        scale_shape = () if self.preprocessing.is_image else self.shape
        self.register_buffer("shift", torch.zeros(scale_shape))
        self.register_buffer("scale", torch.ones(scale_shape))

    def restrict(self, region: Mask | None, masked: bool = False) -> None:
        """Let only what lies inside a region count from now on; call it before `fit`.

        Args:
            region: (H, W), True inside; None where whole images count.
            masked: whether every image also comes with a mask of its own.

        Raises:
            InputError: the region does not fit the shape, or is empty.
        """
        self.preprocessing = replace(self.preprocessing, region=region, masked=masked)
        if region is not None:
            self.register_buffer("region", torch.from_numpy(region.astype(np.uint8)).to(self.device))

    def take_values(self, value_range: tuple[float, float] | None) -> None:
        """Let images hold values from black to white as given from now on; call it before `fit`.

        Args:
            value_range: as in `Preprocessing`.

        Raises:
            InputError: it is no range, or the detector takes vectors.
        """
        self.preprocessing = replace(self.preprocessing, value_range=value_range)

    def inside(self, pixels: Tensor) -> Inside | None:
        """Return what counts of painted images (N, *shape) in image units; None where everything does."""
        if self.preprocessing.masked:
            return Inside.found(pixels)
        return None if self.preprocessing.region is None else Inside(self.preprocessing.region)

    def painted(self, pixels: Tensor) -> Tensor:
        """Return images (N, *shape) in image units with mid-grey outside of the region, as `preprocessing` gives them.

        It changes none that `preprocessing` gave; others come from probes, and from users of exported graphs.
        """
        if self.preprocessing.region is None:
            return pixels
        return torch.where(self.region.bool(), pixels, float(MID_GREY))

    def scaled(self, x: Tensor) -> Tensor:
        """Return a batch in network units."""
        return (x - self.shift) / self.scale

    def unscaled(self, x: Tensor) -> Tensor:
        """Return a batch in image units."""
        return x * self.scale + self.shift

    def set_scale(self, low: float, high: float) -> None:
        """Let image values 0 and 1 become `low` and `high` in network units."""
        self.scale.fill_(1 / (high - low))
        self.shift.fill_(-low / (high - low))

    def standardise(self, images: Rows, known: tuple[float, Moments, Moments] | None = None) -> None:
        """For vectors, learn the mean and standard deviation of each column; nothing for images.

        Args:
            images: the vectors.
            known: the count, mean (D,) and standard deviation (D,) of others, that count too.
        """
        if self.preprocessing.is_image:
            return
        mean, deviation = images.moments()
        if known is not None:
            share, apart = known[0] / (known[0] + len(images)), known[1] - mean
            deviation = np.sqrt(share * known[2] ** 2 + (1 - share) * deviation**2 + share * (1 - share) * apart**2)
            mean = mean + share * apart
        # A constant column says nothing, but a later change in it must show: it keeps its own unit.
        deviation[deviation < 1e-6 * (1 + np.abs(mean))] = 1.0
        self.shift.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(deviation))

    def numbers(self) -> Tensors:
        """Return all weights and buffers, as arrays by name."""
        return {name: value.cpu().contiguous().numpy() for name, value in self.state_dict().items()}

    @property
    def device(self) -> torch.device:
        return self.scale.device
