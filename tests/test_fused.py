"""Networks made ready compute what they computed before, for any number of images the same."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import recondite
from recondite.data.datasets import nameless
from recondite.detectors import build
from recondite.detectors.runner import SMALL_BATCHES
from recondite.errors import ArtifactError, InputError
from recondite.networks.alad import make_alad_networks
from recondite.networks.autoencoders import make_network
from recondite.networks.fused import Packed, ready_network, weighted_layers, with_plain_convolutions
from recondite.screen.export import export_onnx

pytestmark = pytest.mark.arithmetic
FULL = 64


def with_used_norms(network: nn.Module) -> nn.Module:
    """Return the network in eval mode, its batch norms with statistics that are not 0 and 1, its weights not small."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network.eval()


def every_network() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    mnist = make_network("mnist-microscope", (1, 28, 28), 20, 32, 20)
    photographs = make_network("cats-dogs-screen", (3, 32, 32), 1000, 32, 1000)
    odd = make_network("auto", (3, 17, 30), 8, 8, 16)
    vectors = make_network("auto", (12,), 4, 8, 8)
    alad = make_alad_networks((3, 32, 32), 16, 8)
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "mnist encoder": (mnist.encoder, (1, 28, 28)),
        "mnist decoder": (mnist.decoder, (20,)),
        "photographs encoder": (photographs.encoder, (3, 32, 32)),
        "photographs decoder": (photographs.decoder, (1000,)),
        "odd encoder": (odd.encoder, (3, 17, 30)),
        "odd decoder": (odd.decoder, (8,)),
        "vectors encoder": (vectors.encoder, (12,)),
        "vectors decoder": (vectors.decoder, (4,)),
        "alad encoder": (with_used_norms(alad.encoder), (3, 32, 32)),
        "alad generator": (with_used_norms(alad.generator), (16,)),
    }
    for stride, padding, extra in [(2, 1, 0), (2, 0, 0), (2, 1, 1), (4, 0, 0), (1, 1, 0)]:
        for channels in (1, 3, 20):
            layer = nn.ConvTranspose2d(5, channels, 4, stride, padding, extra)
            found[f"transposed {stride} {padding} {extra} {channels}"] = nn.Sequential(layer), (5, 6, 7)
    found["grouped"] = nn.Sequential(nn.Conv2d(6, 4, (3, 5), (1, 2), (0, 2), (2, 1), 2), nn.LeakyReLU(0.3)), (6, 9, 11)
    found["reflecting"] = nn.Sequential(nn.Conv2d(2, 4, 3, 1, "same", padding_mode="reflect"), nn.ReLU()), (2, 8, 8)
    dense = nn.Sequential(nn.Linear(9, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), nn.Sequential(nn.Linear(6, 3)))
    found["capped"] = (
        nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Linear(4, 4), nn.Hardtanh(-0.1, 0.2)),
        (3, 8, 8),
    )
    found["dense norm"] = with_used_norms(dense), (9,)
    return found


@pytest.mark.parametrize("name", every_network())
def test_a_ready_network_computes_the_same(name: str) -> None:
    network, shape = every_network()[name]
    network.eval()
    x = torch.rand(FULL, *shape, generator=torch.Generator().manual_seed(2)) + 0.1
    with torch.no_grad():
        ready = ready_network(network, torch.zeros(FULL, *shape))
        expected, found = network(x), ready(x)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert not torch.equal(expected, torch.zeros_like(expected))


@pytest.mark.parametrize("name", every_network())
def test_spread_convolutions_compute_the_same(name: str) -> None:
    network, shape = every_network()[name]
    network.eval()
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(2))
    plain = with_plain_convolutions(network)
    with torch.no_grad():
        expected = network(x)
        assert (plain(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    narrow = [part for part in network.modules() if isinstance(part, nn.ConvTranspose2d) and part.out_channels == 1]
    if name == "transposed 2 1 0 1":
        assert narrow
        assert not any(isinstance(part, nn.ConvTranspose2d) for part in plain.modules())


def test_everything_with_weights_is_packed_with_what_follows_it() -> None:
    network, shape = every_network()["alad generator"]
    with torch.no_grad():
        ready = ready_network(network, torch.zeros(FULL, *shape))
    kinds = [type(part).__name__ for part in ready.children()]
    assert kinds == ["Unflatten", *["Packed"] * 4, "Tanh"]
    pairs = list(weighted_layers(network))  # type: ignore[arg-type]
    assert sum(norm is not None and activation is not None for _, norm, activation in pairs) == 3


def test_spectral_norm_is_folded_as_in_eval_mode() -> None:
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    network = nn.Sequential(layer, nn.ReLU()).eval()
    x = torch.rand(FULL, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(ready_network(network, x)(x), network(x), atol=1e-6)


def test_modules_of_other_kinds_stay_what_they_are() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.layer.weight

    own = Own()
    assert ready_network(own, torch.zeros(2, 4)) is own
    with torch.no_grad():
        inside = ready_network(nn.Sequential(own, nn.Linear(4, 2)), torch.zeros(2, 4))
    assert next(inside.children()) is own
    assert isinstance(list(inside.children())[1], Packed)


def fitted(**options: object) -> Any:
    detector = build("vae", image_shape=(3, 16, 16), latent_size=8, width=8, **options)
    images = np.random.default_rng(0).random((40, 3, 16, 16), dtype=np.float32)
    return detector.fit(images, validation=0, epochs=1, batch_size=20)


def test_small_batches_give_the_bits_of_a_full_one_and_are_used() -> None:
    detector = fitted()
    images = np.random.default_rng(1).random((FULL, 3, 16, 16), dtype=np.float32)
    full = detector.score_batch(nameless(images)).instance_score
    for count in (1, 2, 5, 31, 33):
        for _ in range(3):
            few = detector.score_batch(nameless(images[:count])).instance_score
            assert few.tobytes() == full[:count].tobytes()
    assert list(detector.runner.sizes.known.values()) == [SMALL_BATCHES]


def test_maps_are_shuffled_as_torch_does() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(5, 3, 4, 2, 1)).eval()
    x = torch.rand(4, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ready = ready_network(network, x)
        assert ready(x).is_contiguous()
        assert torch.allclose(ready(x), network(x), atol=1e-6)


def test_the_draws_of_few_images_are_decoded_at_once_and_the_score_is_the_same() -> None:
    detector = fitted(draws=3)
    images = np.random.default_rng(1).random((FULL, 3, 16, 16), dtype=np.float32)
    seen: list[int] = []
    detector.decoder.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    x = torch.from_numpy(images)
    with torch.no_grad():
        many, two = (detector.measure(detector.scaled(some), "squared_error") for some in (x, x[:2]))
    assert seen == [FULL, FULL, FULL, 6]
    torch.testing.assert_close(two.feature_scores, many.feature_scores[:2])
    torch.testing.assert_close(two.reconstruction, many.reconstruction[:2])


def test_a_size_that_gives_other_bits_is_not_used() -> None:
    detector = fitted()
    sizes = []

    def by_batch(_ready: object, x: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(x))
        return {"": x.flatten(1).sum(1) * (1.5 if len(x) == 8 else 1)}

    rows = np.ones((5, 3, 16, 16), dtype=np.float32)
    results = [detector.run(rows, by_batch, "by batch")[""] for _ in range(3)]
    assert all(np.array_equal(result, results[0]) for result in results)
    assert sizes[0] == FULL
    assert sizes[-1] == 32


@pytest.mark.parametrize("change", ["in place", "loaded", "fitted again"])
def test_changed_weights_change_scores(change: str) -> None:
    detector, other = fitted(), fitted(initial_sigma=0.3)
    images = np.random.default_rng(1).random((4, 3, 16, 16), dtype=np.float32)
    before = detector.score(images).instance_score
    if change == "in place":
        with torch.no_grad():
            next(detector.decoder.parameters()).add_(0.1)
    elif change == "loaded":
        detector.load_state_dict(other.state_dict())
    else:
        detector.fit(1 - images, validation=0, epochs=1)
    assert not np.array_equal(detector.score(images).instance_score, before)
    fresh = copy.deepcopy(detector)
    assert np.array_equal(fresh.score(images).instance_score, detector.score(images).instance_score)


def test_scoring_leaves_the_detector_as_it_was() -> None:
    detector = fitted()
    names = list(detector.state_dict())
    detector.train()
    detector.score(np.zeros((3, 3, 16, 16), dtype=np.float32))
    assert detector.training
    assert list(detector.state_dict()) == names
    assert all(type(part) is not Packed for part in detector.modules())


@pytest.mark.filterwarnings("ignore:bfloat16 takes")  # on a processor without it
def test_bfloat16_scores_are_near_and_calibrated_in_bfloat16(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((300, 3, 16, 16), dtype=np.float32)
    options = {"detector": "autoencoder", "epochs": 1, "latent_size": 8, "width": 8}
    plain = recondite.fit(images, **options)
    half = recondite.fit(images, **options, scoring_precision="bf16")
    assert half.detector.state_dict()["decoder.0.weight"].equal(plain.detector.state_dict()["decoder.0.weight"])
    one, other = plain.predict(images).instance_score, half.predict(images).instance_score
    assert not np.array_equal(one, other)
    assert np.abs(one - other).max() < 0.05 * one.std() + 0.02 * one.mean()
    half.save(tmp_path / "half")
    loaded = recondite.load(tmp_path / "half")
    assert np.array_equal(loaded.predict(images[:5]).instance_score, other[:5])
    manifest = json.loads((tmp_path / "half" / "manifest.json").read_text())
    assert manifest["options"]["scoring_precision"] == "bf16"


@pytest.mark.filterwarnings("ignore:bfloat16 takes")  # on a processor without it
def test_a_bfloat16_screen_is_refused_where_its_scores_are_others(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((300, 3, 16, 16), dtype=np.float32)
    screen = recondite.fit(images, detector="autoencoder", epochs=1, latent_size=8, width=8, scoring_precision="bf16")
    moved = [score * 1.01 for score in screen.facts["bfloat16 probe"]]
    replace(screen, facts={**screen.facts, "bfloat16 probe": moved}).save(tmp_path / "moved")
    with pytest.raises(ArtifactError, match="bfloat16"):
        recondite.load(tmp_path / "moved")
    with pytest.raises(InputError, match="bfloat16"):
        export_onnx(screen, tmp_path / "graph")
