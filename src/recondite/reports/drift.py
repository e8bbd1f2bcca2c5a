"""Drift report over a table of past verdicts: the monitor over files, its figure and its page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.data.addresses import without_secrets
from recondite.data.artifacts import finite_json
from recondite.data.files import atomic_file
from recondite.data.tables import number, read_events
from recondite.data.units import COPIES, NONE, GroupBy, check_group_by, labelled
from recondite.errors import InputError
from recondite.progress import counted
from recondite.reports.figures import plot_martingale, plot_scores, plot_shifts
from recondite.reports.page import TablePage
from recondite.reports.prevalence import COLUMNS, TITLE, ClassShares
from recondite.reports.words import made_from
from recondite.screen.monitor import Monitor, Moved
from recondite.screen.screen import Screen
from recondite.screen.shift import advice
from recondite.statistics.scores import Scores, scored

_LARGEST_STATE = 1 << 28
_POINTS = 2000


@dataclass(frozen=True)
class Drift:
    """What watching a table came to.

    Args:
        monitor: after the last event.
        path: (images seen, martingale) now and then.
        moved: the statistics of recent images beside those of calibration; see `Monitor.moved`.
        advice: what to do after an alarm, in words.
        left_out: how many images were passed over, as the first one of their unit counts.
    """

    monitor: Monitor
    path: list[tuple[int, float]]
    moved: list[Moved]
    advice: str = ""
    left_out: int = 0

    def in_words(self) -> str:
        """Say whether there is an alarm, and since when."""
        monitor = self.monitor
        if monitor.seen == 0:
            return f"There was nothing to judge: none of {counted(monitor.invalid, 'image')} has a score."
        seen = counted(monitor.seen, "image") + (f" and {monitor.invalid:,} unreadable ones" if monitor.invalid else "")
        seen += f", {self.left_out:,} more of their units left out" if self.left_out else ""
        promise = (
            f"Without any change an alarm comes once in {monitor.threshold:,.6g} streams at most, however long, if "
            "images are independent: frames of a burst, and images that come twice, raise it too (--group-by)."
        )
        if monitor.alarm is None:
            values = f"{monitor.martingale:.3g}, its largest {monitor.largest:.3g}"
            return (
                f"No alarm after {seen}: the martingale is {values}, and {monitor.threshold:,.6g} would be an alarm."
                f"\n{promise}"
            )
        alarm = monitor.alarm
        named = ", ".join(f"{one.words} ({'higher' if one.shift > 0 else 'lower'})" for one in self.moved if one.moved)
        return (
            f"ALARM at image {alarm.at:,} ({alarm.id}) of {seen}: they are no longer like the calibration images; the "
            f"change began {alarm.since()}.\nMoved: {named or 'no statistic by itself'}.\n{promise}"
            f"\n{self.advice}"
        )


def watch(
    screen: Screen,
    events: Path | str,
    *,
    false_alarm: float = 0.01,
    window: int = 200,
    seed: int = 0,
    group: str | None = None,
    group_by: GroupBy = NONE,
    state: Path | None = None,
) -> Drift:
    """Pass a table of verdicts to a monitor, in the order of its rows, which must be that of time.

    Args:
        screen: whose verdicts they are.
        events: what `read_events` reads.
        false_alarm, window, seed: as in `Monitor`.
        group: the group of all events, where the calibration has groups and neither a column "group" nor the folder in
            the id tells it.
        group_by: what tells units by ids, as in `recondite.fit`, of which the first image counts; a table has no pixels
            to tell near-copies by.
        state: a file in which the monitor is kept from one table to the next: taken up if it is there, then written.

    Raises:
        InputError: not a table of events, not verdicts of this screen, a state of another monitor, or a `group_by`
            that is of pixels or fits no image.
    """
    check_group_by(group_by)
    if group_by == COPIES:
        raise InputError("a table of verdicts has no pixels to tell copies by: group by what ids tell")
    if state is not None and state.exists():
        monitor = Monitor.from_state(screen, _read_state(state))
        if monitor.false_alarm != false_alarm:
            raise InputError(f"{state} is of a monitor with false_alarm {monitor.false_alarm:g}; got {false_alarm:g}")
    else:
        monitor = Monitor(screen, false_alarm=false_alarm, window=window, seed=seed)
    path, met, left_out = [(monitor.seen, monitor.martingale)], set[str](), 0
    for scores, rows in scored(read_events(events), without_secrets(events)):
        groups = group_labels(screen, rows, scores.ids, group)
        check_origin(screen, scores, rows, groups)
        first = _first_of_units(scores, group_by, met)
        left_out += len(scores) - len(first)
        monitor.update(scores.at(first), None if groups is None else [groups[index] for index in first])
        path.append((monitor.seen, monitor.martingale))
    if state is not None:
        with atomic_file(state) as temporary:
            temporary.write_text(json.dumps(monitor.state()), encoding="utf-8")
    return Drift(monitor, path, monitor.moved(), advice(screen, monitor), left_out)


def _first_of_units(scores: Scores, group_by: GroupBy, met: set[str]) -> NDArray[np.intp]:
    """Return which images (n,) are no later ones of a unit that was met; what is met now is noted.

    An unreadable image stands for no unit.
    """
    first = []
    for index, (name, error) in enumerate(zip(labelled(scores.ids, group_by) or (), scores.errors, strict=True)):
        if name is None or error is not None or name not in met:
            first.append(index)
            if name is not None and error is None:
                met.add(name)
    return np.array(first, dtype=np.intp)


def read_scores(screen: Screen, events: str) -> Scores:
    """Return all scores of a table of verdicts of this screen, with their statistics.

    Raises:
        InputError: not a table of events, or not verdicts of this screen.
    """
    parts = []
    for scores, rows in scored(read_events(events), without_secrets(events)):
        check_origin(screen, scores, rows, group_labels(screen, rows, scores.ids, None))
        parts.append(scores)
    if not parts:
        raise InputError(f"{without_secrets(events)} holds no verdicts")
    return Scores.concatenate(parts)


def moved_rows(moved: Sequence[Moved]) -> list[dict[str, Any]]:
    """Return `Moved` as rows of a table."""
    return [vars(one) for one in moved]


def write_drift_page(path: Path, drift: Drift, screen: Screen, shares: ClassShares | None = None) -> None:
    """Write the martingale, what moved and how often each class of a guard comes as one offline HTML file.

    Args:
        path: of the file.
        drift: what was found.
        screen: that was watched.
        shares: of the classes, where the screen is that of a guard.
    """
    monitor, alarm = drift.monitor, drift.monitor.alarm
    step = max(1, len(drift.path) // _POINTS)
    points = [*drift.path[::step], drift.path[-1]]
    figures = [
        plot_martingale(points, monitor.threshold, None if alarm is None else (alarm.began, alarm.at)),
        plot_scores({"calibration": screen.calibrator.scores, "recent": monitor.recent_scores}),
    ]
    if drift.moved:
        figures.append(plot_shifts([(one.words, one.shift, one.moved) for one in drift.moved]))
    page = TablePage(
        title="Drift: alarm" if alarm else "Drift: no alarm" if monitor.seen else "Drift: nothing to judge",
        lead="\n".join(filter(None, [drift.in_words(), shares.unknown if shares else ""])),
        columns=["statistic", "moved", "shift of the median (std)", "largest difference", "p-value (Holm)"],
        rows=[
            (one.words, "yes" if one.moved else "no", f"{one.shift:+.2f}", f"{one.distance:.3f}", f"{one.p_value:.2g}")
            for one in drift.moved
        ],
        note="Recent images (since the change, after an alarm) beside the calibration images, by Kolmogorov and "
        "Smirnov's test. After an alarm these p-values are a hint of where to look, not a second test.",
        figures=figures,
        made=made_from(screen),
        second=(TITLE, COLUMNS, shares.rows) if shares and shares.rows else None,
    )
    page.write(path)


def group_labels(
    screen: Screen, rows: Sequence[Mapping[str, Any]], ids: Sequence[str], group: str | None
) -> list[str] | None:
    """Return the group of each event: `group`, the column "group" or the folder in the id; None without groups."""
    if screen.calibrator.groups is None:
        return None
    if group is not None:
        return [group] * len(ids)
    return [str(row.get("group") or name.rpartition("/")[0]) for name, row in zip(ids, rows, strict=True)]


def check_origin(
    screen: Screen, scores: Scores, rows: Sequence[Mapping[str, Any]], groups: Sequence[str] | None
) -> None:
    """Raise InputError where the p-values of the rows are not those that this screen gives their scores."""
    valid = [i for i, error in enumerate(scores.errors) if error is None and rows[i].get("p_value") not in ("", None)]
    if not valid:
        return
    written = np.array([number(rows[i]["p_value"], f"{scores.ids[i]}, p_value") for i in valid])
    values, labels = scores.instance_score[valid], None if groups is None else [groups[i] for i in valid]
    marginal = screen.calibrator.p_value(values, labels)
    promised = screen.calibrator.p_value(values, labels, screen.confidence, screen.guarantee)
    if not (np.allclose(written, marginal, atol=1e-9) or np.allclose(written, promised, atol=1e-9)):
        raise InputError(
            "these p-values are not what this screen gives such scores: the verdicts are of another screen, another "
            "calibration, another --score or another --confidence"
        )


def _read_state(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_STATE:
            raise InputError(f"{path} is too large to be the state of a monitor")
        return finite_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not the state of a monitor: {error}") from error
