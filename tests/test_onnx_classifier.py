"""Classifiers as ONNX files: how many images a graph takes at once, and which graphs are refused."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recondite.errors import ArtifactError, InputError
from recondite.graphs.exported import Exported, ExportedOptions
from recondite.screen import onnx_classifier
from recondite.screen.onnx_classifier import OnnxClassifier, read_classifier

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def graph(*shape, inputs=1, kind=onnx.TensorProto.FLOAT, features=None):
    """A graph of images (N, C, H, W) whose logits are the means of the channels, with features over some axes."""
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    starts = [make.make_tensor_value_info(f"x{number}", kind, list(shape)) for number in range(inputs)]
    nodes = [
        make.make_node("Cast", ["x0"], ["x"], to=floats),
        make.make_node("ReduceMean", ["x"], ["logits"], axes=[2, 3] if len(shape) == 4 else [1], keepdims=0),
    ]
    ends = [make.make_tensor_value_info("logits", floats, None)]
    if features is not None:
        nodes.append(make.make_node("ReduceMean", ["x"], ["features"], axes=features, keepdims=0))
        ends.append(make.make_tensor_value_info("features", floats, None))
    made = make.make_graph(nodes, "g", starts, ends)
    return make.make_model(made, opset_imports=[make.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("together", ["n", 1, 3, 5])
def test_a_graph_gets_as_many_images_as_it_takes(together):
    classifier = OnnxClassifier(graph(together, 2, 4, 4))
    assert classifier.shape == (2, 4, 4)
    pixels = torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(classifier(pixels), pixels.mean(dim=(2, 3)))
    assert classifier.outputs(pixels)[1] is None
    with pytest.raises(InputError, match="does not take a batch"):
        classifier(torch.zeros(4, 1, 4, 4))


@pytest.mark.parametrize("axes", [[2, 3], [3]])
def test_features_of_places_are_averaged(axes):
    pixels = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    logits, features = OnnxClassifier(graph("n", 2, 4, 4, features=axes)).outputs(pixels)
    torch.testing.assert_close(features, pixels.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, features)


@pytest.mark.parametrize("shape", [("n", "c", 4, 4), ("n", 2, "h", 4), ("n", 2, 4, "w")])
def test_a_graph_of_any_size_fixes_none(shape):
    assert OnnxClassifier(graph(*shape)).shape is None


@pytest.mark.parametrize(
    "made",
    [
        lambda: graph("n", 2, 4, 4, inputs=2),
        lambda: graph("n", 2),
        lambda: graph("n", 2, 4, 4, kind=onnx.TensorProto.UINT8),
    ],
)
def test_other_interfaces_are_refused(made):
    with pytest.raises(ArtifactError, match=r"one input \(N, C, H, W\) of float32"):
        OnnxClassifier(made())


def test_a_file_that_is_too_large_or_not_there_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "classifier.onnx"
    with pytest.raises(InputError, match="expected an ONNX file"):
        read_classifier(path)
    path.write_bytes(graph("n", 2, 4, 4))
    assert read_classifier(path).graph == path.read_bytes()
    monkeypatch.setattr(onnx_classifier, "_LARGEST_FILE", len(path.read_bytes()) - 1)
    with pytest.raises(InputError, match="expected an ONNX file"):
        read_classifier(path)


@pytest.mark.parametrize(("together", "sizes"), [("n", [1, 1, 1]), (2, [2, 2])])
def test_images_run_one_by_one_unless_the_graph_takes_more(together, sizes):
    classifier, seen = OnnxClassifier(graph(together, 2, 4, 4)), []
    session = classifier._session

    def run(names, given):
        seen.append(len(given["x0"]))
        return session.run(names, given)

    classifier._session = SimpleNamespace(run=run)
    assert classifier(torch.rand(3, 2, 4, 4)).shape == (3, 2)
    assert seen == sizes


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 2), (3,)])
def test_logits_are_one_row_an_image(shape):
    classifier = OnnxClassifier(graph("n", 2, 4, 4))
    classifier.raw = lambda _: [torch.zeros(shape)]
    with pytest.raises(InputError, match=r"expected logits \(N, K\) from the classifier"):
        classifier.outputs(torch.rand(3, 2, 4, 4))


def test_a_graph_of_another_interface_is_told_what_it_has():
    with pytest.raises(ArtifactError, match=r"pixels in \[0, 1\]; got x0 tensor\(uint8\) \('n', 2, 4, 4\)"):
        OnnxClassifier(graph("n", 2, 4, 4, kind=onnx.TensorProto.UINT8))


@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_features_are_one_row_an_image(shape):
    classifier = OnnxClassifier(graph("n", 2, 4, 4))
    classifier.raw = lambda _: [torch.zeros(3, 2), torch.zeros(shape, dtype=torch.int64)]
    with pytest.raises(InputError, match=r"expected features \(N, F\) as the second output .* or no such output"):
        classifier.outputs(torch.rand(3, 2, 4, 4))


def test_outputs_are_numbers():
    classifier = OnnxClassifier(graph("n", 2, 4, 4))
    classifier._session = SimpleNamespace(run=lambda *_: [np.array(["cat"])])
    with pytest.raises(InputError, match="does not take a batch"):
        classifier(torch.rand(1, 2, 4, 4))


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(InputError, match=r"no.onnx: expected an ONNX file; there is none"):
        read_classifier(tmp_path / "no.onnx")


def test_a_graph_takes_no_numbers_from_other_files(tmp_path, monkeypatch):
    """Neither of a classifier nor of an exported screen: they would be those of any file below the folder one is in."""
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    outside = onnx.TensorProto(name="outside", data_type=floats, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", "secret.bin"), ("offset", "0"), ("length", "8")):
        outside.external_data.add(key=key, value=value)
    (tmp_path / "secret.bin").write_bytes(np.array([5, 7], np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    constant = make.make_node("Constant", [], ["outside"], value=outside)
    for initializers, nodes in (([outside], []), ([], [constant])):
        told = [make.make_tensor_value_info("pixels", floats, ["n", 1, 8, 8])]
        given = [make.make_tensor_value_info("logits", floats, None)]
        nodes = [*nodes, make.make_node("Identity", ["outside"], ["logits"])]
        made = make.make_graph(nodes, "g", told, given, initializers)
        content = make.make_model(made, opset_imports=[make.make_opsetid("", 17)], ir_version=8).SerializeToString()
        with pytest.raises(ArtifactError, match="cannot be run"):
            OnnxClassifier(content)
        if find_spec("openvino") is not None:  # which reads ONNX in place of its own XML too
            with pytest.raises(ArtifactError, match="cannot be run: expected the XML of OpenVINO"):
                Exported((1, 8, 8), ExportedOptions(runtime="openvino"), [content, b"0"], "float32")
