"""Numbers of the variational autoencoder that its loss and its start rest on."""

import math

import numpy as np
import pytest
import torch

from recondite import build
from recondite.detectors.inside import Inside


def small(shape=(1, 8, 8), **options):
    return build("vae", image_shape=shape, latent_size=3, width=4, **options).eval()


def test_sigma_has_a_smallest_value():
    detector = small()
    for given, expected in ((-9.0, -6.0), (-6.5, -6.0), (-5.5, -5.5), (1.0, 1.0)):
        detector.log_sigma.data.fill_(given)
        found = detector._negative_log_likelihood(torch.tensor([0.0, 2.0]))
        scale = 2 * math.exp(2 * expected)
        constant = expected + math.log(2 * math.pi) / 2
        np.testing.assert_allclose(found.detach(), [constant, constant + 2 / scale], rtol=1e-5)


def test_a_start_by_he_has_a_narrow_posterior_and_faint_pixels():
    for shape in ((1, 8, 8), (6,)):
        plain, he = small(shape), small(shape, initial_weights="he")
        layers = [
            [layer for layer in one.encoder.modules() if isinstance(layer, torch.nn.Linear)][-1] for one in (plain, he)
        ]
        if layers[1].bias is not None:
            assert layers[1].bias[3:].tolist() == [-4.0] * 3
            assert layers[1].bias[:3].abs().max() < 1
        spreads = (layers[1].weight[3:].std() / layers[1].weight[:3].std()).item()
        assert spreads == pytest.approx(0.1, rel=0.3)
    pixels = [layer for layer in he.decoder.modules() if isinstance(layer, torch.nn.Linear)][-1]  # of the vectors
    assert pixels.weight.std().item() == pytest.approx(0.5 * (2 / pixels.in_features) ** 0.5, rel=0.3)


@pytest.mark.parametrize("shared", [True, False])
def test_the_elbo_of_a_region_is_the_sum_over_it(shared):
    detector, x = small(), torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 1:7] = True
    masks = torch.from_numpy(mask)[None].repeat(3, 1, 1)
    masks[1, 0] = True
    inside = Inside(mask) if shared else Inside(None, masks)
    with torch.no_grad():
        found = detector.measure(x, "elbo", inside)
        whole = detector.measure(x, "elbo")
    counted = torch.from_numpy(mask)[None].expand(3, 8, 8) if shared else masks
    likelihood = (found.feature_scores[:, 0].double() * counted).flatten(1).sum(1)
    divergence = whole.instance_scores - whole.feature_scores.double().flatten(1).sum(1)
    torch.testing.assert_close(found.instance_scores.double(), likelihood + divergence, rtol=1e-4, atol=1e-3)
