"""Autoencoder: a bottleneck that normal images pass through and others do not.

Source: Hinton and Salakhutdinov 2006, Science 313:504; Sakurada and Yairi 2014 for its use on anomalies.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from recondite.detectors.base import Detector
from recondite.detectors.measured import PixelScore
from recondite.detectors.prior import Prior
from recondite.networks.autoencoders import NetworkName, check_network, make_network
from recondite.options import CHECKED, PoolingOptions, PrecisionOptions
from recondite.training.loop import Update


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class AutoencoderOptions(PoolingOptions, PrecisionOptions):
    """Options of the autoencoder."""

    latent_size: Annotated[int, Field(ge=1, le=65_536, description="numbers in the bottleneck")] = 32
    width: Annotated[int, Field(ge=1, le=1024, description="channels of the first layer")] = 32
    network: Annotated[
        NetworkName, Field(description="reference network by name; auto fits the shape of the images")
    ] = "auto"
    score: Annotated[PixelScore, Field(description="the error that an image is judged by")] = "squared_error"


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
