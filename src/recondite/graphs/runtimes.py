"""Programs that run graphs on the processor: onnxruntime and OpenVINO."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, cast

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
FLOATS = ("float32", "float64")
_ONNX_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
_ALIGNMENT = 64
_TELEMETRY = "openvino_telemetry"
_EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"
_IR = b"<?xml"
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Port(NamedTuple):
    """What goes into a graph, or comes out of it, for each image.

    Args:
        kinds: the types of its numbers, one of which it has.
        shape: of one image's; None for a side that the graph does not tell.
    """

    kinds: tuple[str, ...]
    shape: tuple[int | None, ...]


class Runtime:
    """Runs one graph on the processor, in float32 where its numbers are floats, on `threads`.

    Args:
        name: the program.
        content: the graph's files, as in `FILES`.
        pixels: what the graph must take.
        outputs: name -> what it must give, and may give more.

    Raises:
        InputError: the program is not installed.
        ArtifactError: it does not run the graph, or the graph has other inputs and outputs.
    """

    def __init__(self, name: RuntimeName, content: Sequence[bytes], pixels: Port, outputs: Mapping[str, Port]) -> None:
        self._program: _OnnxRuntime | _OpenVino = _OnnxRuntime(content[0]) if name == "onnx" else _OpenVino(*content)
        self._outputs = outputs
        missing = {*outputs} - {*self._program.gives}
        if missing or list(self._program.takes) != [INPUT]:
            raise ArtifactError(f"the graph is not one of recondite: it lacks {', '.join(sorted(missing)) or INPUT}")
        found = {**self._program.takes, **self._program.gives}
        for port, wanted in {INPUT: pixels, **outputs}.items():
            _check_port(port, found[port], wanted)

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        """Return the named outputs for pixels (N, *shape), in an order and a batch of their own.

        Raises:
            ArtifactError: the graph does not run, or gives other shapes than it says.
        """
        try:
            found = self._program(names, aligned(pixels))
        except Exception as error:  # each program raises types of its own
            raise ArtifactError(f"the graph cannot be run: {error}") from error
        for name, values in zip(names, found, strict=True):
            if values.shape != (len(pixels), *self._outputs[name].shape):
                raise ArtifactError(f"the graph gives {name} of shape {values.shape} for {len(pixels)} images")
        return found


def _port(kind: str, sides: Sequence[object]) -> Port:
    """Return what a program says of an input or output, whose first side counts images."""
    return Port((kind,), tuple(side if isinstance(side, int) else None for side in sides[1:]))


def _kind(told: str) -> str:
    """Return what numpy calls a type of onnxruntime, such as "tensor(uint8)"."""
    return _ONNX_TYPES.get(told, told.removeprefix("tensor(").removesuffix(")"))


def _check_port(name: str, found: Port, wanted: Port) -> None:
    """Raise ArtifactError where an input or output of a graph is of another type or shape."""
    alike = len(found.shape) == len(wanted.shape) and all(
        side in (None, own) for side, own in zip(found.shape, wanted.shape, strict=True)
    )
    if not alike or found.kinds[0] not in wanted.kinds:
        raise ArtifactError(
            f"the graph is not the one of its manifest: expected {name} {wanted.shape}, {' or '.join(wanted.kinds)}; "
            f"got {found.shape}, {found.kinds[0]}"
        )


def onnx_session(graph: bytes, what: str) -> Any:
    """Return the session of onnxruntime that runs a graph on processors, on `threads`.

    Args:
        graph: the content of an ONNX file.
        what: it is, for messages.

    Raises:
        InputError: onnxruntime is not installed.
        ArtifactError: it does not run the graph, or its numbers lie in another file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f'{what} runs on onnxruntime: pip install "recondite[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    # Numbers may be told to lie in other files; for bytes, that would be any file below the folder one stands in.
    options.add_session_config_entry(_EXTERNAL_DATA, os.devnull)
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types derive from Exception alone
        raise ArtifactError(f"{what} cannot be run: {error}") from error


class _OnnxRuntime:
    def __init__(self, graph: bytes) -> None:
        self._session = onnx_session(graph, "an exported screen")
        self.takes, self.gives = (
            {port.name: _port(_kind(port.type), port.shape) for port in ports}
            for ports in (self._session.get_inputs(), self._session.get_outputs())
        )

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        return cast(list[NDArray[Any]], self._session.run(names, {INPUT: pixels}))


class _OpenVino:
    def __init__(self, graph: bytes, weights: bytes) -> None:
        openvino = import_openvino()
        if not graph.startswith(_IR):  # OpenVINO reads ONNX too, whose numbers may lie in any file
            raise ArtifactError("the graph cannot be run: expected the XML of OpenVINO")
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
        self.takes, self.gives = (
            {
                port.get_any_name(): _port(
                    port.element_type.to_dtype().name,
                    [None if side.is_dynamic else side.get_length() for side in port.partial_shape],
                )
                for port in ports
            }
            for ports in (model.inputs, model.outputs)
        )

    def __call__(self, names: Sequence[str], pixels: NDArray[Any]) -> list[NDArray[Any]]:
        self._request.infer({INPUT: pixels})
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
