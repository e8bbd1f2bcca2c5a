"""Scores of a classifier's own outputs: how foreign an image looks to it. Higher is more anomalous.

Features are the vectors that its last linear layer sees. Each function looks at each image on its own.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.errors import InputError

NEIGHBOUR = 5
_SMALLEST = 1e-6
_LOG_SMALLEST_NUMBER = math.log(np.finfo(np.float32).tiny)
_LOG_TEMPERATURES = (-3.0, 4.0)


def without_zeros(logits: Tensor) -> Tensor:
    """Return logits (N, K) with minus infinity, the logarithm of 0, as that of the smallest number there is.

    So they count in a table of probabilities. Where a row holds nothing else, or no number, it stays as it is.
    """
    if not logits.is_floating_point():
        return logits
    lowest = logits.amax(-1, keepdim=True) + _LOG_SMALLEST_NUMBER
    return torch.where(logits == -torch.inf, lowest, logits)


def max_softmax(logits: Tensor) -> Tensor:
    """Return -log of the largest softmax probability (N,) of logits (N, K).

    Source: Hendrycks and Gimpel 2017, arXiv 1610.02136.
    """
    return -logits.log_softmax(1).amax(1)


def max_logit(logits: Tensor) -> Tensor:
    """Return minus the largest logit (N,) of logits (N, K).

    Source: Hendrycks et al. 2022, arXiv 1911.11132.
    """
    return -logits.amax(1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the free energy -T log sum exp(logit / T) (N,) of logits (N, K).

    Source: Liu et al. 2020, arXiv 2010.03759.
    """
    return -temperature * (logits / temperature).logsumexp(1)


def neighbour_distance(features: Tensor, bank: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """Return the distance (N,) of features (N, D), scaled to length 1, from their k-th nearest in a bank.

    Source: Sun et al. 2022, arXiv 2204.06507.

    Args:
        features: (N, D).
        bank: (M, D), of length 1; M >= neighbour.
        neighbour: k.
    """
    cosines = unit(features) @ bank.T
    nearest = cosines.topk(neighbour, dim=1).values[:, -1]
    return (2 - 2 * nearest).clamp(min=0).sqrt()


def nearest_centre(whitened: Tensor, centres: Tensor) -> Tensor:
    """Return the squared distance (N,) of points (N, D) from the nearest of some centres (K, D).

    Of features of length 1 and the means of the classes, both times a whitening (D, D) whose square W W' is the inverse
    of the covariance that the classes share, it is the squared Mahalanobis distance from the nearest class mean.

    Source: Lee et al. 2018, arXiv 1807.03888; features of length 1: Mueller and Hein 2025, arXiv 2505.18032.
    """
    squared = whitened.square().sum(1, keepdim=True) + centres.square().sum(1) - 2 * whitened @ centres.T
    return squared.amin(1).clamp(min=0)


def vim(features: Tensor, logits: Tensor, origin: Tensor, principal: Tensor, scale: Tensor | float) -> Tensor:
    """Return the virtual logit of the features' residual minus the energy's log sum of all logits (N,).

    Source: Wang et al. 2022, arXiv 2203.10807; minus the logarithm of the odds of the virtual class.

    Args:
        features, logits: (N, D) and (N, K).
        origin: (D,), where the features are seen from.
        principal: (D, P), an orthonormal basis of the principal subspace; the residual is what it leaves.
        scale: of the residual's norm, so that on normal images it is as large as the largest logit on average.
    """
    return scale * residual_norm(features - origin, principal) - logits.logsumexp(1)


def residual_norm(vectors: Tensor, principal: Tensor) -> Tensor:
    """Return the length (N,) of what is left of vectors (N, D) outside of the span of an orthonormal basis (D, P)."""
    norm: Tensor = (vectors.square().sum(1) - (vectors @ principal).square().sum(1)).clamp(min=0).sqrt()
    return norm


def fitted_temperature(logits: NDArray[np.floating], classes: NDArray[np.integer]) -> float:
    """Return the temperature T in [.05, 55] at which softmax(logits / T) gives the true classes most probability.

    Source: Guo et al. 2017, arXiv 1706.04599.

    Args:
        logits: (N, K), of images that the classifier has not learnt from.
        classes: (N,), the true ones, from 0 to K - 1.

    Raises:
        InputError: no images, or classes that are not among those of the logits.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, classes = np.asarray(logits, dtype=np.float64), np.asarray(classes)
    if logits.ndim != 2 or not len(logits) or classes.shape != logits.shape[:1] or not np.isfinite(logits).all():
        raise InputError(f"expected finite logits (N, K) and N classes; got {logits.shape} and {classes.shape}")
    if classes.min() < 0 or classes.max() >= logits.shape[1]:
        raise InputError(f"expected classes from 0 to {logits.shape[1] - 1}; got {classes.min()} to {classes.max()}")
    rows = np.arange(len(logits))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, classes].mean())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) scaled to length 1."""
    scaled: Tensor = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=_SMALLEST)
    return scaled
