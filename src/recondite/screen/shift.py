"""Judging where normal images have shifted: calibration images count as much as they are like recent ones."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recondite.errors import InputError
from recondite.progress import counted
from recondite.screen.evidence import Values
from recondite.screen.monitor import Monitor
from recondite.screen.promise import nothing
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.calibration import smallest_calibration_set
from recondite.statistics.image_statistics import OF_IMAGES, statistic_in_words
from recondite.statistics.scores import Scores, Verdicts
from recondite.statistics.weighted import DensityRatio, effective_number, weighted_p_values

FEWEST_RECENT = 50
_FARTHEST = 5.0


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """The calibration of a screen, each image weighed by how much more likely it is among recent images.

    What is looked at are statistics of the image alone (brightness, contrast, roughness, complexity). If normal images
    differ from those of calibration only in how often which values of these come, and the weights were the true ones,
    at most a share alpha of them would be flagged on average. They are estimated, so this is no proven promise.

    Args:
        screen: whose calibration it is.
        names: the statistics.
        values: (n, D), theirs of the calibration images, on the normal scale of the evidence.
        ratio: the weights.
    """

    screen: Screen
    names: tuple[str, ...]
    values: NDArray[np.float64]
    ratio: DensityRatio

    @classmethod
    def fit(cls, screen: Screen, recent: Values) -> "Reweighting":
        """Weigh the calibration images by statistics of recent images, most of which should be normal.

        Args:
            screen: one that judges by evidence, without groups and without a confidence.
            recent: name -> statistics (m,), as verdicts carry them; NaN where an image could not be read.

        Raises:
            InputError: another screen, fewer than 50 different recent images, or too few calibration images like them.
        """
        check_weighable(screen)
        assert screen.evidence is not None
        names = tuple(name for name in OF_IMAGES if name in screen.evidence.density.names)
        missing = [name for name in names if name not in recent]
        if missing or not names:
            raise InputError(f"the verdicts lack {', '.join(missing or OF_IMAGES)}: write them with --statistics")
        given = np.stack([np.asarray(recent[name], dtype=np.float64) for name in names], axis=1)
        known = np.flatnonzero(np.isfinite(given).all(axis=1))
        first = np.unique(given[known], axis=0, return_index=True)[1]  # copies have the same statistics and count once
        different = known[np.sort(first)]
        if len(different) < FEWEST_RECENT:
            copies = len(known) - len(different)
            beside = f" and {counted(copies, 'copy', 'copies')} of them" if copies else ""
            raise InputError(
                f"expected at least {FEWEST_RECENT} recent images to weigh by; got {len(different)}{beside}"
            )
        values, now = (_scaled(screen, names, some) for some in (screen.observations, recent))
        found = cls(screen=screen, names=names, values=values, ratio=DensityRatio.fit(values, now[different]))
        needed = smallest_calibration_set(screen.alpha, None, "exact")
        # The smallest p-value is that of an image that counts as much as the weightiest; it must reach alpha.
        if found.effective < needed or 1 / (1 + found.ratio.weights.sum()) > screen.alpha:
            raise InputError(
                f"recent images are too unlike those of calibration: {found.in_words}, and alpha = {screen.alpha:g} "
                f"needs {needed}: calibrate on images as they are now (recondite recalibrate), or fit again"
            )
        return found

    @property
    def effective(self) -> float:
        """How many equally weighted calibration images would tell as much.

        Not more than recent ones can be like: where these are like a share s of them, no score tells the two apart with
        an AUROC above 1 - s / 2. A penalty and cut-off statistics keep weights even where there is no overlap.
        """
        return min(effective_number(self.ratio.weights), 2 * (1 - self.ratio.told_apart) * len(self.values))

    @property
    def in_words(self) -> str:
        """How much is left of the calibration."""
        count, names = len(self.values), ", ".join(map(statistic_in_words, self.names))
        return (
            f"{count:,} calibration images count as {self.effective:.0f} by their {names} (told apart from recent ones "
            f"with an AUROC of {self.ratio.told_apart:.2f})"
        )

    @property
    def promise(self) -> str:
        """What the flags promise."""
        return nothing(self.screen) or (
            f"About a share of {self.screen.alpha:g} of normal images is flagged by mistake, if they differ from those "
            "of calibration in nothing but how often which values of these statistics come (covariate shift): "
            f"{self.in_words}. The weights are estimated: that is not proven."
        )

    def judge(self, scores: Scores) -> Verdicts:
        """Return verdicts on scores that carry statistics; there is no one threshold.

        An image is weighed as the recent ones are, but never more than the weightiest calibration image.

        Raises:
            InputError: the statistics are missing.
        """
        missing = [name for name in self.names if name not in (scores.statistics or {})]
        if missing or scores.statistics is None:
            raise InputError(f"the scores lack {', '.join(missing or self.names)}: judge with statistics")
        plain = self.screen.judge(scores)
        values = _scaled(self.screen, self.names, scores.statistics)
        known = np.isfinite(plain.p_value) & np.isfinite(values).all(axis=1)
        p_value = plain.p_value.copy()
        own = self.ratio.of(values[known], self.values)
        calibrator = self.screen.calibrator
        p_value[known] = weighted_p_values(calibrator.scores, self.ratio.weights, scores.instance_score[known], own)
        flags = np.where(known, p_value <= self.screen.alpha, plain.is_outlier)
        return replace(plain, p_value=p_value, is_outlier=flags, threshold=float("nan"))


def check_weighable(screen: Screen) -> None:
    """Check that a screen judges by evidence, without groups and without a confidence.

    Raises:
        InputError: it does not, with a way out.
    """
    if screen.evidence is None or screen.score == ERROR:
        way = (
            "judge with another score (--score auto, screen.with_score), in a table with --statistics"
            if screen.evidence is not None
            else "fit with images enough for evidence (--score auto), or calibrate on images as they are now "
            "(recondite recalibrate)"
        )
        raise InputError(f"weights need the statistics of images, and the error alone has none: {way}")
    if screen.calibrator.groups is not None or screen.confidence is not None:
        raise InputError(
            "weighted p-values hold on average over one group, and this screen was calibrated by folder or with a "
            "confidence: calibrate it without (screen.recalibrated, with_alpha(alpha, None)), or each group anew "
            "on images as they are now (recondite recalibrate)"
        )


def advice(screen: Screen, monitor: Monitor) -> str:
    """Say after an alarm whether weights are a way on, and what is otherwise; "" without an alarm."""
    if monitor.alarm is None:
        return ""
    again = "If these images are normal, calibrate on them (recondite recalibrate), or fit again."
    moved = [one.words for one in monitor.moved() if one.moved and one.name in OF_IMAGES]
    if not moved:
        return f"No plain statistic of the images has moved by itself. {again}"
    try:
        found = Reweighting.fit(screen, monitor.recent_statistics)
    except InputError as error:
        return f"No weights, as {error}. {again}"
    return (
        f"If normal images have changed in {', '.join(moved)} and in nothing else, recondite reweigh judges by the "
        f"calibration images that are like them: {found.in_words}. {again}"
    )


def _scaled(screen: Screen, names: tuple[str, ...], statistics: Values) -> NDArray[np.float64]:
    """Return statistics (N, D) on the normal scale of the evidence, none farther than five deviations."""
    assert screen.evidence is not None
    density = screen.evidence.density
    chosen = [density.names.index(name) for name in names]
    every = {name: statistics.get(name, statistics[names[0]]) for name in density.names}
    return np.clip(density.z(every)[:, chosen], -_FARTHEST, _FARTHEST)
