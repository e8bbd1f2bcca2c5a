"""Principal component analysis: the linear autoencoder in closed form, and the baseline that every network should beat.

Source: Pearson 1901; Ross et al. 2008, IJCV 77:125, for the incremental form (as in scikit-learn's IncrementalPCA).
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from recondite.data.spool import Rows
from recondite.detector_options import COMPONENTS, PcaOptions
from recondite.detectors.base import Detector
from recondite.detectors.prior import Prior, fit_prior
from recondite.errors import InputError
from recondite.options import TrainingOptions
from recondite.progress import progress
from recondite.torch_state import own_settings
from recondite.training.history import History

_BATCH_VALUES, _MEMORY_VALUES = 1 << 26, 1 << 22
_SMALLEST, _CONSTANT = 1e-30, 1e-3


class Pca(Detector):
    """The best linear reconstruction from `latent_size` numbers, fitted in one pass with bounded memory.

    Exact while the images fit into one batch of 2^26 values (21,845 of 32 x 32 x 3); beyond that, batch after batch
    refines the components, and a little of what each batch cuts off is lost. Further images are taken in as exactly,
    by all components of those before, while these make up at most 2^22 values (always for 32 x 32 grey pixels, up to
    1,365 images of 32 x 32 x 3); beyond that, by the largest that do.

    Args:
        shape: (C, H, W) or (D,).
        options: see `PcaOptions`.

    Raises:
        InputError: more components than values in an image; on fitting, more components, where their number is given,
            than images.
    """

    name: ClassVar[str] = "pca"
    Options: ClassVar[type] = PcaOptions
    prior: ClassVar[Prior] = "fitted"
    trains_by_steps = False
    options: PcaOptions
    mean: Tensor
    components: Tensor

    def __init__(self, shape: tuple[int, ...], options: PcaOptions) -> None:
        size = prod(shape)
        kept = options.latent_size or min(COMPONENTS, size)
        super().__init__(shape, replace(options, latent_size=kept))
        self.given = options.latent_size is not None
        if kept > size:
            raise InputError(f"expected latent_size <= {size}, the values of an image (--latent-size); got {kept}")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(kept, size))

    def suit(self, count: int) -> None:
        most = min(len(self.components), max(1, count - 1))
        if not self.given and most < len(self.components):
            self.options = replace(self.options, latent_size=most)
            self.components = self.components.new_zeros(most, prod(self.shape))
            self.latent_mean = self.latent_mean.new_zeros(most)
            self.latent_factor = self.latent_factor.new_zeros(most, most)

    @own_settings()
    def fit_rows(
        self,
        images: Rows,
        validation: Rows | None,
        training: TrainingOptions,
        run_folder: Path | None = None,  # noqa: ARG002  one pass: nothing to resume
        resume: bool = False,  # noqa: ARG002
        show_progress: bool = False,
        further: bool = False,
    ) -> Self:
        if training.augment:
            raise InputError("pca looks at each image once and has no epochs: it takes no augmentation")
        if not further:
            self.suit(len(images))
        kept = len(self.components)
        known = self._known(images) if further else None
        if (0 if known is None else known.weight) + len(images) < kept:
            raise InputError(
                f"{kept} components need at least {kept} images; got {len(images)}: give more, or fewer components "
                f"(latent_size, --latent-size {max(1, len(images) // 2)})"
            )
        if known is None:
            self.standardise(images)
        # Long batches lose less: what each one cuts off is what an exact decomposition would have kept.
        size = max(2 * kept, min(len(images), _BATCH_VALUES // prod(self.shape)))
        most = max(kept, _MEMORY_VALUES // prod(self.shape))
        with progress("principal components", len(images), show_progress) as advance:
            for batch in self._flat_batches(images, size):
                known = merged(known, batch, most)
                advance(len(batch), "")
        assert known is not None
        lengths = known.factor[:kept].norm(dim=1)
        self.mean.copy_(known.mean)
        self.components.copy_(known.factor[:kept] / lengths.clamp(min=_SMALLEST)[:, None])
        self.memory = {"count": np.array(known.weight), "factor": known.factor.numpy()}
        self.fitted.fill_(True)
        if not further:
            fit_prior(self, images)
        elif self.can_sample:  # of old images and new: latents of images that were learnt from have mean zero
            self.latent_mean.zero_()
            self.latent_factor.copy_((lengths / known.weight**0.5).diag())
        error = None
        if validation is not None:
            parts = [self.validation_errors(torch.from_numpy(batch)) for batch in validation.batches()]
            error = float(torch.cat(parts).double().mean())
        self.history = History([{"epoch": 1, "validation": error}], best_epoch=1)
        return self

    def encode_tensor(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.mean) @ self.components.T

    def decode_tensor(self, z: Tensor) -> Tensor:
        return (z @ self.components + self.mean).reshape(-1, *self.shape)

    def _flat_batches(self, images: Rows, size: int) -> Iterator[Tensor]:
        """Yield scaled batches (n, values) of at most `size`."""
        for pixels in images.batches(size):
            yield self.scaled(torch.from_numpy(pixels)).flatten(1)

    def _known(self, images: Rows) -> "Scatter":
        """Return what was learnt; of vectors in units that fit further ones too, which are the detector's from now on.

        Raises:
            InputError: it was saved by a version that kept too little.
        """
        factor, count = self.memory.get("factor"), self.memory.get("count")
        if (
            count is None
            or count.size != 1
            or factor is None
            or factor.shape[1:] != self.mean.shape
            or factor.dtype != np.float32
        ):
            raise InputError(
                "this detector was fitted by a version that keeps too little to take in more: fit it again"
            )
        known = Scatter(float(count), self.mean.double().cpu(), torch.from_numpy(factor))
        if self.preprocessing.is_image:
            return known
        shift, scale = self.shift.double().cpu(), self.scale.double().cpu()
        # Others have a length of about the root of the count; rounding leaves a little of a constant one.
        constant = known.factor.norm(dim=0) < _CONSTANT * known.weight**0.5
        self.standardise(images, (known.weight, shift.numpy(), scale.masked_fill(constant, 0.0).numpy()))
        mean = (known.mean * scale + shift - self.shift.cpu()) / self.scale.cpu()
        return Scatter(known.weight, mean, (known.factor * scale / self.scale.cpu()).float())


class Scatter(NamedTuple):
    """What sums over vectors tell: their number, mean, and how they scatter around it.

    Args:
        weight: how many vectors there are.
        mean: float64 (D,).
        factor: float32 (R, D), orthogonal rows, the longest first; factor' factor is the sum of (x - mean) (x - mean)'.
    """

    weight: float
    mean: Tensor
    factor: Tensor


def merged(known: Scatter | None, vectors: Tensor, most: int) -> Scatter:
    """Return a scatter with further vectors (n, D) in it, of at most `most` rows: what is shorter is cut off."""
    added, mean = float(len(vectors)), vectors.double().mean(0)
    rows = (vectors - mean).float()
    if known is not None:
        between = (known.weight * added / (known.weight + added)) ** 0.5 * (known.mean - mean)
        rows = torch.cat([known.factor, rows, between.float()[None]])
        mean = (known.weight * known.mean + added * mean) / (known.weight + added)
        added += known.weight
    _, lengths, directions = torch.linalg.svd(rows, full_matrices=False)
    # A direction and its opposite are the same: the largest number is positive, so that latents have one sign.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return Scatter(added, mean, (lengths[:, None] * directions * largest.sign())[:most])
