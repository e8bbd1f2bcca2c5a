"""What both detectors of alibi-detect share: scores, thresholds and result dictionaries, over a Recondite detector."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recondite import __version__
from recondite.compat.alibi.images import Layout, channels_first
from recondite.detectors import Detector, build
from recondite.errors import InputError, NotCalibratedError, NotFittedError
from recondite.screen.screen import Screen
from recondite.screen.thresholds import Level
from recondite.statistics.calibration import Calibrator, percentile_threshold
from recondite.torch_state import own_settings

_WHOLE_SET = int(1e10)


class Face:
    """A detector with alibi-detect's methods; a subclass says which Recondite detector, and makes its networks.

    Args:
        threshold: scores above it are outliers; None for none yet.
        detector: a fitted Recondite detector, in place of networks.
        encoder_net, decoder_net: torch modules.
        data_type: kept in `meta`.

    Raises:
        InputError: neither networks nor a detector of the right kind.
    """

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
        for name, net in (("encoder_net", encoder_net), ("decoder_net", decoder_net)):
            if net is not None and not isinstance(net, nn.Module):
                raise InputError(f"expected {name} as a torch module, not one of Keras; got {type(net).__name__}")
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

    def __repr__(self) -> str:
        fitted = self.detector is not None and bool(self.detector.fitted)
        return f"{type(self).__name__}(threshold={self.threshold}, fitted={fitted})"

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
        batch, layout = self.batch(X)
        scores = self.fitted().score(batch, score=self.score_name, top_percent=outlier_perc, feature_score=True)
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
            NotFittedError: `fit` was not called.
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
        detector = self.fitted().scored_by(score=self.score_name)
        facts = {"calibration": {"images": len(scores)}}
        return Screen(detector=detector, calibrator=Calibrator(scores), alpha=alpha, facts=facts)

    def _threshold_for(self, level: Level, share: float) -> float:
        self.fitted()
        if self.threshold is None:
            raise NotCalibratedError("there is no threshold: give one, or call infer_threshold(X)")
        if self.made_for is not None and self.made_for != (level, float(share)):
            made_level, made_share = self.made_for
            raise InputError(
                f"the threshold was inferred for outlier_type={made_level!r} and outlier_perc={made_share:g}; got "
                f"{level!r} and {share:g}: infer it for these, or set od.threshold by hand"
            )
        return self.threshold

    def fitted(self) -> Detector:
        """Return the Recondite detector; raise NotFittedError if it is not fitted."""
        if self.detector is None or not bool(self.detector.fitted):
            raise NotFittedError(f"{type(self).__name__} is not fitted: call fit(X) first")
        return self.detector

    def batch(self, X: object) -> tuple[NDArray[Any], Layout]:
        """Return images with the channels first, and how they came; raise InputError if their shape is another."""
        batch, layout = channels_first(X)
        shape = self.fitted().shape
        if batch.shape[1:] != shape:
            raise InputError(f"expected images of {shape} (channels, height, width); got {batch.shape[1:]}")
        return batch, layout

    @own_settings()
    def fit_networks(self, X: NDArray[Any], options: Mapping[str, Any], seed: int, **training: Any) -> None:
        """Fit a new Recondite detector with the networks given."""
        batch, _ = channels_first(X)
        if self.encoder_net is None or self.decoder_net is None:
            raise InputError("this detector came fitted; give an encoder_net and a decoder_net to fit new ones")
        encoder, decoder, latent = self.networks(batch.shape[1:], seed)
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

    def networks(self, shape: tuple[int, ...], seed: int = 0) -> tuple[nn.Module, nn.Module, int]:
        """Return encoder, decoder and size of the latent as the Recondite detector takes them."""
        raise NotImplementedError


class Reconstruction:
    """A fitted detector as a function of images, as the Keras models of the other library are.

    Args:
        face: the detector.
    """

    def __init__(self, face: Face) -> None:
        self._face = face

    def __call__(self, X: object) -> Tensor:
        """Return the images rebuilt, in the layout of X.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: an image cannot be read, or has another shape.
        """
        batch, layout = self._face.batch(X)
        return torch.from_numpy(np.ascontiguousarray(layout.restored(self._face.fitted().reconstruct(batch))))


def _level(outlier_type: str) -> Level:
    if outlier_type not in ("instance", "feature"):
        raise InputError(f"expected an outlier_type of instance or feature; got {outlier_type!r}")
    return outlier_type  # type: ignore[return-value]


def _count_bad(scores: NDArray[np.float64]) -> int:
    return int(np.sum(~np.isfinite(scores)))
