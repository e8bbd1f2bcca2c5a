"""One pass of the backbone for a screen, a linear head and its rules."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.detectors.measured import Measured, Statistician
from recondite.errors import InputError
from recondite.graphs.exported import LOGIT, RULE
from recondite.screen.linear_head import LOGIT_RULES, RULES, LinearHead, Rules
from recondite.statistics.scores import Scores


class HeadPass:
    """Puts a head's logits and rules among the statistics that a screen finds; see `taken_from`."""

    def __init__(self, head: LinearHead, rules: Rules | None, names: Collection[str] = RULES) -> None:
        self.head, self.rules, self.names = head, rules, names
        self._made: dict[int, _Beside] = {}

    def beside(self, inner: Statistician | None) -> Statistician:
        """Return what finds both; the same object each time, by which detectors know what they have run before."""
        return self._made.setdefault(id(inner), _Beside(self.head, self.rules, inner, self.names))

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of the rules that it finds."""
        known: tuple[str, ...] = () if self.rules is None else RULES if self.rules.tensors else LOGIT_RULES
        return tuple(name for name in known if name in self.names)


def taken_from(
    scores: Scores, classes: int, rules: Collection[str]
) -> tuple[Scores, Tensor, dict[str, NDArray[np.float64]], NDArray[np.intp]]:
    """Return the screen's own scores; of readable images logits (n, K), rule -> (n,) and their numbers (n,).

    Args:
        scores: with what the classifier said among the statistics.
        classes: K.
        rules: names of those that were asked for.
    """
    statistics = dict(scores.statistics or {})
    good = np.flatnonzero([error is None for error in scores.errors])
    if not len(good):
        statistics = {name: some for name, some in statistics.items() if not name.startswith((LOGIT, RULE))}
        scores = replace(scores, statistics=statistics or None)
        return scores, torch.empty(0, classes), dict.fromkeys(rules, np.empty(0)), good
    columns = [statistics.pop(f"{LOGIT}{place}")[good] for place in range(classes)]
    parts = {name: statistics.pop(f"{RULE}{name}")[good] for name in rules}
    logits = torch.from_numpy(np.stack(columns, axis=1))
    return replace(scores, statistics=statistics or None), logits, parts, good


@dataclass(frozen=True, eq=False)
class _Beside:
    head: LinearHead
    rules: Rules | None
    inner: Statistician | None
    names: Collection[str]

    @property
    def reencoding(self) -> bool:
        return self.inner is not None and self.inner.reencoding

    def found(
        self, detector: Any, pixels: Tensor, measured: Measured, before: list[Tensor | None]
    ) -> Mapping[str, Tensor]:
        if measured.vectors is None:
            raise InputError("a linear head needs a screen of the detector 'features', whose backbone it looks through")
        if measured.vectors.shape[1:] != self.head.weight.shape[1:]:
            raise InputError(
                f"a head of {self.head.weight.shape[1]} features; the screen has {measured.vectors.shape[1]}"
            )
        found = dict(self.inner.found(detector, pixels, measured, before)) if self.inner is not None else {}
        logits = self.head(measured.vectors)
        found |= {f"{LOGIT}{place}": logits[:, place] for place in range(logits.shape[1])}
        if self.rules is not None:
            found |= {
                f"{RULE}{name}": value for name, value in self.rules(measured.vectors, logits, self.names).items()
            }
        return found
