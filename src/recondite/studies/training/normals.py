"""The normal data sets of the cross-dataset benchmark, and what the detectors are trained with on each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_Options = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class NormalSet:
    """Images that are normal in their turn, and outliers in the turns of others.

    Args:
        data: the data set they come from; sets of the same data are no outliers to each other.
        fit: images to learn from and to calibrate on, by name.
        test: normal images that were held out, by name.
        others: images of the same data that are not normal, by name; None where all are.
        options: detector -> its options, those of training and image_size, for ten minutes on two cores at most; chosen
            by validation error and time alone. A detector that is not named here runs with its defaults.
    """

    data: str
    fit: str
    test: str
    others: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _networks(latent_size: int, width: int, epochs: int) -> _Options:
    trained = {"latent_size": latent_size, "width": width, "epochs": epochs}
    return {"autoencoder": trained, "vae": trained, "pca": {"latent_size": latent_size}}


_MICROSCOPE = {"network": "mnist-microscope", "latent_size": 20, "epochs": 20, "learning_rate": 1e-2}
_DIGITS_28: _Options = {"autoencoder": _MICROSCOPE, "vae": _MICROSCOPE, "pca": {"latent_size": 20}}

NORMALS: dict[str, NormalSet] = {
    "mnist": NormalSet(data="mnist", fit="mnist/train", test="mnist/test", options=_DIGITS_28),
    "mnist5k": NormalSet(data="mnist", fit="mnist5k/train", test="mnist5k/test", options=_DIGITS_28),
    "cifar10": NormalSet(
        data="cifar10",
        fit="cifar10/train",
        test="cifar10/test",
        options=_networks(latent_size=128, width=32, epochs=15),
    ),
    "cifar10:automobile": NormalSet(
        data="cifar10",
        fit="cifar10/train:automobile",
        test="cifar10/test:automobile",
        others="cifar10/test:airplane,bird,cat,deer,dog,frog,horse,ship,truck",
        options=_networks(latent_size=128, width=32, epochs=60),
    ),
    "birds64": NormalSet(
        data="birds64",
        fit="birds64/train",
        test="birds64/test:bird",
        others="birds64/test:dog,fruit,insect,other",
        options=_networks(latent_size=128, width=32, epochs=60),
    ),
    "digits": NormalSet(
        data="digits", fit="digits/train", test="digits/test", options=_networks(latent_size=12, width=32, epochs=80)
    ),
}
