"""A detector that is a graph, run by onnxruntime or OpenVINO; `recondite.screen.export` makes such graphs."""

import hashlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from recondite.data.artifacts import Tensors
from recondite.data.batch_size import full_batch
from recondite.data.datasets import Batch, open_images, read_batches
from recondite.data.images import Preprocessing
from recondite.data.regions import Mask
from recondite.errors import InputError
from recondite.graphs.runtimes import FLOATS, LOGITS, OUTPUTS, RULE_SCORES, Port, Runtime, RuntimeName
from recondite.options import CHECKED
from recondite.statistics.scores import Scores, scattered
from recondite.training.history import History

if TYPE_CHECKING:
    import torch

BATCH, _FEWEST_TOGETHER = 32, 8
"""Images that run at once, where they are not large, the last ones with zeros behind them; fewer than 8 are faster one
by one."""
LOGIT, RULE = "head.logit.", "head.rule."
"""Before the number of a class, or the name of a rule: what statistics are called that a guard's classifier gives."""
WITH_CLASSIFIER: Final = object()
"""In place of an observer: asks the graph of a guard for what its classifier says too."""
PixelType = Literal["float32", "uint8"]
Precision = Literal["float32", "int8"]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ExportedOptions:
    """What an exported screen was made from, and what runs it."""

    detector: Annotated[str, Field(description="the detector in the graph")] = ""
    score: Annotated[str, Field(description="what its screen judged images by")] = ""
    runtime: Annotated[RuntimeName, Field(description="the program that runs the graph")] = "onnx"
    precision: Annotated[Precision, Field(description="of the numbers that the network computes with")] = "float32"
    batch: Annotated[int, Field(ge=1, le=BATCH, description="images that run at once, if they fit the memory")] = BATCH


class Exported:
    """Scores images by a graph that holds the whole judgement of a screen: its scores are final.

    It takes a `Detector`'s place in a screen, and needs no torch; what it cannot do, such as `encode`, it refuses.

    Args:
        shape: as in `Detector`.
        options: see `ExportedOptions`.
        content: the graph's files, with `OUTPUTS`; see `recondite.graphs.runtimes.FILES`.
        pixels: what the graph takes: float32 in [0, 1], or uint8.
        locates: whether its feature scores tell where an image is odd.
        region: that its screen looks at, bool (H, W); None for whole images.
        value_range: of its screen's images, as in `Preprocessing`.
        classes: how many a guard's classifier in the graph tells; 0 without.
        rules: names of the guard's rules whose scores the graph gives, in order.

    Raises:
        InputError: the program that runs it is not installed.
        ArtifactError: it does not run the graph.
    """

    name: ClassVar[str] = "exported"
    Options: ClassVar[type] = ExportedOptions
    rebuilds: ClassVar[bool] = False
    has_encoder: ClassVar[bool] = False
    can_sample: ClassVar[bool] = False
    modules_given: ClassVar[bool] = False
    prior: ClassVar[None] = None
    fitted: ClassVar[bool] = True

    def __init__(
        self,
        shape: tuple[int, ...],
        options: ExportedOptions,
        content: Sequence[bytes],
        pixels: PixelType,
        locates: bool = True,
        region: Mask | None = None,
        value_range: tuple[float, float] | None = None,
        classes: int = 0,
        rules: Sequence[str] = (),
    ) -> None:
        self.preprocessing = Preprocessing(shape=tuple(shape), region=region, value_range=value_range)
        self.shape, self.options = self.preprocessing.shape, options
        self.history = History()
        self.memory: Tensors = {}
        self.content, self.locates = tuple(content), locates
        self.classes, self.rules = classes, tuple(rules)
        self._bytes = pixels == "uint8"
        outputs = {name: Port(FLOATS, ()) for name in OUTPUTS} | {
            "feature_score": Port(FLOATS, self.shape),
            "is_outlier": Port(("bool",), ()),
            **{name: Port(FLOATS, (size,)) for name, size in self._said.items()},
        }
        self.run_graph = Runtime(options.runtime, content, Port((pixels,), self.shape), outputs)
        self._batches_agree: bool | None = None
        self._together = min(options.batch, self.scoring_batch)

    def __repr__(self) -> str:
        return "Exported()"

    def __reduce__(self) -> tuple[Any, ...]:
        pixels, seen = "uint8" if self._bytes else "float32", self.preprocessing
        return Exported, (
            *(self.shape, self.options, self.content, pixels, self.locates),
            *(seen.region, seen.value_range, self.classes, self.rules),
        )

    @property
    def scoring_batch(self) -> int:
        """Images in a full scoring call, as in `Detector`."""
        return full_batch(prod(self.shape))

    @property
    def device(self) -> "torch.device":
        """The processor, always."""
        import torch

        return torch.device("cpu")

    def numbers(self) -> Tensors:
        """Return what scores depend on, as `Detector.numbers` does; of the graph, its digest."""
        scale_shape = () if self.preprocessing.is_image else self.shape
        digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in self.content)).digest()
        found: Tensors = {
            "shift": np.zeros(scale_shape, np.float32),
            "scale": np.ones(scale_shape, np.float32),
            "fitted": np.array(True),
        }
        if self.preprocessing.region is not None:
            found["region"] = self.preprocessing.region.astype(np.uint8)
        return found | {"graph": np.frombuffer(digest, dtype=np.uint8)}

    def parameters(self) -> Iterator[Any]:
        """Yield nothing: what was learnt is in the graph."""
        return iter(())

    def to(self, device: str) -> Self:
        """Return the detector, which runs on the processor.

        Raises:
            InputError: another device.
        """
        if device != "cpu":
            raise InputError(f"an exported screen runs on the processor: expected the device cpu; got {device!r}")
        return self

    def score(
        self,
        images: object,
        *,
        score: str | None = None,
        top_percent: float | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,
    ) -> Scores:
        """Return how anomalous each image is, as `Detector.score` does.

        Raises:
            InputError: no images, or another score than the graph's.
        """
        batches = read_batches(open_images(images, shape=self.shape), self.preprocessing, self.scoring_batch)
        return Scores.concatenate(
            self.score_batch(batch, score, top_percent, feature_score, reconstruction) for batch in batches
        )

    def _refused(self, *_: object, **__: object) -> NoReturn:
        """Raise InputError: a graph scores, and does nothing else."""
        raise InputError("an exported screen only scores images: use the screen that it was made from")

    fit = encode = decode = reconstruct = sample = scored_by = _refused

    def score_batch(
        self,
        batch: Batch,
        score: str | None = None,
        top_percent: float | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,  # noqa: ARG002  a graph gives none
        observer: object = None,
    ) -> Scores:
        asked = observer is WITH_CLASSIFIER and self.classes > 0
        if score is not None or top_percent is not None or (observer is not None and not asked):
            raise InputError("an exported screen has one score; export another graph for another score")
        errors, pixels = list(batch.errors), batch.pixels
        if self._bytes:
            pixels = np.round(pixels * np.float32(255)).astype(np.uint8)
            exact = (pixels.astype(np.float32) / np.float32(255) == batch.pixels).reshape(len(pixels), -1).all(axis=1)
            for index, fits in zip(np.flatnonzero(batch.good), exact, strict=True):
                if not fits:
                    height_width = " x ".join(map(str, self.shape[1:]))
                    errors[index] = f"this graph takes 8-bit images of {height_width} pixels as they are"
            pixels = pixels[exact]
        names = (*OUTPUTS[: 1 + feature_score], *(self._said if asked else ()))
        found = dict(zip(names, self._outputs(pixels, names), strict=True))
        good = np.array([error is None for error in errors])
        maps = None
        if feature_score:
            maps = scattered(found["feature_score"].reshape(-1, *self.shape).astype(np.float32, copy=False), good)
        return Scores(
            ids=tuple(batch.ids),
            instance_score=scattered(found["instance_score"].astype(np.float64, copy=False), good),
            errors=tuple(errors),
            feature_score=maps,
            statistics=self._statistics(found, good) if asked else None,
        )

    @property
    def _said(self) -> dict[str, int]:
        """The outputs of the graph that a guard's classifier gives, and how many numbers each has for an image."""
        return {name: size for name, size in ((LOGITS, self.classes), (RULE_SCORES, len(self.rules))) if size}

    def _statistics(self, found: dict[str, NDArray[Any]], good: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Return each logit and rule of N images (N,), NaN for those that are not good."""
        columns = [f"{LOGIT}{place}" for place in range(self.classes)] + [f"{RULE}{name}" for name in self.rules]
        values = np.full((len(columns), len(good)), np.nan)
        if good.any():
            values[:, good] = np.concatenate([found[name] for name in self._said], axis=1).T
        return dict(zip(columns, values, strict=True))

    @property
    def batches_agree(self) -> bool:
        """Whether images in a full batch get the bits, here, that each gets alone; tried out once, on noise.

        Sums of a runtime may depend in the last bits on an image's place in a batch. Where they do, images run one by
        one.
        """
        if self._batches_agree is None:
            images = probe_images(self.shape, np.uint8 if self._bytes else np.float32, self._together)
            names = (*OUTPUTS[:2], *self._said)
            alone = self._one_by_one(images, names)
            forward, backward = self.run_graph(names, images), self.run_graph(names, images[::-1])
            self._batches_agree = all(
                np.array_equal(one, other) and np.array_equal(one, turned[::-1])
                for one, other, turned in zip(alone, forward, backward, strict=True)
            )
        return self._batches_agree

    def _outputs(self, pixels: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        """Return outputs of the graph for N images; each gets the same bits in any company."""
        size = self._together
        parts = [self._run_part(pixels[start : start + size], names) for start in range(0, len(pixels), size)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)] or [np.empty(0)] * len(names)

    def _run_part(self, pixels: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        if len(pixels) < _FEWEST_TOGETHER or not self.batches_agree:
            return self._one_by_one(pixels, names)
        padded = np.zeros((self._together, *self.shape), dtype=pixels.dtype)
        padded[: len(pixels)] = pixels
        return [output[: len(pixels)] for output in self.run_graph(names, padded)]

    def _one_by_one(self, pixels: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        parts = [self.run_graph(names, pixels[index : index + 1]) for index in range(len(pixels))]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def probe_images(shape: tuple[int, ...], kind: type[np.uint8] | type[np.float32], count: int = BATCH) -> NDArray[Any]:
    """Return a batch of noise (N, *shape), ever darker from image to image: 0 .. 255, or as floats in [0, 1]."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape))
    images //= np.arange(1, count + 1).reshape(-1, *[1] * len(shape))
    return images.astype(np.uint8) if kind is np.uint8 else images.astype(np.float32) / np.float32(255)
