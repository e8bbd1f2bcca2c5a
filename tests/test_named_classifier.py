"""Classifiers of timm and transformers with their own heads: tiny networks with random weights, made on the spot."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torchvision_stand_in import torchvision_stand_in

import recondite
from recondite.cli import main
from recondite.errors import ArtifactError, InputError
from recondite.screen.guard_file import TUNED_FILE, load_guard, save_guard
from recondite.screen.guard_fit import fit_guard, named_classifier
from recondite.screen.named_classifier import NamedClassifier

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 8}
SIDE, NAMES = 16, ("night", "day", "dusk")


@pytest.fixture(scope="module")
def timm():
    try:
        with torchvision_stand_in():
            return pytest.importorskip("timm", reason="needs timm")
    except RuntimeError as error:
        pytest.skip(f"torchvision does not suit torch: {error}")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A vision transformer of three classes, and the folder that transformers wrote."""
    torch.manual_seed(1)
    told = {"image_size": SIDE, "id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    network = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, **told)).eval()
    with torch.no_grad():
        for part in network.parameters():
            part.add_(torch.randn_like(part) * 0.3)
    folder = tmp_path_factory.mktemp("vit")
    network.save_pretrained(folder)
    return network, folder


def images(count, seed=0, tinted=False):
    """Noise (N, 3, 16, 16), or areas of random colours under less of it."""
    draws = np.random.default_rng(seed)
    if not tinted:
        return draws.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    areas = draws.uniform(60, 190, (count, 3, 2, 2)).repeat(SIDE // 2, 2).repeat(SIDE // 2, 3)
    return np.clip(areas + draws.normal(0, 20, (count, 3, SIDE, SIDE)), 0, 255).astype(np.uint8)


def floats(some):
    return torch.from_numpy(some / np.float32(255))


def test_it_says_what_the_network_itself_says_alone_and_among_others(vit):
    network, folder = vit
    classifier = named_classifier(str(folder))
    assert (classifier.names, classifier.shape) == (NAMES, (3, SIDE, SIDE))
    some = floats(images(5))
    logits, features = classifier.outputs(some)
    with torch.no_grad():
        torch.testing.assert_close(logits, network((some - 0.5) / 0.5).logits)
        torch.testing.assert_close(network.classifier(features), logits)
    alone = [classifier.outputs(one[None]) for one in some]
    assert torch.equal(torch.cat([one for one, _ in alone]), logits)
    assert torch.equal(torch.cat([one for _, one in alone]), features)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_so_does_one_of_timm(name, timm, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=4, **({"img_size": 64} if "vit" in name else {})).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    told = {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "num_classes": 4}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": told}))
    classifier = named_classifier(str(tmp_path))
    some = torch.rand(2, 3, 64, 64)
    mean, deviation = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(classifier(some), network((some - mean) / deviation))
        torch.testing.assert_close(network.get_classifier()(classifier.outputs(some)[1]), classifier(some))


def test_a_saved_guard_decides_as_the_one_that_was_fitted_and_knows_its_network_by_digest(vit, tmp_path):
    classifier, learnt, held = named_classifier(str(vit[1])), images(40, 1), images(160, 2)
    labelled = [
        [(image, NAMES[place]) for image, place in zip(some, classifier(floats(some)).argmax(1), strict=True)]
        for some in (learnt, held)
    ]
    screen = recondite.fit(learnt, detector="pca", latent_size=2, alpha=0.2, score="error", group_by="none")
    given = {"screen": screen, "calibration": labelled[1], "parts": ("screen", "knn"), "group_by": "none"}
    guard = fit_guard(labelled[0], classifier=classifier, **given).guard
    assert guard.classes == NAMES
    expected = guard(images(30, 3))
    assert expected.predicted == tuple(NAMES[place] for place in classifier(floats(images(30, 3))).argmax(1))
    screen.save(tmp_path)
    save_guard(guard, tmp_path)
    loaded = load_guard(recondite.load(tmp_path), tmp_path)
    assert isinstance(loaded.classifier, NamedClassifier)
    found = loaded(images(30, 3))
    assert (found.predicted, found.reasons) == (expected.predicted, expected.reasons)
    np.testing.assert_array_equal(found.confidence, expected.confidence)
    with (tmp_path / TUNED_FILE).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="another one than the guard was made with"):
        load_guard(screen, tmp_path)


@pytest.mark.slow
def test_an_exported_guard_decides_alike(vit, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="needs the extra export")
    from agreement import assert_decides_alike

    classifier = named_classifier(str(vit[1]))
    learnt, held, others = (images(count, seed, tinted=True) for seed, count in enumerate((60, 200, 20)))
    others = np.concatenate([others, images(20, 3)])
    with torch.no_grad():  # random weights would give nearly every image to one class
        classifier._head.bias -= classifier(floats(learnt)).median(0).values
    labelled = [
        [(image, NAMES[place]) for image, place in zip(some, classifier(floats(some)).argmax(1), strict=True)]
        for some in (learnt, held)
    ]
    screen = recondite.fit(learnt, detector="pca", latent_size=2, alpha=0.2, score="error", group_by="none")
    given = {"screen": screen, "calibration": labelled[1], "group_by": "none"}
    parts = ("knn", "mahalanobis")
    guard = fit_guard(labelled[0], classifier=classifier, parts=parts, **given).guard
    screen.save(tmp_path / "guard")
    save_guard(guard, tmp_path / "guard")
    assert main(["export", str(tmp_path / "guard"), "-o", str(tmp_path / "graph")]) == 0
    found = assert_decides_alike(guard, tmp_path / "graph", others)(others)
    assert len({*found.predicted}) > 1
    assert not list((tmp_path / "graph").glob(TUNED_FILE))


def test_what_is_no_classifier_is_refused_in_words(vit, tmp_path):
    def written(**changes):
        config = json.loads((vit[1] / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    with pytest.raises(InputError, match=r"expected model\.safetensors"):
        named_classifier(written())
    (tmp_path / "model.safetensors").write_bytes((vit[1] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="not those of the network"):
        named_classifier(written(hidden_size=24))
    with pytest.raises(InputError, match="ordinary size"):
        named_classifier(written(hidden_size=10**6))
    with pytest.raises(InputError, match="model_type among"):
        named_classifier(written(model_type="gpt2"))
    with pytest.raises(InputError, match="no head"):
        named_classifier(written(model_type="dinov3_vit"))
    facts = named_classifier(str(vit[1])).facts()
    with pytest.raises(InputError, match="timm or transformers; got 'os'"):
        NamedClassifier({**facts["architecture"], "library": "os"}, SIDE, 3)


@pytest.mark.parametrize(
    ("side", "classes", "names", "fine"),
    [
        *((side, 2, (), fine) for side, fine in ((7, False), (8, True), (2048, True), (2049, False))),
        *((8, classes, (), fine) for classes, fine in ((1, False), (100_000, True), (100_001, False))),
        *((8, 3, names, fine) for names, fine in ((("a",), False), (("a", "b", "c"), True))),
    ],
)
def test_sides_and_classes_are_ordinary_and_the_network_learns_nothing(side, classes, names, fine, monkeypatch):
    monkeypatch.setattr(
        "recondite.screen.named_classifier.checked", lambda _: {"mean": [0.5] * 3, "deviation": [1.0] * 3}
    )
    monkeypatch.setattr("recondite.screen.named_classifier._built", lambda _, classes: nn.Linear(1, classes))
    if fine:
        made = NamedClassifier({}, side, classes, names)
        assert made.shape == (3, side, side)
        assert not any(part.requires_grad for part in made.network.parameters())
    else:
        with pytest.raises(InputError, match="an ordinary side"):
            NamedClassifier({}, side, classes, names)


@pytest.mark.parametrize(
    ("library", "config", "told", "side"),
    [
        ("transformers", {"image_size": 32, "img_size": 48}, {}, 32),
        ("transformers", {}, {"input_size": [3, 64, 96]}, 96),
        ("transformers", {}, {}, 224),
        ("timm", {}, {"pretrained_cfg": {"input_size": [3, 64, 96]}}, 96),
        ("timm", {"img_size": 48}, {"pretrained_cfg": {"input_size": [3, 64, 96]}}, 48),
    ],
)
def test_the_side_is_what_the_configuration_tells(library, config, told, side, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"num_classes": 5} | told))
    (tmp_path / "model.safetensors").touch()
    made = []

    class Recording:
        network = None

        def __init__(self, _, side, classes, names):
            made.append((side, classes, names))

        def load(self, stored):
            return stored

    module = "recondite.screen.named_classifier"
    monkeypatch.setattr(f"{module}.described", lambda _: {"library": library, "config": config})
    monkeypatch.setattr(f"{module}.NamedClassifier", Recording)
    monkeypatch.setattr(f"{module}.load_file", lambda _: "of timm")
    monkeypatch.setattr(f"{module}._stored", lambda *_: "of transformers")
    assert named_classifier(str(tmp_path)) == f"of {library}"
    assert made == [(side, 5, ())]


def test_two_classes_are_told_by_a_configuration_that_does_not_name_them(tmp_path):
    """transformers writes no number of classes where it is two, as ever."""
    config = transformers.ViTConfig(**VIT, image_size=SIDE, num_labels=2)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    classifier = named_classifier(str(tmp_path))
    assert (classifier.classes, classifier.names) == (2, ())
    assert classifier(floats(images(3))).shape == (3, 2)
