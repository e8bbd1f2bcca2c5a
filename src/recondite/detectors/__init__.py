"""The detectors by name. A new one is a file here and a line in `DETECTORS`."""

import inspect
from collections.abc import Iterable
from operator import index
from typing import Any, get_args

import torch

from recondite.detector_options import Method
from recondite.detectors.alad import Alad
from recondite.detectors.autoencoder import Autoencoder
from recondite.detectors.base import Detector
from recondite.detectors.features import Features
from recondite.detectors.pca import Pca
from recondite.detectors.vae import Vae
from recondite.errors import InputError, not_among
from recondite.options import make_options
from recondite.torch_state import own_settings, seeded

__all__ = ["DETECTORS", "Detector", "build", "detector_class"]

DETECTORS: dict[str, type[Detector]] = {
    "alad": Alad,
    "autoencoder": Autoencoder,
    "features": Features,
    "pca": Pca,
    "vae": Vae,
}


@own_settings()
def build(
    name: str,
    *,
    image_shape: tuple[int, ...],
    seed: int = 0,
    encoder: torch.nn.Module | None = None,
    decoder: torch.nn.Module | None = None,
    backbone: torch.nn.Module | str | None = None,
    **options: Any,
) -> Detector:
    """Return an unfitted detector.

    Args:
        name: a key of `DETECTORS`: "alad", "autoencoder", "features", "pca", "vae".
        image_shape: (C, H, W) with sides from 8 to 2048 pixels, or (D,) for vectors.
        seed: of the initial weights; the global random state is left alone.
        encoder: your own module, where the detector takes one; needs `decoder` too. Modules become float32, in place.
        decoder: your own module.
        backbone: your own module of images to features, where the detector takes one, or the name of one that it has.
        options: fields of the detector's `Options`.

    Raises:
        InputError: an unknown detector or option, a value out of range, or modules that do not fit.
    """
    kind = detector_class(name)
    if isinstance(backbone, str):
        options, backbone = {**options, "backbone": backbone}, None
    modules: dict[str, torch.nn.Module | None] = {"encoder": encoder, "decoder": decoder, "backbone": backbone}
    given = {key: module for key, module in modules.items() if module is not None}
    for key in given:
        if key not in inspect.signature(kind).parameters:
            raise InputError(f"detector {name!r} takes no {key} of your own")
    if (encoder is None) != (decoder is None):
        raise InputError(f"expected an encoder and a decoder, or neither; got the {next(iter(given))} only")
    checked: Any = make_options(kind.Options, options, f"detector {name!r}")
    for module in given.values():
        module.float()
    with seeded(seed):
        detector = kind(_shape_of(image_shape), checked, **given)
    # Convolutions are faster with the channels last in memory, and a kernel's last bits depend on the layout.
    return detector.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def _shape_of(given: Iterable[Any]) -> tuple[int, ...]:
    """Return a shape as a tuple of Python's own integers, whatever kind of sequence and integers it was given as."""
    try:
        return tuple(index(side) for side in given)
    except TypeError:
        raise InputError(f"expected a shape (C, H, W) or (D,) of positive whole numbers; got {given!r}") from None


def detector_class(name: str) -> type[Detector]:
    """Return the class of a detector.

    Raises:
        InputError: there is none of that name.
    """
    if name not in DETECTORS:
        hint = f" (a method of features: methods={name}, --methods {name})" if name in get_args(Method) else ""
        raise InputError(f"{not_among('a detector', sorted(DETECTORS), name)}{hint}")
    return DETECTORS[name]
