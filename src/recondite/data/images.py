"""From a file, bytes, PIL image, array or tensor to float32 (C, H, W) in [0, 1]; whatever its format.

Every image, wherever it comes from, takes the same steps: decode -> scale by its integer type -> resize each
channel in float32 -> match the number of channels. So the same picture gives the same numbers everywhere.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from recondite.data import jpeg, png, tiff, tiff_parts
from recondite.data.files import regular_size
from recondite.data.formats import formats_of, pillow_formats
from recondite.data.items import MAX_FILE_BYTES, Deferred, Masked, Page, content_of, in_words, path_of
from recondite.data.pillow import open_picture, pixels_of
from recondite.data.quiet import quiet
from recondite.data.regions import Mask, found_inside, half_inside, painted
from recondite.data.scaling import (
    MAX_PIXELS,
    Pixels,
    all_scaled,
    averaged,
    block_size,
    checked_range,
    match_channels,
    resized,
    scale,
    scaled_planes,
    white_of,
)
from recondite.data.scaling import Floats as Floats
from recondite.data.tensors import array_of, plain
from recondite.data.truncated import truncated_refused
from recondite.errors import InputError, ReconditeError

SMALLEST_SIDE, LARGEST_SIDE = 8, 2048
"""Sides of the images that a detector works on, in pixels."""
MAX_VALUES = 1 << 24
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_LAYOUT_HINT = "the channel axis is the one shorter than 8, first or last"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Preprocessing:
    """How an image becomes a detector's input: resized to `shape`, scaled to [0, 1], and grey where it does not count.

    What lies outside of a region is mid-grey. No pixel that lies wholly outside has any influence, on resizing neither.

    Args:
        shape: (C, H, W) for images, sides from 8 to 2048 pixels; (D,) for vectors, whose values are kept as they are.
        region: (H, W), True where images count; None where they do as a whole.
        masked: whether every image comes with a mask of its own, as `Masked`; a region holds beside it.
        value_range: the stored values that are black and white, such as (0, 4095); None for what the type of an image
            says, such as 0 and 65,535 for 16 bits.

    Raises:
        InputError: the shape is neither; or the region is of another size, empty, or of vectors; or the range is none.
    """

    shape: tuple[int, ...]
    region: Mask | None = None
    masked: bool = False
    value_range: tuple[float, float] | None = None

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
        if self.value_range is not None:
            if not self.is_image:
                raise InputError("a range of values is for images, not for vectors")
            object.__setattr__(self, "value_range", checked_range(self.value_range))
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
        return self.shape, self.masked, None if self.region is None else self.region.tobytes(), self.value_range

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
            return _vector(_vector_of(source), self.shape)
        channels, height, width = self.shape
        # No pixel outside of a region may have any influence: such images are not averaged over blocks.
        stored = decode(source, None if self.restricted else (height, width))
        inside = self._inside_of(source, stored)
        if stored.size == (height, width):
            planes = all_scaled(stored, channels, self.value_range)
        else:
            scaled = scaled_planes(stored, channels, self.value_range)
            planes = resized(scaled, height, width, inside, stored.reduced)
        if len(planes) != channels:
            planes = match_channels(planes, channels)
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
        inside = half_inside(source.mask(*stored.size), *self.shape[1:])
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
            scaled = scale(np.stack(arrays), self.value_range)
        except (InputError, MemoryError):
            return None
        axis = channel_axis(arrays[0].shape)
        planes = scaled[:, None] if axis is None else scaled.transpose(0, 3, 1, 2) if axis == 2 else scaled
        return np.ascontiguousarray(planes if self.region is None else painted(planes, self.region))

    def to_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "shape": list(self.shape),
            "resize": "bilinear, antialiased, float32",
            "range": [0, 1],
        }
        if self.value_range is not None:
            facts["values"] = list(self.value_range)
        if not self.restricted:
            return facts
        share = None if self.region is None else float(self.region.mean())
        return {**facts, "region": {"share": share, "masked": self.masked}}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], region: Mask | None = None) -> "Preprocessing":
        values = facts.get("values")
        made = cls(
            shape=tuple(facts["shape"]),
            region=region,
            masked=facts.get("region", {}).get("masked", False),
            value_range=None if values is None else tuple(values),
        )
        if made.to_json() != dict(facts):
            raise InputError(f"this version cannot repeat the preprocessing {dict(facts)!r}")
        return made


def decode(source: object, target: tuple[int, int] | None = None) -> Pixels:
    """Return the pixels of one image.

    Args:
        source: a path (an image file, or .npy with one image), a file object, the bytes of an image file, a PIL image,
            a numpy array, a torch tensor, a `Deferred`, a `Page`, or `Pixels` without alpha. Animated files give their
            first frame; EXIF orientation is applied.
        target: (height, width) that it will be resized to: a huge image may come as means of blocks, and a huge JPEG
            file be decoded at a smaller size. None for all of its pixels.

    Raises:
        InputError: it is not an image that can be read safely.
        SourceError: it cannot be reached.
    """
    try:
        pixels = _decoded(source, target)
    except ReconditeError:
        raise
    except Exception as error:
        raise InputError(in_words(error)) from error
    if pixels.planes.size == 0:
        raise InputError(f"the image is empty: shape {pixels.planes.shape}")
    return pixels


def picture_size(content: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels as the head of an image file says, without decoding it.

    Raises:
        InputError: these are not the bytes of an image file.
    """
    head = head_of(content)
    return head.width, head.height


class Head(NamedTuple):
    """What the head of an image file says; `channels` is None where it does not tell, as for a palette."""

    height: int
    width: int
    channels: int | None
    animated: bool = False
    """Whether there are frames beside the first, which alone is looked at."""


def head_of(content: bytes) -> Head:
    """Return what `header_of` does, of bytes; for the usual PNG files in no time."""
    found = png.head_of(content)
    return header_of(io.BytesIO(content)) if found is None else Head(*found)


def header_of(stream: BinaryIO, frame: int = 0) -> Head:
    """Return what the head of a file says, without decoding it.

    Raises:
        InputError: these are not the bytes of an image file.
    """

    def read() -> Head:
        stream.seek(0)
        with Image.open(stream, formats=_formats(stream)) as picture:
            grey = picture.mode in ("1", "L", "LA", "I", "F") or picture.mode.startswith("I;16")
            channels = None if picture.mode in ("P", "PA") else 1 if grey else 3
            animated = picture.format in _ANIMATED and getattr(picture, "is_animated", False)
            return Head(picture.height, picture.width, channels, animated)

    found = tiff.directories(stream)
    if frame < len(found) and (frame or tiff.misread(found[frame])):
        width, height = tiff.size(found[frame])
        return Head(height, width, None)
    return _guarded(read, "these bytes")


def as_array(value: object) -> NDArray[Any]:
    """Return a numpy view of an array or a torch tensor, detached and on the CPU; InputError for anything else."""
    if hasattr(value, "detach"):
        return array_of(value)
    if isinstance(value, np.ndarray):
        return plain(value)
    raise InputError(f"expected an image file, bytes, PIL image, array or tensor; got {type(value).__name__}")


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return which axis of an image's shape holds the channels: None, 0 or 2; InputError where that cannot be told.

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


def _decoded(source: object, target: tuple[int, int] | None) -> Pixels:
    source = source.source if isinstance(source, Masked) else source
    if isinstance(source, Pixels):
        return _from_array(source.planes, 0, target)
    if isinstance(source, Deferred):
        source = source.fetch()
    if isinstance(source, Page):
        return _decode_file(source.path, source.frame, target)
    path = path_of(source)
    if path is not None and path.suffix.lower() != ".npy":
        return _decode_file(path, None, target)
    content = content_of(source)
    if content is not None:
        return _guarded(lambda: _from_stream(io.BytesIO(content), None, target), "these bytes")
    if isinstance(source, Image.Image):
        return _guarded(lambda: _from_picture(source, target), "the picture")
    array = as_array(source) if path is None else _load_npy(path)
    return _from_array(array, channel_axis(array.shape), target)


def _decode_file(path: Path, frame: int | None, target: tuple[int, int] | None) -> Pixels:
    _check_file(path)

    def read() -> Pixels:
        with path.open("rb") as stream:
            return _from_stream(stream, frame, target)

    return _guarded(read, "the file")


def _from_stream(stream: BinaryIO, frame: int | None, target: tuple[int, int] | None) -> Pixels:
    """Decode a file, or one page of it; None for its only one."""
    head = stream.read(4)
    if not tiff.is_tiff(head):
        found = None
        if head == png.HEAD:
            png.check_sums(stream)
            found = png.read(stream, target)
        elif head == jpeg.HEAD:
            stream.seek(0)
            found = jpeg.read(stream)
        stream.seek(0)
        return found or open_picture(stream, _formats(stream), 0, target)
    if frame is None:
        frame, *others = tiff.pages(stream)
        if others:
            raise InputError(f"it has {1 + len(others)} pages: give the path of the file, or its folder, to judge each")
    directories = tiff.directories(stream)
    if frame >= len(directories):
        raise InputError(f"there is no page {frame + 1}; the file is damaged or has changed")
    tags = directories[frame]
    return replace(_from_page(stream, frame, tags, target), declared=tiff.declared_white(tags))


def _from_page(stream: BinaryIO, frame: int, tags: tiff.Tags, target: tuple[int, int] | None) -> Pixels:
    if tiff.misread(tags) is not None:
        return tiff.read(stream, frame, tags, MAX_PIXELS)
    white, (width, height) = tiff.white_by_bits(tags), tiff.size(tags)
    found = None
    if target is not None and block_size(height, width, target) != (1, 1) and width * height <= MAX_PIXELS:
        found = tiff_parts.read(stream, frame, target, white)
    stream.seek(0)
    return found or open_picture(stream, _formats(stream), frame, target, white)


def _formats(stream: BinaryIO) -> tuple[str, ...]:
    """Return the formats that Pillow may try on a file."""
    if isinstance(stream, io.BytesIO):
        return formats_of(content=stream.getbuffer())
    return formats_of(str(getattr(stream, "name", "")))


def _from_picture(picture: Image.Image, target: tuple[int, int] | None) -> Pixels:
    tags = getattr(picture, "tag_v2", None)
    wrong = None if tags is None else tiff.misread(tiff.tags_of(tags))
    if wrong is not None:
        raise InputError(f"Pillow misreads {wrong}: give the path or the bytes of the file")
    return pixels_of(picture, target)


def _from_array(array: NDArray[Any], axis: int | None, target: tuple[int, int] | None) -> Pixels:
    white = white_of(array.dtype)
    planes = array[None] if axis is None else array.transpose(2, 0, 1) if axis == 2 else array
    channels, height, width = planes.shape
    block = block_size(height, width, target)
    if block == (1, 1) or channels == 4 or array.dtype.kind not in "biuf":
        return Pixels(planes, None, white)
    return averaged(lambda top, bottom: planes[:, top:bottom].transpose(1, 2, 0), (height, width), block, white)


def _load_npy(path: Path) -> NDArray[Any]:
    _check_file(path)
    mapped = _guarded(lambda: np.lib.format.open_memmap(path, mode="r"), "the .npy file")
    if mapped.size > MAX_PIXELS:
        raise InputError(f"the array has {mapped.size:,} values; the limit is {MAX_PIXELS:,}")
    return _guarded(lambda: np.load(path, allow_pickle=False), "the .npy file")  # mapped, it kills when it is cut short


def _check_file(path: Path) -> None:
    try:
        size = regular_size(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    if size > MAX_FILE_BYTES:
        raise InputError(f"the file has {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    if size == 0:
        raise InputError("the file is empty")


def _guarded(read: Callable[[], T], name: str) -> T:
    # Decoders meet hostile bytes with nearly any exception; whichever it is, the image is unreadable.
    try:
        with quiet(), truncated_refused():
            return read()
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} cannot be decoded as an image: expected {', '.join(pillow_formats())}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"too many pixels to decode safely: {error}") from error
    except Exception as error:
        raise InputError(f"{name} cannot be decoded as an image: {error or type(error).__name__}") from error


def _vector_of(source: object) -> NDArray[Any]:
    path = path_of(source)
    return as_array(source) if path is None else _load_npy(path)


def _vector(values: NDArray[Any], shape: tuple[int, ...]) -> Floats:
    if values.shape != shape:
        raise InputError(f"expected a vector of shape {shape}; got {values.shape}")
    if values.dtype.kind not in "fiub":
        raise InputError(f"expected a vector of numbers; got {values.dtype}")
    vector = values.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InputError("expected finite values; got NaN or infinite values")
    return np.ascontiguousarray(vector)
