import math

import pytest
import torch
from torch import nn

from recondite.errors import InputError
from recondite.networks.autoencoders import check_network, make_network, start_by_he
from recondite.torch_state import seeded


@pytest.mark.parametrize(
    "shape",
    [
        (1, 8, 8),
        (3, 32, 32),
        (1, 28, 28),
        (3, 17, 23),
        (2, 9, 40),
        (5, 8, 131),
        (1, 7 * 13, 64),
        (3, 255, 129),
        (1, 8, 512),
    ],
)
def test_any_size_comes_back_as_it_was(shape):
    network = make_network("auto", shape, latent_size=6, width=2, encoder_outputs=12)
    encoded = network.encoder(torch.rand(2, *shape))
    assert encoded.shape == (2, 12)
    assert network.decoder(encoded[:, :6]).shape == (2, *shape)


def test_vectors_get_dense_networks():
    network = make_network("auto", (9,), latent_size=2, width=4, encoder_outputs=2)
    assert network.decoder(network.encoder(torch.rand(3, 9))).shape == (3, 9)


def layers(module):
    """Return (kind, in, out, kernel, stride) of each layer with weights, and the names of activations."""
    table = []
    for layer in module:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            table.append(
                (type(layer).__name__, layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
            )
        elif isinstance(layer, nn.Linear):
            table.append(("Linear", layer.in_features, layer.out_features))
        elif not isinstance(layer, nn.Flatten | nn.Unflatten):
            table.append(type(layer).__name__)
    return table


def parameters(table):
    """Count weights and biases from a layer table."""
    return sum(
        row[1] * row[2] * (row[3] ** 2 if len(row) > 3 else 1) + row[2] for row in table if isinstance(row, tuple)
    )


def conv(*row):
    return ("Conv2d", *row)


def up(*row):
    return ("ConvTranspose2d", *row)


REFERENCES = {
    "mnist-microscope": (
        (1, 28, 28),
        20,
        20,
        [conv(1, 16, 3, 2), "ReLU", conv(16, 32, 3, 2), "ReLU", conv(32, 64, 7, 1), ("Linear", 64, 20)],
        [("Linear", 20, 64), up(64, 32, 7, 1), "ReLU", up(32, 16, 3, 2), "ReLU", up(16, 1, 3, 2), "Sigmoid"],
        213_013,
    ),
    "cats-dogs-screen": (
        (3, 32, 32),
        1000,
        1000,
        [
            *(conv(3, 16, 3, 1), "ReLU", conv(16, 16, 3, 1), "ReLU", conv(16, 32, 3, 2), "ReLU"),
            *(conv(32, 32, 3, 1), "ReLU", conv(32, 64, 3, 2), "ReLU", conv(64, 64, 3, 1), "ReLU"),
            *(("Linear", 4096, 1000), "ReLU"),
        ],
        [
            *(("Linear", 1000, 4096), "ReLU", up(64, 64, 3, 1), "ReLU", up(64, 32, 3, 2), "ReLU"),
            *(up(32, 32, 3, 1), "ReLU", up(32, 16, 3, 2), "ReLU", up(16, 16, 3, 1), "ReLU", up(16, 3, 3, 1)),
        ],
        8_341_195,
    ),
    "cifar10-vae": (
        (3, 32, 32),
        1024,
        2048,
        [conv(3, 64, 4, 2), "ReLU", conv(64, 128, 4, 2), "ReLU", conv(128, 512, 4, 2), "ReLU", ("Linear", 8192, 2048)],
        [("Linear", 1024, 2048), up(128, 256, 4, 2), "ReLU", up(256, 64, 4, 2), "ReLU", up(64, 3, 4, 2), "Sigmoid"],
        20_851_715,
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_networks_have_their_layers_and_parameters(name):
    shape, latent, outputs, down, back, count = REFERENCES[name]
    network = make_network(name, shape, latent, width=1, encoder_outputs=outputs)
    assert layers(network.encoder) == down
    assert layers(network.decoder) == back
    made = sum(p.numel() for module in (network.encoder, network.decoder) for p in module.parameters())
    assert made == parameters(down + back) == count
    assert network.decoder(torch.zeros(2, latent)).shape == (2, *shape)
    with pytest.raises(InputError, match="is for images"):
        make_network(name, (3, 64, 64), latent, width=1, encoder_outputs=outputs)


def glorot(layer, outputs=None):
    """Return the bound of Glorot's uniform start: sqrt(6 / (numbers in + numbers out)), windows counted."""
    first, second, *window = layer.weight.shape
    return (6 / ((second + (outputs or first)) * math.prod(window))) ** 0.5


def assert_uniform(weight, bound):
    assert 0.97 * bound < weight.abs().max() <= bound
    assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_cats_dogs_network_starts_as_its_recipe_says():
    with seeded(0):
        network = make_network("cats-dogs-screen", (3, 32, 32), 1000, 1, 1000)
    assert (network.low, network.high) == (-1.0, 1.0)
    for layer in [*network.encoder, *network.decoder]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert torch.all(layer.bias == 0.01)
            assert_uniform(layer.weight, glorot(layer))
        elif isinstance(layer, nn.ConvTranspose2d):  # torch's own start: within 1 / sqrt(numbers in)
            bound = (layer.weight.shape[1] * 9) ** -0.5
            assert_uniform(layer.weight, bound)
            assert layer.bias.abs().max() <= bound
            assert layer.bias.unique().numel() == layer.bias.numel()


def test_the_cifar10_network_starts_as_keras_would():
    with seeded(0):
        network = make_network("cifar10-vae", (3, 32, 32), 1024, 1, 2048)
    for layer in [*network.encoder, *network.decoder]:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            assert not layer.bias.any()
            # Mean and log-variance are two dense layers of 1,024 there.
            assert_uniform(layer.weight, glorot(layer, 1024 if layer is network.encoder[-1] else None))


def test_a_start_by_he_keeps_the_size_of_numbers():
    relu = nn.ReLU()
    torch.manual_seed(0)
    network = nn.Sequential(
        *(
            nn.Conv2d(3, 64, 4, 2, 1),
            relu,
            nn.Conv2d(64, 64, 3, 1, 1),
            relu,
            nn.Flatten(),
            nn.Linear(64 * 256, 512),
            relu,
        ),
        *(nn.Linear(512, 1024), relu, nn.Unflatten(1, (64, 4, 4)), nn.ConvTranspose2d(64, 64, 4, 2, 1), relu),
    )
    x = torch.randn(16, 3, 32, 32)
    before = network(x).square().mean()
    start_by_he(network)
    assert 0.3 < network(x).square().mean() < 3
    assert before < 0.03


def test_networks_that_do_not_fit_are_refused_in_words():
    encoder, decoder = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
        nn.Sequential(nn.Linear(3, 64), nn.Unflatten(1, (1, 8, 8))),
    )
    check_network(encoder, decoder, (1, 8, 8), 3, 3)
    with pytest.raises(InputError, match=r"expected an encoder \(1, 1, 8, 8\) -> \(1, 4\)"):
        check_network(encoder, decoder, (1, 8, 8), 3, 4)
    with pytest.raises(InputError, match="expected a decoder"):
        check_network(encoder, nn.Linear(3, 64), (1, 8, 8), 3, 3)
    with pytest.raises(InputError, match="does not take an input"):
        check_network(nn.Linear(5, 3), decoder, (1, 8, 8), 3, 3)
