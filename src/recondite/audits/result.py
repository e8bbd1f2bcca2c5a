"""What an audit came to: findings, and which images are proposed to be kept."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.audits.findings import KINDS, Finding
from recondite.audits.maps import SetMap
from recondite.progress import counted
from recondite.short_repr import SHOWN, ShortRepr, first_rows, html_table

_FARTHEST = 24


@dataclass(frozen=True, repr=False)
class Audit(ShortRepr):
    """What was found in a set of images.

    Args:
        ids, labels, places: of the N images, in the order of the source; places are paths or addresses, "" without.
        findings: most severe first, and of one kind the farthest from the others first.
        scores: how far each image is from the others (N,), in deviations; NaN where it was not judged.
        p_values: likewise.
        label_probabilities: of the label that each image has (N,), by a classifier that has not seen it; NaN for those
            not judged. Wrong labels have the least.
        false_discovery_rate: that the outliers were listed at.
        measures: the statistics of `MEASURES` (N, statistics).
        differs: of each image the statistic in which it differs most from the set, in words; "" where none was judged.
        thumbnails: the bytes of a JPEG file for each image with a finding, for the farthest ones and for those that are
            drawn on the map, by its index.
        remarks: what was not looked for, and why.
        map: of the set; None where no page was written, or fewer images than for outliers can be read.
        heat_maps: the bytes of a JPEG file, a picture under its heat map, for outliers and the farthest images, by
            index; where a page was written, of images above 64 pixels that a frozen network knows how to look at.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    places: tuple[str, ...]
    findings: tuple[Finding, ...]
    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    label_probabilities: NDArray[np.float64]
    false_discovery_rate: float
    measures: NDArray[np.float32]
    differs: tuple[str, ...]
    thumbnails: dict[int, bytes]
    remarks: tuple[str, ...]
    map: SetMap | None = None
    heat_maps: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def drop(self) -> NDArray[np.bool_]:
        """Which images are proposed to be left out (N,)."""
        flags = np.zeros(len(self.ids), dtype=bool)
        flags[[finding.index for finding in self.findings if finding.drop]] = True
        return flags

    @property
    def keep(self) -> NDArray[np.bool_]:
        """Which images are the proposed clean set (N,)."""
        return ~self.drop

    @property
    def keeps_files(self) -> bool:
        """Whether a list of what is kept is a source: not of arrays and of images in tars and Parquet files."""
        return any(place and kept for place, kept in zip(self.places, self.keep, strict=True))

    @property
    def farthest(self) -> list[int]:
        """The images that are farthest from the others, at most 24, whether or not they are called outliers."""
        judged = np.flatnonzero(~np.isnan(self.scores))
        return [int(index) for index in judged[np.argsort(-self.scores[judged], kind="stable")][:_FARTHEST]]

    def scored(self) -> Iterator[dict[str, Any]]:
        """Yield one row an image, the farthest from the others first; those that were not judged come last."""
        keep = self.keep
        reasons: dict[int, list[str]] = {}
        for finding in self.findings:
            reasons.setdefault(finding.index, []).append(finding.reason)
        for index in np.argsort(-self.scores, kind="stable").tolist():
            yield {
                "id": self.ids[index],
                "score": _number(self.scores[index]),
                "p_value": _number(self.p_values[index]),
                "keep": bool(keep[index]),
                "label": self.labels[index],
                "label_probability": _number(self.label_probabilities[index]),
                "reason": "; ".join(reasons.get(index, [self.differs[index]])),
            }

    def counts(self) -> dict[str, int]:
        """Return how many images each kind of finding was made of."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def _repr_html_(self) -> str:
        shown = self.findings[:SHOWN]
        told = ", ".join(f"{count:,} {kind}" for kind, count in self.counts().items()) or "nothing found"
        title = f"{counted(len(self.ids), 'image')}: {told}{first_rows(len(self.findings))}"
        rows = [(one.id, one.kind, one.reason) for one in shown]
        remarks = [("", "remark", remark) for remark in self.remarks]
        pictures = [*(self.thumbnails.get(one.index) for one in shown), *[None] * len(remarks)]
        return html_table(title, [*rows, *remarks], ("id", "finding", "reason"), pictures)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield one row an image and finding."""
        for finding in self.findings:
            index = finding.index
            yield {
                "id": finding.id,
                "finding": finding.kind,
                "severity": finding.severity,
                "value": _number(finding.value),
                "reason": finding.reason,
                "group": finding.group,
                "drop": finding.drop,
                "label": self.labels[index],
                "suggested": finding.suggested,
                "score": _number(self.scores[index]),
                "p_value": _number(self.p_values[index]),
            }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
