"""Variational autoencoder: rebuilds through a distribution over latents.

Source: Kingma and Welling 2014, arXiv 1312.6114; An and Cho 2015 for the reconstruction probability; Rybkin et al.
2021, arXiv 2006.13202, for a learnt scale of the likelihood.
Differs from An and Cho: the decoder gives a mean only, and sigma does not depend on the image.
"""

import math
from collections.abc import Iterator
from typing import ClassVar, get_args

import torch
from torch import Tensor, nn

from recondite.detector_options import PixelScore, VaeOptions, VaeScore
from recondite.detectors.base import Detector
from recondite.detectors.inside import Inside, only_inside
from recondite.detectors.measured import Measured
from recondite.detectors.prior import Prior
from recondite.distributed import normal
from recondite.errors import InputError
from recondite.networks.autoencoders import check_network, make_network, start_by_he
from recondite.training.loop import Update

_LARGEST_LOG_VARIANCE = 20.0
_SMALLEST_LOG_SIGMA = -6.0
_FAINT, _HALF, _NARROW = 0.1, 0.5, -4.0
"""How a start by He differs from it: weights of the log-variance and of the pixels, and the first log-variance."""


class Vae(Detector):
    """A variational autoencoder with Gaussian likelihood N(decoder(z), sigma^2).

    Loss: the negative log-likelihood summed over the values of the image, plus beta times the KL divergence summed over
    the latent. Scores encode once and decode `draws` latents, mu + exp(log_variance / 2) * noise, with a noise buffer
    drawn once and saved; so a score is a function of the image alone.

    - squared_error, absolute_error, ssim, multi_scale: feature scores averaged over the draws;
    - reconstruction_probability: -log N(x; decoder(z), sigma^2), averaged over the draws. With one sigma it orders
      images as squared_error does; with sigma "per-value" it does not;
    - elbo: that sum over the image, plus beta * KL. It has no top_percent and no worst_square.

    Args:
        shape: (C, H, W) or (D,).
        options: see `VaeOptions`.
        encoder: your own module (N, *shape) -> (N, 2 * latent_size), mean then log-variance; needs `decoder` too.
        decoder: your own module (N, latent_size) -> (N, *shape).

    Raises:
        InputError: shapes that do not fit, or options that do not go together.
    """

    name: ClassVar[str] = "vae"
    Options: ClassVar[type] = VaeOptions
    whole_image_scores: ClassVar[tuple[str, ...]] = ("elbo",)
    prior: ClassVar[Prior] = "standard normal"
    options: VaeOptions
    noise: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        options: VaeOptions,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(shape, options)
        latent = options.latent_size
        if encoder is not None and decoder is not None:
            if options.initial_weights != "default":
                raise InputError("your own networks begin with their own weights: leave out initial_weights")
            check_network(encoder, decoder, self.shape, latent, 2 * latent)
            self.encoder, self.decoder = encoder, decoder
            self.modules_given = True
        else:
            network = make_network(options.network, self.shape, latent, options.width, encoder_outputs=2 * latent)
            self.encoder, self.decoder = network.encoder, network.decoder
            if options.initial_weights == "he":
                self._start_by_he()
            self.set_scale(network.low, network.high)
        sigma_shape = self.shape if options.sigma == "per-value" else ()
        log_sigma = torch.full(sigma_shape, math.log(options.initial_sigma))
        self.log_sigma = nn.Parameter(log_sigma, requires_grad=options.sigma != "fixed")
        self.register_buffer("noise", torch.randn(options.draws, latent, generator=torch.Generator().manual_seed(0)))

    def _start_by_he(self) -> None:
        """Let every image begin with a latent that is not drowned in noise, and be rebuilt faintly."""
        for network in (self.encoder, self.decoder):
            start_by_he(network)
        posterior, pixels = (
            [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.ConvTranspose2d)][-1]
            for network in (self.encoder, self.decoder)
        )
        with torch.no_grad():
            posterior.weight[self.options.latent_size :] *= _FAINT
            if posterior.bias is not None:
                posterior.bias[self.options.latent_size :] = _NARROW
            pixels.weight *= _HALF

    def losses(self, x: Tensor) -> Iterator[Update]:
        x = self.scaled(x)
        mean, log_variance = self._posterior(x)
        z = mean + (log_variance / 2).exp() * normal(len(mean), mean.shape[1], mean.device)
        negative = self._negative_log_likelihood((x - self.decode_tensor(z)).square()).flatten(1).sum(1)
        yield "all", (negative + self.options.beta * _kl(mean, log_variance)).mean()

    def validation_errors(self, x: Tensor) -> Tensor:
        """Return the negative ELBO of each image (N,), with the fixed noise."""
        instances = self.measure(self.scaled(x), "elbo").instance_scores
        assert instances is not None
        return instances

    def encode_tensor(self, x: Tensor) -> Tensor:
        return self._posterior(x)[0]

    def decode_tensor(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z)
        return decoded

    def measure(self, x: Tensor, score: str, inside: Inside | None = None) -> Measured:
        if score not in get_args(VaeScore):
            raise InputError(f"this detector has no score {score!r}")
        mean, log_variance = self._posterior(x)
        deviation = (log_variance / 2).exp()
        error = score if score in get_args(PixelScore) else "squared_error"
        total, rebuilt = torch.zeros_like(x), torch.zeros_like(x)
        for some in torch.split(self.noise, self._draws_at_once(x)):
            z = (mean + deviation * some[:, None]).flatten(0, 1)
            for decoded in self.decode_tensor(z).reshape(len(some), *x.shape):
                decoded = only_inside(decoded, x, inside)
                total += self.pixel_errors(x, decoded, error)
                rebuilt += decoded
        features, rebuilt = total / len(self.noise), rebuilt / len(self.noise)
        divergence = _kl(mean, log_variance)
        instances = None
        if score in ("reconstruction_probability", "elbo"):
            features = self._negative_log_likelihood(features)
        if score == "elbo":
            likelihoods = _summed(features) if inside is None else inside.pooled(features.flatten(2), _summed)
            instances = likelihoods + self.options.beta * divergence
        return Measured(
            feature_scores=features,
            reconstruction=rebuilt,
            instance_scores=instances,
            latents=mean,
            statistics={"latent_spread": log_variance.mean(1) / 2, "kl": (divergence + 1e-6).log()},
        )

    def _draws_at_once(self, x: Tensor) -> int:
        """Return how many draws of a few images are decoded together: the weights are read once for all of them."""
        if torch.compiler.is_compiling():
            return 1
        return max(1, self.scoring_batch // max(1, len(x)))

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(max=_LARGEST_LOG_VARIANCE)

    def _negative_log_likelihood(self, squared: Tensor) -> Tensor:
        """Return -log N of each value from its (mean) squared error; linear in it, so means of draws stay exact."""
        log_sigma = self.log_sigma.clamp(min=_SMALLEST_LOG_SIGMA)
        return squared / (2 * (2 * log_sigma).exp()) + log_sigma + math.log(2 * math.pi) / 2


def _summed(values: Tensor) -> Tensor:
    """Return the sum of each image's values (N,), in float64."""
    return values.flatten(1).double().sum(1)


def _kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) summed over the latent (N,)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
