"""OutlierVAE and OutlierAE: alibi-detect's arguments over Recondite's detectors."""

import inspect
from collections.abc import Mapping
from math import prod
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite.compat.alibi.face import Face, Reconstruction
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.networks.hooks import evaluating
from recondite.torch_state import seeded


def elbo(*_: object) -> None:
    """Stand for the loss of `OutlierVAE`, which computes it itself; for `loss_fn=elbo`."""


class OutlierVAE(Face):
    """A variational autoencoder that judges images by how badly it rebuilds them.

    Args:
        threshold: scores above it are outliers; None until `infer_threshold`.
        score_type: "mse" for the squared error, "proba" for the negative log-likelihood.
        vae: a fitted Recondite detector "vae", in place of the networks.
        encoder_net: a torch module, images (N, C, H, W) to anything; dense layers to mean and log-variance are added.
        decoder_net: a torch module, latents (N, latent_dim) to images (N, C, H, W) in [0, 1].
        latent_dim: D, the numbers in the latent.
        samples: latent draws that a score averages over. They are drawn once and kept.
        beta: weight of the KL divergence, averaged over the latent.
        data_type: kept in `meta`.

    Raises:
        InputError: neither networks nor a detector, or options out of range.
    """

    detector_name = "vae"

    def __init__(
        self,
        threshold: float | None = None,
        score_type: Literal["mse", "proba"] = "mse",
        vae: Detector | None = None,
        encoder_net: nn.Module | None = None,
        decoder_net: nn.Module | None = None,
        latent_dim: int | None = None,
        samples: int = 10,
        beta: float = 1.0,
        data_type: str | None = None,
    ) -> None:
        super().__init__(threshold, vae, encoder_net, decoder_net, data_type)
        if score_type not in ("mse", "proba"):
            raise InputError(f"expected a score_type of mse or proba; got {score_type!r}")
        if vae is None and (latent_dim is None or latent_dim < 1):
            raise InputError(f"expected a latent_dim of at least 1; got {latent_dim!r}")
        self.score_type, self.latent_dim, self.samples, self.beta = score_type, latent_dim, samples, beta

    @property
    def score_name(self) -> str:  # type: ignore[override]
        """The Recondite score that `score_type` stands for."""
        return "squared_error" if self.score_type == "mse" else "reconstruction_probability"

    @property
    def vae(self) -> Reconstruction:
        """The fitted network, images to reconstructions (from the mean of the latent)."""
        return Reconstruction(self)

    def fit(
        self,
        X: NDArray[Any],
        loss_fn: object = elbo,
        optimizer: object = None,
        cov_elbo: Mapping[str, Any] | None = None,
        epochs: int = 20,
        batch_size: int = 64,
        verbose: bool = True,
        log_metric: object = None,
        callbacks: object = None,
        *,
        seed: int = 0,
    ) -> Self:
        """Learn what normal images look like; a threshold that was inferred before is gone.

        Args:
            X: as in `score`.
            loss_fn: `elbo` or None.
            optimizer: Adam's learning rate, or a torch Adam whose settings are taken over; 1e-3 by default.
            cov_elbo: {"sim": sigma}, the standard deviation of the likelihood; .05 by default.
            epochs: passes over X.
            batch_size: images a step.
            verbose: show progress.
            log_metric: must be None.
            callbacks: must be None.
            seed: of weights added here, shuffling and draws.

        Raises:
            InputError: images that cannot be used, networks that do not fit them, or arguments without a meaning here.
        """
        if loss_fn not in (None, elbo):
            raise InputError("expected loss_fn=elbo: Recondite computes the loss itself")
        covariance = {"sim": 0.05} if cov_elbo is None else dict(cov_elbo)
        if set(covariance) != {"sim"}:
            raise InputError(f"expected cov_elbo={{'sim': sigma}}; got {sorted(covariance)}")
        _check_unused(log_metric=log_metric, callbacks=callbacks)
        options = {
            "sigma": "fixed",
            "initial_sigma": float(covariance["sim"]),
            # The other library averages the divergence over the latent; here it is summed.
            "beta": self.beta / (self.latent_dim or 1),
            "draws": self.samples,
        }
        settings = {"epochs": epochs, "batch_size": batch_size, "verbose": verbose, **_adam(optimizer)}
        self.fit_networks(X, options, seed, **settings)
        return self

    def networks(self, shape: tuple[int, ...], seed: int = 0) -> tuple[nn.Module, nn.Module, int]:
        assert self.encoder_net is not None
        assert self.decoder_net is not None
        assert self.latent_dim is not None
        size = prod(_output_shape(self.encoder_net, shape))
        with seeded(seed):
            head = nn.Linear(size, 2 * self.latent_dim)
        return nn.Sequential(self.encoder_net, nn.Flatten(), head), self.decoder_net, self.latent_dim


class OutlierAE(Face):
    """An autoencoder that judges images by how badly it rebuilds them.

    Args:
        threshold: scores above it are outliers; None until `infer_threshold`.
        ae: a fitted Recondite detector "autoencoder", in place of the networks.
        encoder_net: a torch module, images (N, C, H, W) to latents of any shape.
        decoder_net: a torch module, such latents to images (N, C, H, W) in [0, 1].
        data_type: kept in `meta`.

    Raises:
        InputError: neither networks nor a detector.
    """

    detector_name = "autoencoder"

    def __init__(
        self,
        threshold: float | None = None,
        ae: Detector | None = None,
        encoder_net: nn.Module | None = None,
        decoder_net: nn.Module | None = None,
        data_type: str | None = None,
    ) -> None:
        super().__init__(threshold, ae, encoder_net, decoder_net, data_type)

    @property
    def ae(self) -> Reconstruction:
        """The fitted network, images to reconstructions."""
        return Reconstruction(self)

    def fit(
        self,
        X: NDArray[Any],
        loss_fn: object = None,
        optimizer: object = None,
        epochs: int = 20,
        batch_size: int = 64,
        verbose: bool = True,
        log_metric: object = None,
        callbacks: object = None,
        *,
        seed: int = 0,
    ) -> Self:
        """Learn what normal images look like; a threshold that was inferred before is gone.

        Args:
            X: as in `score`.
            loss_fn: None or torch's mean squared error, which it is.
            optimizer, epochs, batch_size, verbose, log_metric, callbacks, seed: as in `OutlierVAE.fit`.

        Raises:
            InputError: images that cannot be used, networks that do not fit them, or arguments without a meaning here.
        """
        known = loss_fn in (None, nn.MSELoss, nn.functional.mse_loss) or isinstance(loss_fn, nn.MSELoss)
        if not known:
            raise InputError("expected loss_fn=None: Recondite trains an autoencoder on the mean squared error")
        _check_unused(log_metric=log_metric, callbacks=callbacks)
        settings = {"epochs": epochs, "batch_size": batch_size, "verbose": verbose, **_adam(optimizer)}
        self.fit_networks(X, {}, seed, **settings)
        return self

    def networks(self, shape: tuple[int, ...], seed: int = 0) -> tuple[nn.Module, nn.Module, int]:  # noqa: ARG002
        assert self.encoder_net is not None
        assert self.decoder_net is not None
        latent = _output_shape(self.encoder_net, shape)
        encoder = nn.Sequential(self.encoder_net, nn.Flatten())
        return encoder, nn.Sequential(nn.Unflatten(1, latent), self.decoder_net), prod(latent)


def _check_unused(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name} has no meaning here; see docs/from_alibi_detect.md")


def _adam(optimizer: object) -> dict[str, float]:
    """Return the training options that stand for a learning rate or a torch Adam."""
    if optimizer is None or optimizer is torch.optim.Adam:
        return {"learning_rate": 1e-3}
    if isinstance(optimizer, int | float):
        return {"learning_rate": float(optimizer)}
    if type(optimizer) is torch.optim.Adam:
        group = optimizer.param_groups[0]
        usual = {name: one.default for name, one in inspect.signature(torch.optim.Adam).parameters.items()}
        other = [name for name in ("eps", "amsgrad", "maximize") if group[name] != usual[name]]
        other += ["betas[1]"] if group["betas"][1] != usual["betas"][1] else []
        other += ["several groups"] if len(optimizer.param_groups) > 1 else []
        if other:
            raise InputError(f"of an Adam only lr, betas[0] and weight_decay are taken over; got {', '.join(other)}")
        return {
            "learning_rate": float(group["lr"]),
            "adam_beta1": float(group["betas"][0]),
            "weight_decay": float(group["weight_decay"]),
        }
    raise InputError(f"expected a learning rate or torch.optim.Adam; got {type(optimizer).__name__}")


def _output_shape(encoder: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return what an encoder gives for one image, without the batch."""
    try:
        with evaluating(encoder):
            found = encoder(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"the encoder_net does not take images of {shape}: {error}") from error
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 1:
        raise InputError("expected an encoder_net that returns one tensor (N, ...)")
    return tuple(found.shape[1:])
