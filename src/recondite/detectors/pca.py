"""Principal component analysis: the linear autoencoder in closed form, and the baseline that every network should beat.

Source: Pearson 1901; Ross et al. 2008, IJCV 77:125, for the incremental form (scikit-learn's IncrementalPCA).
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from recondite.data.spool import Rows
from recondite.detectors.base import Detector
from recondite.detectors.measured import PixelScore
from recondite.detectors.prior import Prior, fit_prior
from recondite.errors import InputError
from recondite.options import CHECKED, PoolingOptions, TrainingOptions
from recondite.progress import progress
from recondite.torch_state import own_settings
from recondite.training.checkpoint import History

_BATCH_VALUES = 1 << 26


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class PcaOptions(PoolingOptions):
    """Options of principal component analysis."""

    latent_size: Annotated[int, Field(ge=1, le=4096, description="principal components kept")] = 32
    score: Annotated[PixelScore, Field(description="the error that an image is judged by")] = "squared_error"


class Pca(Detector):
    """The best linear reconstruction from `latent_size` numbers, fitted in one pass with bounded memory.

    Exact while the images fit into one batch of 2^26 values (21,845 of 32 x 32 x 3); beyond that, batch after batch
    refines the components, and a little of what each batch cuts off is lost.

    Args:
        shape: (C, H, W) or (D,).
        options: see `PcaOptions`.

    Raises:
        InputError: more components than values in an image; on fitting, more components than images.
    """

    name: ClassVar[str] = "pca"
    Options: ClassVar[type] = PcaOptions
    prior: ClassVar[Prior] = "fitted"
    trains_by_steps = False
    options: PcaOptions
    mean: Tensor
    components: Tensor

    def __init__(self, shape: tuple[int, ...], options: PcaOptions) -> None:
        super().__init__(shape, options)
        size = prod(self.shape)
        if options.latent_size > size:
            raise InputError(f"expected latent_size <= {size}, the values of an image; got {options.latent_size}")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.zeros(options.latent_size, size))

    @own_settings()
    def fit_rows(
        self,
        images: Rows,
        validation: Rows | None,
        training: TrainingOptions,
        run_folder: Path | None = None,  # noqa: ARG002  one pass: nothing to resume
        resume: bool = False,  # noqa: ARG002
        show_progress: bool = False,
    ) -> Self:
        from sklearn.decomposition import IncrementalPCA

        if training.augment:
            raise InputError("pca looks at each image once and has no epochs: it takes no augmentation")
        kept = self.options.latent_size
        if len(images) < kept:
            raise InputError(f"{kept} components need at least {kept} images; got {len(images)}")
        self.standardise(images)
        # Long batches lose less: what each one cuts off is what an exact decomposition would have kept.
        size = max(2 * kept, min(len(images), _BATCH_VALUES // prod(self.shape)))
        model = IncrementalPCA(n_components=kept)
        with progress("principal components", len(images), show_progress) as advance:
            for batch in self._flat_batches(images, size):
                model.partial_fit(batch.numpy())
                advance(len(batch), "")
        self.mean.copy_(torch.from_numpy(model.mean_))
        self.components.copy_(torch.from_numpy(model.components_))
        self.fitted.fill_(True)
        fit_prior(self, images)
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
        """Yield scaled batches (n, values); a last one too short for a decomposition joins the one before it."""
        starts = list(range(0, len(images), size))
        if len(starts) > 1 and len(images) - starts[-1] < self.options.latent_size:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(images)], strict=True):
            yield self.scaled(torch.from_numpy(images.take(slice(start, end)))).flatten(1)
