"""New images from random latents: a standard normal prior, or a Gaussian fitted to latents of training images."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.data.spool import Rows
from recondite.errors import InputError

Prior = Literal["standard normal", "fitted"]
"""Where latents for new images come from: N(0, I), or a Gaussian fitted to the latents of training images."""
LARGEST_FITTED_LATENT = 1024
_PRIOR_IMAGES = 2000


def fit_prior(detector: Any, images: Rows) -> None:
    """Fit a detector's Gaussian over latents, where its `prior` says so, to at most 2,000 of the images."""
    if not hasattr(detector, "latent_factor"):
        return
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:_PRIOR_IMAGES])
    some = Rows(images.pixels, images.index[chosen])
    parts = [
        detector.run(x, lambda ready, x: {"": ready.encode_tensor(ready.scaled(x))})[""]
        for x in some.batches(detector.scoring_batch)
    ]
    latents = np.concatenate(parts).astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(latents, rowvar=False, ddof=0).reshape(2 * latents.shape[1:]))
    detector.latent_mean.copy_(torch.from_numpy(latents.mean(axis=0)))
    detector.latent_factor.copy_(torch.from_numpy(axes * np.sqrt(variances.clip(min=0))))


def draw_latents(detector: Any, count: int, seed: int) -> NDArray[np.float64]:
    """Return latents (count, D) of new images.

    Raises:
        InputError: count is not positive, or the detector has no distribution over latents.
    """
    if count < 1:
        raise InputError(f"expected at least one image to sample; got {count}")
    if not detector.can_sample:
        limit = f" of at most {LARGEST_FITTED_LATENT} numbers" if detector.prior == "fitted" else ""
        raise InputError(f"detector {detector.name!r} has no distribution over latents{limit} to sample from")
    z = np.random.default_rng(seed).standard_normal((count, detector.options.latent_size))
    if detector.prior == "fitted":
        z = z @ detector.latent_factor.double().cpu().numpy().T + detector.latent_mean.double().cpu().numpy()
    return z
