"""Bad images among those that were given as good: which scores do not belong with the others.

Source: Brys, Hubert, Struyf 2004 (medcouple); Hubert, Vandervieren 2008 (boxplot adjusted for skewness).
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.errors import InputError

AUTO = "auto"
LEFT_OUT = "left_out_as_suspect"
"""The fact of a calibration that tells how many of its images were left out, by group ("" without groups)."""
Contamination = float | Literal["auto"]
"""The share of bad images among those given, in [0, 1), or "auto" for those whose scores lie far out."""
_MOST_COMPARED, _WHISKER, _SKEW_ABOVE, _SKEW_BELOW = 999, 1.5, 3.0, 4.0
_FEWEST = 8


def check_contamination(value: object) -> None:
    """Raise InputError unless it is None, "auto" or a share in [0, .5)."""
    if value is None or value == AUTO:
        return
    if not isinstance(value, float | int) or isinstance(value, bool) or not 0 <= value < 0.5:
        raise InputError(f"expected contamination: a share in [0, .5), or auto; got {value!r}")


def suspects(scores: ArrayLike, contamination: Contamination, most: int | None = None) -> NDArray[np.bool_]:
    """Return which of the scores (n,) do not belong with the others (n,): always the highest ones.

    Args:
        scores: higher is more anomalous.
        contamination: the share of scores to choose; or "auto", those above `upper_fence`.
        most: how many are chosen at most.

    >>> suspects([0.0, 1.0, 9.0, 2.0], 0.25)
    array([False, False,  True, False])
    """
    values = np.asarray(scores, dtype=np.float64)
    if contamination == AUTO:
        count = int(np.sum(values > upper_fence(values))) if len(values) >= _FEWEST else 0
    else:
        count = len(values) - max(1, round(len(values) * (1 - float(contamination))))
    count = count if most is None else min(count, max(0, most))
    chosen = np.zeros(len(values), dtype=bool)
    chosen[np.argsort(values, kind="stable")[len(values) - count :]] = True
    return chosen


def upper_fence(values: NDArray[np.float64]) -> float:
    """Return what so few values lie above, if none are bad, that those above it are suspect: .7 % of a normal law.

    It is the upper whisker of a boxplot, longer the more the values are skewed to the right.
    """
    low, high = np.quantile(values, [0.25, 0.75])
    skewness = medcouple(values)
    longer = np.exp((_SKEW_ABOVE if skewness >= 0 else _SKEW_BELOW) * skewness)
    return float(high + _WHISKER * longer * (high - low))


def medcouple(values: NDArray[np.float64]) -> float:
    """Return the skewness of values (n,) in [-1, 1], which a quarter of bad ones cannot move to its ends.

    It is the median, over pairs on either side of the median m, of ((x - m) - (m - y)) / (x - y). Of more than 999
    values as many quantiles are compared.
    """
    if len(values) > _MOST_COMPARED:
        values = np.quantile(values, (np.arange(_MOST_COMPARED) + 0.5) / _MOST_COMPARED)
    middle = np.median(values)
    above = (values[values >= middle] - middle)[:, None]
    below = (middle - values[values <= middle])[None, :]
    apart = above + below
    kernel = (above - below)[apart > 0] / apart[apart > 0]
    return float(np.median(kernel)) if kernel.size else 0.0
