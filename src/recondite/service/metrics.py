"""Prometheus metrics of the service."""

from collections import Counter as Tally
from collections import deque
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from recondite.screen.decisions import FOREIGN, INVALID, Decisions
from recondite.statistics.scores import Verdicts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TENTHS = tuple(round(0.05 * step, 2) for step in range(1, 21))
RECENT = 1000


class Counters:
    """The counters of one service, and the p-values of its latest images.

    Label values come from the service (screens, routes, verdicts), never from a client.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "recondite_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.latency = Histogram(
            "recondite_request_seconds", "Time to answer.", ["route"], registry=registry, buckets=_LATENCIES
        )
        self.verdicts = Counter(
            "recondite_verdicts", "Images judged.", ["screen", "version", "verdict"], registry=registry
        )
        self.guard = Counter(
            "recondite_guard_decisions", "Labels that stood or not.", ["screen", "decision"], registry=registry
        )
        self.p_values = Histogram(
            "recondite_p_value", "P-values of images.", ["screen"], registry=registry, buckets=_TENTHS
        )
        self.batch_images = Histogram(
            "recondite_batch_images",
            "Images in a scoring batch.",
            ["screen"],
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 24, 32),
        )
        self.batch_seconds = Histogram(
            "recondite_batch_seconds", "Time to score a batch.", ["screen"], registry=registry, buckets=_LATENCIES
        )
        self.flagged = Gauge(
            "recondite_flagged_share", f"Share flagged of the latest {RECENT} images.", ["screen"], registry=registry
        )
        self.waiting = Gauge("recondite_images_waiting", "Images in requests being served.", registry=registry)
        self.pixels = Gauge("recondite_pixels_waiting", "Pixels in requests being served.", registry=registry)
        self.oldest = Gauge(
            "recondite_longest_wait_seconds", "How long the oldest small request has been waiting.", registry=registry
        )
        self.step = Gauge(
            "recondite_step_seconds", "How long decoding or scoring has been at one step.", ["step"], registry=registry
        )
        self.messages = Counter(
            "recondite_messages", "Verdicts sent on, or dropped.", ["to", "result"], registry=registry
        )
        self.loads = Counter("recondite_screen_loads", "Screens loaded.", ["screen", "result"], registry=registry)
        self.martingale = Gauge(
            "recondite_drift_martingale", "Evidence of drift; 1 at first.", ["screen", "version"], registry=registry
        )
        self.drift = Gauge(
            "recondite_drift_alarm", "1 after an alarm of drift.", ["screen", "version"], registry=registry
        )
        self._recent: dict[str, deque[tuple[float, float, bool]]] = {}
        self._flagged: Tally[str] = Tally()
        self._classes: dict[tuple[str, str], deque[str]] = {}

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        return generate_latest(self.registry)

    def observe(self, screen: str, count: int, seconds: float) -> None:
        """Count a batch of a screen's images."""
        self.batch_images.labels(screen).observe(count)
        self.batch_seconds.labels(screen).observe(seconds)

    def judged(self, screen: str, version: str, verdicts: Verdicts, time: float) -> None:
        """Count verdicts, given at a time in seconds since 1970; always from the same thread."""
        recent = self._recent.setdefault(screen, deque(maxlen=RECENT))
        histogram = self.p_values.labels(screen)
        words = verdicts.words
        for word, count in Tally(words).items():
            self.verdicts.labels(screen, version, word).inc(count)
        for word, p_value in zip(words, verdicts.p_value.tolist(), strict=True):
            if len(recent) == RECENT:
                self._flagged[screen] -= recent[0][2]
            recent.append((time, p_value, word != "inlier"))
            self._flagged[screen] += word != "inlier"
            if word != "invalid":
                histogram.observe(p_value)
        self.flagged.labels(screen).set(self._flagged[screen] / len(recent))

    def guarded(self, screen: str, version: str, decisions: Decisions) -> None:
        """Count what became of the labels that a classifier gave, and the classes of images that were not foreign."""
        classes = self._classes.setdefault((screen, version), deque(maxlen=RECENT))
        for one in decisions:
            self.guard.labels(screen, "abstention" if one.abstained else "label").inc()
            if one.kind not in (FOREIGN, INVALID) and one.predicted is not None:
                classes.append(one.predicted)

    def classes(self, screen: str, version: str) -> Tally[str]:
        """Return how many of a guard's latest images this process predicted as each class, without foreign ones."""
        return Tally(self._classes.get((screen, version), ()))

    def forget_classes(self, screen: str, version: str) -> None:
        """Begin to count classes anew."""
        self._classes.pop((screen, version), None)

    def recent(self, screen: str) -> Sequence[tuple[float, float, bool]]:
        """Return (time, p-value, flagged) of a screen's latest images since the service began, oldest first."""
        return list(self._recent.get(screen, ()))
