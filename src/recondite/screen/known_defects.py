"""Known defects: a small head learns from a few of them, beside made-up ones, before anything is calibrated."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.data.datasets import open_images
from recondite.data.masks import mask_folder
from recondite.data.regions import touched
from recondite.data.spool import Rows, Spool, keys_of, read_all
from recondite.data.truth import check_truth, mask_of_defect, masks_beside
from recondite.detectors import Detector
from recondite.detectors.defect_head import DefectHead, sharpened
from recondite.detectors.features import Features
from recondite.detectors.inside import Inside
from recondite.detectors.seen import Memory
from recondite.distributed import rank_and_size
from recondite.errors import InputError
from recondite.perturbations.defects import DEFECTS, defective
from recondite.progress import counted
from recondite.screen.defect_direction import Direction, Whitening, head_along, spread, told, values_along
from recondite.screen.words import gain_in_words
from recondite.statistics.metrics import auroc

FEWEST_DEFECTS, MOST_DEFECTS, FEWEST_GOOD = 3, 50, 20
_MOST_GOOD, _FOLDS = 300, 5
_PASTED_EACH, _SOFT_EDGE = 4, 1.0
_LARGEST_MEMORY, _AT_ONCE = 1 << 28, 32
_DEALS, _MOST_LOST, _NOTHING_LEFT, _ERRORS = 5, 0.01, 0.999, 0.5

Floats = NDArray[np.float64]


class UnhelpfulError(InputError):
    """The head would make things worse, or no better."""


@dataclass(frozen=True)
class KnownDefects:
    """Images of known defects.

    Args:
        images: 3 to 50 of them.
        masks: row -> bool (H, W), where each defect lies; of some of them, or none.
    """

    images: Spool
    masks: dict[int, NDArray[np.bool_]]

    @classmethod
    def opened(cls, source: object, masks: object, detector: Detector, shown: bool = False) -> "KnownDefects":
        """Read images of known defects as a detector sees them.

        Args:
            source: anything that `open_images` opens; of a data set of defects its outliers.
            masks: a folder of their masks; by default those in a folder ground_truth near the images, where it is.
            detector: that will learn from them.
            shown: show progress on standard error.

        Raises:
            InputError: the detector cannot learn from them, or there are fewer than 3 different ones.
        """
        check_teachable(detector)
        opened = open_images(source, role="outliers", shape=detector.shape)
        sides = detector.shape[1:]
        images = read_all(opened, detector.preprocessing, shown)
        if masks is None:
            found = masks_beside(opened, sides, frozenset(name for name, _ in images.bad))
        else:
            folder = mask_folder(masks)
            check_truth(folder, images.ids)
            sources = {name: item for name, item, _ in opened.entries()} if opened.ids is not None else {}
            found = {name: mask_of_defect(folder, name, sides, sources.get(name)) for name in images.ids}
        different = np.sort(np.unique(images.hashes, return_index=True)[1])
        if len(different) < FEWEST_DEFECTS:
            raise InputError(
                f"expected {FEWEST_DEFECTS} to {MOST_DEFECTS} different images of known defects; got "
                f"{len(different)}: give more, or fit without them (what is odd is found all the same)"
            )
        chosen = different[np.linspace(0, len(different) - 1, min(len(different), MOST_DEFECTS)).round().astype(int)]
        kept = Spool(
            images.pixels[chosen],
            images.hashes[chosen],
            images.small[chosen],
            [images.ids[row] for row in chosen],
            [images.labels[row] for row in chosen],
            images.bad,
        )
        return cls(kept, {row: found[name] for row, name in enumerate(kept.ids) if name in found})

    def check_apart(self, *good: Spool) -> None:
        """Raise InputError where an image is among good ones too."""
        both = np.flatnonzero(np.isin(self.images.hashes, np.concatenate([part.hashes for part in good])))
        if len(both):
            raise InputError(
                f"{self.images.ids[both[0]]} is given as a defect and among the good images too "
                f"({counted(len(both), 'image')} in all): take it out of one of them"
            )


def check_teachable(detector: Detector) -> None:
    """Raise InputError where a detector cannot learn known defects."""
    if not isinstance(detector, Features):
        raise InputError(
            f"known defects are learnt by a head on features, and detector {detector.name!r} has none: "
            "fit with detector features (--detector features)"
        )
    if detector.options.score != "combined":
        raise InputError(
            f"known defects sharpen the score combined; this detector judges by {detector.options.score}: fit without "
            "--score"
        )
    if not detector.locates:
        raise InputError(
            "known defects are told by places, and this detector looks at whole images alone: fit with methods that "
            "look at places (--methods mahalanobis,padim)"
        )
    if detector.preprocessing.masked:
        raise InputError("a screen with one mask per image cannot learn known defects: give one region of all images")
    if rank_and_size()[1] > 1:
        raise InputError(
            "known defects are learnt in one process: fit without defects, then teach the screen (recondite teach)"
        )


@dataclass(frozen=True)
class Looked:
    """What a detector sees at the places of images, kept on disk, and its scores of them.

    Args:
        rows: numbers of the N images.
        memory: their vectors.
        scores: float64 (N,), without a head.
    """

    rows: Rows
    memory: Memory
    scores: Floats

    @classmethod
    def at(cls, detector: Features, count: int, parts: Iterable[Rows], left_out: bool) -> "Looked":
        """Look at so many images, which come in parts; `left_out` as in `Features.looked_at`."""
        scores: list[Floats] = []

        def vectors() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for part in parts:
                for seen, found in detector.looked_at(part, left_out):
                    scores.append(found)
                    yield seen.whole[:, :, :0], seen.places

        rows = Rows(np.empty((count, 0), dtype=np.float32), np.arange(count))
        memory = Memory(rows, vectors())
        return cls(rows, memory, np.concatenate(scores))

    def places(self, chosen: NDArray[np.bool_]) -> Iterator[torch.Tensor]:
        """Yield the vectors (n, P, G) of some of the images, in batches."""
        index = np.flatnonzero(chosen)
        for start in range(0, len(index), _AT_ONCE):
            yield self.memory.take(self.rows, index[start : start + _AT_ONCE])[1]


@dataclass(frozen=True)
class Lesson:
    """What a head learns from.

    Args:
        rows: (N,) of the good images, in the array that they were given in.
        good: images that the detector has learnt from, with scores as if each had been left out.
        good_units: (N,) numbers of their units.
        made_up: those images with a made-up defect each; kind number i % K of that of number i.
        defects: known defects, and behind them some pasted from their images into good ones.
        defect_units: numbers of their units.
        real: bool, False for those that were pasted.
        cells: which places count; None for all.
        counted: the numbers of these places.
    """

    rows: NDArray[np.intp]
    good: Looked
    good_units: NDArray[np.intp]
    made_up: Looked
    defects: Looked
    defect_units: NDArray[np.intp]
    real: NDArray[np.bool_]
    cells: Inside | None
    counted: NDArray[np.intp]

    @classmethod
    def of(cls, detector: Features, good: Rows, keys: NDArray[np.void], known: KnownDefects, seed: int) -> "Lesson":
        """Look at what a head learns from.

        Args:
            detector: fitted.
            good: images that it has learnt from; at most 300 of them, drawn at random, are looked at.
            keys: (N,) of their units.
            known: the defects.
            seed: of what is drawn and made up.

        Raises:
            InputError: fewer than 20 good images.
        """
        if len(good) < FEWEST_GOOD:
            raise InputError(
                f"a head for known defects needs at least {FEWEST_GOOD} good images that the screen has learnt from; "
                f"got {len(good)}"
            )
        draws = np.random.default_rng(seed)
        bytes_of_places = 4 * math.prod(detector.vectors(torch.zeros(1, *detector.shape))[1].shape)
        most = int(np.clip(_LARGEST_MEMORY // bytes_of_places, FEWEST_GOOD, _MOST_GOOD))
        chosen = np.sort(draws.permutation(len(good))[:most])
        rows = Rows(good.pixels, good.index[chosen])
        kinds = list(DEFECTS)
        pasted = [(row, mask) for row, mask in known.masks.items() for _ in range(_PASTED_EACH)]
        under = Rows(good.pixels, good.index[draws.integers(0, len(good), len(pasted))])

        def made_up(number: int, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            changed: NDArray[np.float32] = defective(pixels, kinds[number % len(kinds)], seed=seed, first=number).images
            return changed

        def paste(number: int, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
            row, mask = pasted[number]
            weight = _soft(mask)
            mixed: NDArray[np.float32] = pixels * (1 - weight) + known.images.pixels[row][None] * weight
            return mixed

        size = detector.scoring_batch
        units = np.unique(keys_of([known.images])[0], return_inverse=True)[1]
        region = detector.preprocessing.region
        inside = touched(np.ones(detector.shape[1:], dtype=bool) if region is None else region, *detector.grid)
        return cls(
            rows=rows.index,
            good=Looked.at(detector, len(rows), [rows], left_out=True),
            good_units=np.unique(keys[chosen], return_inverse=True)[1],
            made_up=Looked.at(detector, len(rows), _changed(rows, made_up, size), left_out=False),
            defects=Looked.at(
                detector,
                len(known.images) + len(pasted),
                chain([known.images.rows()], _changed(under, paste, size)),
                left_out=False,
            ),
            defect_units=np.concatenate([units, units[[row for row, _ in pasted]]]).astype(np.intp),
            real=np.repeat([True, False], [len(known.images), len(pasted)]),
            cells=None if region is None else Inside(inside),
            counted=np.flatnonzero(inside),
        )

    def head(self, good: NDArray[np.bool_] | None = None) -> DefectHead:
        """Return a head that has learnt from everything, or from these of the good images (N,) alone."""
        chosen = np.ones(len(self.rows), dtype=bool) if good is None else good
        whitening = self._whitening(chosen)
        direction = Direction.of(*self._oddest(whitening, chosen))
        left_out = values_along([direction], whitening, self.good.places(chosen), _as_left_out(chosen))
        return head_along(direction, whitening, left_out[:, 0])

    def gain(self) -> "Gain":
        """Return what a head is worth, cross-validated.

        Units of good images and of defects are judged by heads that have learnt from others, made-up defects by heads
        that have not met their kind; five times, each with another deal into parts.

        Raises:
            InputError: the defects are of fewer than three units.
        """
        count = len(np.unique(self.defect_units))
        if count < FEWEST_DEFECTS:
            raise InputError(
                f"the images of known defects are near-copies of {count}: give at least {FEWEST_DEFECTS} that differ"
            )
        parts = (self.good, self.made_up, self.defects)
        before = [part.scores for part in parts]
        every = np.ones(len(self.rows), dtype=bool)
        whitening = self._whitening(every)
        oddest = self._oddest(whitening, every)
        folds, dealt, directions = min(_FOLDS, count), [], []
        for deal in range(_DEALS):
            draws = np.random.default_rng(deal)
            kinds = draws.permutation(len(DEFECTS))[np.arange(len(before[1])) % len(DEFECTS)] % folds
            of_good = draws.permutation(self.good_units.max() + 1)[self.good_units] % folds
            where = (of_good, kinds, draws.permutation(count)[self.defect_units] % folds)
            dealt.append(where)
            directions += [
                Direction.of(*(some[of != fold] for some, of in zip(oddest, where, strict=True)))
                for fold in range(folds)
            ]
        scales = (_as_left_out(every), 1.0, 1.0)
        found = [
            values_along(directions, whitening, part.places(np.ones(len(part.scores), dtype=bool)), scale)
            for part, scale in zip(parts, scales, strict=True)
        ]
        known, unseen, surely, errors = [], [], [], before[0]
        for deal, where in enumerate(dealt):
            after = [scores.copy() for scores in before]
            for fold in range(folds):
                number = deal * folds + fold
                learnt = found[0][where[0] != fold, number]
                for scores, values, of in zip(after, found, where, strict=True):
                    here = of == fold
                    on_scale = (values[here, number] - learnt.mean()) / spread(learnt)
                    scores[here] = sharpened(torch.from_numpy(scores[here]), torch.from_numpy(on_scale)).numpy()
            errors = after[0]
            known.append(auroc(after[0], after[2][self.real]))
            unseen.append(auroc(after[0], after[1]))
            surely.append(told(after[0], after[2][self.real]))
        good, made_up, defects = before[0], before[1], before[2][self.real]
        return Gain(
            known=(auroc(good, defects), float(np.mean(known))),
            unseen=(auroc(good, made_up), float(np.mean(unseen))),
            told=(told(good, defects), np.mean(surely, axis=0)),
            errors=errors,
        )

    def _whitening(self, chosen: NDArray[np.bool_]) -> Whitening:
        return Whitening.of(self.good.places(chosen), self.counted, self.cells)

    def _oddest(self, whitening: Whitening, chosen: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the oddest places of the chosen good images, as if each had been left out, theirs, and of defects."""

        def found(looked: Looked, some: NDArray[np.bool_]) -> Tensor:
            return torch.cat([whitening.oddest(places) for places in looked.places(some)])

        good = _as_left_out(chosen) * found(self.good, chosen)
        return good, found(self.made_up, chosen), found(self.defects, np.ones(len(self.real), dtype=bool))


@dataclass(frozen=True)
class Gain:
    """What a head is worth, cross-validated: without it, and with it on average over several deals.

    Args:
        known: AUROCs of the known defects.
        unseen: AUROCs of made-up defects of kinds that the head has not met.
        told: how surely each known defect is told (n,); see `recondite.screen.defect_direction.told`.
        errors: float64 (N,), the scores of the good images with such heads, in one deal.
    """

    known: tuple[float, float]
    unseen: tuple[float, float]
    told: tuple[Floats, Floats]
    errors: Floats

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        surely = [float(part.mean()) for part in self.told]
        return {"known": list(self.known), "unseen": list(self.unseen), "told": surely}


@dataclass(frozen=True)
class Taught:
    """A detector that knows some defects.

    Args:
        detector: with a head.
        lesson: what that learnt from.
        errors: float64 (N,), the scores of those images, cross-validated and as if each had been left out.
        facts: what is said of it, as JSON values.
    """

    detector: Features
    lesson: Lesson
    errors: Floats
    facts: dict[str, Any]

    def finished(self, detector: Detector, fitted_on: Rows) -> Detector:
        """Return a detector that was fitted on some of the images with a head that has learnt from these alone."""
        assert isinstance(detector, Features)
        return detector.with_head(self.lesson.head(np.isin(self.lesson.rows, fitted_on.index)))


def taught(detector: Detector, good: Rows, keys: NDArray[np.void], known: KnownDefects, seed: int) -> Taught:
    """Return a detector that knows defects, unless that makes it worse.

    Args:
        detector, good, keys, known, seed: as in `Lesson.of`.

    Raises:
        UnhelpfulError: cross-validated, the head tells the known defects no better, or others worse.
        InputError: as `Lesson.of` and `Lesson.gain`.
    """
    assert isinstance(detector, Features)
    bare = detector.with_head(None)
    lesson = Lesson.of(bare, good, keys, known, seed)
    gain = checked_gain(lesson)
    facts = {"images": len(known.images), "masks": len(known.masks), **gain.to_json()}
    return Taught(bare.with_head(lesson.head()), lesson, gain.errors, facts)


def checked_gain(lesson: Lesson) -> Gain:
    """Return what `Lesson.gain` does, if known defects are told more surely by more than half a standard error of that.

    Raises:
        UnhelpfulError, InputError: as `taught`.
    """
    gain = lesson.gain()
    before, after = gain.told
    if before.mean() >= _NOTHING_LEFT:
        raise UnhelpfulError("the screen tells these defects from all good images already: there is nothing to learn")
    more = after - before
    by_chance = more.mean() <= _ERRORS * more.std(ddof=1) / math.sqrt(len(more))
    if by_chance or gain.known[1] < gain.known[0] or gain.unseen[1] < gain.unseen[0] - _MOST_LOST:
        said = gain_in_words({"images": len(more), **gain.to_json()})
        raise UnhelpfulError(f"a head does not help: {said}. Give more images of these defects, or masks of them")
    return gain


def _changed(
    rows: Rows, change: Callable[[int, NDArray[np.float32]], NDArray[np.float32]], size: int
) -> Iterator[Rows]:
    """Yield images, `size` at a time, after a change of each by its number and its pixels (1, C, H, W)."""
    for part in rows.slices(size):
        pixels = rows.take(part)
        changed = [change(part.start + place, pixels[place : place + 1]) for place in range(len(pixels))]
        yield Rows(np.concatenate(changed).astype(np.float32), np.arange(len(changed)))


def _as_left_out(chosen: NDArray[np.bool_]) -> float:
    """Return how much farther images lie from the mean of the others than from that of all of those chosen."""
    count = int(chosen.sum())
    return count / (count - 1)


def _soft(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a mask (H, W) as weights in [0, 1] with a soft edge."""
    from scipy.ndimage import gaussian_filter

    found: NDArray[np.float32] = gaussian_filter(mask.astype(np.float32), _SOFT_EDGE)
    return found
