"""Classifiers as files, for guards."""

import numpy as np
import pytest


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
