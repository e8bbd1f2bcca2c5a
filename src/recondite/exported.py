"""A detector that is an ONNX graph, run by onnxruntime; `recondite.export` makes such graphs."""

import hashlib
from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from recondite.datasets import Batch
from recondite.detectors.base import SCORING_BATCH, Detector, Statistics
from recondite.errors import ArtifactError, InputError
from recondite.options import CHECKED
from recondite.scores import Scores

GRAPH_FILE = "model.onnx"
_ALIGNMENT = 64
OUTPUTS = ("instance_score", "feature_score", "p_value", "is_outlier")
PixelType = Literal["float32", "uint8"]


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class ExportedOptions:
    """What an exported screen was made from."""

    detector: Annotated[str, Field(description="the detector in the graph")] = ""
    score: Annotated[str, Field(description="what its screen judged images by")] = ""


class Exported(Detector):
    """Scores images by a graph that holds the whole judgement of a screen: its scores are final.

    Args:
        shape: as in `Detector`.
        options: see `ExportedOptions`.
        content: the graph, an ONNX file with `OUTPUTS`.
        pixels: what the graph takes: float32 in [0, 1], or uint8.
        locates: whether its feature scores tell where an image is odd.

    Raises:
        InputError: onnxruntime is not installed.
        ArtifactError: it does not run the graph.
    """

    name: ClassVar[str] = "exported"
    Options: ClassVar[type] = ExportedOptions
    rebuilds: ClassVar[bool] = False

    def __init__(
        self,
        shape: tuple[int, ...],
        options: ExportedOptions,
        content: bytes,
        pixels: PixelType,
        locates: bool = True,
    ) -> None:
        super().__init__(shape, options)
        self.content, self._session = content, _session(content)
        self._bytes, self._locates = pixels == "uint8", locates
        digest = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
        self.register_buffer("graph", torch.from_numpy(digest.copy()))
        self.fitted.fill_(True)

    def __reduce__(self) -> tuple[Any, ...]:
        return Exported, (self.shape, self.options, self.content, "uint8" if self._bytes else "float32", self._locates)

    @property
    def locates(self) -> bool:
        return self._locates

    def score_batch(
        self,
        batch: Batch,
        score: str | None = None,
        top_percent: float | None = None,
        feature_score: bool = False,
        reconstruction: bool = False,  # noqa: ARG002  a graph gives none
        statistics: Statistics | None = None,
    ) -> Scores:
        if score is not None or top_percent is not None or statistics is not None:
            raise InputError("an exported screen has one score; export another graph for another score")
        if len(batch.pixels) > SCORING_BATCH:
            raise InputError(f"expected a batch of at most {SCORING_BATCH}; got {len(batch.pixels)}")
        errors, pixels = list(batch.errors), batch.pixels
        if self._bytes:
            pixels = np.round(pixels * np.float32(255)).astype(np.uint8)
            exact = (pixels.astype(np.float32) / np.float32(255) == batch.pixels).reshape(len(pixels), -1).all(axis=1)
            for index, fits in zip(np.flatnonzero(batch.good), exact, strict=True):
                if not fits:
                    height_width = " x ".join(map(str, self.shape[1:]))
                    errors[index] = f"this graph takes 8-bit images of {height_width} pixels as they are"
            pixels = pixels[exact]
        names = OUTPUTS[: 1 + feature_score]
        found = dict(zip(names, self._run(pixels, names), strict=True))
        good = np.array([error is None for error in errors])
        scores = np.full(len(errors), np.nan)
        scores[good] = found["instance_score"]
        maps = None
        if feature_score:
            maps = np.full((len(errors), *self.shape), np.nan, dtype=np.float32)
            if good.any():
                maps[good] = found["feature_score"]
        return Scores(ids=tuple(batch.ids), instance_score=scores, errors=tuple(errors), feature_score=maps)

    def _run(self, pixels: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        """Return outputs of the graph for N images.

        They go one at a time from one place in memory: sums of onnxruntime depend in the last bits on an image's place
        in a batch and on its alignment.
        """
        image = _aligned((1, *self.shape), pixels.dtype)
        parts = []
        for given in pixels:
            image[0] = given
            parts.append(self._session.run(names, {"pixels": image}))
        if not parts:
            return [np.empty(0)] * len(names)
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _aligned(shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
    """Return an array that begins at a multiple of 64 bytes."""
    memory = np.zeros(prod(shape) * kind.itemsize + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + prod(shape) * kind.itemsize].view(kind).reshape(shape)


def _session(content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError('an exported screen runs on onnxruntime: pip install "recondite[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types derive from Exception alone
        raise ArtifactError(f"the graph cannot be run: {error}") from error
    missing = set(OUTPUTS) - {output.name for output in session.get_outputs()}
    if missing or [entry.name for entry in session.get_inputs()] != ["pixels"]:
        raise ArtifactError(f"the graph is not one of recondite: it lacks {', '.join(sorted(missing)) or 'pixels'}")
    return session
