"""Scores and verdicts: frozen values that carry numpy arrays. A verdict becomes a record here and nowhere else."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recondite.data.tables import _NOTHING, number
from recondite.errors import InputError
from recondite.progress import counted
from recondite.short_repr import SHOWN, ShortRepr, first_rows, html_table
from recondite.statistics.calibration import rate_of

_PART = 16

NUMBERS = ("instance_score", "p_value", "threshold")
"""Columns of the records of verdicts that hold numbers, or nothing."""
STATISTIC = "statistic."
"""Before the names of statistics, in the records of verdicts."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores(ShortRepr):
    """How anomalous each image is; higher is more anomalous.

    Args:
        ids: N names.
        instance_score: float64 (N,); NaN where the image could not be read.
        errors: N reasons; None where the image was read.
        feature_score: float32 (N, *shape), of each value of the image; NaN for a bad image; None unless asked.
        reconstruction: float32 (N, *shape), in the units of the image; None unless asked.
        statistics: name -> float64 (N,), what else was found out about each image; None unless asked.
        labels: N labels, the groups of images where a calibration has groups; None where nothing is known of them.
    """

    ids: tuple[str, ...]
    instance_score: NDArray[np.float64]
    errors: tuple[str | None, ...]
    feature_score: NDArray[np.float32] | None = None
    reconstruction: NDArray[np.float32] | None = None
    statistics: Mapping[str, NDArray[np.float64]] | None = None
    labels: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: NDArray[np.intp]) -> Self:
        """Return the scores of some of the images, by their places."""

        def taken(values: Any) -> Any:
            if isinstance(values, tuple):
                return tuple(values[row] for row in rows)
            return values[rows] if isinstance(values, np.ndarray) else values

        found = {field.name: taken(getattr(self, field.name)) for field in fields(self)}
        if self.statistics is not None:
            found["statistics"] = {name: values[rows] for name, values in self.statistics.items()}
        return type(self)(**found)

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Join scores of successive batches.

        Raises:
            InputError: there are no parts.
        """
        listed = list(parts)
        if not listed:
            raise InputError("expected at least one image; got none")
        if len(listed) == 1:
            return listed[0]
        joined: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in listed]
            if isinstance(values[0], tuple):
                joined[field.name] = tuple(item for value in values for item in value)
            elif isinstance(values[0], np.ndarray):
                joined[field.name] = np.concatenate(values)
            elif isinstance(values[0], Mapping):
                joined[field.name] = {name: np.concatenate([value[name] for value in values]) for name in values[0]}
            else:
                joined[field.name] = values[0]
        return cls(**joined)


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdicts(Scores):
    """Scores with their meaning.

    Args:
        p_value: float64 (N,) in (0, 1]: how often a normal image scores this high; NaN for a bad image.
        is_outlier: bool (N,); True for a bad image too, which is never an inlier.
        threshold: an image with a higher instance score is an outlier; NaN where there is one for each group or, under
            false-discovery control, for each batch.
        alpha: the false-alarm rate on normal images that the threshold stands for, or the false-discovery rate.
        rule: "false-alarm rate" or "false-discovery rate".
    """

    p_value: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    threshold: float
    alpha: float
    rule: str = "false-alarm rate"

    @property
    def words(self) -> list[str]:
        """Return "inlier", "outlier" or "invalid" for each image."""
        flagged = ["outlier" if flag else "inlier" for flag in self.is_outlier]
        return [word if error is None else "invalid" for word, error in zip(flagged, self.errors, strict=True)]

    def records(self, statistics: bool = False) -> Iterator[dict[str, Any]]:
        """Yield one row an image, as written to every table and wire; what is not finite becomes None.

        Args:
            statistics: add those that the verdicts carry, as "statistic.NAME".
        """
        found = (self.statistics or {}) if statistics else {}
        for index, word in enumerate(self.words):
            yield {
                "id": self.ids[index],
                "verdict": word,
                "is_outlier": bool(self.is_outlier[index]),
                "instance_score": _number(self.instance_score[index]),
                "p_value": _number(self.p_value[index]),
                "threshold": _number(self.threshold),
                "alpha": self.alpha,
                "error": self.errors[index],
                **{f"{STATISTIC}{name}": _number(values[index]) for name, values in found.items()},
            }

    def counts(self) -> dict[str, int]:
        """Return how many images are inliers, outliers and invalid."""
        words = self.words
        return {word: words.count(word) for word in ("inlier", "outlier", "invalid")}

    def _repr_html_(self) -> str:
        columns = ("id", "verdict", "instance_score", "p_value", "error")
        rows = [[record[name] for name in columns] for record in islice(self.records(), SHOWN)]
        told = ", ".join(f"{count:,} {word}" for word, count in self.counts().items())
        title = f"{counted(len(self), 'image')}: {told} at {self.rule} {self.alpha:g}{first_rows(len(self))}"
        return html_table(title, rows, columns)

    def with_false_discovery_rate(self, rate: float) -> "Verdicts":
        """Return verdicts on the same scores in which at most a share `rate` of the flagged are expected to be normal.

        Benjamini-Hochberg on the p-values of the valid images; invalid ones stay flagged and do not count.
        Source: Bates et al. 2023, arXiv 2104.08279, section 2.

        Raises:
            InputError: `rate` is not in (0, 1).
        """
        rate = check_rate(rate)
        from scipy.stats import false_discovery_control

        valid = ~np.isnan(self.p_value)
        flags = np.ones(len(self), dtype=bool)
        if valid.any():
            flags[valid] = false_discovery_control(self.p_value[valid]) <= rate
        return replace(self, is_outlier=flags, threshold=float("nan"), alpha=rate, rule="false-discovery rate")


def scattered(values: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values (n, ...) of the good images in their places among all (N, ...), NaN elsewhere."""
    among_all = np.full((len(good), *values.shape[1:]), np.nan, dtype=values.dtype)
    among_all[good] = values
    return among_all


def discovery_cutoff(counts: Mapping[float, int], rate: float) -> float:
    """Return the largest p-value that `Verdicts.with_false_discovery_rate` flags, or -1 if it flags none.

    P-values of a calibration set of n scores take at most n + 1 different values, so a table of how often each came is
    enough for any number of images. Every step rounds as that of all p-values together does.

    Args:
        counts: p-value -> how many valid images have it.
        rate: the false-discovery rate, in (0, 1).

    >>> discovery_cutoff({0.01: 5, 0.5: 5, 1.0: 90}, 0.25)
    0.01
    """
    rate = check_rate(rate)
    values = np.array(sorted(counts), dtype=np.float64)
    ranks = np.cumsum([counts[value] for value in values.tolist()])
    if not len(values):
        return -1.0
    flagged = np.flatnonzero(values * (ranks[-1] / ranks) <= rate)
    return float(values[flagged[-1]]) if len(flagged) else -1.0


def check_rate(rate: float) -> float:
    """Return a false-discovery rate as a float; raise InputError unless it is one, in (0, 1)."""
    return rate_of(rate, "a false-discovery rate")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def scored(rows: Iterator[Mapping[str, Any]], name: str) -> Iterator[tuple[Scores, list[Mapping[str, Any]]]]:
    """Yield the scores of successive events, with the rows they came from, some at a time.

    Args:
        rows: from `read_events`.
        name: of the source, for messages.

    Raises:
        InputError: a row without a score and without an error, or with text in place of a number.
    """
    count = 0
    while part := list(islice(rows, _PART)):
        # The events of unreadable images in a store have none.
        columns = list(dict.fromkeys(key for row in part for key in row if key.startswith(STATISTIC)))
        values = np.full((len(part), 1 + len(columns)), np.nan)
        errors: list[str | None] = []
        for index, row in enumerate(part):
            count += 1
            for place, column in enumerate(("instance_score", *columns)):
                values[index, place] = number(row.get(column), f"{name}, event {count}, {column}")
            error = row.get("error")
            errors.append(None if error in _NOTHING else str(error))
            if errors[-1] is None and not math.isfinite(values[index, 0]):
                raise InputError(f"{name}, event {count}: it has neither an instance_score nor an error")
        yield (
            Scores(
                ids=tuple(str(row["id"]) for row in part),
                instance_score=values[:, 0],
                errors=tuple(errors),
                statistics={c.removeprefix(STATISTIC): values[:, i] for i, c in enumerate(columns, 1)} or None,
            ),
            part,
        )
