"""New images from a screen's detector, as one picture."""

import math
from pathlib import Path

from recondite.data.files import atomic_file
from recondite.data.pictures import enlarged, image_grid
from recondite.detectors import Detector
from recondite.errors import InputError
from recondite.screen.screen import Screen

_SMALLEST_GRID = 480


def draw_samples(screen: Screen, output: Path, count: int = 64, *, seed: int = 0) -> None:
    """Write a grid of new images, decoded from random latents, as a PNG file.

    Args:
        screen: whose detector makes them; see `Detector.prior` for where its latents come from.
        output: the file, written atomically.
        count: how many images.
        seed: of the latents.

    Raises:
        InputError: the detector makes no images, or `output` is not a .png.
    """
    if output.suffix.lower() != ".png":
        raise InputError(f"expected a picture that ends in .png; got {output.name!r}")
    if not screen.detector.preprocessing.is_image:
        raise InputError("only images can be drawn; this screen takes vectors")
    images = screen.detector.sample(count, seed=seed)
    picture = enlarged(image_grid(images, columns=math.ceil(math.sqrt(count))), _SMALLEST_GRID)
    with atomic_file(output) as temporary:
        picture.save(temporary, format="PNG")


def latents_in_words(detector: Detector) -> str:
    """Say where the latents of new images come from."""
    if detector.prior == "fitted":
        return (
            f"{detector.name} has no distribution over latents of its own: these were drawn from a Gaussian fitted to "
            "the latents of training images"
        )
    return f"latents were drawn from N(0, I), which {detector.name} learnt to decode"
