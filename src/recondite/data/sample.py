"""What the images of a source are like, by a sample from all of it: their size, colour and kind."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np

from recondite.data.datasets import ImageSet
from recondite.data.images import SMALLEST_SIDE, decode
from recondite.data.items import axes_of
from recondite.errors import InputError

_LOOKED_AT, _TRIED = 50, 500
_COMMON = 0.5
_LEVELS, _MOST_OF_A_DRAWING = 16, 0.5
LARGEST_SMALL_SIDE = 64


@dataclass(frozen=True)
class Sample:
    """Up to 50 readable images from all over a source.

    Args:
        sizes: (height, width) of each; empty for vectors.
        channels: of each.
        drawings: how many are mostly of one grey or colour.
        vector: the length of vectors; None for images.
    """

    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    drawings: int = 0
    vector: int | None = None

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
        return (max(self.channels), *(image_size or size_for(*self.size)))


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
        head = list(islice(rest, _LOOKED_AT))
        images, looked_at = replace(images, items=chain(head, rest)), (item for _, item, _ in ImageSet(head).entries())
    else:
        # Every n-th of all, and then those between them, as far as the first ones cannot be read.
        step = max(1, len(images.ids) // _LOOKED_AT)
        order = chain.from_iterable(range(start, len(images.ids), step) for start in range(step))
        looked_at = (images.entry(index)[0] for index in islice(order, _TRIED))
    sizes, channels, drawings, problem = [], [], 0, "there are none"
    for item in looked_at:
        if axes_of(item) == 1:
            return Sample((), (), vector=len(item)), images
        try:
            planes = decode(item).planes
        except InputError as error:
            problem = str(error)
            continue
        sizes.append((planes.shape[1], planes.shape[2]))
        channels.append(len(planes))
        drawings += _is_drawing(planes)
        if len(sizes) == _LOOKED_AT:
            break
    if not sizes:
        raise InputError(f"none of the images looked at can be read; the last: {problem}")
    return Sample(tuple(sizes), tuple(channels), drawings), images


def guess_shape(images: ImageSet, image_size: tuple[int, int] | None) -> tuple[tuple[int, ...], ImageSet]:
    """Return the shape of images at `image_size`, or else `small_size`, and the images, as `sampled` does.

    Raises:
        InputError: none of them can be read.
    """
    sample, images = sampled(images)
    return sample.shape(image_size, small_size), images


def _is_drawing(planes: np.ndarray) -> bool:
    """Whether half of the values lie within a sixteenth of their range."""
    values = planes.astype(np.float64).ravel()[:: max(1, planes.size // 10_000)]
    low, high = values.min(), values.max()
    counts, _ = np.histogram(values, bins=_LEVELS, range=(low, high if high > low else low + 1))
    return bool(counts.max() > len(values) / 2)
