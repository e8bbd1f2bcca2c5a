"""Does the monitor keep its promise over long streams, and how soon does it see a change? Real MNIST or CIFAR-10.

    python benchmarks/drift.py [--data cifar10] [--calibration 1000] [--runs 500] [--length 100000] [--delays 100]

A screen learns from the training images. The 10,000 test images, as they are and changed, are scored once.
False alarms: each run draws calibration images and a stream of test images, both at random with replacement, so
that they are exchangeable and hold many ties. Delays: each run draws calibration images, 1,000 images without
change and then changed ones, without replacement. `--fixed` makes the same bets on p-values that never learn from the
stream, which is what must not be done. `--score-only` leaves the statistics out.
"""

import argparse
from dataclasses import replace

import numpy as np
from machine import where
from scipy.stats import ks_2samp

import recondite
from recondite import Calibrator, Monitor
from recondite.data.catalog import open_named
from recondite.data.datasets import open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.screen.monitor import parts_of_false_alarm
from recondite.statistics.martingale import Martingales, OnlineRanks
from recondite.statistics.metrics import rate
from recondite.statistics.scores import Scores

QUIET, PART = 1000, 1000
WINDOWS = (200, 1000, 3500)
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
FEWER = {"mnist": ("1", "8", ("1", "7")), "cifar10": ("frog", "cat", ("ship", "airplane"))}
PROMISES = (0.1, 0.05, 0.01)


def main(data: str, calibration: int, runs: int, length: int, delays: int, fixed: int, score_only: bool) -> None:
    train, (images, labels) = read(f"{data}/train")[0], read(f"{data}/test")
    screen = recondite.fit(train, detector="pca", latent_size=40)
    clean = scored(screen, images)
    print(f"{data}, pca, score {screen.score}; {len(images):,} test images; {calibration:,} calibrate", flush=True)
    if delays:
        measure_delays(screen, images, labels, clean, delays, calibration)
    if fixed:
        measure_fixed(clean.instance_score, fixed, length, calibration)
    if runs:
        statistics = [] if score_only else list(clean.statistics.values())
        measure_false_alarms(np.stack([clean.instance_score, *statistics]), runs, length, calibration)


def read(name):
    opened = open_named(name)
    parts = list(read_batches(open_images(name), Preprocessing(shape=SHAPES[name.split("/")[0]]), 256))
    return np.concatenate([part.pixels for part in parts]), np.array(opened.labels)


def measure_delays(screen, images, labels, clean, runs, calibrating):
    noise = np.random.default_rng(1).normal(size=images.shape)
    kept = np.ones(len(images), dtype=bool)
    one, other, two = FEWER[data_of(images)]
    changes = {
        **{f"brightness + {by:.0%}": (scored(screen, clipped(images + by)), kept) for by in (0.02, 0.05, 0.1)},
        "darker by a tenth": (scored(screen, images * np.float32(0.9)), kept),
        **{f"camera noise {by}": (scored(screen, clipped(images + by * noise)), kept) for by in (0.01, 0.02, 0.05)},
        f"no more {one}": (clean, labels != one),
        f"no more {other}": (clean, labels != other),
        f"only {two[0]}, {two[1]}": (clean, np.isin(labels, two)),
        "no change": (clean, kept),
    }
    measure_windows(clean, changes, runs, calibrating)
    print("change               alarms   before it   delay: median   90 % of runs   began: median error   moved most")
    for name, (changed, allowed) in changes.items():
        found, began, early, most = [], [], 0, []
        for seed in range(runs):
            order = np.random.default_rng([seed, 7]).permutation(len(images))
            calibration, rest = order[:calibrating], order[calibrating:]
            after = rest[QUIET:][allowed[rest[QUIET:]]]
            monitor = Monitor(recalibrated(screen, clean, calibration), seed=seed)
            monitor.update(chosen(clean, rest[:QUIET]))
            early += monitor.alarm is not None
            for start in range(0, len(after), 50):
                if monitor.update(chosen(changed, after[start : start + 50])):
                    break
            if monitor.alarm is not None and monitor.alarm.at > QUIET:
                found.append(monitor.alarm.at - QUIET)
                began.append(abs(monitor.alarm.began - QUIET))
                most.append(next((one.name for one in monitor.moved() if one.name != "instance_score"), "-"))
        delay = sorted(found) + [np.inf] * (runs - early - len(found))
        quantile = delay[int(np.ceil(0.9 * len(delay))) - 1] if delay else np.inf
        names, counts = np.unique(most, return_counts=True) if most else (["-"], [0])
        top = f"{names[np.argmax(counts)]} ({np.max(counts)})"
        middle = np.median(delay)
        print(
            f"{name:20s} {len(found):4d}/{runs} {early:9d} {middle:14.0f} {quantile:14.0f} "
            f"{np.median(began) if began else np.nan:16.0f}        {top}",
            flush=True,
        )


def measure_windows(clean, changes, runs, calibrating):
    """A test of each statistic in windows that do not overlap (Kolmogorov and Smirnov, Holm), .01 over all windows."""
    reference_columns = np.stack([clean.instance_score, *clean.statistics.values()])
    print("change               window   found   delay: median")
    for name in [one for one in changes if one.startswith(("no more", "only", "no change"))]:
        changed, allowed = changes[name]
        columns = np.stack([changed.instance_score, *changed.statistics.values()])
        for window in WINDOWS:
            delays = []
            for seed in range(runs):
                order = np.random.default_rng([seed, 7]).permutation(columns.shape[1])
                calibration, rest = reference_columns[:, order[:calibrating]], order[calibrating:]
                after = rest[allowed[rest]]
                count = len(after) // window
                delay = np.inf
                for number in range(count):
                    values = columns[:, after[number * window : (number + 1) * window]]
                    p_values = [ks_2samp(a, b, method="asymp").pvalue for a, b in zip(values, calibration, strict=True)]
                    if min(p_values) * len(p_values) * count <= 0.01:
                        delay = (number + 1) * window
                        break
                delays.append(delay)
            print(f"{name:20s} {window:6d} {np.isfinite(delays).sum():4d}/{runs} {np.median(delays):14.0f}", flush=True)


def measure_false_alarms(columns, runs, length, calibration):
    """All runs side by side: the monitor's ranks, bets and weights, without its window."""
    draws = [np.random.default_rng([seed, 11]) for seed in range(runs)]
    references = []
    for seed, generator in enumerate(draws):
        chosen = generator.integers(0, columns.shape[1], calibration)
        references += [OnlineRanks(column[chosen], seed * len(columns) + k) for k, column in enumerate(columns)]
    ranks, martingales, largest = ManyRanks(references), Martingales(len(references)), np.ones(runs)
    check_side_by_side(columns[0])
    weights = parts_of_false_alarm(len(columns))
    for start in range(0, length, PART):
        index = np.stack([generator.integers(0, columns.shape[1], PART) for generator in draws])
        random = np.random.default_rng([start, 13]).random((PART, 2, len(references)))
        for step in range(PART):
            martingales.update(ranks.p_values(columns[:, index[:, step]].T.ravel(), *random[step]))
            np.maximum(largest, (martingales.values.reshape(runs, -1) * weights).max(axis=1), out=largest)
        if (start + PART) % 10_000 == 0:
            print_rates(f"{len(columns)} sequences, {runs} runs of {start + PART:,} draws", largest)


class ManyRanks:
    """`OnlineRanks` for S sequences at once, with sums of cells in two levels: a step is a few operations on (S,)."""

    def __init__(self, ranks):
        widest = max(len(one._values) for one in ranks) + 1
        self._side = int(np.ceil(np.sqrt(widest)))
        self._rows = np.arange(len(ranks))
        self._values = np.full((len(ranks), widest), np.inf)
        self._aside = np.full((len(ranks), widest), np.inf)
        cells = np.zeros((len(ranks), self._side**2), dtype=np.int64)
        for row, one in enumerate(ranks):
            self._values[row, : len(one._values)] = one._values
            self._aside[row, : len(one._aside)] = one._aside
            cells[row, : len(one._gaps)] = one._gaps
        self._cells = cells.reshape(len(ranks), self._side, self._side)
        self._blocks = self._cells.sum(axis=2)
        self._total = np.array([one._total for one in ranks], dtype=np.float64)
        self._steps = [1 << k for k in reversed(range(widest.bit_length()))]

    def p_values(self, scores, first, second):
        """Return the p-values (S,) of the next scores (S,), which then join."""
        cell = self._cell(scores, first)
        block, place = np.divmod(cell, self._side)
        below = (self._blocks * (np.arange(self._side) < block[:, None])).sum(axis=1)
        inside = self._cells[self._rows, block]
        below += (inside * (np.arange(self._side) < place[:, None])).sum(axis=1)
        own = inside[self._rows, place]
        found = 1 - (below + second * own) / self._total
        self._cells[self._rows, block, place] += 1
        self._blocks[self._rows, block] += 1
        self._total += 1
        return np.clip(found, 1e-12, 1 - 1e-12)

    def _cell(self, scores, first):
        """Return how many (value, random number) of each sequence are below (score, first), by halving."""
        cell, last = np.zeros(len(scores), dtype=np.intp), self._values.shape[1] - 1
        for step in self._steps:
            ahead = np.minimum(cell + step, last + 1)
            value, aside = self._values[self._rows, ahead - 1], self._aside[self._rows, ahead - 1]
            fits = (cell + step <= last) & ((value < scores) | ((value == scores) & (aside < first)))
            cell = np.where(fits, ahead, cell)
        return cell


def check_side_by_side(pool):
    """Compare with the monitor's own ranks, bit for bit, on a stream with ties."""
    draws = np.random.default_rng(5)
    references = [draws.choice(pool.round(3), size) for size in (1000, 30)]
    ones, many = (
        [OnlineRanks(one, seed=3) for one in references],
        ManyRanks([OnlineRanks(o, seed=3) for o in references]),
    )
    for _ in range(2000):
        scores, random = draws.choice(pool.round(3), 2), draws.random((2, 2))
        expected = [one.p_value(*row) for one, row in zip(ones, zip(scores, *random, strict=True), strict=True)]
        assert many.p_values(scores, *random).tolist() == expected


def measure_fixed(pool, runs, length, calibration):
    """The same bets on smoothed p-values against the calibration scores alone."""
    martingales, largest = Martingales(runs), np.ones(runs)
    draws = [np.random.default_rng([seed, 11]) for seed in range(runs)]
    references = [np.sort(generator.choice(pool, calibration)) for generator in draws]
    for _ in range(0, length, PART):
        p_values = []
        for generator, reference in zip(draws, references, strict=True):
            stream = generator.choice(pool, PART)
            low, high = (np.searchsorted(reference, stream, side) for side in ("left", "right"))
            u = generator.random(PART)
            p_values.append((calibration - high + u * (high - low + 1)) / (calibration + 1))
        for column in np.stack(p_values, axis=1):
            martingales.update(column)
            np.maximum(largest, martingales.values, out=largest)
    print_rates(f"p-values against the calibration set alone, {runs} runs of {length:,}", largest)


def print_rates(title, largest):
    print(f"{title}: " + "; ".join(f"promised {p:g}: {rate(largest >= 1 / p)}" for p in PROMISES), flush=True)


def scored(screen, images):
    """Return the scores and statistics of images."""
    found = screen.predict(images)
    return Scores(
        ids=found.ids, instance_score=found.instance_score, errors=found.errors, statistics=dict(found.statistics)
    )


def chosen(scores, index):
    return Scores(
        ids=tuple(scores.ids[i] for i in index),
        instance_score=scores.instance_score[index],
        errors=(None,) * len(index),
        statistics={name: values[index] for name, values in scores.statistics.items()},
    )


def recalibrated(screen, clean, index):
    some = chosen(clean, index)
    observations = {"error": some.instance_score, **some.statistics}
    return replace(screen, calibrator=Calibrator(some.instance_score), observations=observations, peaks=None)


def clipped(images):
    return np.clip(images, 0, 1).astype(np.float32)


def data_of(images):
    return next(name for name, shape in SHAPES.items() if shape == images.shape[1:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(SHAPES), default="mnist")
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--length", type=int, default=100_000)
    parser.add_argument("--delays", type=int, default=100)
    parser.add_argument("--fixed", type=int, default=100)
    parser.add_argument("--score-only", action="store_true")
    given = parser.parse_args()
    print(where(), flush=True)
    main(given.data, given.calibration, given.runs, given.length, given.delays, given.fixed, given.score_only)
