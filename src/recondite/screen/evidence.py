"""Evidence: image statistics beside the reconstruction error, combined into one score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.data.artifacts import tensor_of
from recondite.data.datasets import Batch, nameless
from recondite.data.spool import Rows
from recondite.detectors import Detector
from recondite.detectors.measured import Measured
from recondite.distributed import shard_of, unsharded
from recondite.errors import ArtifactError, InputError, not_among
from recondite.networks.hooks import FeatureLayer, evaluating, recorded
from recondite.progress import progress as show
from recondite.screen.made_up import MadeUp, made_up_rows
from recondite.screen.words import AUTO, CLASSIFIER, ERROR, EVIDENCE, caution, names_of_scores
from recondite.short_repr import ShortRepr
from recondite.statistics.density import Density, Marginals, held_out_distances, smallest_tail
from recondite.statistics.distances import DISTANCES, Distances
from recondite.statistics.image_statistics import change, statistics_of_error, statistics_of_image
from recondite.statistics.scores import Scores

FEWEST = 50
_CLASSIFIER = tuple(f"classifier_{name}" for name in DISTANCES)
_AGAIN = "reencoding"
_LARGEST_LATENT = 2048
_VECTORS = ("latents", "features")
_VECTORS_LEARNT = 10_000

Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Observer:
    """Finds the statistics of images: those of `image_statistics`, the detector's own, and distances.

    Args:
        reencoding: encode the reconstruction too and compare, layer by layer.
        latents: distances in the latent space; None where there is none, or it has more than 2,048 numbers.
        classifier: where the features of a classifier come from; None without one.
        features: distances among those features.
    """

    reencoding: bool = False
    latents: Distances | None = None
    classifier: FeatureLayer | None = None
    features: Distances | None = None

    def score_batch(
        self,
        detector: Detector,
        batch: Batch,
        score: str | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
    ) -> Scores:
        """Return the detector's scores of one batch, with statistics."""
        return detector.score_batch(
            batch, score, feature_score=feature_score, reconstruction=reconstruction, observer=self
        )

    def found(
        self, detector: Detector, pixels: Tensor, measured: Measured, before: list[Tensor | None]
    ) -> dict[str, Tensor]:
        """Return name -> statistics (N,) of a batch in image units.

        Args:
            detector: what measured it, made ready.
            pixels: (N, *shape).
            measured: what the detector found.
            before: what each of `detector.encoder_layers()` gave meanwhile; empty unless `reencoding`.
        """
        pixels = pixels.contiguous()  # from channels last: each flattening below would copy
        x = detector.scaled(pixels)
        found = {**statistics_of_image(pixels, x), **measured.statistics}
        if measured.reconstruction is not None:
            found |= statistics_of_error(x, measured.reconstruction.contiguous())
        if measured.latents is not None:
            found["latent_norm"] = (measured.latents.norm(dim=1) + 1e-6).log()
            if self.latents is not None:
                found |= {f"latent_{name}": value for name, value in self.latents(measured.latents).items()}
        if self.reencoding and measured.latents is not None and measured.reconstruction is not None:
            with recorded(detector.encoder_layers()) as after:
                again = detector.encode_tensor(measured.reconstruction)
            pairs = [(one, two) for one, two in zip(before, after, strict=True) if one is not None and two is not None]
            found[_AGAIN] = change(measured.latents, again)
            found |= {f"{_AGAIN}_layer_{number + 1}": change(*pair) for number, pair in enumerate(pairs)}
        if self.classifier is not None and self.features is not None:
            features = self.classifier(pixels.clone())  # it may change them in place
            found |= {f"classifier_{name}": value for name, value in self.features(features).items()}
        return found


@dataclass(frozen=True, kw_only=True, repr=False)
class Evidence(ShortRepr):
    """Turns a detector's error and the statistics of an image into one score, by what normal images showed.

    Args:
        observer: finds the statistics.
        density: of the statistics, two-sided.
        error: the normal scale of the error.
        distance: the normal scale of the density's distance, from images that it was not fitted on.
        features: the normal scales of both distances of the classifier's features; None without one.
        classifier_share: the share of alpha that the classifier's features get, in (0, 1).
        made_up: what "auto" has learnt from made-up images; None where it is the rarest of error and evidence.
        probe: (8, F), by which the classifier is known again.
    """

    observer: Observer
    density: Density
    error: Marginals
    distance: Marginals
    features: Marginals | None = None
    classifier_share: float
    made_up: MadeUp | None = None
    probe: NDArray[np.float32] | None = None

    @property
    def scores(self) -> tuple[str, ...]:
        """The names that `score` takes."""
        return names_of_scores(self.density.names, self.features is not None)

    @property
    def caution(self) -> str:
        """What a promise rests on beside calibration images unknown to the detector, as a sentence or ""."""
        return caution(self.features is not None)

    def score(self, name: str, error: NDArray[np.float64], statistics: Values) -> NDArray[np.float64]:
        """Return scores (N,); higher is more anomalous, NaN where the image could not be read.

        - error: the detector's own.
        - evidence: the density's distance.
        - a statistic: how far it is from the middle of normal images, on either side, in standard deviations.
        - classifier: the distances of the classifier's features.
        - auto: of a detector that rebuilds images, the sum of how rare error, evidence and the likeness to made-up
          images are (see `MadeUp`), else the rarest of error and evidence; and the rarest of that and classifier, see
          `recondite.statistics.density.smallest_tail`.

        Args:
            name: one of `scores`.
            error: (N,) the detector's scores.
            statistics: name -> (N,).

        Raises:
            InputError: an unknown name.
            ArtifactError: the screen was saved with statistics that its detector does not give.
        """
        if name == ERROR:
            return error
        if name not in self.scores:
            raise not_among("a score", self.scores, name)
        missing = set(self.density.names) - set(statistics)
        if missing and name != CLASSIFIER:
            raise ArtifactError(f"the detector of this screen does not give {', '.join(sorted(missing))}")
        if name == EVIDENCE:
            return self.density.distance(statistics)
        if name in self.density.names:
            return np.abs(self.density.z(statistics)[:, self.density.names.index(name)])
        z: list[NDArray[np.float64]] = []
        shares: list[float] = []
        if name == AUTO:
            each = self.density.z(statistics)
            z = [self.error.z(error[:, None]), self.distance.z(self.density.length(each)[:, None])]
            shares = [0.5, 0.5]
            if self.made_up is not None:
                together = self.made_up.sum(z[0][:, 0], z[1][:, 0], each)
                if self.features is None:
                    return together
                z, shares = [self.made_up.total.z(together[:, None])], [1.0]
        if self.features is not None:
            share = self.classifier_share if name == AUTO else 1.0
            shares = [*((1 - share) * part for part in shares), share / 2, share / 2]
            z.append(self.features.z(np.stack([statistics[part] for part in _CLASSIFIER], axis=1)))
        return smallest_tail(np.concatenate(z, axis=1), shares)

    def check_classifier(self, shape: tuple[int, ...]) -> None:
        """Raise InputError if the observer's classifier is not the one that the evidence was fitted with."""
        if self.observer.classifier is not None and self.probe is not None:
            self.observer.classifier.check(self.probe, shape)

    def check_latents(self, detector: Detector) -> None:
        """Raise ValueError where distances are of latents of another length than the detector's."""
        latents, size = self.observer.latents, getattr(detector.options, "latent_size", None)
        if latents is not None and detector.has_encoder and len(latents.mean) != size:
            raise ValueError(f"distances of {len(latents.mean)} numbers, and latents of {size}")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return all numbers as arrays, to be saved."""
        found: dict[str, NDArray[Any]] = {
            "density.knots": self.density.marginals.knots,
            "density.precision": self.density.precision,
            "error.knots": self.error.knots,
            "distance.knots": self.distance.knots,
        }
        if self.features is not None:
            found["features.knots"] = self.features.knots
        observer = self.observer
        for owner, distances in (("latents", observer.latents), ("features", observer.features)):
            if distances is not None:
                found |= {f"{owner}.{name}": value for name, value in distances.tensors().items()}
        if self.made_up is not None:
            found |= self.made_up.tensors()
        if self.probe is not None:
            found["probe"] = self.probe
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything but the numbers as JSON values."""
        return {
            "statistics": list(self.density.names),
            "reencoding": self.observer.reencoding,
            "classifier": self.observer.classifier is not None,
            "classifier_layer": None if self.observer.classifier is None else self.observer.classifier.layer,
            "classifier_share": self.classifier_share,
            **({} if self.made_up is None else {"weights": list(self.made_up.weights)}),
        }

    @classmethod
    def from_saved(
        cls,
        facts: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        classifier: Callable[[Tensor], Tensor] | None,
    ) -> "Evidence":
        """Return what `to_json` and `tensors` gave, with the classifier if they look at one.

        Raises:
            ValueError, KeyError, TypeError: the parts do not belong together.
        """
        names, share = tuple(facts["statistics"]), float(facts["classifier_share"])
        if not 0 < share < 1:
            raise ValueError(f"a classifier_share of {share:g}")
        observer = Observer(
            reencoding=bool(facts["reencoding"]),
            latents=_distances(tensors, "latents"),
            features=_distances(tensors, "features"),
        )
        distances = {f"latent_{name}" for name in DISTANCES}
        if any(
            (name in distances and observer.latents is None) or (name.startswith(_AGAIN) and not observer.reencoding)
            for name in names
        ):
            raise ValueError("it judges by statistics that it does not find")
        features, probe = None, None
        if facts["classifier"] and classifier is not None:
            observer = replace(observer, classifier=FeatureLayer(classifier, facts["classifier_layer"]))
            features, width = _marginals(tensors, "features.knots", 2), len(tensors["features.mean"])
            probe = tensor_of(tensors, "probe", np.float32, None, width)
        return cls(
            observer=observer,
            density=Density(
                names,
                _marginals(tensors, "density.knots", len(names)),
                tensor_of(tensors, "density.precision", np.float64, len(names), len(names)),
            ),
            error=_marginals(tensors, "error.knots", 1),
            distance=_marginals(tensors, "distance.knots", 1),
            features=features,
            classifier_share=share,
            made_up=MadeUp.from_saved(facts["weights"], tensors, len(names)) if "weights" in facts else None,
            probe=probe,
        )


def possible_scores(
    detector: Detector, *, reencoding: bool = False, classifier: FeatureLayer | None = None
) -> tuple[str, ...]:
    """Return the names that a screen with such evidence could judge by, before anything is fitted."""
    observer = Observer(reencoding=reencoding)
    pixels = torch.zeros(1, *detector.shape)
    with evaluating(detector):
        measured = detector.measure(detector.scaled(pixels), detector.options.score)
        layers = detector.encoder_layers()
        names = dict.fromkeys(observer.found(detector, pixels, measured, [None] * len(layers)))
    if measured.latents is not None and measured.latents.shape[1] <= _LARGEST_LATENT:
        names |= dict.fromkeys(f"latent_{name}" for name in DISTANCES)
    if _AGAIN in names:
        names |= dict.fromkeys(f"{_AGAIN}_layer_{number + 1}" for number in range(len(layers)))
    return names_of_scores(tuple(names), classifier is not None)


def fit_observer(
    detector: Detector,
    images: Rows,
    *,
    reencoding: bool = False,
    classifier: FeatureLayer | None = None,
    progress: bool = False,
) -> Observer:
    """Return an observer whose distances come from at most 10,000 of the images that the detector learnt from.

    Raises:
        InputError: a classifier that does not take the images.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), _VECTORS_LEARNT)).astype(np.intp)
    part = Rows(images.pixels, images.index[chosen])
    collected: dict[str, list[NDArray[np.float32]]] = {}

    def vectors(ready: Detector, pixels: Tensor) -> dict[str, Tensor]:
        found = {}
        if ready.has_encoder:
            found["latents"] = ready.encode_tensor(ready.scaled(pixels))
        if classifier is not None:
            found["features"] = classifier(pixels)
        return found

    mine, parts = shard_of(part.slices(detector.scoring_batch)), []
    with show("distances", sum(taken.stop - taken.start for taken in mine), progress) as advance:
        for taken in mine:
            parts.append(detector.run(part.take(taken), vectors))
            advance(taken.stop - taken.start, "")
    for found in unsharded(parts):
        for name, values in found.items():
            collected.setdefault(name, []).append(values)
    latents, features = (np.concatenate(collected[name]) if name in collected else None for name in _VECTORS)
    known = latents is not None and latents.shape[1] <= _LARGEST_LATENT and len(latents) >= FEWEST
    return Observer(
        reencoding=reencoding,
        latents=Distances.fit(latents) if latents is not None and known else None,
        classifier=classifier,
        features=None if features is None else Distances.fit(features),
    )


def fit_evidence(
    detector: Detector, observer: Observer, images: Rows, classifier_share: float = 0.5, progress: bool = False
) -> Evidence:
    """Learn what the statistics of normal images are like, from images used for nothing else.

    Raises:
        InputError: fewer than 50 images, or a share that is not in (0, 1).
    """
    if len(images) < FEWEST:
        raise InputError(f"expected at least {FEWEST} images as evidence; got {len(images)}")
    if not 0 < classifier_share < 1:
        raise InputError(f"expected classifier_share in (0, 1); got {classifier_share!r}")
    error, statistics, _ = observed(detector, observer, images, progress, "evidence")
    own = {name: values for name, values in statistics.items() if name not in _CLASSIFIER}
    features = None
    if observer.features is not None:
        features = Marginals.fit(np.stack([statistics[name] for name in _CLASSIFIER], axis=1))
    density, distances = Density.fit(own), held_out_distances(own)[:, None]
    scales = Marginals.fit(error[:, None]), Marginals.fit(distances)
    kinds = []
    if detector.rebuilds:
        alone = replace(observer, classifier=None, features=None)
        kinds = [observed(detector, alone, rows)[1] for rows in made_up_rows(images, detector.preprocessing)]
    normal = (scale.z(values)[:, 0] for scale, values in zip(scales, (error[:, None], distances), strict=True))
    return Evidence(
        observer=observer,
        density=density,
        error=scales[0],
        distance=scales[1],
        features=features,
        classifier_share=classifier_share,
        made_up=MadeUp.fit(density, kinds, own, *normal) if kinds else None,
        probe=None if observer.classifier is None else observer.classifier.probe(detector.shape),
    )


def observed(
    detector: Detector, observer: Observer | None, rows: Rows, shown: bool = False, title: str = "calibrating"
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]], NDArray[np.float64] | None]:
    """Return the detector's scores (N,) of rows; with an observer, name -> statistics (N,); and their peaks.

    The peak of an image (N,) is its largest feature score; None where feature scores do not tell a place. Processes
    that work together share the rows, and all of them have all that was found.
    """
    mine = shard_of(rows.slices(detector.scoring_batch))
    parts: list[tuple[Scores, NDArray[np.float64] | None]] = []
    with show(title, sum(taken.stop - taken.start for taken in mine), shown) as advance:
        for taken in mine:
            batch = nameless(rows.take(taken))
            if observer is None:
                found = detector.score_batch(batch, feature_score=detector.locates)
            else:
                found = observer.score_batch(detector, batch, feature_score=detector.locates)
            highest = None
            if found.feature_score is not None:
                highest = found.feature_score.reshape(len(batch.ids), -1).max(axis=1).astype(np.float64)
            parts.append((replace(found, feature_score=None), highest))
            advance(len(batch.ids), "")
    everything = unsharded(parts)
    scores = Scores.concatenate(found for found, _ in everything)
    peaks = [highest for _, highest in everything if highest is not None]
    return scores.instance_score, dict(scores.statistics or {}), np.concatenate(peaks) if peaks else None


def _marginals(tensors: Mapping[str, NDArray[Any]], name: str, statistics: int) -> Marginals:
    return Marginals(tensor_of(tensors, name, np.float64, statistics, None))


def _distances(tensors: Mapping[str, NDArray[Any]], owner: str) -> Distances | None:
    own = {name.removeprefix(f"{owner}."): value for name, value in tensors.items() if name.startswith(f"{owner}.")}
    own.pop("knots", None)
    return Distances.from_tensors(own) if own else None
