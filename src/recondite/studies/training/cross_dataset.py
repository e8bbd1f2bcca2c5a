"""The cross-dataset benchmark: each data set in turn is normal, and meets every kind of outlier."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.catalog import at_hand
from recondite.data.datasets import open_images
from recondite.data.files import atomic_file
from recondite.data.images import Floats, Preprocessing
from recondite.data.journal import Journal
from recondite.data.pictures import drawn, figure_of
from recondite.data.sample import guess_preprocessing
from recondite.data.spool import Rows, keys_of, one_of_each, read_all, split
from recondite.data.tables import write_table
from recondite.detectors import DETECTORS, build, detector_class
from recondite.errors import InputError, not_among
from recondite.options import option_names
from recondite.perturbations.outliers import ALTERED, SYNTHETIC, alter, make_outliers
from recondite.reports.figures import plot_aurocs
from recondite.screen.evidence import possible_scores
from recondite.screen.fit import fit
from recondite.screen.screen import Screen, load
from recondite.screen.words import AUTO, ERROR, EVIDENCE
from recondite.statistics import metrics
from recondite.statistics.calibration import Calibrator
from recondite.studies.training.baselines import mean_image, pixel_variance, squared_distance
from recondite.studies.training.normals import NORMALS, NormalSet

ALPHA = 0.05
CALIBRATION = 0.2
OTHER_CLASSES = "other-classes"
BASELINE = "baseline"

Row = dict[str, Any]
Judgement = Callable[[Floats], tuple[NDArray[np.float64], NDArray[np.bool_]]]
"""Takes images (N, C, H, W) and gives their scores and which of them are flagged, both (N,)."""


OUTLIERS = (OTHER_CLASSES, *(name for name in NORMALS if ":" not in name), *SYNTHETIC, *ALTERED)


def cross_dataset_benchmark(
    folder: Path,
    *,
    normals: Sequence[str] | None = None,
    detectors: Sequence[str] | None = None,
    scores: Sequence[str] | None = None,
    outliers: Sequence[str] | None = None,
    epochs: int | None = None,
    count: int = 1000,
    seeds: int = 1,
    progress: bool = False,
) -> list[Row]:
    """Measure every pair of normal and outlying images, and write folder/pairs.csv, pairs.png and pairs.md.

    Each detector is fitted once on each normal set and seed, and judges the held-out images of that set and every set
    of outliers by each score. Two baselines need no detector: the variance of an image's pixels and its distance to
    the mean image. Screens and finished rows are kept in `folder` and used again, so an interrupted run goes on.
    Nothing is downloaded: what is not at hand is left out, and said so on standard error.

    Args:
        folder: where everything is written.
        normals: keys of `NORMALS`; by default all that are at hand.
        detectors: keys of `DETECTORS`; by default all.
        scores: of a screen ("error", "evidence" and "auto" by default, or a statistic) or other errors of a detector
            ("ssim", "elbo"); a detector that has not got one is measured by the others.
        outliers: names in `OUTLIERS`; by default all.
        epochs: of training, in place of those chosen for each data set.
        count: images in each set, held-out normal ones too, at most.
        seeds: how many times to fit, each time with other weights and draws.
        progress: show progress on standard error.

    Returns:
        One row for each normal set, detector, seed, score and set of outliers. `auroc` comes with its 95 % interval;
        `flagged` and `false_alarms` are the shares of outliers and of held-out normal images flagged at `alpha`.

    Raises:
        InputError: an unknown name, a normal set asked for that is not at hand, or nothing is left to measure.
    """
    if count < 2 or seeds < 1:
        raise InputError(f"expected at least 2 images a set and 1 seed; got {count} and {seeds}")
    wanted = _known(outliers, OUTLIERS, "outliers")
    judged_by = (ERROR, EVIDENCE, AUTO) if scores is None else tuple(scores)
    for detector in detectors or ():
        detector_class(detector)
    journal = _Rows(folder / "journal.jsonl")
    rows: list[Row] = []
    for name in normals_at_hand(normals):
        for seed in range(seeds):
            sets = _Sets(NORMALS[name], count, seed)
            fitting = _able(name, detectors or tuple(DETECTORS), judged_by, sets.preprocessing.shape)
            judges = [
                _Candidate(
                    {"normal": name, "detector": detector, "seed": seed, "score": score}, fingerprint, judge, sets
                )
                for detector in (*fitting, BASELINE)
                for score, fingerprint, judge in _candidates(folder, name, detector, sets, judged_by, epochs, progress)
            ]
            for key in wanted:
                rows += _rows(judges, sets, key, journal)
        if rows:
            _write(folder, rows)
    if not rows:
        raise InputError("nothing is left to measure: no such outliers are at hand for these normal images")
    return rows


def to_markdown(rows: Sequence[Row]) -> str:
    """Return one table for each normal set: sets of outliers by detectors and scores, means over seeds."""
    parts = ["Each cell: AUROC ± half its 95 % interval / outliers missed where 95 % of normal images are kept.\n"]
    for normal in dict.fromkeys(row["normal"] for row in rows):
        own = [row for row in rows if row["normal"] == normal]
        columns = list(dict.fromkeys((row["detector"], row["score"]) for row in own))
        table = [
            ["outliers", *(f"{detector} {score}" for detector, score in columns)],
            ["---"] * (1 + len(columns)),
        ]
        for outliers in dict.fromkeys(row["outliers"] for row in own):
            cells = [_of(own, outliers=outliers, detector=detector, score=score) for detector, score in columns]
            table.append([outliers, *map(_cell, cells)])
        alarms = [_of(own, detector=detector, score=score) for detector, score in columns]
        table.append([f"false alarms at alpha {_short(ALPHA)}", *(_short(_mean(c, "false_alarms")) for c in alarms)])
        parts.append(f"\n**{normal} is normal** ({own[0]['inlier_images']:,} held-out images)\n\n")
        parts += ["| " + " | ".join(cells) + " |\n" for cells in table]
    return "".join(parts)


class _Sets:
    """The images of one normal set's turn, as its screens see them."""

    def __init__(self, normal: NormalSet, count: int, seed: int) -> None:
        self.normal, self.count, self.seed = normal, count, seed
        self.preprocessing, _ = guess_preprocessing(open_images(normal.fit))

    @cached_property
    def inliers(self) -> Floats:
        return self._some(self.normal.test)

    def learnt_and_calibrating(self, preprocessing: Preprocessing) -> tuple[Rows, Rows]:
        """All but the calibration images, and these: the same that `fit` sets aside."""
        spooled = read_all(open_images(self.normal.fit), preprocessing)
        keys = keys_of([spooled])[0]
        calibrating, rest = split(keys, [round(CALIBRATION * len(spooled))], self.seed)
        counted = one_of_each(keys, spooled.hashes, self.seed, calibrating)
        return spooled.rows(rest), spooled.rows(counted)

    def outliers(self, name: str) -> Floats | None:
        """Return a set of outliers (N, *shape); None where this normal set has no such outliers.

        Raises:
            InputError: the images are not at hand, or do not fit.
        """
        if name == OTHER_CLASSES:
            return self._some(self.normal.others) if self.normal.others else None
        if name in NORMALS:
            same = NORMALS[name].data == self.normal.data or (name == "mnist5k" and at_hand("mnist"))
            return None if same else self._some(NORMALS[name].test)
        if name in ALTERED:
            return _floats(alter(name, (self.inliers * 255).round().astype(np.uint8), self.seed))
        channels, height, width = self.preprocessing.shape
        return _floats(make_outliers(name, self.count, (channels, height, width), self.seed))

    def _some(self, name: str) -> Floats:
        if not at_hand(name):
            raise InputError(f"{name} is not at hand, and nothing is downloaded here")
        images = open_images(name)
        assert images.size is not None
        chosen = np.random.default_rng(self.seed).permutation(images.size)[: self.count]
        return np.asarray(read_all(images.select(np.sort(chosen)), self.preprocessing).pixels)


class _Candidate:
    """One score of one detector, its facts for a row, and what it says of the held-out normal images."""

    def __init__(self, facts: Row, fingerprint: str, judge: Judgement, sets: _Sets) -> None:
        self.facts, self.judge, self.sets = facts, judge, sets
        self.identity = {**facts, "count": sets.count, "fingerprint": fingerprint}

    @cached_property
    def on_inliers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return self.judge(self.sets.inliers)

    def row(self, name: str, outliers: Floats) -> Row:
        normal_scores, alarms = self.on_inliers
        scores, flags = self.judge(outliers)
        low, high = metrics.delong_interval(normal_scores, scores)
        return {
            **self.facts,
            "outliers": name,
            "auroc": metrics.auroc(normal_scores, scores),
            "auroc_low": low,
            "auroc_high": high,
            "inliers_flagged_at_95_outliers_caught": metrics.inliers_flagged_at_95_outliers_caught(
                normal_scores, scores
            ),
            "outliers_missed_at_95_inliers_kept": metrics.outliers_missed_at_95_inliers_kept(normal_scores, scores),
            "alpha": ALPHA,
            "flagged": float(flags.mean()),
            "false_alarms": float(alarms.mean()),
            "inlier_images": len(normal_scores),
            "outlier_images": len(scores),
        }


class _Rows:
    """Finished rows, journalled; a row that an interruption cut short is measured again."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, {"benchmark": "pairs"})
        self._rows = {_key(one["identity"], one["row"]["outliers"]): one["row"] for one in self._journal.taken_up}

    def get(self, candidate: _Candidate, name: str) -> Row | None:
        return self._rows.get(_key(candidate.identity, name))

    def add(self, candidate: _Candidate, row: Row) -> None:
        self._journal.add([{"identity": candidate.identity, "row": row}])


def _key(identity: Row, name: str) -> str:
    return json.dumps([identity, name], sort_keys=True)


def _rows(judges: Sequence[_Candidate], sets: _Sets, name: str, journal: _Rows) -> list[Row]:
    """Return a row for each judge on one set of outliers, from the journal or measured; none where there is no set."""
    done = {judge: row for judge in judges if (row := journal.get(judge, name)) is not None}
    if len(done) < len(judges):
        try:
            outliers = sets.outliers(name)
        except InputError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            return []
        if outliers is None:
            return []
        for judge in judges:
            if judge not in done:
                done[judge] = judge.row(name, outliers)
                journal.add(judge, done[judge])
    return [done[judge] for judge in judges]


def _candidates(
    folder: Path,
    normal: str,
    detector: str,
    sets: _Sets,
    scores: Sequence[str],
    epochs: int | None,
    progress: bool,
) -> Iterator[tuple[str, str, Judgement]]:
    """Yield (score, fingerprint, judgement) of one detector, or of the baselines."""
    if detector == BASELINE:
        for score, judge in _baselines(sets).items():
            yield score, "", judge
        return
    fitted = _fitted(folder, normal, detector, sets.seed, epochs, progress)
    for score in scores:
        if score in fitted.scores:
            screen = fitted.with_score(score)
        elif score in fitted.detector.own_scores():
            screen = _by_other_error(fitted, score, sets)
        else:
            print(f"left out: {detector} on {normal} has no score {score}", file=sys.stderr)
            continue
        yield score, screen.fingerprint(), partial(_by_screen, screen)


def _by_other_error(fitted: Screen, score: str, sets: _Sets) -> Screen:
    """Return a screen judging by another error of its detector, calibrated on the same images."""
    bare = replace(fitted, detector=fitted.detector.scored_by(score=score), score=ERROR, evidence=None, observations={})
    _, calibrating = sets.learnt_and_calibrating(fitted.detector.preprocessing)
    screen = bare.recalibrated(calibrating.take(slice(None)), group_by="none")
    assert screen.facts["calibration"]["fingerprint"] == fitted.facts["calibration"]["fingerprint"]
    return screen


def _able(normal: str, detectors: Sequence[str], scores: Sequence[str], shape: tuple[int, ...]) -> list[str]:
    """Return the detectors that take images of this shape; the others are left out.

    Raises:
        InputError: a score that none of them will have; better now than after hours of fitting.
    """
    able: list[str] = []
    known: dict[str, None] = {}
    for name in detectors:
        options = NORMALS[normal].options.get(name, {})
        side = options.get("image_size")
        own = {key: value for key, value in options.items() if key in option_names(detector_class(name).Options)}
        try:
            model = build(name, image_shape=shape if side is None else (shape[0], side, side), **own)
        except InputError as error:
            print(f"left out: {name} on {normal}: {error}", file=sys.stderr)
            continue
        able.append(name)
        known |= dict.fromkeys([*possible_scores(model), *model.own_scores()])
    for score in scores:
        if able and score not in known:
            raise not_among("scores", known, score)
    return able


def _by_screen(screen: Screen, images: Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    verdicts = screen.predict(images)
    return verdicts.instance_score, verdicts.is_outlier


def _fitted(folder: Path, normal: str, detector: str, seed: int, epochs: int | None, progress: bool) -> Screen:
    """Return the screen that these settings make, fitted here or by an earlier run."""
    options = {**NORMALS[normal].options.get(detector, {}), "seed": seed}
    if epochs is not None and detector_class(detector).trains_by_steps:
        options["epochs"] = epochs
    digest = hashlib.sha256(json.dumps([NORMALS[normal].fit, options], sort_keys=True).encode()).hexdigest()[:8]
    path = folder / "screens" / f"{normal.replace(':', '-')}-{detector}-{digest}"
    if path.is_dir():
        return load(path)
    if progress:
        print(f"fitting {detector} on {NORMALS[normal].fit}: {options}", file=sys.stderr)
    run_folder = path.with_name(f"{path.name}.run")
    screen = fit(
        NORMALS[normal].fit,
        detector=detector,
        alpha=ALPHA,
        calibration=CALIBRATION,
        run_folder=run_folder,
        resume=True,
        progress=progress,
        **options,
    )
    screen.save(path)
    shutil.rmtree(run_folder, ignore_errors=True)
    return screen


def _baselines(sets: _Sets) -> dict[str, Judgement]:
    """Return the two scores that need no detector, calibrated as a screen is."""
    learnt, calibrating = sets.learnt_and_calibrating(sets.preprocessing)
    mean = mean_image(learnt)

    def calibrated(score: Callable[[Floats], NDArray[np.float64]]) -> Judgement:
        parts = [score(batch) for batch in calibrating.batches()]
        calibrator = Calibrator(np.concatenate(parts))

        def judge(images: Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            scores = score(images)
            return scores, calibrator.is_outlier(scores, ALPHA)

        return judge

    return {
        "pixel-variance": calibrated(pixel_variance),
        "distance-to-mean": calibrated(lambda images: squared_distance(images, mean)),
    }


def normals_at_hand(names: Sequence[str] | None) -> list[str]:
    """Return the normal sets asked for, or all at hand; the small MNIST only where the large one is not.

    Raises:
        InputError: an unknown set, or one that is not at hand.
    """
    if names is not None:
        for name in _known(names, tuple(NORMALS), "normal sets"):
            if not at_hand(NORMALS[name].fit):
                raise InputError(f"the normal set {name!r} is not at hand, and nothing is downloaded here")
        return list(names)
    found = [name for name in NORMALS if at_hand(NORMALS[name].fit) and not (name == "mnist5k" and at_hand("mnist"))]
    for name in NORMALS:
        if not at_hand(NORMALS[name].fit):
            print(f"left out: {name}: it is not at hand, and nothing is downloaded here", file=sys.stderr)
    return found


def _known(names: Sequence[str] | None, all_names: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return the names, all of them by default, in their own order."""
    for name in names or ():
        if name not in all_names:
            raise not_among(what, all_names, name)
    return tuple(name for name in all_names if names is None or name in names)


def _write(folder: Path, rows: Sequence[Row]) -> None:
    write_table(folder / "pairs.csv", rows)
    with atomic_file(folder / "pairs.md") as temporary:
        temporary.write_text(to_markdown(rows), encoding="utf-8")
    lines = list(dict.fromkeys((row["normal"], row["detector"], row["score"]) for row in rows))
    columns = [name for name in OUTLIERS if any(row["outliers"] == name for row in rows)]
    values = [
        [_mean(_of(rows, normal=normal, detector=detector, score=score, outliers=name), "auroc") for name in columns]
        for normal, detector, score in lines
    ]
    starts = [index for index in range(1, len(lines)) if lines[index][0] != lines[index - 1][0]]
    axes = plot_aurocs(values, [" · ".join(line) for line in lines], columns, starts)
    axes.set_title("AUROC", loc="left")
    with atomic_file(folder / "pairs.png") as temporary:
        temporary.write_bytes(drawn(figure_of(axes), "png", dpi=130))


def _of(rows: Sequence[Row], **facts: str) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in facts.items())]


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows])) if rows else float("nan")


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    half = (_mean(rows, "auroc_high") - _mean(rows, "auroc_low")) / 2
    missed = _mean(rows, "outliers_missed_at_95_inliers_kept")
    return f"{_short(_mean(rows, 'auroc'))} ± {_short(half)} / {_short(missed)}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _floats(images: NDArray[np.uint8]) -> Floats:
    return images.astype(np.float32) / np.float32(255)
