"""Decisions of a guard: a label, or an abstention with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from recondite.progress import counted
from recondite.short_repr import SHOWN, ShortRepr, first_rows, html_table
from recondite.statistics.scores import Verdicts

FOREIGN, UNSURE, INVALID = "foreign", "unsure", "invalid"
"""Kinds of abstention: unlike normal images; like them, with too low a confidence; nothing to judge."""


@dataclass(frozen=True)
class Decision:
    """What a guard says about one image.

    Args:
        id: its name.
        label: the class it was given; None for an abstention.
        reason: why there is no label; None where there is one.
        predicted: the class that the classifier alone would have given; None where the image could not be read.
        confidence: the classifier's largest softmax probability; NaN where the image could not be read.
        kind: "foreign", "unsure" or "invalid" for an abstention; None where there is a label.
    """

    id: str
    label: str | None
    reason: str | None
    predicted: str | None
    confidence: float
    kind: str | None = None

    @property
    def abstained(self) -> bool:
        return self.label is None


@dataclass(frozen=True, kw_only=True, repr=False)
class Decisions(ShortRepr, Sequence[Decision]):
    """What a guard says about N images; a sequence of `Decision`.

    Args:
        verdicts: what the screen said, with its own calibration; of an image of no group of that, whether a guard with
            a calibration of its own turns it away as foreign.
        predicted: N classes, the classifier's own; None where the image could not be read.
        confidence: float64 (N,), its largest softmax probability; NaN where the image could not be read.
        p_values: part, such as "screen", "confidence" or "knn" -> float64 (N,), as the guard is calibrated.
        limits: part -> its share of alpha: a p-value at most this high is an abstention.
        reasons: N reasons to abstain; None where the label is given.
        kinds: N kinds of abstention, see `Decision`.
    """

    verdicts: Verdicts
    predicted: tuple[str | None, ...]
    confidence: NDArray[np.float64]
    p_values: Mapping[str, NDArray[np.float64]]
    limits: Mapping[str, float]
    reasons: tuple[str | None, ...]
    kinds: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.reasons)

    @overload
    def __getitem__(self, index: int) -> Decision: ...
    @overload
    def __getitem__(self, index: slice) -> list[Decision]: ...
    def __getitem__(self, index: int | slice) -> Decision | list[Decision]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        reason = self.reasons[index]
        return Decision(
            id=self.verdicts.ids[index],
            label=self.predicted[index] if reason is None else None,
            reason=reason,
            predicted=self.predicted[index],
            confidence=float(self.confidence[index]),
            kind=self.kinds[index],
        )

    @property
    def labels(self) -> list[str | None]:
        """The label of each image; None for an abstention."""
        return [one if why is None else None for one, why in zip(self.predicted, self.reasons, strict=True)]

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """Which images got no label (N,)."""
        return np.array([reason is not None for reason in self.reasons], dtype=bool)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield one row an image, as written to tables: the decision, then the screen's verdict."""
        for index, row in enumerate(self.verdicts.records()):
            decision = self[index]
            known = decision.predicted is not None
            yield {
                "id": row.pop("id"),
                "label": decision.label,
                "reason": decision.reason,
                "abstention": decision.kind,
                "predicted": decision.predicted,
                "confidence": decision.confidence if known else None,
                **{f"p_{part}": None if np.isnan(p[index]) else float(p[index]) for part, p in self.p_values.items()},
                **row,
            }

    def counts(self) -> dict[str, int]:
        """Return how many images got a label, and how many none, by the kind of abstention."""
        names = {"labelled": None, FOREIGN: FOREIGN, UNSURE: UNSURE, INVALID: INVALID}
        return {name: self.kinds.count(kind) for name, kind in names.items()}

    def _repr_html_(self) -> str:
        columns = ("id", "label", "reason", "predicted", "confidence")
        rows = [[getattr(one, name) for name in columns] for one in self[:SHOWN]]
        told = ", ".join(f"{count:,} {name}" for name, count in self.counts().items())
        return html_table(f"{counted(len(self), 'image')}: {told}{first_rows(len(self))}", rows, columns)
