"""Autoencoder: a bottleneck that normal images pass through and others do not.

Source: Hinton and Salakhutdinov 2006, Science 313:504; Sakurada and Yairi 2014 for its use on anomalies.
"""

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from recondite.detector_options import AutoencoderOptions
from recondite.detectors.base import Detector
from recondite.detectors.prior import Prior
from recondite.networks.autoencoders import check_network, make_network
from recondite.training.loop import Update


class Autoencoder(Detector):
    """An encoder and a decoder trained on the mean squared error.

    Args:
        shape: (C, H, W) or (D,).
        options: see `AutoencoderOptions`.
        encoder: your own module (N, *shape) -> (N, latent_size); needs `decoder` too.
        decoder: your own module (N, latent_size) -> (N, *shape).

    Raises:
        InputError: shapes that do not fit.
    """

    name: ClassVar[str] = "autoencoder"
    Options: ClassVar[type] = AutoencoderOptions
    prior: ClassVar[Prior] = "fitted"
    options: AutoencoderOptions

    def __init__(
        self,
        shape: tuple[int, ...],
        options: AutoencoderOptions,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(shape, options)
        latent = options.latent_size
        if encoder is not None and decoder is not None:
            check_network(encoder, decoder, self.shape, latent, latent)
            self.encoder, self.decoder = encoder, decoder
            self.modules_given = True
        else:
            network = make_network(options.network, self.shape, latent, options.width, encoder_outputs=latent)
            self.encoder, self.decoder = network.encoder, network.decoder
            self.set_scale(network.low, network.high)

    def losses(self, x: Tensor) -> Iterator[Update]:
        x = self.scaled(x)
        yield "all", (x - self.reconstruct_tensor(x)).square().mean()

    def encode_tensor(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.encoder(x)
        return encoded

    def decode_tensor(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z)
        return decoded
