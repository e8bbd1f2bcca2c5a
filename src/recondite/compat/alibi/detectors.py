"""OutlierVAE and OutlierAE: alibi-detect's arguments and result dictionaries over Recondite's detectors."""

from collections.abc import Mapping
from math import isfinite, prod
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite import __version__
from recondite.calibration import Calibrator, percentile_threshold
from recondite.compat.alibi.images import Layout, channels_first
from recondite.detectors import Detector, build
from recondite.errors import InputError, NotCalibratedError, NotFittedError
from recondite.nets import evaluating
from recondite.screen import Screen

Level = Literal["instance", "feature"]
_WHOLE_SET = int(1e10)


def elbo(*_: object) -> None:
    """Stand for the loss of `OutlierVAE`, which computes it itself; for `loss_fn=elbo`."""


class _Face:
    """What both detectors share: scores, thresholds and result dictionaries."""

    detector_name: ClassVar[str]
    score_name = "squared_error"

    def __init__(
        self,
        threshold: float | None,
        detector: Detector | None,
        encoder_net: nn.Module | None,
        decoder_net: nn.Module | None,
        data_type: str | None,
    ) -> None:
        if detector is None and (encoder_net is None or decoder_net is None):
            raise InputError("expected an encoder_net and a decoder_net, or a fitted Recondite detector in their place")
        if detector is not None and (not isinstance(detector, Detector) or detector.name != self.detector_name):
            raise InputError(f"expected a Recondite detector {self.detector_name!r}; got {type(detector).__name__}")
        self.detector, self.encoder_net, self.decoder_net = detector, encoder_net, decoder_net
        self.threshold = threshold
        self.meta = {
            "name": type(self).__name__,
            "detector_type": "outlier",
            "online": False,
            "data_type": data_type,
            "version": f"recondite {__version__}",
        }

    @property
    def threshold(self) -> float | None:
        """Scores above it are outliers. One set by hand is for any use, an inferred one for what it was made for."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        if value is not None and not isfinite(value):
            raise InputError(f"expected a finite threshold; got {value!r}")
        self._threshold = None if value is None else float(value)
        self.made_for: tuple[Level, float] | None = None

    def score(
        self,
        X: NDArray[Any],
        outlier_perc: float = 100.0,
        batch_size: int = _WHOLE_SET,
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the score of each value (the shape of X) and of each image (N,); higher is more anomalous.

        Args:
            X: images (N, H, W, C), (N, C, H, W) or (N, H, W) with values in [0, 1], or vectors (N, D).
            outlier_perc: the share of the worst values, in (0, 100], that an image's score is the mean of.
            batch_size: without effect; batches have one size, so that a score is the image's alone.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: no images, another shape than in `fit`, or a share out of range.
        """
        del batch_size
        batch, layout = self._batch(X)
        scores = self._fitted().score(batch, score=self.score_name, top_percent=outlier_perc, feature_score=True)
        assert scores.feature_score is not None
        return layout.restored(scores.feature_score), scores.instance_score

    def infer_threshold(
        self,
        X: NDArray[Any],
        outlier_type: Level = "instance",
        outlier_perc: float = 100.0,
        threshold_perc: float = 95.0,
        batch_size: int = _WHOLE_SET,
    ) -> Self:
        """Set the threshold to a percentile of the scores of X, for this level and share only.

        It promises nothing for new images; `screen` gives a threshold that does.

        Args:
            X: as in `score`.
            outlier_type: "instance" for verdicts on images, "feature" on their values.
            outlier_perc: as in `score`.
            threshold_perc: the percentile of the scores, in [0, 100].
            batch_size: without effect.

        Raises:
            InputError: as `score`, or an image that cannot be scored.
        """
        features, instances = self.score(X, outlier_perc, batch_size)
        scores = instances if _level(outlier_type) == "instance" else features
        if not np.isfinite(scores).all():
            raise InputError(f"expected images that can all be scored; {_count_bad(instances)} of them cannot")
        self.threshold = percentile_threshold(np.ravel(scores), threshold_perc)
        self.made_for = (outlier_type, float(outlier_perc))
        return self

    def predict(
        self,
        X: NDArray[Any],
        outlier_type: Level = "instance",
        outlier_perc: float = 100.0,
        batch_size: int = _WHOLE_SET,
        return_feature_score: bool = True,
        return_instance_score: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """Return {"data": {"instance_score", "feature_score", "is_outlier"}, "meta": ...}.

        Args:
            X: as in `score`. An image that cannot be read has scores of NaN and is an outlier.
            outlier_type: "instance": is_outlier is (N,); "feature": it has the shape of X.
            outlier_perc: as in `score`.
            batch_size: without effect.
            return_feature_score: else that entry is None.
            return_instance_score: else that entry is None.

        Raises:
            NotCalibratedError: there is no threshold.
            InputError: as `score`, or a threshold that was inferred for another level or share.
        """
        threshold = self._threshold_for(_level(outlier_type), outlier_perc)
        features, instances = self.score(X, outlier_perc, batch_size)
        judged = instances if outlier_type == "instance" else features
        data = {
            "instance_score": instances if return_instance_score else None,
            "feature_score": features if return_feature_score else None,
            "is_outlier": (~(judged <= threshold)).astype(int),  # "not <=": a NaN is above every threshold
        }
        return {"data": data, "meta": dict(self.meta)}

    def screen(self, X: NDArray[Any], alpha: float = 0.05) -> Screen:
        """Return a Recondite screen, calibrated on normal images that the detector has not learnt from.

        Args:
            X: as in `score`.
            alpha: the false-alarm rate on new normal images.

        Raises:
            InputError: as `score`, an image that cannot be scored, or too few images for alpha.
        """
        _, scores = self.score(X)
        if not np.isfinite(scores).all():
            raise InputError(f"expected images that can all be scored; {_count_bad(scores)} of them cannot")
        detector = self._fitted().scored_by(score=self.score_name)
        facts = {"calibration": {"images": len(scores)}}
        return Screen(detector=detector, calibrator=Calibrator(scores), alpha=alpha, facts=facts)

    def _threshold_for(self, level: Level, share: float) -> float:
        if self.threshold is None:
            raise NotCalibratedError("there is no threshold: give one, or call infer_threshold(X)")
        if self.made_for is not None and self.made_for != (level, float(share)):
            made_level, made_share = self.made_for
            raise InputError(
                f"the threshold was inferred for outlier_type={made_level!r} and outlier_perc={made_share:g}; got "
                f"{level!r} and {share:g}: infer it for these, or set od.threshold by hand"
            )
        return self.threshold

    def _fitted(self) -> Detector:
        if self.detector is None or not bool(self.detector.fitted):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(X) first")
        return self.detector

    def _batch(self, X: object) -> tuple[NDArray[Any], Layout]:
        batch, layout = channels_first(X)
        shape = self._fitted().shape
        if batch.shape[1:] != shape:
            raise InputError(f"expected images of {shape} (channels, height, width); got {batch.shape[1:]}")
        return batch, layout

    def _fit(self, X: NDArray[Any], options: Mapping[str, Any], seed: int, **training: Any) -> None:
        batch, _ = channels_first(X)
        if self.encoder_net is None or self.decoder_net is None:
            raise InputError("this detector came fitted; give an encoder_net and a decoder_net to fit new ones")
        encoder, decoder, latent = self._networks(batch.shape[1:])
        detector = build(
            self.detector_name,
            image_shape=batch.shape[1:],
            seed=seed,
            encoder=encoder,
            decoder=decoder,
            latent_size=latent,
            **options,
        )
        verbose = bool(training.pop("verbose"))
        detector.fit(batch, validation=None, progress=verbose, schedule="constant", seed=seed, **training)
        self.detector = detector
        if self.made_for is not None:
            self.threshold = None

    def _networks(self, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module, int]:
        raise NotImplementedError


class OutlierVAE(_Face):
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
    def vae(self) -> "Reconstruction":
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
        self._fit(X, options, seed, **settings)
        return self

    def _networks(self, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module, int]:
        assert self.encoder_net is not None
        assert self.decoder_net is not None
        assert self.latent_dim is not None
        size = prod(_output_shape(self.encoder_net, shape))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            head = nn.Linear(size, 2 * self.latent_dim)
        return nn.Sequential(self.encoder_net, nn.Flatten(), head), self.decoder_net, self.latent_dim


class OutlierAE(_Face):
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
    def ae(self) -> "Reconstruction":
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
        self._fit(X, {}, seed, **settings)
        return self

    def _networks(self, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module, int]:
        assert self.encoder_net is not None
        assert self.decoder_net is not None
        latent = _output_shape(self.encoder_net, shape)
        encoder = nn.Sequential(self.encoder_net, nn.Flatten())
        return encoder, nn.Sequential(nn.Unflatten(1, latent), self.decoder_net), prod(latent)


class Reconstruction:
    """A fitted detector as a function of images, as the Keras models of the other library are.

    Args:
        face: the detector.
    """

    def __init__(self, face: _Face) -> None:
        self._face = face

    def __call__(self, X: object) -> Tensor:
        """Return the images rebuilt, in the layout of X.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: an image cannot be read, or has another shape.
        """
        batch, layout = self._face._batch(X)
        return torch.from_numpy(np.ascontiguousarray(layout.restored(self._face._fitted().reconstruct(batch))))


def _level(outlier_type: str) -> Level:
    if outlier_type not in ("instance", "feature"):
        raise InputError(f"expected an outlier_type of instance or feature; got {outlier_type!r}")
    return outlier_type  # type: ignore[return-value]


def _count_bad(scores: NDArray[np.float64]) -> int:
    return int(np.sum(~np.isfinite(scores)))


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
