"""Convolutions with small maps give the same as products of matrices, and so do their gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recondite.detectors import build
from recondite.networks import products
from recondite.networks.products import small_maps_as_products


def results(layer: nn.Conv2d, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the output, and the gradients of image, weight and bias."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    out = layer(x)
    (out * torch.arange(out.numel()).view(out.shape).cos()).sum().backward()
    return [out.detach(), *(value.grad for value in (x, *layer.parameters()) if value.grad is not None)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return where each product leaves a mark."""
    made: list[int] = []
    apply = products._Columns.apply
    monkeypatch.setattr(products._Columns, "apply", lambda *given: made.append(1) or apply(*given))
    return made


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "side", "bias"),
    [(4, 2, 1, 8, True), (4, 2, 1, 7, False), (3, 1, 1, 3, True), (3, 2, 0, 8, True), (2, 3, 0, 12, False)],
)
def test_products_give_outputs_and_gradients_of_the_convolution(
    kernel: int, stride: int, padding: int, side: int, bias: bool, calls: list[int]
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 256, kernel, stride, padding, bias=bias)
    x = torch.randn(3, 128, side, side + 1)
    plain = results(layer, x)
    assert not calls
    with small_maps_as_products(nn.Sequential(layer)):
        found = results(layer, x)
        assert calls
    assert len(found) == len(plain) == 3 + bias
    for one, other in zip(found, plain, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()
    assert "forward" not in vars(layer)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(128, 256, 4, 2, 1), (2, 128, 16, 16)),
        (nn.Conv2d(128, 256, 4, 2, 1), (128, 8, 8)),
        (nn.Conv2d(64, 256, 4, 2, 1), (2, 64, 8, 8)),
        (nn.Conv2d(128, 256, 4, 2, 1, groups=2), (2, 128, 8, 8)),
        (nn.Conv2d(128, 256, 4, 2, 1, padding_mode="reflect"), (2, 128, 8, 8)),
        (nn.Conv2d(128, 256, 3, padding="same"), (2, 128, 4, 4)),
    ],
)
def test_others_stay_convolutions(layer: nn.Conv2d, shape: tuple[int, ...], calls: list[int]) -> None:
    x = torch.randn(shape)
    with torch.no_grad(), small_maps_as_products(layer):
        assert layer(x).shape
    assert not calls


def test_what_somebody_put_in_the_place_of_forward_stays() -> None:
    layer: Any = nn.Conv2d(128, 256, 4, 2, 1)
    layer.forward = own = lambda x: x
    with small_maps_as_products(layer):
        assert layer.forward is own
    assert layer.forward is own


def test_training_uses_them(calls: list[int]) -> None:
    images = np.random.default_rng(0).random((8, 1, 16, 16), dtype=np.float32)
    encoder = nn.Sequential(
        nn.Conv2d(1, 128, 2, 2), nn.ReLU(), nn.Conv2d(128, 256, 2, 2), nn.Flatten(), nn.Linear(4096, 4)
    )
    decoder = nn.Sequential(nn.Linear(4, 256), nn.Unflatten(1, (1, 16, 16)))
    detector = build("autoencoder", image_shape=(1, 16, 16), latent_size=4, encoder=encoder, decoder=decoder)
    detector.fit(images, validation=None, epochs=1, batch_size=4)
    assert len(calls) >= 2
    assert np.isfinite(detector.score(images).instance_score).all()
