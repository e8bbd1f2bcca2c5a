"""How well maps of scores find defects, by the pixels of their masks, with intervals by resampling images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError
from recondite.statistics.intervals import pieces, times_drawn, unit_numbers, wide_enough

Floats = NDArray[np.float64]
_LEVELS = 1000
_FEW = 20
"""Images with defects below which those drawn again hide what others would show: intervals of 95 % missed the truth of
pixel AUROC in .31 of samples with 3 of them, .21 with 5, .11 with 10, .06 with 20 (made-up maps)."""


@dataclass(frozen=True)
class Measure:
    """A number in [0, 1], and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """What the pixels at each level of scores are, the highest first.

    Args:
        outside: (L,) how many lie on no defect.
        inside: (L,) how many lie on one.
        overlap: (L,) what passing them adds to the mean share of a defect that is found.
    """

    outside: Floats
    inside: Floats
    overlap: Floats

    def auroc(self) -> float:
        """Return the chance that a pixel of a defect scores higher than another."""
        from scipy.integrate import trapezoid

        return float(trapezoid(_share(self.inside), _share(self.outside)))

    def average_precision(self) -> float:
        """Return the mean precision over recall."""
        found, all_passed = np.cumsum(self.inside), np.cumsum(self.inside + self.outside)
        return float((self.inside / found[-1] * (found / np.maximum(all_passed, 1))).sum())

    def best_f1(self) -> float:
        """Return the F1 of the threshold where it is highest."""
        found, all_passed = np.cumsum(self.inside), np.cumsum(self.inside + self.outside)
        return float((2 * found / (all_passed + found[-1])).max())

    def per_region_overlap(self, limit: float) -> float:
        """Return the area under the mean share of each defect that is found, up to a false-positive rate, over it."""
        from scipy.integrate import trapezoid

        overlap = np.append(0, np.cumsum(self.overlap) / self.overlap.sum())
        false_positives = _share(self.outside)
        before = false_positives <= limit  # the curve may rise at the limit: then it came there lower
        ends = np.append(false_positives[before], limit)
        heights = np.append(overlap[before], np.interp(limit, false_positives, overlap))
        return min(1.0, float(trapezoid(heights, ends) / limit))


class _Pixels(NamedTuple):
    """Scores (N, H, W), and which of them lie on a defect and which beside one; those that do not count, on neither."""

    scores: Floats
    defect: NDArray[np.bool_]
    beside: NDArray[np.bool_]


_MEASURES: dict[str, Callable[[Curve], float]] = {
    "pixel AUROC": Curve.auroc,
    "pixel average precision": Curve.average_precision,
    "AU-PRO (.3)": lambda curve: curve.per_region_overlap(0.3),
    "AU-PRO (.05)": lambda curve: curve.per_region_overlap(0.05),
    "best pixel F1": Curve.best_f1,
}


def pixel_auroc(maps: ArrayLike, truth: ArrayLike) -> float:
    """Return the chance that a pixel of a defect scores higher than another pixel, over all images; in [0, 1].

    Args:
        maps: scores (N, H, W).
        truth: bool (N, H, W), True on defects.

    Raises:
        InputError: other shapes, NaN, or no pixel of one of the two kinds.

    >>> pixel_auroc([[[0.1, 0.9], [0.2, 0.3]]], [[[False, True], [False, False]]])
    1.0
    """
    return _exact(_checked(maps, truth)).auroc()


def per_region_overlap(maps: ArrayLike, truth: ArrayLike, limit: float = 0.3) -> float:
    """Return the area under the mean share of each defect that is found, up to a false-positive rate; in [0, 1].

    At each threshold, the overlap is the share of a connected region of the truth (8 neighbours) that scores higher,
    averaged over all regions, so that a small defect counts as much as a large one. The false-positive rate is the
    share of all other pixels that score higher. The area is divided by `limit`.

    Source: Bergmann et al. 2021, IJCV 129:1038 ("PRO"), with the usual limit of .3.

    Args:
        maps, truth: as in `pixel_auroc`.
        limit: of the false-positive rate, in (0, 1].

    Raises:
        InputError: as `pixel_auroc`, or a limit out of range.

    >>> per_region_overlap([[[0.1, 0.9], [0.2, 0.3]]], [[[False, True], [False, False]]])
    1.0
    """
    if not 0 < limit <= 1:
        raise InputError(f"expected a limit in (0, 1]; got {limit!r}")
    return _exact(_checked(maps, truth)).per_region_overlap(limit)


def localisation_measures(
    maps: ArrayLike,
    truth: ArrayLike,
    threshold: float | None = None,
    *,
    inside: ArrayLike | None = None,
    units: ArrayLike | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Measure]:
    """Return the measures of the field: name -> value and 95 % interval.

    - pixel AUROC, pixel average precision, best pixel F1: over the pixels of all images;
    - AU-PRO (.3), AU-PRO (.05): see `per_region_overlap`;
    - pixel F1: of the pixels above `threshold` (SegF1), if it is given.

    Intervals are those of images drawn again with replacement, by scores in a thousand steps; of fewer than 20 images
    with defects they are never narrower than `recondite.statistics.metrics.delong_interval` could be for so few.

    Args:
        maps, truth: as in `pixel_auroc`.
        threshold: of a single score.
        inside: bool (N, H, W), False on pixels that do not count, as outside of a region; None where all do.
        units: (N,) labels of images that belong together, which are drawn together; None where all are independent.
        resamples: how often images are drawn.
        seed: of the draws.

    Raises:
        InputError: as `pixel_auroc`.
    """
    pixels = _checked(maps, truth, inside)
    return _of_kinds(pixels, [None] * len(pixels.scores), threshold, units, resamples, seed)[None]


def measures_by_kind(
    maps: ArrayLike,
    truth: ArrayLike,
    kinds: Sequence[str | None],
    threshold: float | None = None,
    *,
    inside: ArrayLike | None = None,
    units: ArrayLike | None = None,
) -> dict[str | None, dict[str, Measure]]:
    """Return `localisation_measures` of all images, by None, and of each kind with those that are of none.

    A kind with no pixel of a defect, or none beside one, is left out. Scores are sorted once for all.

    Args:
        maps, truth: as in `pixel_auroc`.
        kinds: (N,) the kind of defect of each image; None for those without.
        threshold, inside, units: as in `localisation_measures`, for all images.

    Raises:
        InputError: as `pixel_auroc`.
    """
    return _of_kinds(_checked(maps, truth, inside), kinds, threshold, units)


def _of_kinds(
    pixels: _Pixels,
    kinds: Sequence[str | None],
    threshold: float | None,
    units: ArrayLike | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str | None, dict[str, Measure]]:
    scores, defect, beside = pixels
    unit_of = unit_numbers(len(scores), units)
    order, overlaps = np.argsort(-scores, axis=None, kind="stable"), _overlaps(defect)
    by_image = _binned(pixels, overlaps)
    flagged = None if threshold is None else _flagged(pixels, threshold)
    found: dict[str | None, dict[str, Measure]] = {}
    for kind in dict.fromkeys((None, *kinds)):
        some = np.flatnonzero([kind is None or one in (None, kind) for one in kinds])
        if not (defect[some].any() and beside[some].any()):
            continue
        of_some = order if kind is None else order[np.isin(order // scores[0].size, some)]
        drawn = _drawn(unit_of[some], resamples, seed)
        curves = [Curve(*(times @ part[some] for part in by_image)) for times in drawn]
        curves = [curve for curve in curves if curve.inside.any() and curve.outside.any()]
        exact = _exact(pixels, overlaps, of_some)
        # What few images with defects show, drawn again, hides what others would.
        fewest = pieces(unit_of[some][defect[some].any((1, 2))])
        found[kind] = {
            name: _with_interval(of(exact), [of(curve) for curve in curves], fewest) for name, of in _MEASURES.items()
        }
        if flagged is not None:
            counts = flagged[:, some]
            resampled = [_f1(counts @ times) for times in drawn]
            found[kind]["pixel F1"] = _with_interval(_f1(counts.sum(1)), resampled, fewest)
    return found


def _flagged(pixels: _Pixels, threshold: float) -> NDArray[np.intp]:
    """Return how many pixels of each image (3, N) are found, flagged by mistake, and missed."""
    scores, defect, beside = pixels
    above = scores > threshold
    pairs = ((above, defect), (above, beside), (~above, defect))
    return np.stack([(part & other).sum((1, 2)) for part, other in pairs])


def _drawn(unit_of: NDArray[np.intp], resamples: int, seed: int) -> list[Floats]:
    """Return how often each image is drawn (n,), of as many units with replacement, again and again."""
    generator, numbers = np.random.default_rng(seed), unit_numbers(len(unit_of), unit_of)
    return [times_drawn(numbers, generator).astype(np.float64) for _ in range(resamples)]


def _exact(pixels: _Pixels, overlaps: Floats | None = None, order: NDArray[np.intp] | None = None) -> Curve:
    """Return the curve with a level for every score, in a descending order of all or some of them."""
    scores, defect, beside = pixels
    order = np.argsort(-scores, axis=None, kind="stable") if order is None else order
    overlaps = _overlaps(defect) if overlaps is None else overlaps
    ordered = scores.ravel()[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    parts = (beside, defect, overlaps)
    return Curve(*(np.add.reduceat(part.ravel()[order].astype(np.float64), starts) for part in parts))


def _binned(pixels: _Pixels, overlaps: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the parts of each image's curve (N, L), by a thousand levels, closest among the highest scores."""
    scores, defect, beside = pixels
    some = scores.ravel()[:: max(1, scores.size // 1_000_000)]
    edges = np.unique(np.quantile(np.concatenate([some, scores[defect]]), 1 - np.geomspace(1e-6, 1, _LEVELS)))
    level = len(edges) - np.searchsorted(edges, scores, side="right")
    counted = []
    for kept, weights in ((beside, None), (defect, None), (defect, overlaps)):
        counted.append(
            np.stack(
                [
                    np.bincount(one[mask], None if weights is None else weights[place][mask], minlength=len(edges) + 1)
                    for place, (one, mask) in enumerate(zip(level, kept, strict=True))
                ]
            ).astype(np.float64)
        )
    return counted[0], counted[1], counted[2]


def _overlaps(defect: NDArray[np.bool_]) -> Floats:
    """Return, for each pixel of a defect, the share of its connected region that it is (N, H, W); 0 elsewhere."""
    from scipy.ndimage import label

    shares = np.zeros(defect.shape)
    for place, mask in enumerate(defect):
        numbered, _ = label(mask, np.ones((3, 3)))
        shares[place][mask] = 1 / np.bincount(numbered.ravel())[numbered[mask]]
    return shares


def _checked(maps: ArrayLike, truth: ArrayLike, inside: ArrayLike | None = None) -> _Pixels:
    scores, defect = np.asarray(maps, dtype=np.float64), np.asarray(truth, dtype=bool)
    if scores.ndim != 3 or scores.shape != defect.shape or np.isnan(scores).any():
        raise InputError(f"expected maps without NaN and truth (N, H, W); got {scores.shape} and {defect.shape}")
    beside = ~defect
    if inside is not None:
        counted = np.asarray(inside, dtype=bool)
        if counted.shape != scores.shape:
            raise InputError(f"expected what counts of maps {scores.shape}; got {counted.shape}")
        defect, beside = defect & counted, beside & counted
    if not (defect.any() and beside.any()):
        raise InputError("expected some pixels on defects and some beside them")
    return _Pixels(scores, defect, beside)


def _share(counts: Floats) -> Floats:
    return np.append(0, np.cumsum(counts) / counts.sum())


def _f1(counts: NDArray[np.integer] | Floats) -> float:
    """Return F1 of true positives, false positives and false negatives."""
    found, wrong, missed = counts
    return float(2 * found / max(2 * found + wrong + missed, 1))


def _with_interval(value: float, resampled: list[float], fewest: float) -> Measure:
    """Return a measure with the interval of what images drawn again show, and wide enough for as few with defects."""
    if fewest < _FEW or not 0 < value < 1:
        return Measure(value, *wide_enough(resampled, value, fewest))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Measure(value, min(float(low), value), max(float(high), value))
