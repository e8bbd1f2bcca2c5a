"""Programs that run graphs on the processor: onnxruntime and OpenVINO."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from recondite.errors import ArtifactError, InputError

RuntimeName = Literal["onnx", "openvino"]
OUTPUTS = ("instance_score", "feature_score", "p_value", "is_outlier")
LOGITS, RULE_SCORES = "logits", "rule_scores"
GUARD_OUTPUTS = ("label", "predicted", "confidence", "abstention", "flagged", "part_p_value", LOGITS, RULE_SCORES)
"""What the graph of a guard gives besides; the last only where rules have a share of alpha."""
INPUT = "pixels"
FILES: dict[str, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
"""The files of a graph, by the runtime that runs it."""
_ALIGNMENT = 64
_TELEMETRY = "openvino_telemetry"
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Runtime(Protocol):
    """Runs one graph."""

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the named outputs for pixels (N, *shape), in an order and a batch of their own."""


def make_runtime(name: RuntimeName, content: Sequence[bytes]) -> Runtime:
    """Return what runs a graph on the processor, in float32 where its numbers are floats, on `threads`.

    Args:
        name: the program.
        content: the graph's files, as in `FILES`.

    Raises:
        InputError: the program is not installed.
        ArtifactError: it does not run the graph, or the graph has other inputs and outputs.
    """
    return _OnnxRuntime(content[0]) if name == "onnx" else _OpenVino(*content)


def onnx_session(graph: bytes, what: str) -> Any:
    """Return the session of onnxruntime that runs a graph on processors, on `threads`.

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
    options.intra_op_num_threads = threads()
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
            "INFERENCE_NUM_THREADS": threads(),
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


def threads() -> int:
    """Return how many threads a graph runs on: torch's where it is loaded, else as many as it would take.

    That is one for each core that this process may use, or fewer where MKL_NUM_THREADS or OMP_NUM_THREADS says so.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len({_core_of(number) for number in os.sched_getaffinity(0)})
    given = (os.environ.get(name, "") for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"))
    return min([cores, *(int(text) for text in given if text.isdecimal() and int(text) > 0)][:2])


def _core_of(number: int) -> str:
    """Return what tells the core of a logical processor from others."""
    try:
        return Path(_SIBLINGS.format(number)).read_text(encoding="ascii")
    except OSError:
        return str(number)


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
