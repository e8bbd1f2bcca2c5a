"""OpenVINO graphs: a network's layers as 8-bit integers, and verdicts by another calibration."""

import logging
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from recondite.data.spool import Rows
from recondite.errors import InputError
from recondite.graphs.exported import PixelType
from recondite.graphs.runtimes import import_nncf, import_openvino
from recondite.screen.screen import Screen
from recondite.statistics.calibration import p_value_table

_CONVOLUTIONS = (
    "Convolution",
    "ConvolutionBackpropData",
    "GroupConvolution",
    "GroupConvolutionBackpropData",
)
_ACTIVATIONS = {"Clamp", "Maximum", "Relu"}
_CHANNELS_OF_IMAGES = 3
_LINEAR = "node_linear"
"""How the nodes of dense layers are named, and those of no other product: distances stay in floats."""


def quantised(model: Any, images: Rows, pixels: PixelType, for_features: bool = False) -> Any:
    """Return an OpenVINO model whose convolutions and dense layers compute with 8-bit integers.

    Everything else, evidence above all, stays as it is.

    Args:
        model: as `recondite.screen.export` makes it.
        images: normal images that set the ranges of the integers.
        pixels: what the model takes.
        for_features: whether what the layers give is compared with normal ones, in directions in which these hardly
            differ: then the first layer, those without an activation behind them, and those channel by channel (which
            OpenVINO computes in floats in any case) stay as they are.

    Raises:
        InputError: there are no such layers, or nncf is not installed.
    """
    nncf = import_nncf()
    layers = {node.get_friendly_name() for node in model.get_ops() if (_is_robust if for_features else _is_layer)(node)}
    if not layers:
        kind = "convolutions with an activation behind them" if for_features else "convolutions or dense layers"
        raise InputError(f"int8 is for {kind}; this detector has none: leave out int8")
    others = [name for node in model.get_ops() if (name := node.get_friendly_name()) not in layers]
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function changes handlers too, which may be anybody's
    data = [batch[index : index + 1] for batch in images.batches() for index in range(len(batch))]
    if pixels == "uint8":
        data = [np.round(image * 255).astype(np.uint8) for image in data]
    with redirect_stdout(StringIO()):  # it draws bars
        return nncf.quantize(
            model,
            nncf.Dataset(data),
            subset_size=len(data),
            # Symmetric ranges: OpenVINO's transposed convolutions take no others, and would stay in float32.
            preset=nncf.QuantizationPreset.PERFORMANCE,
            # Weights of seven bits in every layer: without VNNI a processor adds pairs of products in 16 bits, which
            # eight overflow, and the same image would score differently on it.
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        )


def _is_layer(node: Any) -> bool:
    kind = node.get_type_name()
    return kind in _CONVOLUTIONS or (kind == "MatMul" and node.get_friendly_name().startswith(_LINEAR))


def _is_robust(node: Any) -> bool:
    """Return whether a node is a convolution of more than an image's channels, with an activation behind its bias."""
    if node.get_type_name() != "Convolution" or node.input_value(1).get_shape()[1] <= _CHANNELS_OF_IMAGES:
        return False
    followers = _followers(node)
    if "Add" in followers:
        followers = _followers(followers["Add"])
    return bool(_ACTIVATIONS & set(followers))


def _followers(node: Any) -> dict[str, Any]:
    """Return the nodes that take what a node gives, by their kinds."""
    nodes = [taker.get_node() for taker in node.output(0).get_target_inputs()]
    return {one.get_type_name(): one for one in nodes}


def judging(model: Any, screen: Screen) -> Any:
    """Return a model with p_value and is_outlier made anew, from a screen's own calibration of the model's scores."""
    openvino = import_openvino()
    from openvino import opset13 as operation

    outputs = {output.get_any_name(): output for output in model.outputs}
    score = outputs["instance_score"].get_node().input_value(0)
    ascending = np.sort(screen.calibrator.scores)
    table = p_value_table(len(ascending), screen.confidence, screen.guarantee)
    column = operation.unsqueeze(score, np.int64(1))
    at_least = operation.convert(operation.greater_equal(operation.constant(ascending[None]), column), "f64")
    count = operation.convert(operation.reduce_sum(at_least, np.int64(1)), "i64")
    p_value = operation.gather(operation.constant(np.array(table)), count, np.int64(0))
    outlier = operation.logical_not(operation.less_equal(score, operation.constant(np.float64(screen.threshold))))
    results = []
    for name, node in (("p_value", p_value), ("is_outlier", outlier)):
        node.output(0).set_names({name})
        results.append(operation.result(node))
    kept = [outputs[name].get_node() for name in ("instance_score", "feature_score")]
    return openvino.Model([*kept, *results], model.get_parameters(), "recondite")


def serialised(model: Any) -> list[bytes]:
    """Return an OpenVINO model as its two files: the graph and its numbers."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.xml"
        openvino.save_model(model, graph, compress_to_fp16=False)
        return [graph.read_bytes(), graph.with_suffix(".bin").read_bytes()]
