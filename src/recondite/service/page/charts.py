"""Charts of the page as SVG: scalable, offline, each with a text alternative."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recondite.progress import counted

INK, SOFT, LINE, ACCENT, WARN = "var(--ink)", "var(--soft)", "var(--line)", "var(--accent)", "var(--warn)"
BAND = "var(--sunken)"
_WIDTH, _HEIGHT = 520, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 22, 34
_HALO = 'paint-order="stroke" stroke="var(--surface)" stroke-width="3"'
_CUT = 6.0
_RARE = 2.58


@dataclass(frozen=True)
class Bin:
    """A run of images: their mean time, how many of them are flagged as a share, its interval, and their number."""

    time: float
    share: float
    low: float
    high: float
    count: int


def frame(body: str, words: str, width: float = _WIDTH, height: float = _HEIGHT, dense: bool = False) -> str:
    """Return a drawing that readers of the screen hear `words` for; `dense` has no room for larger letters."""
    return (
        f'<svg class="{"dense" if dense else "airy"}" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(words)}" '
        f'xmlns="http://www.w3.org/2000/svg" style="width:100%;height:auto;max-width:{1.25 * width:g}px" '
        f'font-family="inherit" font-size="12" fill="{INK}">{body}</svg>'
    )


def calibration_chart(
    scores: ArrayLike, score: float, p_value: float, alpha: float, threshold: float, rare: str
) -> str:
    """Draw the share of calibration images that score at least as high, with one image's place on it.

    Args:
        scores: of the calibration images.
        score, p_value: of the image.
        alpha, threshold: that it is judged by; a threshold that is not finite is left out.
        rare: how rare such a score is, in words.
    """
    ascending = np.sort(np.asarray(scores, dtype=np.float64))
    low, high = float(ascending[0]), float(ascending[-1])
    reach = high + 0.6 * max(high - low, 1e-9)
    shown = min(max(score, low), reach)
    size = len(ascending)
    x, y = _scale(low, reach, _LEFT, _WIDTH - _RIGHT), _scale(0, 1, _HEIGHT - _BOTTOM, _TOP)
    places = np.unique(np.linspace(0, size - 1, min(size, 200)).astype(int))
    points = [(float(ascending[place]), (size - place) / size) for place in places] + [(high, 0.0), (reach, 0.0)]
    line = " ".join(f"{x(value):.1f},{y(share):.1f}" for value, share in points)
    outlier = p_value <= alpha
    colour = WARN if outlier else ACCENT
    at, level = x(shown), y(p_value)
    body = _axes("instance score", "calibration images this high")
    for share in (0.0, 0.5, 1.0):
        body += _text(_LEFT - 6, y(share) + 4, f"{share:.0%}", "end", SOFT)
    body += f'<polyline points="{line}" fill="none" stroke="{INK}" stroke-width="1.8"/>'
    if math.isfinite(threshold):
        edge = x(min(max(threshold, low), reach))
        body += f'<rect x="{edge:.1f}" y="{_TOP}" width="{_WIDTH - _RIGHT - edge:.1f}" '
        body += f'height="{_HEIGHT - _BOTTOM - _TOP}" fill="{WARN}" opacity=".08"/>'
        body += _text(min(edge + 4, _WIDTH - 120), _TOP + 12, f"flagged: above {threshold:.4g}", colour=WARN)
    body += f'<line x1="{at:.1f}" y1="{_HEIGHT - _BOTTOM}" x2="{at:.1f}" y2="{level:.1f}" stroke="{colour}" '
    body += f'stroke-width="1.5" stroke-dasharray="4 3"/><circle cx="{at:.1f}" cy="{level:.1f}" r="5" fill="{colour}"/>'
    anchor = "end" if at > _WIDTH / 2 else "start"
    label = f"this image: {score:.4g}" + (" (off the scale)" if score > reach else "")
    body += _text(at - 9 if anchor == "end" else at + 9, max(level - 9, _TOP - 6), label, anchor, colour)
    return frame(body, f"{rare}; {'flagged' if outlier else 'not flagged'}")


def reasons(statistics: Sequence[tuple[str, float]], most: int = 8) -> str:
    """Draw how unusual each statistic is, as bars in standard deviations, cut at 6; grey is the normal range."""
    shown = [(name, z if math.isfinite(z) else _CUT) for name, z in statistics[:most]]
    height = 26 * len(shown) + 30
    middle, half = 396.0, 118.0
    x = _scale(-_CUT, _CUT, middle - half, middle + half)
    body = f'<rect x="{x(-_RARE):.1f}" y="4" width="{x(_RARE) - x(-_RARE):.1f}" height="{height - 30}" fill="{BAND}"/>'
    for place, (name, z) in enumerate(shown):
        cut, top = min(max(z, -_CUT), _CUT), 26 * place + 9
        colour = WARN if abs(z) > _RARE else ACCENT
        body += _text(middle - half - 8, top + 12, name if len(name) < 42 else name[:40] + "…", "end")
        start, end = sorted((x(0), x(cut)))
        body += (
            f'<rect x="{start:.1f}" y="{top}" width="{max(end - start, 1):.1f}" height="16" rx="2" fill="{colour}"/>'
        )
    body += f'<line x1="{middle}" y1="4" x2="{middle}" y2="{height - 26}" stroke="{INK}"/>'
    body += _text(_WIDTH - 6, height - 8, "standard deviations; grey: 99 of 100 normal images", "end", SOFT)
    words = "; ".join(f"{name}: {z:+.1f} standard deviations" for name, z in shown)
    return frame(body, words or "no statistics", height=height, dense=True)


def histogram(p_values: ArrayLike, alpha: float) -> str:
    """Draw how p-values spread over [0, 1], beside the flat line that only normal images would give."""
    values = np.asarray(p_values, dtype=np.float64)
    counts, _ = np.histogram(values[np.isfinite(values)], bins=20, range=(0, 1))
    shares: NDArray[np.float64] = counts / max(1, counts.sum())
    top = max(0.1, float(shares.max()) * 1.1)
    x, y = _scale(0, 1, _LEFT, _WIDTH - _RIGHT), _scale(0, top, _HEIGHT - _BOTTOM, _TOP)
    body = _axes("p-value", "share of images")
    for place, share in enumerate(shares.tolist()):
        left, colour = place / 20, WARN if (place + 0.5) / 20 <= alpha else ACCENT
        height = _HEIGHT - _BOTTOM - y(share)
        body += f'<rect x="{x(left) + 1:.1f}" y="{y(share):.1f}" width="{x(0.05) - x(0) - 2:.1f}" '
        body += f'height="{height:.1f}" fill="{colour}" opacity=".85"/>'
    for edge in (0.0, 0.5, 1.0):
        body += _text(x(edge), _HEIGHT - _BOTTOM + 14, f"{edge:g}", "middle", SOFT)
    body += _text(_LEFT - 6, y(top / 1.1) + 4, f"{top / 1.1:.0%}", "end", SOFT)
    body += f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(0.05):.1f}" y2="{y(0.05):.1f}" stroke="{SOFT}" '
    body += 'stroke-dasharray="5 4"/>'
    body += f'<line x1="{x(alpha):.1f}" x2="{x(alpha):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="{WARN}"/>'
    # Above the bars, which may be anywhere.
    body += f'<text x="{_WIDTH - _RIGHT}" y="13" text-anchor="end" fill="{SOFT}">'
    body += f'<tspan fill="{WARN}">alpha {alpha:.3g}</tspan>; dashed: only normal images</text>'
    flagged = float(np.mean(values <= alpha)) if values.size else 0.0
    return frame(body, f"p-values of {counted(values.size, 'image')}; {flagged:.1%} are at most alpha = {alpha:.3g}")


def rates(bins: Sequence[Bin], alpha: float, moments: tuple[str, str]) -> str:
    """Draw the share of flagged images over time, with its 95 % interval, and alpha as a line.

    Args:
        bins: oldest first.
        alpha: the share of normal images that may be flagged.
        moments: the first and the last time, in words.
    """
    top = min(1.0, 1.15 * max(0.02, alpha, *(one.high for one in bins)))
    x = _scale(bins[0].time, max(bins[-1].time, bins[0].time + 1e-9), _LEFT + 4, _WIDTH - _RIGHT - 4)
    y = _scale(0, top, _HEIGHT - _BOTTOM, _TOP)
    body = _axes("time", "share flagged")
    for share in _ticks(top):
        body += _text(_LEFT - 6, y(share) + 4, f"{100 * share:g} %", "end", SOFT)
        body += f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="{LINE}"/>'
    if len(bins) > 1:
        upper = [f"{x(one.time):.1f},{y(one.high):.1f}" for one in bins]
        lower = [f"{x(one.time):.1f},{y(one.low):.1f}" for one in reversed(bins)]
        body += f'<polygon points="{" ".join(upper + lower)}" fill="{ACCENT}" opacity=".18"/>'
        middle = " ".join(f"{x(one.time):.1f},{y(one.share):.1f}" for one in bins)
        body += f'<polyline points="{middle}" fill="none" stroke="{ACCENT}" stroke-width="2"/>'
    for one in bins:
        at, level, size = x(one.time), y(one.share), 2.5 if len(bins) > 1 else 5
        body += f'<circle cx="{at:.1f}" cy="{level:.1f}" r="{size}" fill="{ACCENT}"/>'
        if len(bins) == 1:
            body += (
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(one.low):.1f}" y2="{y(one.high):.1f}" stroke="{ACCENT}"/>'
            )
    body += f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(alpha):.1f}" y2="{y(alpha):.1f}" stroke="{WARN}" '
    body += 'stroke-width="1.5" stroke-dasharray="6 4"/>'
    body += _text(_WIDTH - _RIGHT, y(alpha) - 5, f"alpha {alpha:.3g}", "end", WARN)
    body += _text(_LEFT, _HEIGHT - _BOTTOM + 14, moments[0], "start", SOFT)
    body += _text(_WIDTH - _RIGHT, _HEIGHT - _BOTTOM + 14, moments[1], "end", SOFT)
    count = sum(one.count for one in bins)
    words = f"of {counted(count, 'image')} from {moments[0]} to {moments[1]} {bins[-1].share:.1%} flagged at last"
    return frame(body, f"{words}, alpha is {alpha:.3g}")


def binned(times: ArrayLike, flags: ArrayLike, most: int = 30, fewest: int = 20) -> list[Bin]:
    """Return the shares of flagged images in successive runs of equally many images, with Wilson's 95 % intervals.

    Args:
        times, flags: (N,), oldest first; N >= 1.
        most: bins.
        fewest: images in a bin.
    """
    moments, hits = np.asarray(times, dtype=np.float64), np.asarray(flags, dtype=np.float64)
    parts = min(most, max(1, len(moments) // fewest))
    bins = []
    for rows in np.array_split(np.arange(len(moments)), parts):
        share, n, z = float(hits[rows].mean()), len(rows), 1.96
        middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        low, high = (max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n)))
        bins.append(Bin(float(moments[rows].mean()), share, low, high, n))
    return bins


def _ticks(top: float) -> list[float]:
    """Return three to six round numbers from 0 to at most `top`.

    >>> _ticks(0.12), _ticks(1.0)
    ([0.0, 0.05, 0.1], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if top / step <= 5.5)
    return [round(step * place, 6) for place in range(int(top / step + 1e-9) + 1)]


def line(
    values: Sequence[tuple[float, float]],
    across: str,
    up: str,
    level: float,
    at: float | None = None,
    words: str = "threshold",
    log: bool = False,
) -> str:
    """Draw a line through (x, y) points, on a log scale too where the largest y is over ten times the smallest.

    Args:
        values: at least one point, ascending in x.
        across, up: what x and y are, with their units.
        level: a y to compare with; left out where it is not finite.
        at: an x to mark.
        words: what the level is.
        log: draw them on a log scale in any case, if all are positive.
    """
    xs, ys = [point[0] for point in values], [point[1] for point in values]
    known = [*ys, *([level] if math.isfinite(level) else [])]
    low, high = min(known), max(known)
    log = low > 0 and (log or high > 10 * low)
    rising: Callable[[float], float] = math.log10 if log else float
    spare = 0.08 * max(rising(high) - rising(low), 1e-9)
    x = _scale(xs[0], max(xs[-1], xs[0] + 1e-9), _LEFT, _WIDTH - _RIGHT)
    height = _scale(rising(low) - spare, rising(high) + spare, _HEIGHT - _BOTTOM, _TOP)
    body = _axes(across, up + (", log scale" if log else ""))
    for tick in round_numbers(xs[0], xs[-1]):
        body += _text(x(tick), _HEIGHT - _BOTTOM + 14, f"{tick:g}", "middle", SOFT)
    for tick in powers(low, high) if log else round_numbers(low, high):
        edge = height(rising(tick))
        body += _text(_LEFT - 6, edge + 4, _short(tick), "end", SOFT)
        body += f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{edge:.1f}" y2="{edge:.1f}" stroke="{LINE}"/>'
    if math.isfinite(level):
        edge = height(rising(level))
        body += f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{edge:.1f}" y2="{edge:.1f}" stroke="{WARN}" '
        body += f'stroke-dasharray="5 4"/>{_text(_WIDTH - _RIGHT, edge - 5, words, "end", WARN)}'
    points = " ".join(f"{x(a):.1f},{height(rising(b)):.1f}" for a, b in values)
    body += f'<polyline points="{points}" fill="none" stroke="{ACCENT}" stroke-width="2"/>'
    for a, b in values:
        if at is not None and a == at:
            body += f'<circle cx="{x(a):.1f}" cy="{height(rising(b)):.1f}" r="5" fill="{ACCENT}"/>'
    return frame(body, f"{up} from {ys[0]:.3g} to {ys[-1]:.3g} as {across} goes from {xs[0]:g} to {xs[-1]:g}")


def _short(tick: float) -> str:
    """Return a round number in at most five characters, but for the sign.

    >>> _short(1500), _short(0.05), _short(2e6), _short(1e-5)
    ('1500', '0.05', '2e6', '1e-5')
    """
    if tick == 0 or 1e-3 <= abs(tick) < 1e5:
        return f"{tick:g}"
    mantissa, _, power = f"{tick:.2g}".partition("e")
    return f"{mantissa}e{int(power)}"


def round_numbers(low: float, high: float) -> list[float]:
    """Return up to seven round numbers from `low` to `high`.

    >>> round_numbers(0, 32), round_numbers(0.11, 0.19), round_numbers(3, 3)
    ([0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0], [0.12, 0.14, 0.16, 0.18], [3])
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(step * power for step in (1, 2, 5, 10) if (high - low) / (step * power) <= 6.5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """Return powers of ten, or 1, 2 and 5 times those where they are few, from `low` to `high`, both positive.

    >>> powers(0.02, 0.9), powers(1e-5, 1)
    ([0.02, 0.05, 0.1, 0.2, 0.5], [1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0])
    """
    reach = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps, every = ((1, 2, 5) if len(reach) <= 3 else (1,)), max(1, len(reach) // 8)
    found = [float(f"{step}e{power}") for power in reach[::every] for step in steps]
    return [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def _axes(across: str, up: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    return (
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="{LINE}"/>'
        + _text((_LEFT + right) / 2, _HEIGHT - 4, across, "middle", SOFT)
        + _text(_LEFT - 36, 13, up, colour=SOFT)
    )


def _scale(low: float, high: float, start: float, end: float) -> "_Scale":
    return _Scale(low, high, start, end)


class _Scale:
    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._span, self._start, self._reach = low, (high - low) or 1.0, start, end - start

    def __call__(self, value: float) -> float:
        return self._start + self._reach * (value - self._low) / self._span


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {_HALO}>{escape(text)}</text>'
