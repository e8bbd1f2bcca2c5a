"""From a file, bytes, PIL image, array or tensor to float32 (C, H, W) in [0, 1]; whatever its format.

Every image, wherever it comes from, takes the same steps: decode -> scale by its integer type -> resize each
channel in float32 -> match the number of channels. So the same picture gives the same numbers everywhere.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from recondite.data.formats import formats_of, pillow_formats
from recondite.data.regions import Mask, found_inside, half_inside, painted, touched
from recondite.data.tensors import array_of, plain
from recondite.data.truncated import truncated_refused
from recondite.data.upright import upright
from recondite.errors import InputError

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded (decompression bombs)."""
MAX_FILE_BYTES = 1 << 30
SMALLEST_SIDE, LARGEST_SIDE = 8, 2048
"""Sides of the images that a detector works on, in pixels."""
MAX_VALUES = 1 << 24
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_LAYOUT_HINT = "the channel axis is the one shorter than 8, first or last"

Floats = NDArray[np.float32]


class Deferred(ABC):
    """An image that is fetched when it is decoded."""

    @abstractmethod
    def fetch(self) -> bytes:
        """Return the bytes of an image file.

        Raises:
            InputError: there is no such image.
            SourceError: it cannot be reached.
        """

    def identity(self) -> list[Any] | None:
        """Return JSON values that tell the image from others that may be fetched here; None where nothing does."""
        return None


class Masked(ABC):
    """An image with a mask of its own.

    Args:
        source: the image, anything that `decode` takes.
    """

    source: object

    @abstractmethod
    def mask(self, height: int, width: int) -> Mask:
        """Return the mask of the image, which has so many pixels, of a size of its own.

        Raises:
            InputError: there is none, or it cannot be read, or does not fit the image.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Preprocessing:
    """How an image becomes a detector's input: resized to `shape`, scaled to [0, 1], and grey where it does not count.

    What lies outside of a region is mid-grey. No pixel that lies wholly outside has any influence, on resizing neither.

    Args:
        shape: (C, H, W) for images, sides from 8 to 2048 pixels; (D,) for vectors, whose values are kept as they are.
        region: (H, W), True where images count; None where they do as a whole.
        masked: whether every image comes with a mask of its own, as `Masked`; a region holds beside it.

    Raises:
        InputError: the shape is neither; or the region is of another size, empty, or of vectors.
    """

    shape: tuple[int, ...]
    region: Mask | None = None
    masked: bool = False

    def __post_init__(self) -> None:
        shape = self.shape
        fits = all(isinstance(side, int) and side >= 1 for side in shape) and len(shape) in (1, 3)
        if not fits or np.prod(shape, dtype=np.float64) > MAX_VALUES:
            raise InputError(f"expected a shape (C, H, W) or (D,) of positive whole numbers; got {shape!r}")
        if self.is_image and not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in shape[1:]):
            raise InputError(
                f"expected sides from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels; got {shape[1]} x {shape[2]}"
            )
        if not self.is_image and (self.region is not None or self.masked):
            raise InputError("a region is for images, not for vectors")
        if self.region is not None:
            if self.region.shape != shape[1:] or self.region.dtype != np.bool_:
                raise InputError(f"expected a region bool {shape[1:]}; got {self.region.dtype} {self.region.shape}")
            if not self.region.any():
                raise InputError(f"the region leaves nothing inside at {shape[1]} x {shape[2]} pixels")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocessing) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.shape, self.masked, None if self.region is None else self.region.tobytes()

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def restricted(self) -> bool:
        """Whether only a part of the images counts."""
        return self.masked or self.region is not None

    @property
    def region_in_words(self) -> str:
        """What counts: "all of the image" where that is so."""
        parts = [] if self.region is None else [f"a region of {100 * self.region.mean():.0f} % of the image"]
        return " and ".join(parts + ["one mask per image"] * self.masked) or "all of the image"

    def __call__(self, source: object) -> Floats:
        """Return one image as float32 of `shape`, contiguous.

        Args:
            source: a path, bytes, PIL image, array or tensor (see `decode`); for vectors an array (D,).

        Raises:
            InputError: it cannot be decoded, holds NaN or values outside [0, 1], or does not fit; or its mask does not.
        """
        if isinstance(source, Masked) and not self.masked:
            raise InputError("this screen was not fitted with one mask per image: give none")
        if not self.is_image:
            return _vector(_load(source)[0], self.shape)
        stored = decode(source)
        channels, height, width = self.shape
        planes, inside = _planes(stored, channels), self._inside_of(source, stored)
        if planes.shape[1:] != (height, width):
            planes = _resized(planes, height, width, inside)
        if len(planes) != channels:
            planes = _match_channels(planes, channels)
        if stored.alpha is not None or planes.shape != stored.planes.shape:
            planes = np.clip(planes, 0.0, 1.0)  # sums of weighted values may leave the range by a rounding
        if inside is not None:
            planes = painted(planes, inside, told_apart=self.masked)
        return np.ascontiguousarray(planes)

    def inside(self, pixels: Floats) -> Mask | None:
        """Return where images count, (H, W), or (..., H, W) for images with masks; None for everywhere.

        Args:
            pixels: (..., C, H, W), as they were read here.
        """
        return found_inside(pixels) if self.masked else self.region

    def _inside_of(self, source: object, stored: "Pixels") -> Mask | None:
        if not self.masked:
            return self.region
        if not isinstance(source, Masked):
            raise InputError("this screen was fitted with one mask per image, and this image has none: give region=")
        _, height, width = stored.planes.shape
        inside = half_inside(source.mask(height, width), *self.shape[1:])
        inside = inside if self.region is None else inside & self.region
        if not inside.any():
            raise InputError("its mask leaves nothing inside")
        return inside

    def together(self, sources: Sequence[object]) -> Floats | None:
        """Return what calls one by one would, (N, *shape), for arrays that are all alike and need only scaling.

        Returns:
            None where that is not so, or one of them would be refused.
        """
        arrays = [source for source in sources if isinstance(source, np.ndarray) and not np.ma.isMaskedArray(source)]
        kinds = {(array.shape, array.dtype) for array in arrays}
        if self.masked or not self.is_image or not arrays or len(arrays) < len(sources) or len(kinds) > 1:
            return None
        try:
            if decode(arrays[0]).planes.shape != self.shape:
                return None
            scaled = _scale(np.stack(arrays))
        except InputError:
            return None
        axis = channel_axis(arrays[0].shape)
        planes = scaled[:, None] if axis is None else scaled.transpose(0, 3, 1, 2) if axis == 2 else scaled
        return np.ascontiguousarray(planes if self.region is None else painted(planes, self.region))

    def to_json(self) -> dict[str, Any]:
        facts = {"shape": list(self.shape), "resize": "bilinear, antialiased, float32", "range": [0, 1]}
        if not self.restricted:
            return facts
        share = None if self.region is None else float(self.region.mean())
        return {**facts, "region": {"share": share, "masked": self.masked}}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], region: Mask | None = None) -> "Preprocessing":
        made = cls(shape=tuple(facts["shape"]), region=region, masked=facts.get("region", {}).get("masked", False))
        if made.to_json() != dict(facts):
            raise InputError(f"this version cannot repeat the preprocessing {dict(facts)!r}")
        return made


@dataclass(frozen=True)
class Pixels:
    """One image as stored, integer or float.

    Args:
        planes: (C, H, W).
        alpha: (H, W), how opaque it is, or None; an array's fourth channel is left among its planes.
    """

    planes: NDArray[Any]
    alpha: NDArray[Any] | None = None


def decode(source: object) -> Pixels:
    """Return the pixels of one image.

    Args:
        source: a path (an image file, or .npy with one image), the bytes of an image file, a PIL image, a numpy
            array, a torch tensor, or a `Deferred`. Animated files give their first frame; EXIF orientation is applied.

    Raises:
        InputError: it is not an image that can be read safely.
    """
    stored, is_picture = _load(source)
    axis = channel_axis(stored.shape) if not is_picture else (2 if stored.ndim == 3 else None)
    planes = stored[None] if axis is None else stored.transpose(2, 0, 1) if axis == 2 else stored
    if planes.size == 0:
        raise InputError(f"the image is empty: shape {stored.shape}")
    if is_picture and len(planes) in (2, 4):
        return Pixels(planes[:-1], planes[-1])
    return Pixels(planes)


def picture_size(content: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as the head of an image file says, without decoding it.

    Raises:
        InputError: these are not the bytes of an image file.
    """

    def read() -> NDArray[Any]:
        with Image.open(io.BytesIO(content), formats=formats_of(content=content)) as picture:
            return np.array(picture.size)

    width, height = _guarded(read, "these bytes")
    return int(width), int(height)


def as_array(value: object) -> NDArray[Any]:
    """Return a numpy view of an array or a torch tensor (tensors are detached and moved to the CPU)."""
    if hasattr(value, "detach"):
        return array_of(value)
    if isinstance(value, np.ndarray):
        return plain(value)
    raise InputError(f"expected an image file, bytes, PIL image, array or tensor; got {type(value).__name__}")


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return which axis of an image's shape holds the channels: None, 0 or 2.

    An axis shorter than 8 pixels is the channel axis, since no side may be; otherwise channels come first.

    >>> channel_axis((32, 32)), channel_axis((32, 32, 3)), channel_axis((3, 32, 32))
    (None, 2, 0)
    """
    if len(shape) == 2:
        return None
    if len(shape) != 3:
        raise InputError(f"expected an image of shape (H, W), (H, W, C) or (C, H, W); got {shape}")
    if shape[0] < SMALLEST_SIDE and shape[2] < SMALLEST_SIDE:
        raise InputError(f"cannot tell the layout of an image of shape {shape}: {_LAYOUT_HINT}")
    return 2 if shape[2] < SMALLEST_SIDE else 0


def _load(source: object) -> tuple[NDArray[Any], bool]:
    """Return what is stored, and whether it came as a picture, (H, W) or (H, W, C), or as an array of any layout."""
    if isinstance(source, Masked):
        source = source.source
    if isinstance(source, Deferred):
        source = source.fetch()
    if isinstance(source, str | Path):
        path = Path(source)
        return (_load_npy(path), False) if path.suffix.lower() == ".npy" else (_decode_file(path), True)
    if isinstance(source, bytes | bytearray | memoryview):
        return _guarded(lambda: _open_picture(io.BytesIO(source)), "these bytes"), True
    if isinstance(source, Image.Image):
        return _guarded(lambda: _pixels(source), "the picture"), True
    return as_array(source), False


def _decode_file(path: Path) -> NDArray[Any]:
    _check_file(path)
    return _guarded(lambda: _open_picture(path), "the file")


def _load_npy(path: Path) -> NDArray[Any]:
    _check_file(path)
    mapped = _guarded(lambda: np.lib.format.open_memmap(path, mode="r"), "the .npy file")
    if mapped.size > MAX_PIXELS:
        raise InputError(f"the array has {mapped.size:,} values; the limit is {MAX_PIXELS:,}")
    return np.array(mapped)


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    if size > MAX_FILE_BYTES:
        raise InputError(f"the file has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    if size == 0:
        raise InputError("the file is empty")


def _guarded(read: Callable[[], NDArray[Any]], name: str) -> NDArray[Any]:
    # Decoders meet hostile bytes with nearly any exception; whichever it is, the image is unreadable.
    try:
        with truncated_refused():
            return read()
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} cannot be decoded as an image: expected {', '.join(pillow_formats())}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"too many pixels to decode safely: {error}") from error
    except Exception as error:
        raise InputError(f"{name} cannot be decoded as an image: {error or type(error).__name__}") from error


def _open_picture(file: Path | io.BytesIO) -> NDArray[Any]:
    formats = formats_of(file.name) if isinstance(file, Path) else formats_of(content=file.getbuffer())
    with Image.open(file, formats=formats) as picture:
        return _pixels(picture)


def _pixels(picture: Image.Image) -> NDArray[Any]:
    if picture.width * picture.height > MAX_PIXELS:
        raise InputError(f"the picture has {picture.width} x {picture.height} pixels; the limit is {MAX_PIXELS:,}")
    picture = upright(picture)
    mode, clear = picture.mode, picture.info.get("transparency")
    if mode == "1":
        picture = picture.convert("L" if clear is None else "LA")
    elif mode == "La":
        picture = picture.convert("LA")
    elif mode in ("P", "PA", "RGBa") or (mode in ("L", "RGB") and clear is not None):
        opaque = mode == "P" and clear is None
        picture = picture.convert("RGB" if opaque else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not mode.startswith("I;16"):
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if mode == "I":
        # Some 16-bit files open as 32-bit integers; no other range could be scaled without guessing.
        if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
            raise InputError(f"expected at most 16 bits a value; got values from {pixels.min()} to {pixels.max()}")
        pixels = pixels.astype(np.uint16)
    if mode.startswith("I;16") and clear is not None:
        return np.dstack([pixels, np.where(pixels == clear, 0, 65535).astype(pixels.dtype)])
    return pixels


def _planes(pixels: Pixels, channels: int) -> Floats:
    """Return float32 planes (C, H, W) in [0, 1], laid on white where the image is transparent."""
    planes, alpha = pixels.planes, pixels.alpha
    if channels == 4 and alpha is not None:
        return _scale(np.concatenate([planes, alpha[None]]))
    if channels != 4 and len(planes) == 4:
        planes, alpha = planes[:3], planes[3]
    if alpha is None:
        return _scale(planes)
    opaque = _scale(alpha)
    return _scale(planes) * opaque + (1 - opaque)


def _scale(planes: NDArray[Any]) -> Floats:
    kind = planes.dtype
    if kind == np.bool_:
        return planes.astype(np.float32)
    if kind == np.uint8:
        return planes.astype(np.float32) / np.float32(255)
    if kind.kind == "u" and kind.itemsize == 2:
        return planes.astype(np.float32) / np.float32(65535)
    if kind.kind != "f":
        raise InputError(f"expected uint8, uint16, bool or float pixels; got {kind}{_way_out(planes)}")
    if not np.isfinite(planes).all():
        raise InputError("expected float pixels in [0, 1]; got NaN or infinite values")
    if planes.min() < 0 or planes.max() > 1:
        values = f"values from {planes.min():g} to {planes.max():g}"
        raise InputError(f"expected float pixels in [0, 1]; got {values}{_way_out(planes)}")
    return planes.astype(np.float32)


def _way_out(planes: NDArray[np.generic]) -> str:
    """Say how values that look like those of a known type become what is expected; "" where they do not."""
    if planes.dtype.kind not in "iuf" or not planes.size or planes.min() < 0 or planes.max() <= 1:
        return ""
    most, name = (255, "uint8") if planes.max() <= 255 else (65535, "uint16")
    if planes.max() > most:
        return ""
    divided = f", or divide them by {most}" if planes.dtype.kind == "f" else f", or give values / {most}"
    return f". If their range is 0 to {most}, give images.astype({name!r}){divided}"


def _resized(planes: Floats, height: int, width: int, inside: Mask | None) -> Floats:
    """Return planes resized; with a mask (height, width), each pixel inside is a mean of what lies inside only."""
    if inside is None:
        return np.stack([_resize(plane, height, width) for plane in planes])
    counted = touched(inside, *planes.shape[1:]).astype(np.float32)
    weights = np.where(inside, _resize(counted, height, width), np.float32(1))
    return np.stack([_resize(plane * counted, height, width) / weights for plane in planes])


def _resize(plane: Floats, height: int, width: int) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _match_channels(planes: Floats, channels: int) -> Floats:
    if len(planes) == 1 and channels == 3:
        return np.repeat(planes, 3, axis=0)
    if len(planes) == 3 and channels == 1:
        return np.tensordot(_LUMA, planes, axes=1)[None]
    raise InputError(f"expected an image with {channels} channels; got {len(planes)}")


def _vector(values: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    if values.shape != shape:
        raise InputError(f"expected a vector of shape {shape}; got {values.shape}")
    if values.dtype.kind not in "fiub":
        raise InputError(f"expected a vector of numbers; got {values.dtype}")
    vector = values.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InputError("expected finite values; got NaN or infinite values")
    return np.ascontiguousarray(vector)
