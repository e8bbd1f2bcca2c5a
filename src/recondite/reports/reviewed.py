"""Verdicts that people labelled: read from tables, drawn for review, and asked whether they are a random sample."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recondite.data.addresses import without_secrets
from recondite.data.tables import number, read_events, write_table
from recondite.data.units import GroupBy, labelled
from recondite.errors import InputError
from recondite.reports.drift import check_origin, group_labels
from recondite.screen.calibrate import scores_repeat
from recondite.screen.screen import Screen
from recondite.statistics.scores import Scores, scored

INLIER, OUTLIER = "inlier", "outlier"
LABELS = (INLIER, OUTLIER, "skip")
Unlabelled = Literal["leave-out", "inlier"]
SAMPLED = "sampled"
"""The column of a table that was drawn at random for review; its values say with which probability each row was."""
_SELECTED_OR = (
    "they were selected by their scores, the screen was fitted on some of them, or normal images have changed"
)
_SURPRISING = 0.001
_FEW, _MANY, _NONE_ABOVE = 0.00075, 0.0001, 0.00005
"""What of `_SURPRISING` is for too few flagged images, too many, and none as high as several of those that calibrate;
what they cannot use, as counts are whole, and the rest are for the law of all scores."""


@dataclass(frozen=True)
class Reviewed:
    """Verdicts with labels, the last one of each image. Two images may have the same id.

    Args:
        scores: N scores of readable images, with statistics where the table has them.
        labels: N labels: "inlier", "outlier", "skip" or "".
        groups: N group labels, where the calibration has groups.
        invalid: how many unreadable images were left out.
        probabilities: with which each of the N images was drawn for review, in (0, 1]; None where the table is no
            random sample.
    """

    scores: Scores
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None
    invalid: int
    probabilities: NDArray[np.float64] | None

    @property
    def sampled(self) -> bool:
        """Whether the table is a random sample, drawn for review."""
        return self.probabilities is not None

    def rows(self, *labels: str) -> NDArray[np.intp]:
        """Return where one of these labels stands."""
        return np.flatnonzero(np.isin(np.array(self.labels, dtype=object), labels))


@dataclass(frozen=True)
class _Seen:
    """The last event of an image, with the last label that the image was given."""

    id: str
    score: float
    statistics: Mapping[str, float]
    group: str
    label: str
    label_number: int
    probability: float


def read_reviewed(screen: Screen, events: Path | str, group: str | None) -> Reviewed:
    """Read labelled verdicts; a later event of an image takes the place of an earlier one, which gives it its label.

    Args:
        screen: that judged.
        events: what `read_events` reads.
        group: of all images, where their ids do not tell it.

    Raises:
        InputError: rows of another screen, or with another label or probability than there are.
    """
    latest: dict[tuple[str, float], _Seen] = {}
    invalid = count = 0
    where = without_secrets(events)
    for scores, rows in scored(read_events(events), where):
        groups = group_labels(screen, rows, scores.ids, group)
        check_origin(screen, scores, rows, groups)
        for index, (name, row) in enumerate(zip(scores.ids, rows, strict=True)):
            count += 1
            probability = _probability(row, f"{where}, {name}")
            label = str(row.get("label") or "").strip().lower()
            if label not in (*LABELS, ""):
                raise InputError(f"{where}, {name}: expected a label among {', '.join(LABELS)}; got {label!r}")
            if scores.errors[index] is not None:
                invalid += 1
                continue
            statistics = {key: float(values[index]) for key, values in (scores.statistics or {}).items()}
            given = row.get("label_number")
            seen = _Seen(
                id=name,
                score=float(scores.instance_score[index]),
                statistics=statistics,
                group=groups[index] if groups else "",
                label=label,
                label_number=given if isinstance(given, int) else count if label else 0,
                probability=probability,
            )
            # A score depends on the image alone: events of one id with other scores are of other images.
            image = (str(row.get("sha256") or name), seen.score)
            previous = latest.pop(image, seen)
            if previous.label_number > seen.label_number:
                seen = replace(seen, label=previous.label, label_number=previous.label_number)
            latest[image] = seen
    if not latest:
        raise InputError(f"{where} has no verdict on a readable image")
    found = list(latest.values())
    names = sorted(set.intersection(*(set(one.statistics) for one in found)))
    probabilities = np.array([one.probability for one in found])
    return Reviewed(
        scores=Scores(
            ids=tuple(one.id for one in found),
            instance_score=np.array([one.score for one in found]),
            errors=(None,) * len(found),
            statistics={name: np.array([one.statistics[name] for one in found]) for name in names},
        ),
        labels=tuple(one.label for one in found),
        groups=None if screen.calibrator.groups is None else tuple(one.group for one in found),
        invalid=invalid,
        probabilities=probabilities if (probabilities > 0).all() else None,
    )


def _probability(row: Mapping[str, object], where: str) -> float:
    """Return with which probability a row was drawn; NaN where it does not say."""
    probability = number(row.get(SAMPLED), f"{where}, {SAMPLED}")
    if not (0 <= probability <= 1 or np.isnan(probability)):
        raise InputError(f"{where}: expected a probability in {SAMPLED}; got {row[SAMPLED]!r}")
    return probability


def doubts_about(
    screen: Screen, reviewed: Reviewed, chosen: NDArray[np.intp], unlabelled: Unlabelled = "leave-out"
) -> list[str]:
    """Return why labelled images are no random sample of normal ones, as far as their scores tell; [] if nothing does.

    What is said of their scores would come up by chance in one of a thousand random samples, where normal images are as
    before, and so would each reason that is of labels that are missing. A sample drawn for review is only asked whether
    it was labelled to the end: normal images may have changed since.

    Args:
        screen: that gave the verdicts.
        reviewed: the table.
        chosen: the rows that are to calibrate.
        unlabelled: as in `recalibrate`.
    """
    from scipy.stats import hypergeom

    flags = flagged(screen, reviewed, np.arange(len(reviewed.labels)))
    doubts = []

    def more_often(part: NDArray[np.intp], whole: NDArray[np.intp]) -> bool:
        """Whether a part of some rows is flagged more often than one drawn at random would be."""
        hits = int(flags[part].sum())
        chance = hypergeom.sf(hits - 1, len(whole), int(flags[whole].sum()), len(part))
        return bool(len(part) and chance < _SURPRISING)

    every, looked_at = np.arange(len(flags)), reviewed.rows(*LABELS)
    left_out = ("skip",) if unlabelled == "inlier" or not reviewed.sampled else ("skip", "")
    skipped = reviewed.rows(*left_out)
    if unlabelled == "leave-out" and more_often(looked_at, every):
        doubts.append(
            f"of the labelled images {flags[looked_at].mean():.0%} are flagged, of all {flags.mean():.0%}: labels "
            "that were given to flagged images only make a threshold that flags hardly anything"
        )
    if more_often(skipped, every if reviewed.sampled else looked_at):
        doubts.append(
            f"of the images skipped {flags[skipped].mean():.0%} are flagged: those that were hard to tell are "
            "missing, and a threshold without them flags too many"
        )
    if reviewed.sampled:
        return doubts
    if unlabelled == "leave-out" and more_often(reviewed.rows(""), every):
        doubts.append(
            f"of the images without a label {flags[reviewed.rows('')].mean():.0%} are flagged, of all "
            f"{flags.mean():.0%}: those that were hard to tell are missing, and a threshold without them flags too many"
        )
    chosen = different(screen, reviewed, chosen)
    hits, size = int(flags[chosen].sum()), len(chosen)
    chances = _chances_of_flags(screen, reviewed, chosen)
    few, many = np.cumsum(chances), np.cumsum(chances[::-1])[::-1]
    left = (
        _SURPRISING - _NONE_ABOVE - sum(tail[tail < part].max(initial=0) for tail, part in ((few, _FEW), (many, _MANY)))
    )
    if few[hits] < _FEW or many[hits] < _MANY:
        doubts.append(
            f"of the {size:,} images taken for normal {hits / size:.1%} are flagged, where "
            f"{chances @ np.arange(size + 1) / size:.1%} were to be expected: {_SELECTED_OR}"
        )
    if not doubts and (
        _least_chance(_none_above, screen, reviewed, chosen) < _NONE_ABOVE
        or _least_chance(_unlike, screen, reviewed, chosen) < left
    ):
        doubts.append(
            f"the {size:,} images taken for normal score otherwise than the calibration images did (their p-values are "
            f"not uniform): {_SELECTED_OR}"
        )
    return doubts


def _by_group(
    screen: Screen, reviewed: Reviewed, rows: NDArray[np.intp]
) -> Iterator[tuple[str | None, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield each group of some rows, the scores that calibrate it, and those of the rows."""
    own, values = screen.calibrator, reviewed.scores.instance_score[rows]
    if own.groups is None or reviewed.groups is None:
        yield None, own.scores, values
        return
    before, now = np.array(own.groups, dtype=object), np.array(reviewed.groups, dtype=object)[rows]
    for name in sorted(set(now)):
        yield name, own.scores[before == name], values[now == name]


def _chances_of_flags(screen: Screen, reviewed: Reviewed, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return how likely it is that 0, 1, ... all of some normal images are flagged; those of groups add up."""
    from scipy.signal import fftconvolve
    from scipy.stats import betabinom

    chances = np.ones(1)
    for name, before, now in _by_group(screen, reviewed, rows):
        threshold = screen.calibrator.threshold(screen.alpha, screen.confidence, screen.guarantee, name)
        allowed = int((before > threshold).sum()) + 1
        law = betabinom(len(now), allowed, max(1, len(before) + 1 - allowed))
        chances = fftconvolve(chances, law.pmf(np.arange(len(now) + 1)))
    return chances


def _least_chance(
    chance: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    screen: Screen,
    reviewed: Reviewed,
    rows: NDArray[np.intp],
) -> float:
    """Return how likely the scores of normal images are in the group where that is least (Bonferroni over groups)."""
    found = [chance(before, now) for _, before, now in _by_group(screen, reviewed, rows)]
    return min(found) * len(found)


def _none_above(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """Return how likely so many of the highest scores, of all together, are those of the calibration images alone."""
    from scipy.stats import hypergeom

    return float(hypergeom.pmf(0, len(before) + len(now), len(now), int((before > now.max()).sum())))


def _unlike(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """Return how likely two laws of scores differ so much by chance (Kolmogorov and Smirnov)."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(before, now).pvalue)


def _lower(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """Return how likely the scores of now are so much lower by chance (Kolmogorov and Smirnov, one-sided)."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(before, now, alternative="less").pvalue)


def seem_learnt(screen: Screen, reviewed: Reviewed, rows: NDArray[np.intp]) -> bool:
    """Return whether some rows score lower than the calibration images, as those that a screen was fitted on do."""
    return _least_chance(_lower, screen, reviewed, rows) < _SURPRISING


def different(screen: Screen, reviewed: Reviewed, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the first row of each image: equal scores are of copies, unless the screen's are of few values."""
    if scores_repeat(screen.calibrator):
        return rows
    names = reviewed.groups or ("",) * len(reviewed.labels)
    first = {(float(reviewed.scores.instance_score[index]), names[index]): index for index in rows[::-1]}
    return np.array(sorted(first.values()), dtype=np.intp)


def one_of_each_unit(reviewed: Reviewed, rows: NDArray[np.intp], group_by: GroupBy) -> NDArray[np.intp]:
    """Return one of some rows, drawn at random, of each unit that ids tell; all of them where only pixels would."""
    names = labelled([reviewed.scores.ids[index] for index in rows], group_by) if len(rows) else None
    if names is None:
        return rows
    groups = reviewed.groups or ("",) * len(reviewed.labels)
    drawn = np.random.default_rng(0).permutation(len(rows))
    kept = {(names[one] or one, groups[rows[one]]): rows[one] for one in drawn}
    return np.array(sorted(kept.values()), dtype=np.intp)


def drawn_alike(reviewed: Reviewed, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return those of some rows that make a sample in which each image was drawn with the same probability.

    Of images that were drawn with probability p, where q is the lowest among the rows, a share q / p stays, at random.
    So what was looked at more closely, as flagged images often are, does not count for more than it is among all.
    """
    if reviewed.probabilities is None or not len(rows):
        return rows
    own = reviewed.probabilities[rows]
    stays: NDArray[np.bool_] = np.random.default_rng(0).random(len(rows)) * own < own.min()
    return rows[stays]


def flagged(screen: Screen, reviewed: Reviewed, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which of some rows (n,) a screen flags."""
    groups = None if reviewed.groups is None else [reviewed.groups[index] for index in rows]
    values = reviewed.scores.instance_score[rows]
    return screen.calibrator.is_outlier(values, screen.alpha, groups, screen.confidence, screen.guarantee)


def sample_for_review(events: Path | str, table: Path, count: int = 200, seed: int = 0) -> tuple[int, int]:
    """Draw a random sample of the readable images of some events, as a table to label.

    It has their last events with an empty column "label" and a column "sampled", the probability with which each image
    was drawn; `recalibrate` then needs no other sign that the labels are of a random sample. Of a table that was drawn
    itself, as its own column says, the probabilities of both draws are multiplied.

    Args:
        events: what `read_events` reads.
        table: .csv, .jsonl or .parquet to write.
        count: how many images; all of them if there are no more.
        seed: draws.

    Returns:
        How many were drawn, and of how many.

    Raises:
        InputError: no verdict on a readable image, another probability than there are, or a count below 1.
    """
    if count < 1:
        raise InputError(f"expected at least one image to review; got {count}")
    latest: dict[tuple[str, str], Mapping[str, object]] = {}
    for row in read_events(events):
        if not row.get("error"):
            latest[row["id"], str(row.get("instance_score"))] = row
    if not latest:
        raise InputError(f"{without_secrets(events)} has no verdict on a readable image")
    rows = list(latest.values())
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    names = list(dict.fromkeys(name for row in rows for name in row))
    before = [1.0] * len(rows)
    if SAMPLED in names:  # a row that says nothing of it was chosen: 0 says so
        before = np.nan_to_num([_probability(row, f"{without_secrets(events)}, {row['id']}") for row in rows]).tolist()

    def drawn_row(index: int) -> dict[str, object]:
        said = {name: rows[index].get(name) for name in names}
        return {**said, "label": "", SAMPLED: before[index] * len(drawn) / len(rows)}

    write_table(table, map(drawn_row, drawn))
    return len(drawn), len(rows)
