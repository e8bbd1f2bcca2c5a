"""A detector of your own, outside the package: an autoencoder that learns to take noise away.

python examples/own_detector.py --quick    # digits of scikit-learn, half a minute; without --quick MNIST
"""

import argparse
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

import recondite
from recondite.options import CHECKED, PoolingOptions


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class DenoiserOptions(PoolingOptions):
    latent_size: Annotated[int, Field(ge=1, description="numbers in the bottleneck")] = 16
    noise: Annotated[float, Field(ge=0, le=1, description="standard deviation of the noise in training")] = 0.2
    score: Annotated[Literal["squared_error"], Field(description="what an image is judged by")] = "squared_error"


class Denoiser(recondite.Detector):
    """An autoencoder that sees noisy images and must give the clean ones back (Vincent et al. 2008)."""

    name, Options = "denoiser", DenoiserOptions

    def __init__(self, shape, options):
        super().__init__(shape, options)
        size = torch.Size(shape).numel()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, options.latent_size))
        self.decoder = nn.Sequential(nn.Linear(options.latent_size, 128), nn.ReLU(), nn.Linear(128, size))

    def losses(self, x):
        noisy = x + self.options.noise * torch.randn_like(x)  # the training loop seeds the draws of each epoch
        yield "all", (self.reconstruct_tensor(self.scaled(noisy)) - self.scaled(x)).square().mean()

    def encode_tensor(self, x):
        return self.encoder(x)

    def decode_tensor(self, z):
        return self.decoder(z).unflatten(1, self.shape)


recondite.DETECTORS["denoiser"] = Denoiser  # now `fit` and `load` know it by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("own-detector"))
    chosen = parser.parse_args()
    data = "digits" if chosen.quick else "mnist"

    screen = recondite.fit(
        f"{data}/train", detector="denoiser", noise=0.1, epochs=40 if chosen.quick else 10, alpha=0.05
    )
    screen.save(chosen.output / "screen")
    verdicts = recondite.load(chosen.output / "screen").predict(f"{data}/test")
    recondite.write_report(chosen.output / "report.html", screen, verdicts, f"{data}/test")
    print(f"{verdicts.is_outlier.mean():.1%} of fresh digits flagged; report: {chosen.output / 'report.html'}")


if __name__ == "__main__":
    main()
