"""Corruptions at five severities: noise, blur, light, compression, geometry, weather; rotations and flips."""

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from recondite.errors import InputError, not_among
from recondite.perturbations.base import Draws, Images, checked, clipped, draws_of, grid

SEVERITIES = (1, 2, 3, 4, 5)
_SIDE = 32  # lengths below are in pixels of an image with this shorter side or a smaller one, and grow with a larger
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def corrupted(images: ArrayLike, name: str, severity: int, *, seed: int = 0, first: int = 0) -> Images:
    """Return images (N, C, H, W) as float32 in [0, 1] with one corruption, each with draws of its own.

    A higher severity makes the same thing stronger: place, direction and pattern stay (shot noise is drawn anew).

    Args:
        images: floating-point (N, C, H, W) in [0, 1].
        name: a key of `CORRUPTIONS`.
        severity: 1 (hardly seen) to 5 (strong).
        seed: of all draws.
        first: the index of the first image; a batch that begins there gets what it would get within a longer one.

    Raises:
        InputError: an unknown name or severity, not such images, or saturation of images with one channel.

    Source: the kinds are those of Hendrycks and Dietterich 2019, arXiv 1903.12261.
    Differs from the paper: the strengths, which are relative to the image's side here.

    >>> corrupted(np.full((1, 1, 8, 8), 0.5), "brightness", 5).mean().round(2)
    np.float32(0.85)
    """
    if name not in CORRUPTIONS:
        raise not_among("a corruption", CORRUPTIONS, name)
    if severity not in SEVERITIES:
        raise InputError(f"expected a severity from 1 to 5; got {severity!r}")
    pixels = checked(images)
    corrupt, strengths = CORRUPTIONS[name]
    changed = np.empty_like(pixels)
    for index, draws in enumerate(draws_of(len(pixels), seed, first)):
        changed[index] = clipped(corrupt(pixels[index], strengths[severity - 1], draws))
    return changed


def rotated(images: ArrayLike, degrees: float) -> Images:
    """Return images (N, C, H, W) turned counter-clockwise; quarter turns move pixels and change none.

    Other angles interpolate linearly, and corners that come into view repeat the edge.

    Raises:
        InputError: not floating-point images (N, C, H, W), or a quarter turn of images that are not square.

    >>> rotated(np.eye(2)[None, None], 90)[0, 0].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    pixels = checked(images, within=None)
    turns, rest = divmod(degrees, 90)
    if rest == 0:
        if turns % 2 and pixels.shape[2] != pixels.shape[3]:
            raise InputError(
                f"expected square images to turn by {degrees:g} degrees; got {pixels.shape[2]} x {pixels.shape[3]}"
            )
        return np.rot90(pixels, int(turns) % 4, axes=(2, 3)).copy()
    from scipy.ndimage import rotate

    turned: Images = rotate(pixels, degrees, axes=(3, 2), reshape=False, order=1, mode="nearest")
    return turned


def flipped(images: ArrayLike, *, vertical: bool = True) -> Images:
    """Return images (N, C, H, W) upside down, or else mirrored left to right.

    Raises:
        InputError: not floating-point images (N, C, H, W).

    >>> flipped(np.eye(2)[None, None], vertical=False)[0, 0].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    pixels = checked(images, within=None)
    return pixels[:, :, ::-1].copy() if vertical else pixels[..., ::-1].copy()


def blurred(images: ArrayLike, sigma: float) -> Images:
    """Return images (N, C, H, W) blurred by a Gaussian of some pixels.

    Raises:
        InputError: not floating-point images (N, C, H, W), or a negative sigma.

    >>> blurred(np.full((1, 1, 5, 5), 0.5), 2).std().round(6)
    np.float32(0.0)
    """
    from scipy.ndimage import gaussian_filter

    pixels = checked(images, within=None)
    if not sigma >= 0:
        raise InputError(f"expected sigma >= 0; got {sigma!r}")
    smoothed: Images = gaussian_filter(pixels, (0, 0, sigma, sigma))
    return smoothed


def _scale(image: Images) -> float:
    return max(1.0, float(min(image.shape[1:])) / _SIDE)


def _gaussian_noise(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:
    return image + strength * draws.normal(size=image.shape)


def _shot_noise(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:
    """Count photons, of which a white value sends 1 / strength on average."""
    counts: NDArray[np.float64] = draws.poisson(image / strength).astype(np.float64)
    return counts * strength


def _impulse_noise(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:
    struck = draws.random(image.shape) < strength
    return np.where(struck, draws.integers(0, 2, image.shape), image)


def _speckle_noise(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:
    factors: NDArray[np.float64] = 1 + strength * draws.normal(size=image.shape)
    return image * factors


def _gaussian_blur(image: Images, strength: float, draws: Draws) -> Images:  # noqa: ARG001
    smoothed: Images = blurred(image[None], strength * _scale(image))[0]
    return smoothed


def _defocus_blur(image: Images, strength: float, draws: Draws) -> Images:  # noqa: ARG001
    """Average over a disc with a soft edge of one pixel."""
    radius = strength * _scale(image)
    reach = int(np.ceil(radius + 0.5))
    y, x = grid(2 * reach + 1, 2 * reach + 1)
    return _filtered(image, np.clip(radius + 0.5 - np.hypot(y - reach, x - reach), 0, 1))


def _motion_blur(image: Images, strength: float, draws: Draws) -> Images:
    """Average along a line at a random angle, with a soft edge of one pixel."""
    half = strength * _scale(image) / 2
    reach = int(np.ceil(half + 1))
    angle = draws.uniform(0, np.pi)
    y, x = (place - reach for place in grid(2 * reach + 1, 2 * reach + 1))
    along = np.clip(x * np.cos(angle) + y * np.sin(angle), -half, half)
    distance = np.hypot(x - along * np.cos(angle), y - along * np.sin(angle))
    return _filtered(image, np.clip(1 - distance, 0, 1))


def _filtered(image: Images, kernel: NDArray[np.float64]) -> Images:
    from scipy.ndimage import convolve

    smoothed: Images = convolve(image, (kernel / kernel.sum())[None].astype(np.float32), mode="nearest")
    return smoothed


def _contrast(image: Images, strength: float, draws: Draws) -> Images:  # noqa: ARG001
    middle = image.mean(axis=(1, 2), keepdims=True)
    faded: Images = middle + (image - middle) * (1 - strength)
    return faded


def _brightness(image: Images, strength: float, draws: Draws) -> Images:  # noqa: ARG001
    return image + strength


def _saturation(image: Images, strength: float, draws: Draws) -> Images:  # noqa: ARG001
    if len(image) == 1:
        raise InputError("images with one channel have no saturation to change")
    weights = _LUMA if len(image) == 3 else np.full(len(image), 1 / len(image), dtype=np.float32)
    grey = np.tensordot(weights, image, axes=1)[None]
    faded: Images = grey + (image - grey) * (1 - strength)
    return faded


def _jpeg(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:  # noqa: ARG001
    """Save as JPEG of quality `strength`, three channels as colours, any other number as single pictures."""
    stored = (image * 255).round().astype(np.uint8)
    pictures = [stored.transpose(1, 2, 0)] if len(stored) == 3 else list(stored)
    opened = []
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, format="JPEG", quality=int(strength))
        opened.append(np.asarray(Image.open(stream), dtype=np.float32) / 255)
    return opened[0].transpose(2, 0, 1) if len(stored) == 3 else np.stack(opened)


def _pixelate(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:  # noqa: ARG001
    """Average over `1 / (1 - strength)` pixels a side, then draw each average as a square."""
    height, width = image.shape[1:]
    fewer = max(1, round(width * (1 - strength))), max(1, round(height * (1 - strength)))
    planes = []
    for plane in image:
        small = Image.fromarray(plane).resize(fewer, Image.Resampling.BOX)
        planes.append(np.asarray(small.resize((width, height), Image.Resampling.NEAREST)))
    return np.stack(planes)


def _elastic(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:
    """Move pixels by `strength` (root mean square) along a smooth random field."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    moves = draws.normal(size=(2, *image.shape[1:]))
    moves = gaussian_filter(moves, (0, *(2 * [2.5 * _scale(image)])), mode="wrap")
    moves *= strength * _scale(image) / max(float(np.sqrt(np.square(moves).mean())), 1e-12)
    y, x = grid(*image.shape[1:])
    places = [y + moves[0], x + moves[1]]
    moved: Images = np.stack([map_coordinates(plane, places, order=1, mode="nearest") for plane in image])
    return moved


def _fog(image: Images, strength: float, draws: Draws) -> NDArray[np.floating]:
    """Blend with bright smooth noise of several scales, the coarse ones stronger."""
    from scipy.ndimage import gaussian_filter

    haze = np.zeros(image.shape[1:])
    for sigma in (8, 4, 2, 1):
        layer = gaussian_filter(draws.normal(size=haze.shape), sigma * _scale(image), mode="wrap")
        haze += sigma * layer / max(float(layer.std()), 1e-12)
    haze = 0.85 + 0.15 * np.tanh(haze / 8)
    return image * (1 - strength) + strength * haze


CORRUPTIONS: dict[
    str, tuple[Callable[[Images, float, Draws], NDArray[np.floating]], tuple[float, float, float, float, float]]
] = {
    "gaussian-noise": (_gaussian_noise, (0.02, 0.04, 0.08, 0.14, 0.22)),
    "shot-noise": (_shot_noise, (1 / 500, 1 / 200, 1 / 100, 1 / 50, 1 / 20)),
    "impulse-noise": (_impulse_noise, (0.01, 0.02, 0.05, 0.1, 0.2)),
    "speckle-noise": (_speckle_noise, (0.05, 0.1, 0.2, 0.3, 0.5)),
    "gaussian-blur": (_gaussian_blur, (0.4, 0.6, 0.9, 1.3, 2.0)),
    "defocus-blur": (_defocus_blur, (0.7, 1.0, 1.5, 2.2, 3.2)),
    "motion-blur": (_motion_blur, (1.5, 2.5, 4.0, 6.0, 9.0)),
    "contrast": (_contrast, (0.2, 0.35, 0.5, 0.7, 0.85)),
    "brightness": (_brightness, (0.05, 0.1, 0.17, 0.25, 0.35)),
    "saturation": (_saturation, (0.2, 0.4, 0.6, 0.8, 1.0)),
    "jpeg": (_jpeg, (70, 45, 25, 12, 5)),
    "pixelate": (_pixelate, (0.25, 0.4, 0.5, 0.65, 0.75)),
    "elastic": (_elastic, (0.3, 0.5, 0.8, 1.2, 1.8)),
    "fog": (_fog, (0.1, 0.2, 0.35, 0.5, 0.7)),
}
"""Name -> (function of an image (C, H, W), its strength and its draws; the strengths of the five severities)."""
