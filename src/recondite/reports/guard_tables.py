"""What a report on a guard says beside its table of rules: intervals, what each class pays, and a conclusion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.screen.classifier_outputs import Floats, Outputs
from recondite.statistics.metrics import risk_coverage

GRID = np.linspace(0.02, 1, 50)
"""Coverages at which bands are drawn."""
_DRAWS, _LEVEL = 200, 0.05
CLASS_COLUMNS = ("rule", "class", "images", "classified right", "of these turned away", "outliers labelled so")
"""Of the table of classes; its rows are `class_cells`."""


@dataclass(frozen=True)
class Bands:
    """Intervals of one rule at one prevalence, from a bootstrap of inliers and outliers.

    Args:
        low, high: (50,) of the risk at the coverages `GRID`.
        augrc: (D,) one for each draw; draws are the same for all rules.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    augrc: NDArray[np.float64]

    @property
    def interval(self) -> tuple[float, float]:
        """Of AUGRC, 95 %."""
        low, high = np.quantile(self.augrc, [_LEVEL / 2, 1 - _LEVEL / 2])
        return float(low), float(high)


def bands_of(
    rules: Mapping[str, tuple[Floats, Floats]], wrong: NDArray[np.bool_], prevalence: float, seed: int = 0
) -> dict[str, Bands]:
    """Return rule -> its bands.

    Args:
        rules: rule -> suspicion of N inliers and of M outliers.
        wrong: (N,), whether the label of each inlier is.
        prevalence: share of outliers in the traffic.
        seed: of the bootstrap.
    """
    first, second = next(iter(rules.values()))
    counts, draws = (len(first), len(second)), np.random.default_rng(seed)
    weights = np.repeat([(1 - prevalence) / counts[0], prevalence / counts[1]], counts)
    risks: dict[str, list[Floats]] = {name: [] for name in rules}
    areas: dict[str, list[float]] = {name: [] for name in rules}
    for _ in range(_DRAWS):
        a, b = (draws.integers(0, count, count) for count in counts)
        mistakes = np.concatenate([wrong[a], np.ones(counts[1], dtype=bool)])
        for name, (own, other) in rules.items():
            curve = risk_coverage(np.concatenate([own[a], other[b]]), mistakes, weights)
            risks[name].append(np.interp(GRID, curve.coverage, curve.risk))
            areas[name].append(curve.augrc)
    found = {}
    for name, some in risks.items():
        low, high = np.quantile(some, [_LEVEL / 2, 1 - _LEVEL / 2], axis=0)
        found[name] = Bands(low, high, np.array(areas[name]))
    return found


def class_rows(
    kept: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]],
    inliers: Outputs,
    outliers: Outputs,
    names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return what each class pays where each rule decides.

    Rows have "rule", "class" (its name or the number of its logit), "images" (inliers of it), "right" (the share of
    these that the classifier gets right), "false_rejections" (the share of the right ones turned away), and
    "outliers_labelled" (the share of all outliers that get its label).

    Args:
        kept: rule -> which of N inliers and of M outliers get a label.
        inliers, outliers: the classifier's outputs for these.
        names: of the classes, if they have any.
    """
    rows = []
    given = outliers.logits.argmax(axis=1)
    for name, (own, other) in kept.items():
        for place in range(inliers.logits.shape[1]):
            mine = inliers.labels == place
            right = mine & ~inliers.wrong
            turned_away = ~own[right]
            rows.append(
                {
                    "rule": name,
                    "class": names[place] if names else place,
                    "images": int(mine.sum()),
                    "right": float(right.sum() / mine.sum()) if mine.any() else float("nan"),
                    "false_rejections": float(turned_away.mean()) if right.any() else float("nan"),
                    "outliers_labelled": float(np.mean(other & (given == place))),
                }
            )
    return rows


def class_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one row of `class_rows` as text."""
    shares = (f"{row[name]:.3f}" for name in ("right", "false_rejections", "outliers_labelled"))
    return (row["rule"], str(row["class"]), f"{row['images']:,}", *shares)


def conclusion(rows: Sequence[Mapping[str, Any]], bands: Mapping[str, Bands], bare: str) -> str:
    """Return in words which rule to take, and what it is worth.

    Args:
        rows: of one prevalence, as in `guard_report`.
        bands: of the same.
        bare: the rule that turns nothing away.
    """
    best = min(rows, key=lambda row: float(row["augrc"]))
    nothing = next(row for row in rows if row["rule"] == bare)
    name, (low, high) = best["rule"], bands[best["rule"]].interval
    level = _LEVEL / 2
    alike = [
        row["rule"]
        for row in rows
        if row["rule"] != name and np.quantile(bands[row["rule"]].augrc - bands[name].augrc, level) <= 0
    ]
    first = f"With {best['prevalence']:.0%} outliers in the traffic "
    if name == bare or bare in alike:
        return first + "no rule is better than giving every image its label, as far as so few images can tell."
    first += (
        f"{name} makes the fewest accepted errors (AUGRC {best['augrc']:.4f}, 95 % interval {low:.4f} to {high:.4f})"
    )
    if alike:
        first += f"; {', '.join(alike)} cannot be told from it"
    return (
        f"{first}. At its threshold {best['outliers_accepted']:.1%} of the outliers get a label and "
        f"{best['false_rejections']:.1%} of the rightly classified images get none; of the labels given "
        f"{best['risk']:.1%} are wrong, and {nothing['risk']:.1%} without a guard."
    )
