"""A torch classifier of the user's own as a graph that a guard keeps; its code stays behind."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recondite.graphs.exported import probe_images
from recondite.networks.hooks import FeatureLayer, over_places, recorded
from recondite.screen.export import check_agreement
from recondite.screen.onnx_classifier import OnnxClassifier
from recondite.screen.screen_graph import traced
from recondite.torch_state import own_settings


@own_settings()
def module_classifier(network: nn.Module, shape: Sequence[int], layer: str | None = None) -> OnnxClassifier:
    """Return a torch classifier as an ONNX graph, which `fit_guard` takes and the guard is saved and exported with.

        classifier = module_classifier(network, (3, 32, 32), layer="features")
        fitted = fit_guard(learnt, classifier=classifier, classes=names, calibration=held)

    Args:
        network: images (N, C, H, W) in [0, 1] to logits (N, K); it stays as it is.
        shape: (C, H, W) of the images.
        layer: the module within it whose output are its features, (N, F), or maps (N, F, h, w) of which the mean over
            places is taken: as a rule what its last layer looks at. None for a guard without the rules of features.

    Raises:
        InputError: it has no such layer or does not take such images, or the extra `export` is not installed.
        RuntimeError: torch cannot write it as a graph, or the graph says something else about noise.
    """
    noise = torch.from_numpy(probe_images(tuple(shape), np.float32))
    expected = {"logits": FeatureLayer(network)(noise)}
    if layer is not None:
        expected["features"] = FeatureLayer(network, layer)(noise)
    classifier = OnnxClassifier(traced(_Outputs(network, layer), {"pixels": noise}, tuple(expected)))
    for (name, ours), theirs in zip(expected.items(), classifier.raw(noise), strict=True):
        largest = float(ours.abs().max())
        check_agreement(f"the graph's {name}", ours.double().numpy(), theirs.double().numpy(), largest, "the network's")
    return classifier


class _Outputs(nn.Module):
    """Images to logits and, with a layer, features."""

    def __init__(self, network: nn.Module, layer: str | None) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if self.layer is None:
            return (self.network(pixels).float(),)
        with recorded([self.network.get_submodule(self.layer)]) as outputs:
            logits = self.network(pixels)
        features = outputs[0]
        assert features is not None
        return logits.float(), over_places(features).float()
