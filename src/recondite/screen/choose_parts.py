"""Which parts a guard looks at: chosen on held-out normal images and on made-up outliers alone."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from recondite.data.datasets import ImageSet, read_batches
from recondite.data.images import Preprocessing
from recondite.errors import InputError
from recondite.perturbations.outliers import MIXED, Bytes, alter, make_outliers, mixed
from recondite.progress import say
from recondite.screen.guard import SCREEN
from recondite.statistics.calibration import Calibrator, share_of, smallest_calibration_set
from recondite.statistics.metrics import auroc

_SHARES: tuple[tuple[Fraction, ...], ...] = (
    (Fraction(1),),
    *((Fraction(1, 2),) * 2, (Fraction(1, 4), Fraction(3, 4))),
    *((Fraction(1, 3),) * 3, (Fraction(1, 4), Fraction(1, 4), Fraction(1, 2))),
)
"""How alpha is shared out, in any order: a part that needs little to tell what the others do not is given little."""
_TELLING = ("mahalanobis", "knn", "vim")
"""Of parts that nothing here tells apart, those that tell what is new on most other sets; see docs/decisions.md."""
FEWEST_LOOKED_AT, _MOST_MADE_UP = 2, 100
_NEAR_ENOUGH = 0.005
_TENTHS = 10
_FROM_NOTHING = ("constants", "gradients", "uniform-noise", "gaussian-noise", "checkerboards")
_CHANGED = ("blurred", "noise-masks", "cut-paste")

_Shared = tuple[tuple[str, Fraction], ...]
Needed = Callable[[float], int]
"""Share of alpha -> how many images of each predicted class are needed to calibrate by class."""


@dataclass(frozen=True)
class Judged:
    """What the parts of a guard make of N images.

    Args:
        parts: part -> scores (N,); higher is more anomalous.
        predicted: N classes that the classifier gave; None where there is but one to give.
    """

    parts: Mapping[str, NDArray[np.float64]]
    predicted: Sequence[str] | None = None

    def only(self, rows: NDArray[np.bool_]) -> "Judged":
        """Return some of the images, by a mask (N,)."""
        predicted = None if self.predicted is None else np.asarray(self.predicted)[rows].tolist()
        return Judged({part: values[rows] for part, values in self.parts.items()}, predicted)

    @property
    def size(self) -> int:
        """N."""
        return len(next(iter(self.parts.values())))


_Kind = tuple[Judged, Judged]
"""Normal images and outliers."""
LeftOutClasses = Mapping[str, _Kind]
"""Class -> held-out images of the others, and its own, judged by what has not learnt it; see
`recondite.screen.left_out_classes`."""


@dataclass(frozen=True)
class PartsChoice:
    """Parts, and how much they caught.

    Args:
        shares: the parts chosen -> the share of alpha that each gets.
        caught: combination, joined by " + " -> mean share of the made-up outliers of each kind that it turned away, by
            its best shares of alpha.
        left_out: class -> the share of its images that those chosen turned away where they had not learnt it.
    """

    shares: Mapping[str, float]
    caught: Mapping[str, float]
    left_out: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of those chosen."""
        return tuple(self.shares)


def equal_shares(parts: Sequence[str]) -> dict[str, float]:
    """Return part -> share of alpha, a part that is named twice once; as floats they are read as fractions."""
    return dict.fromkeys(parts, float(Fraction(1, len(set(parts)))))


def made_up_outliers(images: Bytes, seed: int = 0) -> dict[str, Bytes]:
    """Return kind -> outliers (N, C, H, W), from nothing or from normal images; none is a picture of something real.

    Args:
        images: uint8 (N, C, H, W), normal.
        seed: of every random draw.
    """
    shape = (images.shape[1], images.shape[2], images.shape[3])
    found = {name: make_outliers(name, len(images), shape, seed) for name in _FROM_NOTHING}
    found |= {name: alter(name, images, seed) for name in _CHANGED}
    return found | {name: mixed(name, images, seed) for name in MIXED}


def unchosen_parts(features: bool) -> tuple[str, ...]:
    """Return what a guard looks at where made-up outliers cannot be shown to its classifier, and say so.

    Args:
        features: the classifier gives them.
    """
    parts = (SCREEN, _TELLING[0]) if features else (SCREEN,)
    say(
        f"no parts are chosen, as a table tells nothing of made-up outliers: the guard looks at {' and '.join(parts)} "
        "alone; name others with --parts (parts=), such as screen,confidence"
    )
    return parts


def choose_parts(
    inliers: Judged,
    outliers: Mapping[str, Judged],
    alpha: float,
    left_out: LeftOutClasses | None = None,
    needed: Needed | None = None,
) -> PartsChoice:
    """Return the combination of at most three parts, and of their shares of alpha, that catches most made-up outliers.

    What counts is the mean over the kinds of outliers and, with classes that are left out, half that and half the mean
    over these, at thresholds by predicted class where the guard will have such. The best of many owes something to
    chance, so what catches less by no more than the standard error of its share, or half a hundredth, is as good. Of
    these combinations those of fewest parts count, and of those the one with most of alpha for Mahalanobis++, then for
    kNN, then for ViM. Calibrated on other images, the guard's promise does not rest on the choice.

    Source: Breiman et al. 1984, Classification and Regression Trees (one standard error); Quenouille 1956, Biometrika
    43 (the jackknife: without a tenth of all images at a time).

    Args:
        inliers: held-out normal images.
        outliers: kind -> made-up outliers, the same parts.
        alpha: share of normal images that may be turned away.
        left_out: classes that some of the parts have not learnt; other parts are taken to catch none of their images.
        needed: how many images of each predicted class it takes to calibrate by class; None for never.

    Raises:
        InputError: too few inliers for alpha.
    """
    kinds = [(inliers, made_up) for made_up in outliers.values()] + list((left_out or {}).values())
    fewest = min(normal.size for normal, _ in kinds)

    def enough(share: Fraction, count: int) -> bool:
        return smallest_calibration_set(share_of(alpha, share), None, "exact") <= count

    usable = {one for shares in _SHARES for one in shares if one == 1 or enough(one, fewest)}
    ways = list(_ways(list(inliers.parts), usable))

    @cache
    def by_class(kind: int, smallest: Fraction) -> bool:
        predicted = kinds[kind][0].predicted
        return needed is not None and classes_where_enough(predicted, needed(float(smallest))) is not None

    def counted(found: NDArray[np.float64]) -> NDArray[np.float64]:
        made_up, of_classes = found[:, : len(outliers)], found[:, len(outliers) :]
        return np.asarray((made_up.mean(1) + of_classes.mean(1)) / 2 if left_out else made_up.mean(1))

    found = _caught(ways, kinds, alpha, by_class)
    caught = counted(found)
    best = int(caught.argmax())
    as_good = _NEAR_ENOUGH
    if enough(min(share for _, share in ways[best]), fewest - math.ceil(fewest / _TENTHS)):
        without = [counted(_caught(ways[best : best + 1], some, alpha, by_class)) for some in _tenths_left_out(kinds)]
        as_good = max(as_good, _jackknife_error(np.concatenate(without)))
    near = np.flatnonzero(caught >= caught[best] - as_good)
    chosen = min(near, key=lambda way: (len(ways[way]), _mean_place(ways[way]), -caught[way]))
    by_parts: dict[str, float] = {}
    for shared, share in zip(ways, caught.tolist(), strict=True):
        name = " + ".join(part for part, _ in shared)
        by_parts[name] = max(share, by_parts.get(name, 0.0))
    return PartsChoice(
        {part: float(share) for part, share in ways[chosen]},
        by_parts,
        dict(zip(left_out or {}, found[chosen, len(outliers) :].tolist(), strict=True)),
    )


def classes_where_enough(
    predicted: Sequence[str] | None, needed: int, classes: Collection[str] = ()
) -> tuple[str, ...] | None:
    """Return the predicted classes, where there are so many images of each that occurs, and of some others; else None.

    Args:
        predicted: (N,); None where there is but one to give.
        needed: how many images of each.
        classes: of which there must be so many in any case.
    """
    counts = Counter(predicted or ())
    return tuple(predicted) if predicted and min(counts[one] for one in {*counts, *classes}) >= needed else None


def _ways(parts: Sequence[str], usable: Container[Fraction]) -> Iterator[_Shared]:
    """Yield the ways to share alpha out among some of the parts, without shares for which there are too few images."""
    for shares in _SHARES:
        if all(share in usable for share in shares):
            for some in combinations(parts, len(shares)):
                for order in dict.fromkeys(permutations(shares)):
                    yield tuple(zip(some, order, strict=True))


def _mean_place(shared: _Shared) -> Fraction:
    """Return the mean place of the parts in `_TELLING`, by their shares; those that are not there come last."""
    places = {part: place for place, part in enumerate(_TELLING)}
    return sum((share * places.get(part, len(places)) for part, share in shared), Fraction(0))


def best_telling(found: Mapping[float, LeftOutClasses], parts: Sequence[str]) -> float:
    """Return the key under which these parts tell classes that were left out best, by the mean AUROC.

    Of equal ones the first.
    """
    told = {
        key: np.mean([auroc(others.parts[part], own.parts[part]) for others, own in classes.values() for part in parts])
        for key, classes in found.items()
    }
    return max(told, key=lambda key: told[key])


def _flags(normal: Judged, foreign: Judged, part: str, share: float, by_class: bool) -> NDArray[np.bool_]:
    """Return which images a part turns away; by class, also those of a class that no normal image has."""
    scores = foreign.parts[part]
    if not by_class or normal.predicted is None or foreign.predicted is None:
        return Calibrator(normal.parts[part]).is_outlier(scores, share)
    calibrator = Calibrator(normal.parts[part], tuple(normal.predicted))
    flagged = ~np.isin(foreign.predicted, list({*normal.predicted}))
    rows = ~flagged
    flagged[rows] = calibrator.is_outlier(scores[rows], share, np.asarray(foreign.predicted)[rows].tolist())
    return flagged


def _caught(
    ways: Sequence[_Shared], kinds: Sequence[_Kind], alpha: float, by_class: Callable[[int, Fraction], bool]
) -> NDArray[np.float64]:
    """Return the share of each kind's outliers that each way flags (W, K); a part without scores of them flags none.

    Args:
        ways: W of them, to share alpha out.
        kinds: K times normal images, and outliers.
        alpha: of all parts together.
        by_class: number of a kind and smallest share in a way -> whether thresholds are those by predicted class.
    """

    @cache
    def flags(kind: int, part: str, share: Fraction, grouped: bool) -> NDArray[np.bool_]:
        normal, foreign = kinds[kind]
        if part not in normal.parts:
            return np.zeros(foreign.size, dtype=bool)
        return _flags(normal, foreign, part, share_of(alpha, share), grouped)

    def share_flagged(shared: _Shared, kind: int) -> float:
        grouped = by_class(kind, min(share for _, share in shared))
        return float(np.any([flags(kind, part, share, grouped) for part, share in shared], axis=0).mean())

    return np.array([[share_flagged(shared, kind) for kind in range(len(kinds))] for shared in ways])


def _tenths_left_out(kinds: Sequence[_Kind]) -> Iterator[list[_Kind]]:
    """Yield all without a tenth of the images of each, drawn at random, for every tenth."""
    for tenth in range(_TENTHS):
        yield [(_without(normal, tenth), _without(foreign, tenth)) for normal, foreign in kinds]


def _without(some: Judged, tenth: int) -> Judged:
    return some.only(np.random.default_rng(0).permutation(some.size) % _TENTHS != tenth)


def _jackknife_error(without: NDArray[np.float64]) -> float:
    """Return the standard error of a number, of what it is without each of several parts of the images (n,)."""
    return math.sqrt((len(without) - 1) * np.var(without))


def pixels_of(images: ImageSet, preprocessing: Preprocessing) -> Bytes:
    """Return some of the readable images as the screen sees them, uint8 (n, C, H, W).

    Raises:
        InputError: they are vectors, or fewer than two.
    """
    some = images.select(range(min(_MOST_MADE_UP, images.size or 0)))
    pixels = np.concatenate([batch.pixels for batch in read_batches(some, preprocessing, _MOST_MADE_UP)])
    if pixels.ndim != 4 or len(pixels) < FEWEST_LOOKED_AT:
        raise InputError(f"expected at least two readable images (C, H, W) to make outliers from; got {pixels.shape}")
    return np.asarray((pixels * 255).round(), dtype=np.uint8)
