"""A detector that is a graph, run by onnxruntime or OpenVINO; `recondite.screen.export` makes such graphs."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from recondite.data.datasets import Batch
from recondite.data.regions import Mask
from recondite.detectors.base import Detector
from recondite.detectors.measured import Statistician
from recondite.errors import ArtifactError, InputError
from recondite.options import CHECKED
from recondite.statistics.scores import Scores

RuntimeName = Literal["onnx", "openvino"]
OUTPUTS = ("instance_score", "feature_score", "p_value", "is_outlier")
INPUT = "pixels"
FILES: dict[str, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
"""The files of a graph, by the runtime that runs it."""
_ALIGNMENT = 64
_TELEMETRY = "openvino_telemetry"

BATCH, _FEWEST_TOGETHER = 32, 8
"""Images that run at once, where they are not large, the last ones with zeros behind them; fewer than 8 are faster one
by one."""
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


class Exported(Detector):
    """Scores images by a graph that holds the whole judgement of a screen: its scores are final.

    Args:
        shape: as in `Detector`.
        options: see `ExportedOptions`.
        content: the graph's files, with `OUTPUTS`; see `recondite.detectors.graph.FILES`.
        pixels: what the graph takes: float32 in [0, 1], or uint8.
        locates: whether its feature scores tell where an image is odd.
        region: that its screen looks at, bool (H, W); None for whole images.
        value_range: of its screen's images, as in `Preprocessing`.

    Raises:
        InputError: the program that runs it is not installed.
        ArtifactError: it does not run the graph.
    """

    name: ClassVar[str] = "exported"
    Options: ClassVar[type] = ExportedOptions
    rebuilds: ClassVar[bool] = False

    def __init__(
        self,
        shape: tuple[int, ...],
        options: ExportedOptions,
        content: Sequence[bytes],
        pixels: PixelType,
        locates: bool = True,
        region: Mask | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(shape, options)
        self.restrict(region)
        self.take_values(value_range)
        self.content = tuple(content)
        self.run_graph = make_runtime(options.runtime, content)
        self._bytes, self._locates = pixels == "uint8", locates
        self._batches_agree: bool | None = None
        self._together = min(options.batch, self.scoring_batch)
        digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in content)).digest()
        self.register_buffer("graph", torch.from_numpy(np.frombuffer(digest, dtype=np.uint8).copy()))
        self.fitted.fill_(True)

    def __reduce__(self) -> tuple[Any, ...]:
        pixels, seen = "uint8" if self._bytes else "float32", self.preprocessing
        return Exported, (
            *(self.shape, self.options, self.content, pixels, self._locates),
            *(seen.region, seen.value_range),
        )

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
        observer: Statistician | None = None,
    ) -> Scores:
        if score is not None or top_percent is not None or observer is not None:
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
        names = OUTPUTS[: 1 + feature_score]
        found = dict(zip(names, self._outputs(pixels, names), strict=True))
        good = np.array([error is None for error in errors])
        scores = np.full(len(errors), np.nan)
        scores[good] = found["instance_score"]
        maps = None
        if feature_score:
            maps = np.full((len(errors), *self.shape), np.nan, dtype=np.float32)
            if good.any():
                maps[good] = found["feature_score"]
        return Scores(ids=tuple(batch.ids), instance_score=scores, errors=tuple(errors), feature_score=maps)

    @property
    def batches_agree(self) -> bool:
        """Whether images in a full batch get the bits, here, that each gets alone; tried out once, on noise.

        Sums of a runtime may depend in the last bits on an image's place in a batch. Where they do, images run one by
        one.
        """
        if self._batches_agree is None:
            images = probe_images(self.shape, np.uint8 if self._bytes else np.float32, self._together)
            names = OUTPUTS[:2]
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


class Runtime(Protocol):
    """Runs one graph."""

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the named outputs for pixels (N, *shape), in an order and a batch of their own."""


def make_runtime(name: RuntimeName, content: Sequence[bytes]) -> Runtime:
    """Return what runs a graph on the processor, in float32 where its numbers are floats, on torch's threads.

    Args:
        name: the program.
        content: the graph's files, as in `FILES`.

    Raises:
        InputError: the program is not installed.
        ArtifactError: it does not run the graph, or the graph has other inputs and outputs.
    """
    return _OnnxRuntime(content[0]) if name == "onnx" else _OpenVino(*content)


def onnx_session(graph: bytes, what: str) -> Any:
    """Return the session of onnxruntime that runs a graph on processors, with as many threads as torch has.

    Args:
        graph: the content of an ONNX file.
        what: it is, for messages.

    Raises:
        InputError: onnxruntime is not installed.
        ArtifactError: it does not run the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f'{what} runs on onnxruntime: pip install "recondite[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types derive from Exception alone
        raise ArtifactError(f"{what} cannot be run: {error}") from error


class _OnnxRuntime:
    def __init__(self, graph: bytes) -> None:
        self._session = onnx_session(graph, "an exported screen")
        given, made = self._session.get_inputs(), self._session.get_outputs()
        _check_interface([entry.name for entry in given], [output.name for output in made])

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        return cast(list[NDArray[Any]], self._session.run(names, {INPUT: aligned(pixels)}))


class _OpenVino:
    def __init__(self, graph: bytes, weights: bytes) -> None:
        openvino = import_openvino()
        # Without the hint, processors that have bfloat16 would use it and score otherwise than others do.
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            core = openvino.Core()
            model = core.read_model(graph, weights)
            self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:  # OpenVINO raises RuntimeError and types of its own
            raise ArtifactError(f"the graph cannot be run: {error}") from error
        _check_interface(*([port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs)))

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        self._request.infer({INPUT: aligned(pixels)})
        return [np.array(self._request.get_tensor(name).data) for name in names]


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that begins at a multiple of 64 bytes: sums may depend in the last bits on where they begin."""
    size = prod(array.shape) * array.dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + size].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def import_openvino() -> Any:
    """Return the module.

    Raises:
        InputError: it is not installed.
    """
    try:
        with silent():
            import openvino
    except ImportError as error:
        raise InputError('OpenVINO is not installed: pip install "recondite[openvino]"') from error
    return openvino


def import_nncf() -> Any:
    """Return the module, OpenVINO's compressor of networks.

    Raises:
        InputError: it is not installed.
    """
    try:
        with silent():
            import nncf
    except ImportError as error:
        raise InputError('int8 needs nncf: pip install "recondite[openvino]"') from error
    return nncf


@contextmanager
def silent() -> Iterator[None]:
    """Hide the package by which OpenVINO and NNCF report their use over the network, while they are imported."""
    known = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = cast(ModuleType, None)  # importing it raises ImportError, which both provide for
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if known is not None:
            sys.modules[_TELEMETRY] = known


def _check_interface(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    missing = set(OUTPUTS) - set(outputs)
    if missing or list(inputs) != [INPUT]:
        raise ArtifactError(f"the graph is not one of recondite: it lacks {', '.join(sorted(missing)) or INPUT}")
