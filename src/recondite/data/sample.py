"""What the images of a source are like, by a sample from all of it: their size, colour and kind."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from PIL import Image

from recondite.data.datasets import ImageSet
from recondite.data.files import open_regular
from recondite.data.images import SMALLEST_SIDE, Head, Preprocessing, channel_axis, decode, head_of, header_of
from recondite.data.items import Masked, Page, axes_of, path_of
from recondite.errors import InputError, ReconditeWarning

_LOOKED_AT, _TRIED = 50, 500
_GLANCES = 20
_HEAD_BYTES = 1 << 28
_COMMON, _COLOUR = 0.5, 3
_LEVELS, _MOST_OF_A_DRAWING = 16, 0.5
LARGEST_SMALL_SIDE = 64
_DIM = 1 / 8
"""Of what a type can hold; images that pass it nowhere may have another white, such as 12 bits of 16."""


@dataclass(frozen=True)
class Sample:
    """Up to 50 readable images from all over a source.

    Args:
        sizes: (height, width) of each; empty for vectors.
        channels: of each.
        drawings: how many are mostly of one grey or colour.
        vector: the length of vectors; None for images.
        brightest: the largest value of images of whole numbers, and what is white in that type; None without any.
        declared: what is white by the tags of each file, None where they are silent.
    """

    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    drawings: int = 0
    vector: int | None = None
    brightest: tuple[float, float] | None = None
    declared: tuple[float | None, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of at least half of the images; or else the median of each."""
        size, count = Counter(self.sizes).most_common(1)[0]
        if count >= _COMMON * len(self.sizes):
            return size
        height, width = np.median(np.array(self.sizes), axis=0)
        return int(height), int(width)

    @property
    def in_colour(self) -> int:
        """How many have more than one channel."""
        return sum(channels > 1 for channels in self.channels)

    @property
    def is_of_drawings(self) -> bool:
        """Whether most are mostly of one grey or colour: digits, symbols, diagrams."""
        return self.drawings > _MOST_OF_A_DRAWING * len(self.sizes)

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The range by the tags of all files, where none uses more than an eighth of its type's; else None."""
        whites = set(self.declared)
        if not self.is_dim or len(whites) != 1 or self.brightest is None:
            return None
        white = whites.pop()
        return (0.0, white) if white is not None and self.brightest[0] <= white else None

    @property
    def is_dim(self) -> bool:
        """Whether no image has a value above an eighth of what its type can hold, and some have other than black."""
        return self.brightest is not None and 0 < self.brightest[0] <= _DIM * self.brightest[1]

    def remarks(self, value_range: object = None) -> list[str]:
        """Return what whoever fits to such images should know, in words.

        Args:
            value_range: that was given or found in the tags; then how dim images are says nothing.
        """
        if not self.is_dim or value_range is not None or self.brightest is None:
            return []
        largest, white = self.brightest
        likely = 2 ** int(largest).bit_length() - 1
        return [
            f"no value of the images looked at is above {largest:g} of {white:g}, so all will be nearly black: if "
            f"their white is less, as in 12 bits of 16, give value_range=(0, {likely}), or --value-range 0,{likely}"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what images are like, as JSON values; least, median and largest of each side."""
        sides = np.array(self.sizes or [(0, 0)])
        spans = np.stack([sides.min(axis=0), np.median(sides, axis=0), sides.max(axis=0)]).astype(int)
        return {
            "images": len(self.channels),
            "in_colour": self.in_colour,
            "height": spans[:, 0].tolist(),
            "width": spans[:, 1].tolist(),
        }

    def shape(
        self, image_size: tuple[int, int] | None, size_for: Callable[[int, int], tuple[int, int]]
    ) -> tuple[int, ...]:
        """Return the shape a detector of such images should have; colour if any of them is, else grey.

        Args:
            image_size: (height, width), if it is given.
            size_for: from the common height and width of the images to those the detector works on.
        """
        if self.vector is not None:
            return (self.vector,)
        channels = Counter(self.channels).most_common(1)[0][0]
        if channels == 1 and _COLOUR in self.channels:
            channels = _COLOUR
        return (channels, *(image_size or size_for(*self.size)))


def small_size(height: int, width: int) -> tuple[int, int]:
    """Return the size that images are brought to by default: their own up to 64 pixels a side, or else 64 x 64."""
    if all(SMALLEST_SIDE <= side <= LARGEST_SMALL_SIDE for side in (height, width)):
        return height, width
    return LARGEST_SMALL_SIDE, LARGEST_SMALL_SIDE


def sampled(images: ImageSet) -> tuple[Sample, ImageSet]:
    """Return what images are like, and the images (a stream, whose first images are looked at, is put together again).

    Raises:
        InputError: none of some hundreds of them can be read.
    """
    if images.ids is None:
        rest = iter(images.items)
        head = _head(rest)
        items = [item for _, item, _ in ImageSet(head).entries()]
        step = max(1, len(items) // _LOOKED_AT)
        order = chain.from_iterable(range(start, len(items), step) for start in range(step))
        images, looked_at = replace(images, items=chain(head, rest)), (items[index] for index in order)
    else:
        # Every n-th of all, and then those between them, as far as the first ones cannot be read.
        step = max(1, len(images.ids) // _LOOKED_AT)
        order = chain.from_iterable(range(start, len(images.ids), step) for start in range(step))
        looked_at = (images.entry(index)[0] for index in islice(order, _TRIED))
    sizes, channels, declared, drawings, problem = [], [], [], 0, "there are none"
    brightest: tuple[float, float] | None = None
    for item in looked_at:
        if axes_of(item) == 1:
            return Sample((), (), vector=len(item)), images
        try:
            pixels = decode(item, (LARGEST_SMALL_SIDE, LARGEST_SMALL_SIDE))
        except InputError as error:
            problem = str(error)
            continue
        planes = pixels.planes
        sizes.append(pixels.size)
        channels.append(len(planes))
        declared.append(pixels.declared)
        if pixels.white is not None and pixels.white > 1:
            largest = (float(pixels.extremes[1]), pixels.white)
            brightest = max(brightest or largest, largest, key=lambda one: one[0] / one[1])
        drawings += _is_drawing(planes)
        if len(sizes) == _LOOKED_AT:
            break
    if not sizes:
        raise InputError(f"none of the images looked at can be read; the last: {problem}")
    return Sample(tuple(sizes), tuple(channels), drawings, None, brightest, tuple(declared)), images


def _head(items: Iterator[Any]) -> list[Any]:
    """Return the first items of a stream: 500 of them, or as many as fit in a quarter of a gigabyte, at least one."""
    head: list[Any] = []
    taken = 0
    while len(head) < _TRIED and taken < _HEAD_BYTES:
        try:
            item = next(items)
        except StopIteration:
            break
        head.append(item)
        image = item[0] if isinstance(item, tuple | list) and item else item
        width, height = image.size if isinstance(image, Image.Image) else (0, 0)
        taken += int(getattr(image, "nbytes", 0)) if axes_of(image) else 4 * width * height
    return head


def glances(images: ImageSet) -> list[Head]:
    """Return the heads of up to 20 images from all over a source.

    Only headers are read, and nothing of streams or of what is fetched from afar; unreadable images are left out.
    """
    if images.ids is None or not images.ids:
        return []
    found = []
    for index in range(0, len(images.ids), max(1, len(images.ids) // _GLANCES)):
        seen = _glance(images.entry(index)[0])
        if seen is not None:
            found.append(seen)
        if len(found) == _GLANCES:
            break
    return found


def first_frames_only(heads: Sequence[Head]) -> list[str]:
    """Return in words that frames of animated images are not looked at, if there are any."""
    animated = sum(head.animated for head in heads)
    if not animated:
        return []
    return [
        f"{animated} of {len(heads)} images looked at {'is' if animated == 1 else 'are'} animated: of each, only the "
        "first frame counts"
    ]


def _glance(item: object) -> Head | None:
    try:
        if isinstance(item, Masked):
            item = item.source
        path, frame = (item.path, item.frame) if isinstance(item, Page) else (path_of(item), 0)
        if path is not None and path.suffix.lower() != ".npy":
            with open_regular(path) as stream:
                return header_of(stream, frame)
        if isinstance(item, bytes):
            return head_of(item)
        if isinstance(item, Image.Image):
            return Head(item.height, item.width, len(item.getbands()) if item.mode in ("L", "RGB") else None)
        if isinstance(item, np.ndarray) and item.ndim in (2, 3) and item.size and item.dtype.kind in "biuf":
            axis = channel_axis(item.shape)
            height, width = (side for place, side in enumerate(item.shape) if place != axis)
            return Head(height, width, 1 if axis is None else item.shape[axis])
        if axes_of(item) in (2, 3):
            pixels = decode(item, (LARGEST_SMALL_SIDE, LARGEST_SMALL_SIDE))
            return Head(*pixels.size, len(pixels.planes))
    except Exception:  # whatever one image does; a row will say so
        pass
    return None


def guess_preprocessing(
    images: ImageSet, image_size: tuple[int, int] | None = None, value_range: tuple[float, float] | None = None
) -> tuple[Preprocessing, ImageSet]:
    """Return how images become inputs at `image_size`, or else `small_size`, and the images, as `sampled` does.

    Args:
        images: that are looked at.
        image_size: (height, width), if it is given.
        value_range: what is black and what is white; by default what the tags of the files say, or else their type.

    Raises:
        InputError: none of them can be read, or a range is given for vectors.
    """
    sample, images = sampled(images)
    values = value_range if value_range is not None else sample.value_range
    for remark in sample.remarks(values):
        warnings.warn(remark, ReconditeWarning, stacklevel=3)
    return Preprocessing(shape=sample.shape(image_size, small_size), value_range=values), images


def _is_drawing(planes: np.ndarray) -> bool:
    """Whether half of the values lie within a sixteenth of their range."""
    values = planes.astype(np.float64).ravel()[:: max(1, planes.size // 10_000)]
    low, high = values.min(), values.max()
    counts, _ = np.histogram(values, bins=_LEVELS, range=(low, high if high > low else low + 1))
    return bool(counts.max() > len(values) / 2)
