"""Backbones of timm and transformers by name or folder: tiny networks with random weights, made on the spot."""

import json
import shutil
import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_hub import running_hub
from PIL import Image
from slow import slow
from test_artifacts import edit
from torchvision_stand_in import torchvision_stand_in

import recondite
from recondite import ArtifactError, InputError, build
from recondite.cli import main
from recondite.networks.architectures import FAMILIES, checked
from recondite.networks.hooks import evaluating, recorded
from recondite.networks.pretrained import Pretrained, pretrained
from recondite.screen.export import export_onnx

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
TOKENS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
DINO = {**TOKENS, "mlp_ratio": 2, "image_size": 56, "patch_size": 14}
VIT = {**TOKENS, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}
# Class of what is saved, its configuration, the prefix of the part that looks at images, tokens before the patches.
KINDS = {
    "dinov2": ("Dinov2Model", lambda: transformers.Dinov2Config(**DINO), "", 1),
    "registers": (
        "Dinov2WithRegistersModel",
        lambda: transformers.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3),
        "",
        4,
    ),
    "dinov3": ("DINOv3ViTModel", lambda: transformers.DINOv3ViTConfig(**VIT, num_register_tokens=4), "", 5),
    "vit": ("ViTForImageClassification", lambda: transformers.ViTConfig(**VIT), "vit.", 1),
    "clip": (
        "CLIPModel",
        lambda: transformers.CLIPConfig(
            vision_config=VIT,
            text_config={**TOKENS, "vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
            projection_dim=8,
        ),
        "vision_model.",
        1,
    ),
    "convnext": ("ConvNextForImageClassification", lambda: transformers.ConvNextConfig(**STAGES), "convnext.", 0),
    "convnextv2": ("ConvNextV2Model", lambda: transformers.ConvNextV2Config(**STAGES), "", 0),
    "dinov3-convnext": ("DINOv3ConvNextModel", lambda: transformers.DINOv3ConvNextConfig(**STAGES), "", 0),
    "resnet": (
        "ResNetForImageClassification",
        lambda: transformers.ResNetConfig(**STAGES, embedding_size=8, layer_type="basic"),
        "resnet.",
        0,
    ),
}
OF_TIMM = ("test_vit", "test_vit3", "test_convnext", "test_resnet")
QUICK = {"detector": "features", "alpha": 0.1, "latent_size": 4, "image_size": (60, 70), "score": "padim"}


@pytest.fixture(scope="module")
def timm():
    pytest.importorskip("safetensors")
    try:
        with torchvision_stand_in():
            return pytest.importorskip("timm", reason="needs timm")
    except RuntimeError as error:
        pytest.skip(f"torchvision does not suit torch: {error}")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, request):
    if "hub" not in request.fixturenames:
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something wants the network"))


@pytest.fixture(scope="module")
def photographs():
    """Sixty pieces of smooth noise, 60 x 70, coloured."""
    noise = torch.rand(60, 3, 15, 18, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(60, 70), mode="bicubic").clamp(0, 1)
    return (smooth.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def of_transformers(kind, folder, **pixels):
    """Save a network and return the part of it that looks at images."""
    torch.manual_seed(1)
    name, config, prefix, _ = KINDS[kind]
    whole = getattr(transformers, name)(config()).eval()
    with torch.no_grad():
        for part in whole.parameters():  # some begin as zeros or ones, which hides mistakes
            part.add_(torch.randn_like(part) * 0.05)
    transformers.utils.logging.disable_progress_bar()
    whole.save_pretrained(folder)
    if pixels:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return whole.get_submodule(prefix.rstrip("."))


def of_timm(timm, name, folder, **more):
    """Save a network as timm does and return it; its classifier is saved too."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    network = timm.create_model(name, img_size=64, num_classes=7) if "vit" in name else timm.create_model(name)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    told = {"input_size": [3, 64, 64], "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "num_classes": 7}
    (folder / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": told, **more}))
    return network.eval()


def grids_of(folder, images):
    """Return layer -> grid of the network in a folder."""
    network = pretrained(str(folder))
    network.load_weights(str(folder))
    with evaluating(network), recorded([network.get_submodule(name) for name in network.layers]) as grids:
        network(images)
    return dict(zip(network.layers, grids, strict=True))


def by_hand(tokens, before, height, width):
    """Tokens (N, T, F) as a grid, patch by patch."""
    assert tokens.shape[1] == before + height * width
    grid = torch.empty(len(tokens), tokens.shape[2], height, width)
    for row in range(height):
        for column in range(width):
            grid[:, :, row, column] = tokens[:, before + row * width + column]
    return grid


@pytest.mark.parametrize("kind", KINDS)
def test_grids_are_the_hidden_states_of_the_network_itself(kind, tmp_path):
    mean, deviation, before = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4), KINDS[kind][3]
    model = of_transformers(kind, tmp_path / "net", image_mean=mean, image_std=deviation)
    images = torch.rand(2, 3, 50, 70)
    grids = grids_of(tmp_path / "net", images)
    tokens = before > 0
    patch = {"dinov2": 14, "registers": 14}.get(kind, 8) if tokens else 1
    height, width = -(-50 // patch), -(-70 // patch)
    seen = torch.nn.functional.interpolate(images, (height * patch, width * patch), mode="bilinear", antialias=True)
    seen = (seen - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    arguments = {"interpolate_pos_encoding": True} if kind in ("vit", "clip") else {}
    with torch.no_grad():
        states = model(seen, output_hidden_states=True, **arguments).hidden_states
    if not tokens:
        assert list(grids) == ["stage1", "stage2", "stage3", "stage4"]
        for grid, state in zip(grids.values(), states[-4:], strict=True):
            torch.testing.assert_close(grid, state, rtol=1e-4, atol=1e-5)
        return
    assert list(grids) == ["block1", "block2", "block3", "block4"]
    norm = {"dinov3": "norm", "clip": "post_layernorm"}.get(kind, "layernorm")
    with torch.no_grad():
        for number in (1, 2, 3):
            expected = by_hand(getattr(model, norm)(states[number]), before, height, width)
            torch.testing.assert_close(grids[f"block{number}"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_TIMM)
def test_grids_of_timm_are_the_hidden_states_of_the_network_itself(timm, name, tmp_path):
    model = of_timm(timm, name, tmp_path / "net")
    images = torch.rand(2, 3, 60, 70)
    grids = grids_of(tmp_path / "net", images)
    if "vit" in name:
        larger = timm.create_model(name, img_size=(64, 80), num_classes=7).eval()
        state = timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), larger)
        larger.load_state_dict(state)
        model, images = larger, torch.nn.functional.interpolate(images, (64, 80), mode="bilinear", antialias=True)
        layers = dict(zip(grids, model.blocks, strict=True))
    else:
        names = (
            ("stages.0", "stages.1", "stages.2", "stages.3")
            if "convnext" in name
            else ("layer1", "layer2", "layer3", "layer4")
        )
        layers = {f"stage{number + 1}": model.get_submodule(one) for number, one in enumerate(names)}
    seen = (images - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    with torch.no_grad(), recorded(list(layers.values())) as outputs:
        model(seen)
        for name, output in zip(layers, outputs, strict=True):
            expected = output
            if output.ndim == 3:
                expected = by_hand(model.norm(output), model.num_prefix_tokens, 4, 5)
            torch.testing.assert_close(grids[name], expected, rtol=1e-3, atol=1e-4)


def test_position_encodings_are_interpolated_to_the_shape_of_the_image(tmp_path):
    """They depend on the row alone here, so that of an image without contents every column looks the same."""
    model = of_transformers("dinov2", tmp_path / "net")
    with torch.no_grad():
        ramp = torch.linspace(-2, 2, 4)[:, None, None].expand(4, 4, 32).reshape(1, 16, 32)
        model.embeddings.position_embeddings[:, 1:] = ramp * torch.randn(32)
    model.save_pretrained(tmp_path / "net")
    grid = grids_of(tmp_path / "net", torch.zeros(1, 3, 56, 84))["block4"]
    assert grid.shape == (1, 32, 4, 6)
    torch.testing.assert_close(grid, grid[:, :, :, :1].expand_as(grid), rtol=1e-3, atol=1e-3)
    steps = (grid[:, :, 1:, 0] - grid[:, :, :-1, 0]).norm(dim=1)
    assert steps.min() > 0.1


@pytest.mark.parametrize("kind", slow([*KINDS, *OF_TIMM], lambda kind: kind not in ("dinov2", "convnext", "test_vit")))
def test_a_screen_comes_back_to_the_bit_without_the_folder_or_a_hub(kind, photographs, tmp_path, request):
    folder = tmp_path / "net"
    if kind in OF_TIMM:
        own, prefix = of_timm(request.getfixturevalue("timm"), kind, folder), ""
    else:
        own, prefix = of_transformers(kind, folder), ""
    screen = recondite.fit(photographs, backbone=str(folder), **QUICK)
    network = screen.detector.backbone.network
    assert isinstance(network, Pretrained)
    assert screen.detector.backbone.layers == tuple(dict.fromkeys([*network.whole_layers, *network.place_layers]))
    mine, theirs = network.model.state_dict(), own.state_dict()
    assert {name for name in mine if not torch.equal(mine[name], theirs[prefix + name])} == set()
    scores = screen.detector.score(photographs, feature_score=True)
    assert scores.feature_score.shape == (60, 3, 60, 70)
    assert np.ptp(scores.feature_score[0]) > 0
    screen.save(tmp_path / "screen")
    shutil.rmtree(folder)
    again = recondite.load(tmp_path / "screen")
    found = again.predict(photographs).instance_score
    np.testing.assert_array_equal(found, scores.instance_score)
    for few in (1, 1, 3, 9):  # the second call with few images may take smaller batches
        np.testing.assert_array_equal(again.predict(photographs[:few]).instance_score, found[:few])


def test_the_layers_looked_at_are_chosen_by_depth_or_named(tmp_path):
    of_transformers("dinov2", tmp_path / "vit")
    of_transformers("resnet", tmp_path / "resnet")
    deep = replace_depth(tmp_path / "vit", 12)
    assert (deep.place_layers, deep.whole_layers) == (("block6", "block9"), ("block12",))
    shallow = replace_depth(tmp_path / "vit", 1)
    assert (shallow.place_layers, shallow.whole_layers) == (("block1",), ("block1",))
    stages = pretrained(str(tmp_path / "resnet"))
    assert (stages.place_layers, stages.whole_layers) == (("stage2", "stage3"), ("stage3", "stage4"))
    named = {"backbone": str(tmp_path / "vit"), "image_shape": (3, 70, 70), "latent_size": 4, "methods": ("padim",)}
    detector = build("features", **named, layers=("block1",), place_layers=("block2", "block4"))
    assert detector.backbone.layers == ("block1", "block2", "block4")
    assert detector.grid == (5, 5)
    with pytest.raises(InputError, match=r"no layer 'block5'.*block1, block2"):
        build("features", **named, layers=("block5",))
    with pytest.raises(InputError, match=r"units of backbone .* are known"):
        build("features", **named, units="unit")


def replace_depth(folder, depth):
    architecture = pretrained(str(folder)).architecture
    return pretrained("any", {**architecture, "config": {**architecture["config"], "num_hidden_layers": depth}})


def test_pixels_are_those_of_the_configuration_or_of_the_family(tmp_path):
    def pixels(kind, **told):
        of_transformers(kind, tmp_path / kind, **told)
        architecture = pretrained(str(tmp_path / kind)).architecture
        return architecture["mean"][0], architecture["deviation"][0]

    assert pixels("vit") == (0.5, 0.5)
    assert pixels("dinov2") == (0.485, 0.229)
    assert pixels("clip", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3]) == (0.1, 1)
    assert pixels("resnet", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3], do_normalize=False) == (0.0, 1.0)
    with pytest.raises(InputError, match="positive deviations"):
        pixels("dinov3", image_mean=[0, 0, 0], image_std=[1, 0, 1])


def changed(**values):
    return lambda found: found.update(values)


def config(**values):
    return lambda found: found["config"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(name="llama"), "has no .* 'llama'"),
        (changed(name="vit"), "cannot be built|tensor"),
        (changed(library="os"), "timm or transformers; got 'os'"),
        (changed(code="print()"), "expected an architecture with"),
        (changed(mean=[0.5, 0.5]), "three numbers as the mean"),
        (changed(deviation=[1, 1, 0]), "positive deviations"),
        (config(hidden_size=10**9), "ordinary size; got hidden_size"),
        (config(num_hidden_layers=10**6), "ordinary size; got num_hidden_layers"),
        (config(num_hidden_layers=64), "tensor"),
        (config(num_hidden_layers=True), "ordinary size"),
        (config(layer_norm_eps=[1e-6] * 9), "ordinary size"),
        (config(hidden_act="__import__"), "ordinary size; got hidden_act"),
        (config(num_attention_heads=5), "cannot be built|tensor"),
        (config(auto_map={"AutoModel": "evil.Evil"}), "ordinary size; got auto_map"),
        (config(hidden_size=48), "tensor"),
    ],
)
def test_a_manifest_with_another_architecture_is_refused(saved, change, words):
    edit(saved, lambda manifest: change(manifest["options"]["architecture"]))
    with pytest.raises(ArtifactError, match=words):
        recondite.load(saved)


@pytest.fixture(scope="module")
def made(photographs, tmp_path_factory):
    """A folder with a network, `net`, and a screen that was fitted on it, `screen`."""
    folder = tmp_path_factory.mktemp("made")
    of_transformers("dinov2", folder / "net")
    recondite.fit(photographs, backbone=str(folder / "net"), **QUICK).save(folder / "screen")
    return folder


@pytest.fixture
def saved(made, tmp_path):
    """Copies of both that a test may change; returns that of the screen."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "screen"


def test_an_architecture_of_timm_is_checked_too(timm, tmp_path):
    of_timm(timm, "test_vit", tmp_path / "net")
    known = pretrained(str(tmp_path / "net")).architecture
    assert checked(known) == known
    for change in ({"name": "hf-hub:lab/evil"}, {"name": "efficientnet_b0"}, {"config": {"img_size": 10**6}}):
        with pytest.raises(InputError, match=r"taken here|ordinary size"):
            checked({**known, **change})


def test_a_library_that_is_not_installed_is_named(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for act in (lambda: recondite.load(saved), lambda: build_on(tmp_path / "net")):
        with pytest.raises(InputError, match=r'^[^\n]*needs transformers[^\n]*pip install "recondite\[hf\]"$'):
            act()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r'needs timm[^\n]*pip install "recondite\[timm\]"$'):
        build_on("timm:resnet18")


def test_weights_that_another_version_of_the_library_names_otherwise_say_so(saved):
    edit(saved, lambda manifest: manifest["options"]["architecture"].update(version="4.1.0"))
    assert recondite.load(saved).detector.options.architecture["version"] == "4.1.0"
    edit(saved, lambda manifest: manifest["options"]["architecture"]["config"].update(num_hidden_layers=5))
    with pytest.raises(
        ArtifactError, match=rf"tensor .*\(made with transformers 4.1.0; .* {transformers.__version__}\)"
    ):
        recondite.load(saved)


def build_on(backbone, **options):
    return build("features", image_shape=(3, 60, 70), backbone=str(backbone), latent_size=4, **options)


@pytest.mark.parametrize(
    ("kind", "name"), [("ConvNextModel", "ConvNextConfig"), ("ConvNextV2Model", "ConvNextV2Config")]
)
def test_a_convolutional_network_may_have_fewer_stages(kind, name, tmp_path):
    torch.manual_seed(1)
    config = getattr(transformers, name)(hidden_sizes=[8, 12, 16], depths=[1, 1, 2], num_stages=3)
    network = getattr(transformers, kind)(config).eval()
    network.save_pretrained(tmp_path)
    x = torch.rand(1, 3, 64, 96)
    found, before = grids_of(tmp_path, x), pretrained(str(tmp_path))
    assert list(found) == ["stage1", "stage2", "stage3"]
    with torch.no_grad():
        expected = network((x - before.mean) / before.deviation, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found["stage3"], expected[-1])


def test_a_vision_transformer_of_images_that_are_not_square_is_refused_in_words(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**{**VIT, "image_size": [32, 64]})).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"expected square patches and images .*; got \[32, 64\]"):
        build_on(tmp_path)


def test_what_is_no_backbone_is_refused_in_words(tmp_path, photographs):
    with pytest.raises(InputError, match=r"lite0, lite1, lite2, timm:NAME.*got 'lite3'; did you mean 'lite"):
        build_on("lite3")
    with pytest.raises(InputError, match="expected hf:ORG/NAME or hf:ORG/NAME@REVISION; got 'hf:dinov2'"):
        build_on("hf:dinov2")
    net = tmp_path / "net"
    of_transformers("dinov2", net)
    with pytest.raises(InputError, match=r"config.json cannot be read"):
        build_on(tmp_path)
    (net / "model.safetensors").rename(net / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"expected model.safetensors in .*other formats"):
        recondite.fit(photographs, backbone=str(net), **QUICK)
    of_transformers("registers", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", net)
    told = json.loads((net / "config.json").read_text())
    (net / "config.json").write_text(json.dumps({**told, "num_hidden_layers": 6}))
    with pytest.raises(InputError, match=r"not those of the network: .* tensors are missing"):
        recondite.fit(photographs, backbone=str(net), **QUICK)
    (net / "model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="not those of the network"):
        recondite.fit(photographs, backbone=str(net), **QUICK)
    for words, change in {
        "expected a model_type among .*dinov2.*got 'llama'": {"model_type": "llama"},
        "ordinary size; got hidden_size": {"hidden_size": 10**6},
        "ordinary size; got num_channels": {"num_channels": 4},
        "is not the configuration|cannot be built|ordinary size": {"num_hidden_layers": "many"},
    }.items():
        (net / "config.json").write_text(json.dumps({**told, **change}))
        with pytest.raises(InputError, match=words):
            build_on(net)


def test_names_and_folders_of_timm_are_refused_in_words(timm, tmp_path):
    with pytest.raises(InputError, match="did you mean timm:resnet18"):
        build_on("timm:resnt18")
    with pytest.raises(InputError, match=r"did you mean .*timm:resnet18.a1_in1k"):
        build_on("timm:resnet18.a1_in2k")
    with pytest.raises(InputError, match="no vision transformer"):
        build_on("timm:efficientnet_b0")
    of_timm(timm, "test_vit", tmp_path / "net", model_args={"depth": 99})
    with pytest.raises(InputError, match="expected model_args of img_size only"):
        build_on(tmp_path / "net")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants
    from huggingface_hub import file_download

    for name, value in {
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_network_on_the_hub_is_fetched_once_and_without_its_pickles(hub, photographs, tmp_path, monkeypatch):
    of_transformers("dinov2", tmp_path / "net")
    commit = hub.commit("lab/tiny", {**files_of(tmp_path / "net"), "pytorch_model.bin": b"pickle", "evil.py": b"1/0"})
    hub.tags["v1"] = commit
    named = recondite.fit(photographs, backbone="hf:lab/tiny@v1", **QUICK)
    assert named.detector.options.backbone == "hf:lab/tiny@v1"
    assert {"config.json", "model.safetensors"} == set(hub.fetched())
    assert len(hub.fetched()) == 2
    local = recondite.fit(photographs, backbone=str(tmp_path / "net"), **QUICK)
    np.testing.assert_array_equal(named.predict(photographs).instance_score, local.predict(photographs).instance_score)
    with pytest.raises(InputError, match=r"^hf:lab/nothing: no such repository"):
        build_on("hf:lab/nothing")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = build_on("hf:lab/tiny@v1").fit(photographs[:20], validation=None)
    torch.testing.assert_close(again.backbone.state_dict(), named.detector.backbone.state_dict(), rtol=0, atol=0)


def test_timm_names_come_from_the_hub_and_one_that_is_away_is_said_so(hub, timm, photographs, tmp_path, monkeypatch):
    of_timm(timm, "test_convnext", tmp_path / "net")
    hub.commit("timm/test_convnext.r160_in1k", files_of(tmp_path / "net"))
    screen = recondite.fit(photographs, backbone="timm:test_convnext", **QUICK)
    assert screen.detector.options.architecture["mean"] == [0.4, 0.5, 0.6]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"^timm:test_vit: [^\n]*give its folder as the backbone$"):
        build_on("timm:test_vit")


def test_the_command_line_takes_a_backbone_by_name(photographs, tmp_path, capsys):
    net, normal = tmp_path / "net", tmp_path / "normal"
    of_transformers("dinov2", net)
    normal.mkdir()
    for number, image in enumerate(photographs):
        Image.fromarray(image).save(normal / f"{number:02d}.png")
    flags = ["--detector", "features", "--alpha", "0.1", "--latent-size", "4", "--image-size", "60x70"]
    place = ["--methods", "padim", "--score", "padim"]
    assert main(["fit", str(normal), "-o", str(tmp_path / "screen"), "--backbone", str(net), *flags, *place]) == 0
    assert "hidden_size" not in capsys.readouterr().out
    expected = recondite.fit(normal, backbone=str(net), methods=("padim",), **QUICK).predict(normal)
    found = recondite.load(tmp_path / "screen").predict(normal)
    np.testing.assert_array_equal(found.instance_score, expected.instance_score)
    assert main(["fit", str(normal), "-o", str(tmp_path / "other"), "--backbone", "lite9", *flags]) != 0
    assert "did you mean" in capsys.readouterr().err
    assert main(["fit", "--detector", "features", "--help"]) == 0
    text = capsys.readouterr().out
    assert "timm:NAME" in text
    assert "--architecture" not in text


def test_a_loaded_detector_is_fitted_again_with_the_weights_it_has(saved, photographs, tmp_path):
    shutil.rmtree(tmp_path / "net")
    detector = recondite.load(saved).detector
    before = detector.score(photographs).instance_score
    detector.fit(photographs[:40], validation=None)
    again = detector.score(photographs).instance_score
    assert not np.array_equal(before, again)
    assert np.isfinite(again).all()


def test_an_architecture_given_in_advance_does_not_do_without_the_weights(saved, photographs, tmp_path):
    architecture = recondite.load(saved).detector.options.architecture
    detector = build_on(tmp_path / "net", architecture=architecture)
    detector.fit(photographs[:40], validation=None)
    mine, theirs = detector.backbone.state_dict(), recondite.load(saved).detector.backbone.state_dict()
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    shutil.rmtree(tmp_path / "net")
    with pytest.raises(InputError, match="a folder that is there"):
        build_on(tmp_path / "net", architecture=architecture).fit(photographs[:40], validation=None)


@pytest.mark.slow
def test_a_screen_on_a_vision_transformer_is_exported(saved, photographs, tmp_path):
    pytest.importorskip("onnxruntime")
    screen = recondite.load(saved).with_score("error")
    export_onnx(screen, tmp_path / "graph")
    found = recondite.load(tmp_path / "graph").predict(photographs).instance_score
    np.testing.assert_allclose(found, screen.predict(photographs).instance_score, rtol=1e-3)


def test_every_family_is_tried_here(tmp_path):
    names = {pretrained_name(kind, tmp_path / kind) for kind in KINDS}
    assert names == set(FAMILIES)
    options = build_on(tmp_path / "vit").options
    assert replace(options, backbone="elsewhere").architecture == options.architecture


def pretrained_name(kind, folder):
    of_transformers(kind, folder)
    return pretrained(str(folder)).architecture["name"]
