"""Feature vectors of places rebuilt by a trained network: an autoencoder of each place's vector, 1 x 1 convolutions.

Source: Yang, Shi and Qi 2020, arXiv 2012.07122 (DFR). Differs from it: trained on vectors that are drawn from all
places of all images, without batch norm, with a bottleneck of `latent_size` in place of 90 % of the energy.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from recondite.data.spool import Rows
from recondite.detectors.vector_models import Drawn, VectorModel
from recondite.networks.autoencoders import make_network
from recondite.options import CHECKED, TrainingOptions
from recondite.training.history import History
from recondite.training.loop import Update, train

_MOST_VECTORS, _MOST_VALUES = 100_000, 1 << 26
_WIDEST = 512
_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class FeatureAutoencoderOptions:
    """Options of the autoencoder of vectors."""

    latent_size: Annotated[int, Field(ge=1, description="numbers in the bottleneck")]


class FeatureAutoencoder(VectorModel):
    """An autoencoder of vectors, whatever their place; a `Trainable` whose images are the vectors (F,).

    Three dense layers, of F units but 512 at most, in and out. `settle` only gathers what was drawn; `trained` learns.

    Args:
        size: F, of a vector.
        latent_size: numbers in the bottleneck.
    """

    mean: Tensor
    scale: Tensor
    batches_a_step = 1

    def __init__(self, size: int, latent_size: int) -> None:
        super().__init__()
        self.options, self.shape = FeatureAutoencoderOptions(latent_size=latent_size), (size,)
        network = make_network("auto", self.shape, latent_size, min(-(-size // 4), _WIDEST // 4), latent_size)
        self.encoder, self.decoder = network.encoder, network.decoder
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))
        self._drawn: Drawn | None = None
        self._further = False
        self._learnt = torch.empty(0)

    def begin(self, count: int, further: bool = False) -> None:
        self._drawn, self._further = self.drawn_from(count), further

    def add(self, vectors: Tensor, first: int) -> None:
        assert self._drawn is not None
        self._drawn.add(vectors, first)

    def settle(self) -> None:
        """Gather the vectors to learn, their mean and their common spread; the weights that learn further know both."""
        assert self._drawn is not None
        self._learnt, self._drawn = self._drawn.gathered(), None
        if self._further:
            return
        self.mean.copy_(self._learnt.mean(0))
        self.scale.copy_((self._learnt - self.mean).square().mean().sqrt().clamp(min=_SMALLEST_SCALE))

    def drawn_from(self, count: int) -> Drawn:
        """Return an empty sample of `count` vectors that will come, to learn or to validate by."""
        size = self.shape[0]
        return Drawn(count, min(_MOST_VECTORS, _MOST_VALUES // size), size, self.mean.device)

    def trained(
        self, held_out: Tensor, training: TrainingOptions, run_folder: Path | None, resume: bool, show_progress: bool
    ) -> History:
        """Learn to rebuild the vectors that `settle` gathered, and return how it went; see `train`.

        Args:
            held_out: (n, F), of unseen normal images, to choose the best epoch by.
            training: how to train; an epoch goes once over the vectors that were drawn.
            run_folder, resume, show_progress: as in `train`.
        """
        device = self.mean.device
        learnt, self._learnt = self._learnt, torch.empty(0)
        history = train(self, _rows(learnt), _rows(held_out), training, run_folder, resume, show_progress)
        self.to(device)
        return history

    def losses(self, x: Tensor) -> Iterator[Update]:
        yield "all", self._errors(x).mean()

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return {"all": list(self.parameters())}

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the mean squared error of vectors (N, F) in units of their spread (N,)."""
        return self._errors(x)

    def rebuilt(self, x: Tensor) -> None:
        """Return None: what is rebuilt is no image."""

    def distance(self, vectors: Tensor) -> Tensor:
        """Return the mean squared error of vectors (N, P, F) that the network rebuilds (N, P)."""
        return self._errors(vectors) * self.scale.square()

    def _errors(self, vectors: Tensor) -> Tensor:
        """Return the mean squared errors (...) of vectors (..., F), in units of their spread."""
        scaled = (vectors - self.mean) / self.scale
        rebuilt: Tensor = self.decoder(self.encoder(scaled))
        return (scaled - rebuilt).square().mean(-1)


def _rows(vectors: Tensor) -> Rows:
    return Rows(vectors.cpu().numpy(), np.arange(len(vectors)))
