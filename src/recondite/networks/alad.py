"""The five networks of ALAD: encoder, generator, and the critics of (x, z), (x, x') and (z, z').

Source: Zenati et al. 2018, arXiv 1812.02288, appendix, and the authors' code: the networks of CIFAR-10 and SVHN for
images, those of KDD99 for vectors. For 64 pixels encoder, generator and the critic of (x, z) have one more block.
Differs from the code: layers before batch norm have no bias. Batch norm subtracts it again, so its gradient is nothing
but rounding, which Adam turns into steps of full length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrizations import spectral_norm

from recondite.errors import InputError
from recondite.networks.layers import BatchNorm, Dropout

SIDES = (16, 32, 64, 128)
_SLOPE = 0.2
_DROPOUT = 0.2
_INITIAL_DEVIATION = 0.01
_MOMENTUM, _EPSILON = 0.01, 1e-3
"""Of batch norm. The original's framework calls the same momentum .99."""


@dataclass(frozen=True)
class AladNetworks:
    """Encoder (N, *shape) -> (N, D), generator (N, D) -> (N, *shape), and critics that give a logit (N,)."""

    encoder: nn.Module
    generator: nn.Module
    critic_xz: "PairCritic"
    critic_xx: "ReconstructionCritic"
    critic_zz: "LatentCritic"


def make_alad_networks(shape: tuple[int, ...], latent_size: int, width: int) -> AladNetworks:
    """Build the networks, with spectral norm on all layers of encoder and critics but each one's last.

    For images of 32 pixels the blocks have `width`, 2 `width` and 4 `width` channels. A block less (16 pixels) or more
    (64, 128) is taken from, or put at, the side of the image: `width` / 2 channels, then `width` / 4.

    Args:
        shape: (C, side, side) in [-1, 1], side 16, 32, 64 or 128; or (D,).
        latent_size: D of the latent.
        width: 128 is the paper's.

    Raises:
        InputError: images of another size.
    """
    if len(shape) == 1:
        return _vector_networks(shape[0], latent_size, width)
    channels, height, side = shape
    if height != side or side not in SIDES:
        raise InputError(
            f"expected square images of {', '.join(map(str, SIDES))} pixels a side for alad; got {height} x {side}: "
            "give image_size=32, say, and they are resized"
        )
    depth = side.bit_length() - 3  # blocks from the side of the image down to 4 x 4
    widths = [width * 4 >> block for block in reversed(range(depth))]
    networks = AladNetworks(
        encoder=_image_encoder(channels, widths, latent_size),
        generator=_image_generator(channels, widths, latent_size),
        critic_xz=PairCritic(
            _image_branch(channels, widths, width),
            _dense(latent_size, 4 * width, _DROPOUT) + _dense(4 * width, 4 * width, _DROPOUT),
            joined=widths[-1] * 16 + 4 * width,
            hidden=8 * width,
            dropout=_DROPOUT,
        ),
        critic_xx=ImageReconstructionCritic(channels, side, width),
        critic_zz=LatentCritic(
            _dense(2 * latent_size, width // 2, _DROPOUT) + _dense(width // 2, width // 4, _DROPOUT)
        ),
    )
    for network in vars(networks).values():
        _initialise(network, lambda weight: nn.init.normal_(weight, std=_INITIAL_DEVIATION))
        if network is not networks.generator:
            _normalise_all_but_last(network)
    return networks


class PairCritic(nn.Module):
    """Tells pairs (x, E(x)) from (G(z), z).

    Args:
        image_branch: layers from x to (N, units).
        latent_branch: layers from z to (N, units).
        joined: units of both together.
        hidden: units of the layer behind them.
        dropout: behind that layer.
    """

    def __init__(
        self, image_branch: list[nn.Module], latent_branch: list[nn.Module], joined: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.image_branch = nn.Sequential(*image_branch)
        self.latent_branch = nn.Sequential(*latent_branch)
        self.joint = nn.Sequential(*_dense(joined, hidden, dropout), nn.Linear(hidden, 1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        logits: Tensor = self.joint(torch.cat([self.image_branch(x), self.latent_branch(z)], dim=1))
        return logits[:, 0]


class ReconstructionCritic(nn.Module):
    """Tells pairs (x, x) from (x, G(E(x))); `features` are what it sees in a pair before it decides."""

    last: nn.Module

    def features(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the flattened activations of the last hidden layer (N, K)."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Return (N,) from features (N, K)."""
        logits: Tensor = self.last(features)
        return logits[:, 0]

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.logits(self.features(x, other))


class ImageReconstructionCritic(ReconstructionCritic):
    """Lays the two images on top of one another, (C, 2 side, side), and looks at both with the same kernels."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        # Padding of a kernel of 5 at stride 2 that halves an even side is one pixel before and two behind.
        self.first = nn.Conv2d(channels, width // 2, 5, 2)
        self.second = nn.Conv2d(width // 2, width, 5, 2)
        self.activate = nn.Sequential(nn.LeakyReLU(_SLOPE), Dropout(_DROPOUT))
        self.last = nn.Linear(width * (side // 2) * (side // 4), 1)

    def features(self, x: Tensor, other: Tensor) -> Tensor:
        pair = torch.cat([x, other], dim=2)
        hidden = self.activate(self.first(pad(pair, (1, 2, 1, 2))))
        return torch.flatten(self.activate(self.second(pad(hidden, (1, 2, 1, 2)))), 1)


class VectorReconstructionCritic(ReconstructionCritic):
    """Looks at two vectors, one behind the other."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_dense(2 * size, width, _DROPOUT))
        self.last = nn.Linear(width, 1)

    def features(self, x: Tensor, other: Tensor) -> Tensor:
        seen: Tensor = self.first(torch.cat([x, other], dim=1))
        return seen


class LatentCritic(nn.Module):
    """Tells pairs (z, z) from (z, E(G(z)))."""

    def __init__(self, hidden: list[nn.Module]) -> None:
        super().__init__()
        units = [layer.out_features for layer in hidden if isinstance(layer, nn.Linear)]
        self.layers = nn.Sequential(*hidden, nn.Linear(units[-1], 1))

    def forward(self, z: Tensor, other: Tensor) -> Tensor:
        logits: Tensor = self.layers(torch.cat([z, other], dim=1))
        return logits[:, 0]


def _image_encoder(channels: int, widths: list[int], latent_size: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), _batch_norm(after), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], latent_size, 4), nn.Flatten())


def _image_generator(channels: int, widths: list[int], latent_size: int) -> nn.Module:
    first = nn.ConvTranspose2d(latent_size, widths[-1], 4, bias=False)
    layers: list[nn.Module] = [nn.Unflatten(1, (latent_size, 1, 1)), first]
    for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [_batch_norm(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    layers += [_batch_norm(widths[0]), nn.ReLU(), nn.ConvTranspose2d(widths[0], channels, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers)


def _image_branch(channels: int, widths: list[int], width: int) -> list[nn.Module]:
    """Return the encoder's blocks, but without batch norm in the one of `width` channels."""
    layers: list[nn.Module] = []
    for before, after in zip([channels, *widths], widths, strict=False):
        if after == width:
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(_SLOPE)]
        else:
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), _batch_norm(after), nn.LeakyReLU(_SLOPE)]
    return [*layers, nn.Flatten()]


def _vector_networks(size: int, latent_size: int, width: int) -> AladNetworks:
    half = width // 2
    encoder = [nn.Linear(size, half), nn.LeakyReLU(_SLOPE), nn.Linear(half, latent_size)]
    generator = [nn.Linear(latent_size, half), nn.ReLU(), nn.Linear(half, width), nn.ReLU(), nn.Linear(width, size)]
    networks = AladNetworks(
        encoder=nn.Sequential(*encoder),
        generator=nn.Sequential(*generator),
        critic_xz=PairCritic(
            [nn.Linear(size, width, bias=False), _batch_norm(width), nn.LeakyReLU(_SLOPE)],
            _dense(latent_size, width, 0.5),
            joined=2 * width,
            hidden=width,
            dropout=0.5,
        ),
        critic_xx=VectorReconstructionCritic(size, width),
        critic_zz=LatentCritic(_dense(2 * latent_size, width // 4, _DROPOUT)),
    )
    for network in vars(networks).values():
        _initialise(network, nn.init.xavier_uniform_)
    return networks


def _dense(units: int, after: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(units, after), nn.LeakyReLU(_SLOPE), Dropout(dropout)]


def _batch_norm(channels: int) -> nn.Module:
    return BatchNorm(channels, eps=_EPSILON, momentum=_MOMENTUM)


def _weighted_layers(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d | nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]


def _initialise(network: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    for layer in _weighted_layers(network):
        draw(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _normalise_all_but_last(network: nn.Module) -> None:
    for layer in _weighted_layers(network)[:-1]:
        spectral_norm(layer)
