"""Recipes by name: a network and the settings it is known to train well with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recondite.errors import not_among


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A detector with all its settings.

    Args:
        summary: what it is good for, in a line.
        detector: a name in `DETECTORS`.
        shape: the images it is made for, (C, H, W); None for any.
        options: of the detector and of training.
        score: what images are judged by; None for the default of `fit`.
    """

    summary: str
    detector: str
    shape: tuple[int, ...] | None
    options: Mapping[str, Any]
    score: str | None = None


_CIFAR10_VAE = {
    "network": "cifar10-vae",
    "latent_size": 1024,
    "sigma": "fixed",
    "initial_sigma": 0.05,
    # The recipe it repeats averages the KL divergence over the latent; summed, that is a weight of 1 / 1024.
    "beta": 1 / 1024,
    "draws": 2,
}
PRESETS: dict[str, Preset] = {
    "cats-dogs-screen": Preset(
        summary="deep convolutional autoencoder, latent 1,000, pixels in [-1, 1]; a screen before a classifier",
        detector="autoencoder",
        shape=(3, 32, 32),
        score="error",
        options={
            "network": "cats-dogs-screen",
            "latent_size": 1000,
            "epochs": 30,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "keep_best": False,
            "picture_epochs": "every",
        },
    ),
    "cifar10-vae": Preset(
        summary="variational autoencoder, latent 1,024, fixed sigma .05, two draws",
        detector="vae",
        shape=(3, 32, 32),
        score="error",
        options={
            **_CIFAR10_VAE,
            "epochs": 50,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "keep_best": False,
        },
    ),
    "cifar10-fast": Preset(
        summary="a recipe of ours for the network and loss of cifar10-vae: begun by He et al., far fewer steps",
        detector="vae",
        shape=(3, 32, 32),
        score="error",
        options={
            **_CIFAR10_VAE,
            "initial_weights": "he",
            "epochs": 20,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "schedule": "one-cycle",
        },
    ),
    "alad-32": Preset(
        summary="ALAD of 32 pixels with its authors' settings; hours without a GPU",
        detector="alad",
        shape=(3, 32, 32),
        options={"latent_size": 100, "batch_size": 32, "epochs": 100},
    ),
    "alad-64": Preset(
        summary="ALAD of 64 pixels: one more block, batches of 64, images turned, enlarged and in other hues",
        detector="alad",
        shape=(3, 64, 64),
        options={"latent_size": 100, "batch_size": 64, "epochs": 100, "augment": "rotate,zoom,hue"},
    ),
    "mnist-microscope": Preset(
        summary="small autoencoder of digits, latent 20, with its original settings",
        detector="autoencoder",
        shape=(1, 28, 28),
        score="error",
        options={
            "network": "mnist-microscope",
            "latent_size": 20,
            "epochs": 20,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "weight_decay": 1e-5,
            "schedule": "constant",
            # Its epochs 0, 4, 8, 12 and 16 are counted from 0 and end before the picture is made.
            "picture_epochs": "1,5,9,13,17",
            "keep_best": False,
        },
    ),
    "mnist-fast": Preset(
        summary="a recipe of ours for the network of mnist-microscope: a lower error in half the epochs",
        detector="autoencoder",
        shape=(1, 28, 28),
        options={
            "network": "mnist-microscope",
            "latent_size": 20,
            "epochs": 9,
            "batch_size": 128,
            "learning_rate": 1e-2,
            "schedule": "one-cycle",
        },
    ),
}


def get_preset(name: str) -> Preset:
    """Return a preset.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PRESETS:
        raise not_among("a preset", PRESETS, name)
    return PRESETS[name]
