"""Distances from normal feature vectors: shrunk Mahalanobis and nearest neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.data.artifacts import tensor_of
from recondite.errors import InputError
from recondite.statistics.classifier_scores import NEIGHBOUR

DISTANCES = ("mahalanobis", "neighbour")
_BANK = 1000
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Distances:
    """How far feature vectors (N, D) are from those of normal images.

    - mahalanobis: log ||W (z - mean)||, W W' the inverse of their Ledoit-Wolf covariance; costs D^2 an image.
    - neighbour: log of the distance to the fifth nearest of a bank of M normal vectors, all centred and of length 1;
      costs M D an image.

    Source: Lee et al. 2018, arXiv 1807.03888 (Mahalanobis); Sun et al. 2022, arXiv 2204.06507 (neighbours).

    Args:
        mean: float32 (D,).
        whitening: float32 (D, D).
        bank: float32 (M, D).
    """

    mean: Tensor
    whitening: Tensor
    bank: Tensor

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> "Distances":
        """Learn from the feature vectors (N, D) of normal images.

        Raises:
            InputError: they are not (N, D), fewer than 10, or not finite.
        """
        from sklearn.covariance import ledoit_wolf

        if features.ndim != 2 or len(features) < 2 * NEIGHBOUR or not np.isfinite(features).all():
            raise InputError(f"expected finite features (N, D) of at least {2 * NEIGHBOUR}; got {features.shape}")
        mean = features.mean(axis=0, dtype=np.float64)
        covariance, _ = ledoit_wolf(features - mean, assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        # Features that never varied would be divided by zero, and float32 ends at 3e38.
        smallest = max(_SMALLEST * float(variances[-1]), _SMALLEST**2)
        whitening: NDArray[np.float64] = directions * np.maximum(variances, smallest) ** -0.5
        chosen = np.linspace(0, len(features) - 1, min(len(features), _BANK)).astype(np.intp)
        return cls(_tensor(mean), _tensor(whitening), _unit(_tensor(features[chosen] - mean)))

    def __call__(self, features: Tensor) -> dict[str, Tensor]:
        """Return both distances (N,) of feature vectors (N, D)."""
        mean, whitening, bank = (part.to(features.device) for part in (self.mean, self.whitening, self.bank))
        centred = features - mean
        cosines = _unit(centred) @ bank.T
        nearest = cosines.topk(NEIGHBOUR, dim=1).values[:, -1]
        return {
            "mahalanobis": ((centred @ whitening).norm(dim=1) + _SMALLEST).log(),
            "neighbour": ((2 - 2 * nearest).clamp(min=0).sqrt() + _SMALLEST).log(),
        }

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the numbers as arrays, to be saved."""
        return {name: getattr(self, name).numpy() for name in ("mean", "whitening", "bank")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float32]]) -> "Distances":
        """Return what `tensors` gave.

        Raises:
            KeyError, ValueError: parts are missing, of another type, or do not belong together.
        """
        mean = tensor_of(tensors, "mean", np.float32, None)
        whitening = tensor_of(tensors, "whitening", np.float32, len(mean), len(mean))
        bank = tensor_of(tensors, "bank", np.float32, None, len(mean))
        if len(bank) < NEIGHBOUR:
            raise ValueError(f"a bank of {len(bank)} vectors; expected at least {NEIGHBOUR}")
        return cls(*map(torch.from_numpy, (mean, whitening, bank)))


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=_SMALLEST)
    return unit
