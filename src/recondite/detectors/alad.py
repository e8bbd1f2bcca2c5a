"""ALAD, adversarially learned anomaly detection: a generator, an encoder that inverts it, and three critics.

Source: Zenati et al. 2018, arXiv 1812.02288, and the authors' code.
Differs from the original, which stops early by the fm score and then keeps its last weights: the epoch with the lowest
mean l2 error on validation images is kept (fm on request; its scale drifts as the critic learns). The noise is seeded.
Running statistics of batch norm move in both steps of an iteration, not only in that of their own network. As in the
original, those of the encoder come from real and generated images.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recondite.detector_options import AladOptions, AladScore
from recondite.detectors.base import Detector
from recondite.detectors.inside import Inside, only_inside
from recondite.detectors.measured import Measured, feature_errors
from recondite.detectors.prior import Prior
from recondite.distributed import normal
from recondite.errors import InputError
from recondite.networks.alad import make_alad_networks
from recondite.training.loop import Update


class Alad(Detector):
    """A bidirectional GAN: generator G, encoder E, and critics of (x, z), (x, x') and (z, z').

    Each step takes two batches. On the first the critics learn to tell (x, E(x)) from (G(z), z), (x, x) from
    (x, G(E(x))) and (z, z) from (z, E(G(z))); on the second, with fresh z ~ N(0, I), generator and encoder learn
    together to deceive them. No term compares pixels. Scores, with x in [-1, 1] and f the activations before the last
    layer of the critic of (x, x'), all without pooling:

    - fm: ||f(x, x) - f(x, G(E(x)))||_1;
    - ch: softplus of minus the critic's logit of (x, G(E(x)));
    - l1, l2: that norm of x - G(E(x)).

    Feature scores are the squared differences of x and G(E(x)); absolute ones with l1.

    Args:
        shape: (C, side, side) with a side of 16, 32, 64 or 128 pixels, or (D,).
        options: see `AladOptions`.

    Raises:
        InputError: images of another size.
    """

    name: ClassVar[str] = "alad"
    Options: ClassVar[type] = AladOptions
    prior: ClassVar[Prior] = "standard normal"
    training_defaults: ClassVar[Mapping[str, Any]] = AladOptions.training_defaults
    batches_a_step: ClassVar[int] = 2
    whole_image_scores: ClassVar[tuple[str, ...]] = get_args(AladScore)
    options: AladOptions

    def __init__(self, shape: tuple[int, ...], options: AladOptions) -> None:
        super().__init__(shape, options)
        networks = make_alad_networks(self.shape, options.latent_size, options.width)
        self.encoder, self.generator = networks.encoder, networks.generator
        self.critic_xz, self.critic_xx, self.critic_zz = networks.critic_xz, networks.critic_xx, networks.critic_zz
        if self.preprocessing.is_image:
            self.set_scale(-1.0, 1.0)

    def losses(self, x: Tensor) -> Iterator[Update]:
        """Yield the critics' losses on the first half of `x`, then that of generator and encoder on the second."""
        first, second = self.scaled(x).chunk(2)
        z, z_of_x, x_of_z, rebuilt_x, rebuilt_z = self._both_ways(first, constant=True)
        yield "critic_xz", _real(self.critic_xz(first, z_of_x)) + _false(self.critic_xz(x_of_z, z))
        yield "critic_xx", _real(self.critic_xx(first, first)) + _false(self.critic_xx(first, rebuilt_x))
        yield "critic_zz", _real(self.critic_zz(z, z)) + _false(self.critic_zz(z, rebuilt_z))

        z, z_of_x, x_of_z, rebuilt_x, rebuilt_z = self._both_ways(second)
        cycle = _real(self.critic_xx(second, rebuilt_x)) + _real(self.critic_zz(z, rebuilt_z))
        deceiving = _real(self.critic_xz(x_of_z, z))
        hiding = _false(self.critic_xz(second, z_of_x))
        # One loss for both: the first term has no gradient for the encoder, the second none for the generator.
        apart = {"generator": deceiving + cycle, "encoder": hiding + cycle}
        yield "generator_encoder", deceiving + hiding + cycle, apart

    def _both_ways(self, x: Tensor, constant: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return fresh z, E(x), G(z), G(E(x)) and E(G(z)), for the critics as constants."""
        with torch.set_grad_enabled(not constant):
            z = normal(len(x), self.options.latent_size, x.device)
            z_of_x, x_of_z = self.encoder(x), self.generator(z)
            return z, z_of_x, x_of_z, self.generator(z_of_x), self.encoder(x_of_z)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            "critic_xz": list(self.critic_xz.parameters()),
            "critic_xx": list(self.critic_xx.parameters()),
            "critic_zz": list(self.critic_zz.parameters()),
            "generator_encoder": [*self.generator.parameters(), *self.encoder.parameters()],
        }

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the l2 or fm score of each image (N,), by the option `selection`; `x` in image units."""
        x = self.scaled(x)
        return self._errors(x, self.reconstruct_tensor(x))[self.options.selection]

    def encode_tensor(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(x)
        return encoded

    def decode_tensor(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.generator(z)
        return decoded

    def measure(self, x: Tensor, score: str, inside: Inside | None = None) -> Measured:
        if score not in get_args(AladScore):
            raise InputError(f"this detector has no score {score!r}")
        latents = self.encode_tensor(x)
        rebuilt = only_inside(self.decode_tensor(latents), x, inside)
        errors = self._errors(x, rebuilt)
        return Measured(
            feature_scores=feature_errors(x, rebuilt, "absolute_error" if score == "l1" else "squared_error"),
            reconstruction=rebuilt,
            instance_scores=errors[score],
            latents=latents,
            statistics={f"critic_{name}": (errors[name] + 1e-6).log() for name in ("fm", "ch")},
        )

    def _errors(self, x: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
        """Return each of the four scores of a batch (N,), in float64."""
        difference = (x - rebuilt).flatten(1).double()
        seen = self.critic_xx.features(x, rebuilt)
        expected = self.critic_xx.features(x, x)
        return {
            "fm": (expected - seen).double().abs().sum(1),
            "ch": softplus(-self.critic_xx.logits(seen)).double(),
            "l1": difference.abs().sum(1),
            "l2": difference.square().sum(1).sqrt(),
        }


def _real(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (N,) with the answer "real"."""
    return softplus(-logits.float()).mean()


def _false(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (N,) with the answer "false"."""
    return softplus(logits.float()).mean()
