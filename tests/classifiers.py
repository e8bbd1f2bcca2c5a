"""Small classifiers for guards: as files, and as a network that was fine-tuned."""

import numpy as np
import pytest
import torch
from torch import nn

from recondite.networks.backbones import Backbone
from recondite.networks.two_endings import TwoEndings


class SmallEndings(TwoEndings):
    """Two small layers, of which the last is there as it is now and as it was.

    Args:
        channels: of either layer.
        side: pixels of the squares that each layer looks at.
    """

    def __init__(self, channels, side):
        Backbone.__init__(self, nn.Identity(), side=None, units="unit")
        torch.manual_seed(0)
        shared, now, before = (nn.Conv2d(inner, channels, side, side) for inner in (3, channels, channels))
        self.network, self.before = nn.Sequential(shared, now), nn.Sequential(before)


def write_classifier(path, side):
    """Write an ONNX classifier of colour images: the mean of each channel as features, red and blue as logits."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.array([[10, 0], [-10, -10], [0, 10]], np.float32)
    nodes = [
        make.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        make.make_node("Flatten", ["pooled"], ["features"]),
        make.make_node("MatMul", ["features", "weight"], ["logits"]),
    ]
    ends = [make.make_tensor_value_info(name, floats, ["n", size]) for name, size in (("logits", 2), ("features", 3))]
    start = make.make_tensor_value_info("x", floats, ["n", 3, side, side])
    made = make.make_graph(nodes, "g", [start], ends, [onnx.numpy_helper.from_array(weight, "weight")])
    path.write_bytes(make.make_model(made, opset_imports=[make.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path
