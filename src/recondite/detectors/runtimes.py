"""Graphs run by other programs than torch: onnxruntime, and OpenVINO without its messages home."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import ModuleType
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from recondite.errors import ArtifactError, InputError

RuntimeName = Literal["onnx", "openvino"]
OUTPUTS = ("instance_score", "feature_score", "p_value", "is_outlier")
INPUT = "pixels"
FILES: dict[str, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
"""The files of a graph, by the runtime that runs it."""
_ALIGNMENT = 64
_TELEMETRY = "openvino_telemetry"


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


class _OnnxRuntime:
    def __init__(self, graph: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError('an exported screen runs on onnxruntime: pip install "recondite[export]"') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types derive from Exception alone
            raise ArtifactError(f"the graph cannot be run: {error}") from error
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
