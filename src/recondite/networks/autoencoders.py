"""Encoders and decoders used by more than one detector: general ones for any size, and three reference networks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from recondite.detector_options import NetworkName
from recondite.errors import InputError
from recondite.networks.hooks import evaluating


@dataclass(frozen=True)
class Network:
    """An encoder (N, *shape) -> (N, outputs), a decoder (N, latent) -> (N, *shape), and the pixel range between them.

    Args:
        low, high: what pixels 0 and 1 become before the encoder sees them.
    """

    encoder: nn.Module
    decoder: nn.Module
    low: float = 0.0
    high: float = 1.0


def make_network(
    name: NetworkName, shape: tuple[int, ...], latent_size: int, width: int, encoder_outputs: int
) -> Network:
    """Build a network by name; "auto" is convolutional for images and dense for vectors.

    Args:
        name: "auto", or a reference network, which has one fixed shape and latent size.
        shape: (C, H, W) or (D,).
        latent_size: D, what the decoder takes.
        width: channels of the first layer ("auto" for images) or a quarter of the units of a hidden layer (vectors).
        encoder_outputs: what the encoder gives: D, or 2 D for a mean and a log-variance.

    Raises:
        InputError: a reference network is asked for another shape or latent size.
    """
    if name == "auto":
        if len(shape) == 1:
            return _dense_network(shape[0], latent_size, 4 * width, encoder_outputs)
        return _conv_network(shape, latent_size, width, encoder_outputs)
    needed_shape, needed_latent, make = _REFERENCES[name]
    if shape != needed_shape or latent_size != needed_latent:
        raise InputError(
            f"network {name!r} is for images {needed_shape} and latent_size {needed_latent}; "
            f"got {shape} and {latent_size}"
        )
    return make(encoder_outputs)


def start_by_he(network: nn.Module) -> None:
    """Draw the weights of a network anew, such that numbers keep their size on their way through its ReLUs.

    Biases begin at zero. Source: He et al. 2015, arXiv 1502.01852; in a transposed convolution only every `stride`-th
    tap of a side meets an input.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            inputs = layer.weight[0].numel()
            if isinstance(layer, nn.ConvTranspose2d):
                inputs = layer.in_channels * prod(layer.kernel_size) // (layer.groups * prod(layer.stride))
            nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _conv_network(shape: tuple[int, ...], latent_size: int, width: int, encoder_outputs: int) -> Network:
    """Halve each side until it is at most 7, doubling the channels up to eightfold; the decoder mirrors it."""
    sizes, channels = [(shape[1], shape[2])], [shape[0]]
    while max(sizes[-1]) > 7:
        sizes.append((_halved(sizes[-1][0]), _halved(sizes[-1][1])))
        channels.append(min(width * 2 ** (len(channels) - 1), 8 * width))
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    for level in range(1, len(sizes)):
        (tall, wide), (low, narrow) = sizes[level - 1], sizes[level]
        stride = (2 if tall > 7 else 1, 2 if wide > 7 else 1)
        # A transposed convolution of stride 2 may end on an odd or an even side; this picks the side that was there.
        extra = (tall - (low - 1) * stride[0] - 1, wide - (narrow - 1) * stride[1] - 1)
        down += [nn.Conv2d(channels[level - 1], channels[level], 3, stride, 1), nn.ReLU()]
        up = [nn.ReLU(), nn.ConvTranspose2d(channels[level], channels[level - 1], 3, stride, 1, extra), *up]
    flat = channels[-1] * prod(sizes[-1])
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, encoder_outputs))
    unflatten = nn.Unflatten(1, (channels[-1], *sizes[-1]))
    return Network(encoder, nn.Sequential(nn.Linear(latent_size, flat), unflatten, *up, nn.Sigmoid()))


def _halved(side: int) -> int:
    return -(-side // 2) if side > 7 else side


def _dense_network(size: int, latent_size: int, hidden: int, encoder_outputs: int) -> Network:
    encoder = nn.Sequential(
        nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, encoder_outputs)
    )
    decoder = nn.Sequential(
        nn.Linear(latent_size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, size)
    )
    return Network(encoder, decoder)


def _mnist_microscope(encoder_outputs: int) -> Network:
    """Three convolutions and a latent of 20 for digits of 28 x 28; no activation around the latent."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 7),
        nn.Flatten(),
        nn.Linear(64, encoder_outputs),
    )
    decoder = nn.Sequential(
        nn.Linear(20, 64),
        nn.Unflatten(1, (64, 1, 1)),
        nn.ConvTranspose2d(64, 32, 7),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 3, 2, 1, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 1, 3, 2, 1, 1),
        nn.Sigmoid(),
    )
    return Network(encoder, decoder)


def _cats_dogs_screen(encoder_outputs: int) -> Network:
    """Six convolutions and a latent of 1,000 for photographs of 32 x 32 in [-1, 1]; no activation at the end."""
    down = [(3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for before, after, stride in down:
        encoder += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
        decoder = [nn.ConvTranspose2d(after, before, 3, stride, 1, stride - 1), nn.ReLU(), *decoder]
    encoder += [nn.Flatten(), nn.Linear(4096, encoder_outputs), nn.ReLU()]
    decoder = [nn.Linear(1000, 4096), nn.ReLU(), nn.Unflatten(1, (64, 8, 8)), *decoder[:-1]]
    network = Network(nn.Sequential(*encoder), nn.Sequential(*decoder), low=-1.0, high=1.0)
    # Its transposed convolutions keep torch's start.
    for layer in [*network.encoder.modules(), *network.decoder.modules()]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.01)
    return network


def _cifar10_vae(encoder_outputs: int) -> Network:
    """Three convolutions and a latent of 1,024 for photographs of 32 x 32; the decoder is narrower, not a mirror.

    It starts as Keras would: by Glorot and Bengio 2010 (uniform), biases at zero; mean and log-variance are two layers.
    """
    encoder = nn.Sequential(
        nn.Conv2d(3, 64, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(128, 512, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8192, encoder_outputs),
    )
    decoder = nn.Sequential(
        nn.Linear(1024, 2048),
        nn.Unflatten(1, (128, 4, 4)),
        nn.ConvTranspose2d(128, 256, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(256, 64, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 3, 4, 2, 1),
        nn.Sigmoid(),
    )
    for layer in [*encoder, *decoder]:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    posterior = encoder[-1]
    assert isinstance(posterior, nn.Linear)
    for part in torch.split(posterior.weight.detach(), 1024):
        nn.init.xavier_uniform_(part)
    return Network(encoder, decoder)


_REFERENCES: dict[str, tuple[tuple[int, ...], int, Callable[[int], Network]]] = {
    "mnist-microscope": ((1, 28, 28), 20, _mnist_microscope),
    "cats-dogs-screen": ((3, 32, 32), 1000, _cats_dogs_screen),
    "cifar10-vae": ((3, 32, 32), 1024, _cifar10_vae),
}


def check_network(encoder: nn.Module, decoder: nn.Module, shape: tuple[int, ...], latent: int, outputs: int) -> None:
    """Run one image of zeros through a user's own encoder and decoder.

    Raises:
        InputError: a shape is not what the detector needs.
    """
    with evaluating(encoder), evaluating(decoder):
        encoded = _result(encoder, torch.zeros(1, *shape), "encoder")
        if encoded.shape != (1, outputs):
            raise InputError(f"expected an encoder {(1, *shape)} -> {(1, outputs)}; got {tuple(encoded.shape)}")
        decoded = _result(decoder, torch.zeros(1, latent), "decoder")
        if decoded.shape != (1, *shape):
            raise InputError(f"expected a decoder {(1, latent)} -> {(1, *shape)}; got {tuple(decoded.shape)}")


def _result(module: nn.Module, probe: Tensor, name: str) -> Tensor:
    try:
        result = module(probe)
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(f"the {name} does not take an input of shape {tuple(probe.shape)}: {error}") from error
    if not isinstance(result, Tensor):
        raise InputError(f"expected the {name} to return one tensor; got {type(result).__name__}")
    return result
