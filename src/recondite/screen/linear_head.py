"""A linear head on the feature vectors of a frozen backbone, and scores of foreignness, fitted in one pass."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recondite.detectors.vector_models import Drawn, greedy_coreset
from recondite.errors import InputError
from recondite.short_repr import ShortRepr
from recondite.statistics import classifier_scores as scores
from recondite.statistics.axes import oracle_shrinkage, principal_axes
from recondite.torch_state import own_settings

LOGIT_RULES = ("max_logit", "energy")
FEATURE_RULES = ("knn", "mahalanobis", "vim")
RULES = (*LOGIT_RULES, *FEATURE_RULES)
"""What `Rules` finds beside the confidence."""
_BANK, _CANDIDATES = 1000, 4000
_KEPT_VARIANCE, _SMALLEST = 0.9, 1e-6
_HEAD = ("weight", "bias")
_PREFIXES = ("head.", "rules.")


@dataclass(frozen=True, eq=False, repr=False)
class LinearHead(ShortRepr):
    """Feature vectors (N, F) to logits (N, K): the linear discriminant of classes that share a covariance.

    Args:
        weight: float32 (K, F).
        bias: float32 (K,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return torch.nn.functional.linear(vectors, self.weight.to(vectors.device), self.bias.to(vectors.device))


@dataclass(frozen=True, eq=False)
class Rules:
    """How foreign images look to a classifier, by its logits and features; see `statistics.classifier_scores`.

    Args:
        tensors: none for rules that need no features; else "bank" (M, F), "means" (K, F), "whitening" (F, F),
            "origin" (F,), "principal" (F, P) and "scale" ().
    """

    tensors: Mapping[str, Tensor]
    _centres: Tensor = field(init=False, repr=False)

    def __call__(self, features: Tensor | None, logits: Tensor, names: Collection[str] = RULES) -> dict[str, Tensor]:
        """Return rule -> (N,), higher is more anomalous, of features (N, F) and logits (N, K).

        Args:
            features, logits: of N images.
            names: the rules that are asked for.

        Raises:
            InputError: the rules look at features, and there are none.
        """
        found = {
            name: rule(logits)
            for name, rule in (("max_logit", scores.max_logit), ("energy", scores.energy))
            if name in names
        }
        if not self.tensors or not set(names) - {*LOGIT_RULES}:
            return found
        if features is None:
            raise InputError("the rules of this guard look at features, which the classifier does not give")
        if features.shape[1:] != self.tensors["origin"].shape:
            raise InputError(f"rules of {len(self.tensors['origin'])} features; the classifier has {features.shape[1]}")
        own = {name: value.to(features.device) for name, value in self.tensors.items()}
        if "knn" in names:
            found["knn"] = scores.neighbour_distance(features, own["bank"])
        if "mahalanobis" in names:
            whitened = scores.unit(features) @ own["whitening"]
            found["mahalanobis"] = scores.nearest_centre(whitened, self._centres.to(features.device))
        if "vim" in names:
            found["vim"] = scores.vim(features, logits, own["origin"], own["principal"], own["scale"])
        return found

    def __post_init__(self) -> None:
        if not self.tensors:
            return
        shapes = {name: tuple(value.shape) for name, value in self.tensors.items()}
        size = shapes.get("origin", ())
        wanted = {"bank": 2, "means": 2, "whitening": 2, "principal": 2, "origin": 1, "scale": 0}
        fits = {name: len(shape) for name, shape in shapes.items()} == wanted and all(
            shapes[name][place] == size[0]
            for name, place in (("bank", 1), ("means", 1), ("whitening", 0), ("whitening", 1), ("principal", 0))
        )
        if not fits or shapes["bank"][0] < scores.NEIGHBOUR:
            raise ValueError(f"rules of shapes {shapes}")
        with own_settings():
            # Not when first asked for: that may be while a graph is traced, and what is made then is no number.
            object.__setattr__(self, "_centres", self.tensors["means"] @ self.tensors["whitening"])


class Learning:
    """Sums over feature vectors with classes: what a head and the rules are made of, in memory of F^2 numbers.

    Args:
        size: F, of a vector.
        classes: K.
        count: how many vectors will come at most.
    """

    def __init__(self, size: int, classes: int, count: int) -> None:
        self._counts = torch.zeros(classes, dtype=torch.float64)
        self._sums, self._unit_sums = (torch.zeros(classes, size, dtype=torch.float64) for _ in range(2))
        self._products, self._unit_products = (torch.zeros(size, size, dtype=torch.float64) for _ in range(2))
        self._drawn = Drawn(count, _CANDIDATES, size + classes + 1, torch.device("cpu"))
        self._seen = 0

    def add(
        self, vectors: NDArray[np.float32], classes: NDArray[np.integer], logits: NDArray[np.float32] | None = None
    ) -> None:
        """Take vectors (n, F), their classes (n,) and, where a classifier gave them, logits (n, K)."""
        rows, places = torch.from_numpy(vectors), torch.from_numpy(np.asarray(classes, dtype=np.int64))
        given = torch.zeros(len(rows), len(self._counts)) if logits is None else torch.from_numpy(logits)
        numbers = places[:, None] + 1.0
        self._drawn.add(torch.cat([rows, given, numbers], dim=1)[:, None], self._seen)
        self._seen += len(rows)
        self._counts += torch.bincount(places, minlength=len(self._counts))
        unit = scores.unit(rows)
        for values, sums, products in (
            (rows.double(), self._sums, self._products),
            (unit.double(), self._unit_sums, self._unit_products),
        ):
            sums.index_add_(0, places, values)
            products += values.T @ values

    @own_settings()
    def head(self, shrinkage: float) -> LinearHead:
        """Return the linear discriminant.

        Source: Friedman 1989, "Regularized discriminant analysis" (a covariance shrunk towards its mean variance).

        Args:
            shrinkage: share of the mean variance in the covariance, in (0, 1].

        Raises:
            InputError: a class has no vector.
        """
        means, variances, directions = self._within(self._sums, self._products)
        shrunk = (1 - shrinkage) * variances + shrinkage * variances.mean()
        along = means @ directions
        weight = along / shrunk.clamp(min=_SMALLEST**2) @ directions.T
        bias = -0.5 * (weight * means).sum(1) + (self._counts / self._counts.sum()).log()
        return LinearHead(weight.float().contiguous(), bias.float())

    @own_settings()
    def rules(self, head: LinearHead | None = None) -> Rules:
        """Return the rules; the residual of ViM is what principal directions of nine tenths of the variance leave.

        The covariance of Mahalanobis++ is shrunk towards its mean variance, the more the fewer images there are for so
        many features: of unseen directions it would else say that every new image is far.

        Args:
            head: that made the logits, from whose origin ViM looks; None for the mean of the features, and the logits
                that came with them.

        Raises:
            InputError: a class has no vector, or fewer than five vectors came.
        """
        candidates, logits, _ = self.drawn()
        if len(candidates) < scores.NEIGHBOUR:
            raise InputError(f"expected at least {scores.NEIGHBOUR} images to learn from; got {len(candidates)}")
        unit = scores.unit(candidates)
        means, variances, directions = self._within(self._unit_sums, self._unit_products)
        share = oracle_shrinkage(variances, int(self._counts.sum()))
        shrunk = (1 - share) * variances + share * variances.mean()
        shrunk += max(_SMALLEST * float(variances[-1]), _SMALLEST**2)
        mean = self._sums.sum(0) / self._counts.sum()
        origin = mean
        if head is not None:
            origin = -torch.linalg.pinv(head.weight.double()) @ head.bias.double()
            logits = head(candidates)
        total = self._products / self._counts.sum() - mean.outer(origin) - origin.outer(mean) + origin.outer(origin)
        spread, axes = principal_axes(total)
        left = spread.clamp(min=0).cumsum(0) <= (1 - _KEPT_VARIANCE) * spread.clamp(min=0).sum()
        principal = axes[:, max(1, int(left.sum())) :].float()
        norm = scores.residual_norm(candidates - origin.float(), principal).mean().clamp(min=_SMALLEST)
        found = {
            "bank": unit[greedy_coreset(unit, min(len(unit), _BANK))],
            "means": means.float(),
            "whitening": (directions * shrunk.rsqrt()).float(),
            "origin": origin.float(),
            "principal": principal,
            "scale": logits.amax(1).mean().float() / norm,
        }
        # In memory as they will lie when read from a file: sums depend on it in the last bits.
        return Rules({name: value.contiguous() for name, value in found.items()})

    def drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return some of what came, at most 4,000: vectors (n, F), logits (n, K), 0 where none came, classes (n,)."""
        rows = self._drawn.gathered()
        rows = rows[rows[:, -1] > 0]  # fewer may have come than were announced
        size = self._sums.shape[1]
        return rows[:, :size], rows[:, size:-1], rows[:, -1].long() - 1

    def _within(self, sums: Tensor, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return class means (K, F), and the variances (F,) and directions (F, F) of the covariance within classes."""
        if (self._counts < 1).any():
            raise InputError(f"class number {int(self._counts.argmin())} has no readable image to learn from")
        means = sums / self._counts[:, None]
        covariance = (products - means.T @ sums) / self._counts.sum()
        variances, directions = principal_axes(covariance)
        return means, variances.clamp(min=0), directions


def learnt(
    batches: Iterable[tuple[NDArray[np.float32], Sequence[int], NDArray[np.float32] | None]], classes: int, count: int
) -> Learning:
    """Return what was learnt in one pass over batches of vectors (n, F), their classes, and logits or None.

    Raises:
        InputError: there are none.
    """
    learning: Learning | None = None
    for vectors, places, logits in batches:
        learning = learning or Learning(vectors.shape[1], classes, count)
        learning.add(vectors, np.asarray(places), logits)
    if learning is None:
        raise InputError("not one image to learn from could be read")
    return learning


def tensors_of(head: LinearHead | None, rules: Rules | None) -> dict[str, NDArray[Any]]:
    """Return the numbers of both by name, to be saved."""
    found = {} if head is None else {f"head.{name}": getattr(head, name).numpy() for name in _HEAD}
    return found | ({} if rules is None else {f"rules.{name}": value.numpy() for name, value in rules.tensors.items()})


def from_tensors(tensors: Mapping[str, NDArray[Any]]) -> tuple[LinearHead | None, Rules | None]:
    """Return what `tensors_of` took.

    Raises:
        KeyError, ValueError: parts are missing, or do not belong together.
    """
    head, rules = None, None
    own = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items() if name.startswith(_PREFIXES)}
    if any(value.dtype != torch.float32 for value in own.values()):
        raise ValueError("a head or rules of another type than float32")
    if "head.weight" in own:
        head = LinearHead(own["head.weight"], own["head.bias"])
        if head.weight.ndim != 2 or head.bias.shape != head.weight.shape[:1]:
            raise ValueError(f"a head of shapes {tuple(head.weight.shape)} and {tuple(head.bias.shape)}")
    parts = {name.removeprefix("rules."): value for name, value in own.items() if name.startswith("rules.")}
    if parts:
        rules = Rules(parts)
        if head is not None and head.weight.shape[1:] != parts["origin"].shape:
            raise ValueError(f"a head of {head.weight.shape[1]} features, rules of {len(parts['origin'])}")
    return head, rules
