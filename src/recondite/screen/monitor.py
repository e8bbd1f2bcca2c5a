"""Drift detection: a test martingale over the p-values of a stream, and which statistics have moved."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.errors import InputError
from recondite.progress import counted
from recondite.screen.screen import Screen
from recondite.screen.words import ERROR
from recondite.statistics.calibration import rate_of
from recondite.statistics.image_statistics import statistic_in_words
from recondite.statistics.martingale import Martingales, OnlineRanks, uniform
from recondite.statistics.scores import Scores

SCORE = "instance_score"
_KIND, _SCHEMA = "recondite monitor", 1
_FEWEST_COMPARED = 5
_LEVEL = 0.05


@dataclass(frozen=True)
class Alarm:
    """When a monitor said that the stream had changed.

    Args:
        at: how many readable images had come, the one that raised the alarm included.
        began: how many had come before the change, as far as can be estimated.
        id: of the image that raised it.
        name: what raised it: "instance_score" or a statistic.
        martingale: what the monitor's martingale had reached.
    """

    at: int
    began: int
    id: str
    name: str
    martingale: float

    def since(self) -> str:
        """Say when the change began."""
        return f"after about {counted(self.began, 'image')}" if self.began else "with the first image"


@dataclass(frozen=True)
class Moved:
    """How one statistic of recent images compares with the calibration images.

    Args:
        name: "instance_score" or a statistic's name.
        words: what it is.
        shift: by how many of the calibration images' standard deviations its median is higher (lower, if negative).
        distance: the largest difference of the two distribution functions (Kolmogorov and Smirnov), in [0, 1].
        p_value: of that difference, corrected for the number of statistics (Holm).
        evidence: the martingale of this statistic alone, over the whole stream.
        moved: whether the p-value is at most .05.
    """

    name: str
    words: str
    shift: float
    distance: float
    p_value: float
    evidence: float
    moved: bool


class Monitor:
    """Watches the verdicts of a screen in the order in which the images came.

        monitor = Monitor(screen, false_alarm=0.01)
        monitor.update(verdicts)        # after each batch, or each image
        monitor.alarm                   # None, or when the stream changed
        monitor.moved()                 # which statistics of recent images differ
        saved = monitor.state()         # JSON; Monitor.from_state(screen, saved) goes on

    It bets on the ranks of the score and, where the screen judges by them, of each statistic: half of `false_alarm` is
    for the score, the rest in equal parts for the statistics. While the images are exchangeable with the calibration
    images, the chance that it ever raises an alarm, however long the stream, is at most `false_alarm`. An alarm stays;
    to watch on after it, make a new monitor. Unreadable images are counted and take no part. It needs memory for the
    calibration scores and the last `window` images, however long the stream. Not for several threads at once.

    Args:
        screen: whose verdicts they are.
        false_alarm: in (0, 1); the alarm is raised when the martingale reaches 1 / false_alarm.
        window: how many recent images `moved` looks at, at most.
        seed: of the random numbers that make p-values uniform; the same stream and seed give the same alarm.

    Raises:
        InputError: false_alarm or window out of range.
    """

    def __init__(self, screen: Screen, *, false_alarm: float = 0.01, window: int = 200, seed: int = 0) -> None:
        false_alarm = rate_of(false_alarm, "false_alarm")
        if window < _FEWEST_COMPARED:
            raise InputError(f"expected a window of at least {_FEWEST_COMPARED} images; got {window}")
        self.false_alarm, self.window, self.seed = false_alarm, window, seed
        self.alarm: Alarm | None = None
        self.invalid = 0
        self.largest = 0.0
        calibrator = screen.calibrator
        self._fingerprint = screen.fingerprint()
        labels = np.array(calibrator.groups or [""] * len(calibrator.scores))
        self._grouped = calibrator.groups is not None
        self._reference = _reference(screen)
        self._ranks = {
            str(label): [
                OnlineRanks(values[labels == label], seed=seed * len(self._reference) + column)
                for column, values in enumerate(self._reference.values())
            ]
            for label in sorted(set(labels.tolist()))
        }
        self._martingales = Martingales(len(self._reference))
        self._weights = parts_of_false_alarm(len(self._reference))
        self._recent: deque[list[float]] = deque(maxlen=window)

    @property
    def seen(self) -> int:
        """How many readable images have come."""
        return self._martingales.steps

    @property
    def martingale(self) -> float:
        """The evidence that something has changed: an alarm at 1 / false_alarm.

        It is the largest of the martingales of score and statistics, each times its part of `false_alarm`.
        """
        return float((self._weights * self._martingales.values).max())

    @property
    def threshold(self) -> float:
        return 1 / self.false_alarm

    @property
    def recent_scores(self) -> NDArray[np.float64]:
        """The scores that `moved` compares with those of calibration."""
        return self.recent_statistics[SCORE]

    @property
    def recent_statistics(self) -> dict[str, NDArray[np.float64]]:
        """The score and the statistics that `moved` compares with those of calibration, by name."""
        rows = np.array(self._since_change(), dtype=np.float64).reshape(-1, len(self._reference))
        return dict(zip(self._reference, rows.T, strict=True))

    def update(self, verdicts: Scores, groups: Sequence[str] | None = None) -> bool:
        """Take in verdicts, oldest first, and return whether there is an alarm.

        Args:
            verdicts: what the screen's `predict`, `stream` or `judge` gave.
            groups: one label a verdict, where the calibration has groups.

        Raises:
            InputError: labels are missing or unknown; nothing is taken in then.
        """
        if self._grouped and (groups is None or len(groups) != len(verdicts)):
            raise InputError(f"this calibration has groups: expected {len(verdicts)} group labels")
        labels = list(groups or []) if self._grouped else [""] * len(verdicts)
        unknown = sorted(
            {label for label, error in zip(labels, verdicts.errors, strict=True) if error is None} - set(self._ranks)
        )
        if unknown:
            raise InputError(f"no calibration for groups {unknown}; there are: {sorted(self._ranks)}")
        statistics = verdicts.statistics or {}
        missing = np.full(len(verdicts), np.nan)
        columns = [verdicts.instance_score, *(statistics.get(name, missing) for name in [*self._reference][1:])]
        values = np.stack(columns, axis=1).astype(np.float64)
        valid = np.isfinite(values[:, 0]) & np.array([error is None for error in verdicts.errors], dtype=bool)
        self.invalid += int(np.count_nonzero(~valid))
        chosen = np.flatnonzero(valid)
        wanted = (len(chosen), 2, len(self._reference))
        random = uniform(self.seed, self.seen * wanted[1] * wanted[2], int(np.prod(wanted))).reshape(wanted).tolist()
        for index, numbers in zip(chosen, random, strict=True):
            row = values[index].tolist()
            self._recent.append(row)
            self._bet(verdicts.ids[index], row, self._ranks[labels[index]], *numbers)
        return self.alarm is not None

    def moved(self) -> list[Moved]:
        """Compare recent images with the calibration images, statistic by statistic, the most different first.

        Recent are the last `window` images; after an alarm only those since the change is thought to have begun, if
        they are at least 5. Statistics are compared where the screen judges by them; else the score alone. Looked at
        once, at a time fixed beforehand, the chance that any is wrongly said to have moved is about .05 at most; after
        an alarm, or when looked at again and again, it is a hint and no more.
        """
        from scipy.stats import ks_2samp

        compared = []
        for name, recent in self.recent_statistics.items():
            values, normal = recent[np.isfinite(recent)], self._reference[name]
            if len(values) >= _FEWEST_COMPARED:
                test = ks_2samp(values, normal, method="asymp")
                spread = float(normal.std()) or 1.0
                shift = float(np.median(values) - np.median(normal)) / spread
                compared.append((float(test.pvalue), name, shift, float(test.statistic)))
        compared.sort(key=lambda row: (row[0], -row[3]))
        evidence = dict(zip(self._reference, self._martingales.values, strict=True))
        found, smallest = [], 0.0
        for rank, (p_value, name, shift, distance) in enumerate(compared):
            smallest = min(1.0, max(smallest, p_value * (len(compared) - rank)))
            words = "score" if name == SCORE else statistic_in_words(name)
            own = float(evidence[name])
            found.append(Moved(name, words, shift, distance, smallest, own, smallest <= _LEVEL))
        return found

    def state(self) -> dict[str, Any]:
        """Return everything as JSON values, from which `from_state` goes on."""
        return {
            **{"kind": _KIND, "schema": _SCHEMA, "screen": self._fingerprint},
            **{"false_alarm": self.false_alarm, "window": self.window, "seed": self.seed},
            **{"invalid": self.invalid, "largest": self.largest},
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "counts": {label: [rank.counts for rank in ranks] for label, ranks in self._ranks.items()},
            "bets": self._martingales.state(),
            "statistics": list(self._reference),
            "recent": [[value if math.isfinite(value) else None for value in row] for row in self._recent],
        }

    @classmethod
    def from_state(cls, screen: Screen, state: Mapping[str, Any]) -> "Monitor":
        """Return the monitor that `state` came from; it goes on as if it had never stopped.

        Raises:
            InputError: it is not the state of a monitor, or of one of another screen or calibration.
        """
        if not isinstance(state, Mapping) or (state.get("kind"), state.get("schema")) != (_KIND, _SCHEMA):
            raise InputError(f"this is not the state of a monitor ({_KIND}, schema {_SCHEMA})")
        if state.get("screen") != screen.fingerprint():
            raise InputError("this is the state of a monitor of another screen, score or calibration: begin a new one")
        try:
            settings = {name: state[name] for name in ("false_alarm", "window", "seed")}
            monitor = cls(screen, **settings)
            monitor.invalid, monitor.largest = int(state["invalid"]), float(state["largest"])
            monitor.alarm = None if state["alarm"] is None else Alarm(**state["alarm"])
            for label, ranks in monitor._ranks.items():
                for rank, counts in zip(ranks, state["counts"][label], strict=True):
                    rank.restore(counts)
            monitor._martingales.restore(state["bets"])
            rows = np.array(state["recent"], dtype=np.float64).reshape(-1, len(monitor._reference))
            monitor._recent.extend(rows.tolist())
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this state of a monitor is damaged: {error}") from error
        if sum(sum(ranks[0].counts) for ranks in monitor._ranks.values()) != monitor.seen:
            raise InputError("this state of a monitor is damaged: its counts do not add up")
        return monitor

    def _bet(
        self, name: str, row: list[float], ranks: list[OnlineRanks], first: list[float], second: list[float]
    ) -> None:
        self._martingales.update(
            [
                rank.p_value(value, one, other) if math.isfinite(value) else math.nan
                for rank, value, one, other in zip(ranks, row, first, second, strict=True)
            ]
        )
        weighted = self._weights * self._martingales.values
        cause = int(np.argmax(weighted))
        value = float(weighted[cause])
        self.largest = max(self.largest, value)
        if self.alarm is None and value >= self.threshold:
            self.alarm = Alarm(self.seen, self._martingales.began(cause), name, [*self._reference][cause], value)

    def _since_change(self) -> list[list[float]]:
        recent = list(self._recent)
        if self.alarm is not None:
            since = recent[max(0, self.alarm.began - (self.seen - len(recent))) :]
            if len(since) >= _FEWEST_COMPARED:
                return since
        return recent


def parts_of_false_alarm(count: int) -> NDArray[np.float64]:
    """Return how false_alarm is shared out among the score and count - 1 statistics (count,); half is the score's."""
    weights = np.full(count, 0.5 / max(1, count - 1))
    weights[0] = 1.0 if count == 1 else 0.5
    return weights


def _reference(screen: Screen) -> dict[str, NDArray[np.float64]]:
    """Return name -> values of the calibration images, of the score and of the statistics that verdicts carry."""
    found = {SCORE: screen.calibrator.scores}
    if screen.evidence is not None and screen.score != ERROR:
        found |= screen.observations
    return found
