"""A classifier in an ONNX file, run by onnxruntime: a graph of known operators, no code."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recondite.errors import ArtifactError, InputError
from recondite.graphs.runtimes import onnx_session
from recondite.networks.hooks import over_places
from recondite.progress import counted

_LARGEST_FILE = 2 << 30


class OnnxClassifier:
    """Images (N, C, H, W) in [0, 1] to logits (N, K), and to features (N, F) where the graph has a second output.

    Args:
        graph: the content of the file: one input (N, C, H, W) of float32; a first output (N, K), and, if there is one,
            a second (N, F).

    Raises:
        InputError: onnxruntime is not installed.
        ArtifactError: the graph cannot be run, or has another interface.
    """

    def __init__(self, graph: bytes) -> None:
        self._session = onnx_session(graph, "a classifier as ONNX")
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{one.name} {one.type} {tuple(one.shape)}" for one in inputs)
            raise ArtifactError(
                f"expected a classifier with one input (N, C, H, W) of float32, pixels in [0, 1]; got {got or 'none'}"
            )
        self.graph, self._name = graph, inputs[0].name
        fixed = [side if isinstance(side, int) else None for side in inputs[0].shape]
        self.together = fixed[0]
        """How many images it takes at once, where the graph fixes that."""
        self.shape: tuple[int, ...] | None = None
        """Of an image, where the graph fixes it."""
        if None not in fixed[1:]:
            self.shape = tuple(side for side in fixed[1:] if side is not None)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        return self.outputs(pixels)[0]

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits (N, K) and the features (N, F); None without.

        Images run one by one where the graph allows, so that each gets the same bits in any company.

        Raises:
            InputError: the graph does not take such images, or gives something else.
        """
        logits, *others = self.raw(pixels)
        if logits.ndim != 2 or len(logits) != len(pixels):
            raise InputError(
                f"expected logits (N, K) from the classifier, as its first output; got {tuple(logits.shape)} for "
                f"{counted(len(pixels), 'image')}"
            )
        if not others:
            return logits, None
        features = others[0].float()
        if features.ndim < 2 or len(features) != len(pixels):
            raise InputError(
                f"expected features (N, F) as the second output of the classifier, or no such output; got "
                f"{tuple(features.shape)} for {counted(len(pixels), 'image')}"
            )
        return logits, over_places(features)

    def raw(self, pixels: Tensor) -> list[Tensor]:
        """Return what the graph gives, its first two outputs at most, as it gives it.

        Raises:
            InputError: the graph does not take such images.
        """
        size = self.together or 1
        parts = []
        try:
            for some in torch.split(pixels.cpu().float(), size):
                padded = np.zeros((size, *some.shape[1:]), dtype=np.float32)
                padded[: len(some)] = some.numpy()
                parts.append([found[: len(some)] for found in self._session.run(None, {self._name: padded})[:2]])
            return [torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*parts, strict=True)]
        except Exception as error:  # likewise, also where an output is no array of numbers
            raise InputError(f"the classifier does not take a batch {tuple(pixels.shape)}: {error}") from error


def read_classifier(path: Path | str) -> OnnxClassifier:
    """Return the classifier in an ONNX file.

    Raises:
        InputError: no such file, or it is too large.
        ArtifactError: the graph cannot be run, or has another interface.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected an ONNX file; there is none")
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"{path}: expected an ONNX file of at most {_LARGEST_FILE:,} bytes")
    return OnnxClassifier(path.read_bytes())
