"""Outputs of a classifier: computed from images, or read from a file."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from recondite.data.artifacts import read_tensors
from recondite.data.batch_size import full_batch
from recondite.data.datasets import Batch, ImageSet, open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.items import Masked
from recondite.data.tables import SUFFIXES, number, read_events
from recondite.errors import InputError
from recondite.networks.hooks import FeatureLayer, over_places, recorded
from recondite.screen.linear_head import RULES, Rules
from recondite.screen.tuned_classifier import Kept
from recondite.short_repr import ShortRepr
from recondite.statistics.classifier_scores import without_zeros
from recondite.statistics.distances import Distances
from recondite.torch_state import own_settings

CONFIDENCE, FEATURES = "confidence", "features"
_LOGIT, _PROBABILITY, _FEATURE = "logit.", "probability.", "feature."
_PROBABILITIES, _ROUNDED = "probabilities", 0.01
_NAMED_SO = f"name them so (columns {_PROBABILITY}0, {_PROBABILITY}1, ..., or the array {_PROBABILITIES!r})"

TABLES = (".npz", ".safetensors", *SUFFIXES)
"""Suffixes of files that `read_outputs` reads."""
_LARGEST_FILE = 4 << 30
Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Answers(ShortRepr):
    """What the classifier says about N images; `valid` where it says something finite.

    Args:
        predicted: N classes; None where it says nothing finite.
        confidence: float64 (N,), its largest softmax probability.
        parts: part of a guard -> float64 (N,), how foreign each image is by it.
        logits: float64 (N, classes), NaN for an image that could not be read.
        valid: bool (N,).
        errors: N reasons why an image could not be read.
    """

    predicted: tuple[str | None, ...]
    confidence: NDArray[np.float64]
    parts: Mapping[str, NDArray[np.float64]]
    logits: NDArray[np.float64]
    valid: NDArray[np.bool_]
    errors: list[str | None]


def ask(
    classifier: Callable[[Tensor], Tensor], layer: str | None, pixels: Tensor, ids: Sequence[str] = ()
) -> tuple[Tensor, Tensor | None]:
    """Return the logits (N, classes) and, with a layer or where a kept classifier gives them, features (N, F).

    Args:
        classifier: a function or module; or `Told`, which looks at no pixels.
        layer: the module within it whose output are the features.
        pixels: (N, C, H, W).
        ids: N names of the images, for `Told`.

    Raises:
        InputError: the classifier does not take them or has no such layer, or a table does not tell of them.
    """
    logits, features = _said(classifier, layer, pixels, ids)
    return without_zeros(logits), features


def _said(
    classifier: Callable[[Tensor], Tensor], layer: str | None, pixels: Tensor, ids: Sequence[str]
) -> tuple[Tensor, Tensor | None]:
    if isinstance(classifier, Told):
        return classifier.of(ids)
    if isinstance(classifier, Kept):
        return classifier.outputs(pixels)
    if layer is None:
        return FeatureLayer(classifier)(pixels), None
    if not isinstance(classifier, nn.Module):
        raise InputError(f"only a torch module has layers; got {type(classifier).__name__}")
    try:
        module = classifier.get_submodule(layer)
    except AttributeError as error:
        raise InputError(f"the classifier has no layer {layer!r}: {error}") from error
    with recorded([module]) as outputs:
        logits = FeatureLayer(classifier)(pixels)
    features = outputs[0]
    if features is None or features.ndim < 2:
        raise InputError(f"layer {layer!r} gave no features (N, F, ...)")
    return logits, over_places(features)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a classifier gave for N images.

    Args:
        ids: N names, those that the screen's verdicts have.
        logits: float64 (N, classes), finite.
        labels: int64 (N,), the true classes; -1 where there is none.
        features: float64 (N, F), what it saw just before it decided; None where they are not at hand.
    """

    ids: tuple[str, ...]
    logits: Floats
    labels: NDArray[np.int64]
    features: Floats | None = None

    def __post_init__(self) -> None:
        count = len(self.ids)
        if len(set(self.ids)) < count:
            name, times = Counter(self.ids).most_common(1)[0]
            raise InputError(f"expected outputs with different ids; {name!r} comes {times} times")
        if self.logits.ndim != 2 or len(self.logits) != count or self.logits.shape[1] < 2:
            raise InputError(f"expected logits ({count}, classes) of two classes or more; got {self.logits.shape}")
        if self.labels.shape != (count,):
            raise InputError(f"expected a label for each of {count} images; got {self.labels.shape}")
        if (largest := self.labels.max(initial=-1)) >= self.logits.shape[1]:
            raise InputError(f"expected labels below {self.logits.shape[1]}, numbers of the logits; got {largest}")
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != count):
            raise InputError(f"expected features ({count}, F); got {self.features.shape}")
        for name, values in (("logits", self.logits), ("features", self.features)):
            if values is not None and not (fine := np.isfinite(values).all(axis=1)).all():
                first = self.ids[int(fine.argmin())]
                raise InputError(
                    f"expected finite {name}; those of {count - fine.sum():,} of {count:,} images are not, the first: "
                    f"{first!r}"
                )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def doubt(self) -> Floats:
        """-log of the largest softmax probability (N,)."""
        from scipy.special import log_softmax

        return np.asarray(-log_softmax(self.logits, axis=1).max(axis=1))

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether giving its label would be an error (N,); True where there is no true class."""
        return np.asarray(self.logits.argmax(axis=1) != self.labels)

    def select(self, ids: Sequence[str]) -> "Outputs":
        """Return the outputs for these images, in this order.

        Raises:
            InputError: one of them is missing.
        """
        place = {name: index for index, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in place]
        if missing:
            raise InputError(
                f"the classifier's outputs lack {len(missing):,} of {len(ids):,} images; the first: {missing[0]!r} "
                f"(they have {next(iter(self.ids), 'none')!r} and others: ids are those that predict writes)"
            )
        rows = [place[name] for name in ids]
        features = None if self.features is None else self.features[rows]
        return Outputs(ids=tuple(ids), logits=self.logits[rows], labels=self.labels[rows], features=features)


class Told:
    """A classifier that has spoken already: it looks up what it said by the names of images.

    Args:
        outputs: of all images that it will be asked about.
    """

    shape = None

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def __call__(self, pixels: Tensor) -> Tensor:
        """Raise InputError: pixels alone tell it nothing."""
        raise InputError(f"outputs in a table answer for images by name, not for {len(pixels)} images without one")

    def of(self, ids: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Return the logits (N, K), and the features (N, F) where there are any, of N images.

        Raises:
            InputError: one of them is missing.
        """
        found = self.outputs.select(ids)
        features = None if found.features is None else torch.from_numpy(found.features).float()
        return torch.from_numpy(found.logits).float(), features


def read_outputs(path: Path | str) -> Outputs:
    """Read a classifier's outputs from a file. Nothing in it is executed.

    Args:
        path: .npz with "logits", and, if there are, "ids", "labels" and "features"; .safetensors with the same tensors
            and the ids as a list under "ids" in the facts of its header; or .csv, .jsonl or .parquet with columns id,
            label, logit.0, ... and feature.0, ... Without ids, images are "000000", "000001", ..., as those of an array
            are. Instead of logits, "probabilities" or columns probability.0, ...: their logarithms are the logits.

    Raises:
        InputError: another kind of file, a damaged one, or arrays that do not belong together.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes; the limit is {_LARGEST_FILE:,}")
    if suffix in SUFFIXES:
        return _from_table(path)
    if suffix == ".npz":
        arrays, names = _load_npz(path)
    elif suffix == ".safetensors":
        tensors, facts = read_tensors(path)
        arrays, names = dict(tensors), facts.get("ids")
    else:
        raise InputError(f"expected a classifier's outputs as {', '.join(TABLES)}; got {path.name!r}")
    if not {"logits", _PROBABILITIES} & {*arrays}:
        raise InputError(f"{path} holds no logits; it has: {', '.join(arrays) or 'nothing'}")
    try:
        logits = as_logits(arrays["logits"], _NAMED_SO) if "logits" in arrays else _logarithms(arrays[_PROBABILITIES])
        count = len(logits) if logits.ndim else 0
        labels = np.asarray(arrays.get("labels", np.full(count, -1)), dtype=np.int64)
        features = np.asarray(arrays["features"], dtype=np.float64) if "features" in arrays else None
        ids = tuple(map(str, names)) if names is not None else tuple(f"{index:06d}" for index in range(count))
        return Outputs(ids=ids, logits=logits, labels=labels, features=features)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def are_probabilities(values: Floats) -> bool:
    """Return whether values (N, classes) are not negative and sum to 1 in each row, as logits of images never do."""
    return values.ndim == 2 and bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=_ROUNDED))


def as_logits(values: ArrayLike, instead: str) -> Floats:
    """Return logits (N, classes) as float64; InputError, with a way out, where they are probabilities."""
    logits = np.asarray(values, dtype=np.float64)
    if len(logits) and are_probabilities(logits):
        raise InputError(f"expected logits; got probabilities, which sum to 1 in each row: {instead}")
    return logits


def _logarithms(probabilities: ArrayLike) -> Floats:
    """Return the logits of probabilities (N, classes), 0 counted as the smallest number there is."""
    values = np.asarray(probabilities, dtype=np.float64)
    if not are_probabilities(values):
        raise InputError("expected probabilities (N, classes) that are not negative and sum to 1 in each row")
    return np.asarray(np.log(np.maximum(values, np.finfo(np.float32).tiny)))


def _load_npz(path: Path) -> tuple[dict[str, NDArray[Any]], list[str] | None]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
            size = sum(member.file_size for member in loaded.zip.infolist())
            if size > _LARGEST_FILE:
                raise InputError(f"it unpacks to {size:,} bytes; the limit is {_LARGEST_FILE:,}")
            arrays = {name: np.asarray(loaded[name]) for name in loaded.files}
    except Exception as error:  # a damaged archive can fail in zipfile, zlib or numpy alike
        raise InputError(f"{path} is not a readable array file: {error}") from error
    names = arrays.pop("ids", None)
    return arrays, None if names is None else [str(name) for name in names.ravel()]


def _by_number(path: Path, columns: Sequence[str]) -> list[str]:
    """Return columns logit.0, logit.1, ... and the like by their numbers, which are those of the classes."""
    ordered = []
    for prefix in (_LOGIT, _PROBABILITY, _FEATURE):
        found = [name for name in columns if name.startswith(prefix)]
        wanted = [f"{prefix}{number}" for number in range(len(found))]
        if {*found} != {*wanted}:
            odd = next(name for name in found if name not in wanted)
            raise InputError(f"{path}: expected columns {wanted[0]} to {wanted[-1]}, without gaps; got {odd!r}")
        ordered += wanted
    return ordered


def _from_table(path: Path) -> Outputs:
    ids, labels = [], []
    logits: list[list[float]] = []
    probabilities: list[list[float]] = []
    features: list[list[float]] = []
    names: list[str] = []
    first = 2 if path.suffix.lower() == ".csv" else 1  # below the header
    for line, row in enumerate(read_events(path), first):
        where = f"{path}, line {line}"
        found = [name for name in row if name.startswith((_LOGIT, _PROBABILITY, _FEATURE))]
        names = names or _by_number(path, found)
        if not any(name.startswith((_LOGIT, _PROBABILITY)) for name in names):
            raise InputError(
                f"{path}: expected columns {_LOGIT}0, {_LOGIT}1, ... or {_PROBABILITY}0, {_PROBABILITY}1, ..., one for "
                f"each class; it has: {', '.join(row)}"
            )
        if {*found} != {*names}:
            raise InputError(f"{where}: expected {', '.join(names)}, as in the first line; got {', '.join(found)}")
        ids.append(row["id"])
        label = number(row.get("label"), f"{where}, label")
        labels.append(-1 if np.isnan(label) else int(label))
        for values, prefix in ((logits, _LOGIT), (probabilities, _PROBABILITY), (features, _FEATURE)):
            values.append([number(row[name], where) for name in names if name.startswith(prefix)])
    try:
        return Outputs(
            ids=tuple(ids),
            logits=as_logits(logits, _NAMED_SO) if logits[0] else _logarithms(probabilities),
            labels=np.array(labels, dtype=np.int64),
            features=np.array(features, dtype=np.float64) if features[0] else None,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


@own_settings()
def answers(
    classifier: Callable[[Tensor], Tensor],
    layer: str | None,
    batch: Batch,
    size: int,
    labels: Sequence[str] | None,
    distances: Distances | None,
    rules: Rules | None = None,
    temperature: float = 1.0,
    names: Collection[str] = RULES,
) -> Answers:
    """Return what a classifier says about a batch.

    Args:
        classifier, layer: as in `ask`.
        batch: at most `size` images.
        size: of a full batch, to which fewer images are padded: an image gets the same bits alone and among others. One
            that is kept in a file sees to that itself.
        labels: names of the classes; None for "0", "1", ...
        distances: of its features from those of normal images; None without features.
        rules: further scores of its logits and features; None without.
        names: those of the rules that are asked for.
        temperature: of its confidences.

    Raises:
        InputError: the classifier tells another number of classes, or rules need features that it does not give.
    """
    good = np.flatnonzero(batch.good)
    alone = isinstance(classifier, Kept | Told) and len(good)
    padded = torch.zeros(len(good) if alone else size, *batch.pixels.shape[1:])
    padded[: len(good)] = torch.from_numpy(batch.pixels)
    logits, features = ask(classifier, layer, padded, [batch.ids[index] for index in good])
    found: dict[str, Tensor] = {}
    if distances is not None and features is not None:
        found[FEATURES] = distances(features.float())["neighbour"]
    if rules is not None:
        found |= rules(None if features is None else features.float(), logits.float(), names)
    parts = {name: value[: len(good)].double().cpu().numpy() for name, value in found.items()}
    return answers_of(logits[: len(good)].double().cpu(), parts, good, batch.errors, labels, temperature)


def answers_of(
    logits: Tensor,
    parts: Mapping[str, NDArray[np.float64]],
    good: NDArray[np.intp],
    errors: list[str | None],
    labels: Sequence[str] | None,
    temperature: float = 1.0,
) -> Answers:
    """Return what logits (n, classes) of the readable images and further scores (n,) of these say about all images.

    Args:
        logits, parts: of the images numbered `good`.
        good: (n,), which of them could be read.
        errors: why the others could not; None for those that could.
        labels: names of the classes; None for "0", "1", ...
        temperature: of the confidences; the doubt, the part "confidence", is that of the logits as they are.

    Raises:
        InputError: another number of classes than labels.
    """
    if labels is not None and logits.shape[1] != len(labels):
        raise InputError(f"the classifier tells {logits.shape[1]} classes; got {len(labels)} labels")
    count = len(errors)
    log_probability = np.full((count, logits.shape[1]), np.nan)
    log_probability[good] = logits.log_softmax(dim=1).numpy()
    every_logit = np.full((count, logits.shape[1]), np.nan)
    every_logit[good] = logits.numpy()
    confidence = np.full(count, np.nan)
    confidence[good] = (logits / temperature).softmax(dim=1).amax(1).numpy()
    valid = np.isfinite(log_probability).any(axis=1) & ~np.isnan(log_probability).any(axis=1)
    every = {}
    for name, value in parts.items():
        every[name] = np.full(count, np.nan)
        every[name][good] = value
        valid &= np.isfinite(every[name])
    best = np.where(valid, np.nan_to_num(log_probability, nan=-np.inf).argmax(axis=1), 0)
    surest = np.where(valid, log_probability[np.arange(count), best], np.nan)
    names = labels or tuple(str(number) for number in range(logits.shape[1]))
    return Answers(
        predicted=tuple(names[one] if fine else None for one, fine in zip(best, valid, strict=True)),
        confidence=np.where(valid, confidence, np.nan),
        parts={CONFIDENCE: -surest, **every},
        logits=every_logit,
        valid=valid,
        errors=errors,
    )


@own_settings()
def fitted_distances(
    classifier: Callable[[Tensor], Tensor], layer: str | None, reference: object, preprocessing: Preprocessing
) -> Distances:
    """Return the distances of features from those of normal images.

    Args:
        classifier, layer: as in `ask`.
        reference: the normal images, anything that `open_images` opens.
        preprocessing: of what the classifier takes.

    Raises:
        InputError: none of them can be read.
    """
    opened = open_images(reference, role="classes", shape=preprocessing.shape)
    found = [
        features.float().cpu().numpy()
        for batch in read_batches(opened, preprocessing, full_batch(prod(preprocessing.shape)))
        if len(batch.pixels) and (features := ask(classifier, layer, torch.from_numpy(batch.pixels))[1]) is not None
    ]
    if not found:
        raise InputError("not one reference image of the guard could be read")
    return Distances.fit(np.concatenate(found))


def read_for_both(
    images: ImageSet, one: Preprocessing, other: Preprocessing, size: int
) -> Iterator[tuple[Batch, Batch]]:
    """Yield small batches read in two ways; once where both are the same. A stream is walked through once."""
    if one == other:
        for batch in read_batches(images, one, size):
            yield batch, batch
        return
    entries = images.entries()
    while chunk := list(islice(entries, size)):
        names, items, labels = zip(*chunk, strict=True)
        some = ImageSet(list(items), list(names), list(labels), parallel=images.parallel)
        plain = replace(some, items=[item.source if isinstance(item, Masked) else item for item in items])
        yield next(read_batches(some, one, size)), next(read_batches(plain, other, size))
