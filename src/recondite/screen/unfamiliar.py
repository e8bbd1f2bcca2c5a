"""Whether images are of the kind that a screen learnt from at all, before anyone believes its verdicts."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from recondite.data.datasets import ImageSet
from recondite.data.images import Preprocessing
from recondite.data.sample import first_frames_only, glances

_FAR = 4.0
"""So many times the side of the largest, or of the smallest, image that was learnt from."""
_FEWEST, _NEARLY_ALL = 20, 0.95


def unlike(learnt: Mapping[str, Any] | None, seen: Preprocessing, images: ImageSet) -> list[str]:
    """Return in words how images differ in size or colour from those that a screen learnt from, and what is not judged.

    Args:
        learnt: what `Sample.to_json` said of those, a screen's `facts["sample"]`; None where it is not known.
        seen: how the screen sees images.
        images: to be judged; some headers are read.
    """
    found = glances(images) if seen.is_image else []
    if not found:
        return []
    remarks = first_frames_only(found)
    if learnt is not None:
        sides = [sqrt(height * width) for height, width, *_ in found]
        least, _, most = (sqrt(height * width) for height, width in zip(learnt["height"], learnt["width"], strict=True))
        far = [index for index, side in enumerate(sides) if not least / _FAR <= side <= most * _FAR]
        if 2 * len(far) > len(found):
            height, width, *_ = found[far[0]]
            own = f"{learnt['height'][1]} x {learnt['width'][1]}"
            remarks.append(
                f"images such as one of {height} x {width} pixels are far from the size that the screen learnt from "
                f"({own}): they are brought to {seen.shape[1]} x {seen.shape[2]}"
            )
    known = [head.channels for head in found if head.channels is not None]
    coloured = sum(channels > 1 for channels in known)
    only_grey = seen.shape[0] == 1 and not (learnt and learnt["in_colour"])
    only_colour = learnt is not None and seen.shape[0] > 1 and learnt["in_colour"] == learnt["images"]
    if only_grey and 2 * coloured > len(known):
        remarks.append(
            f"{coloured} of {len(known)} images looked at are in colour, and the screen learnt from grey ones"
        )
    if only_colour and known and not coloured:
        remarks.append("the images are grey, and the screen learnt from images in colour")
    return remarks


def too_many(outliers: int, readable: int) -> list[str]:
    """Return in words that nearly all of some images are outliers, if that is so."""
    if readable < _FEWEST or outliers < _NEARLY_ALL * readable:
        return []
    return [
        f"{outliers:,} of {readable:,} images are outliers: where most should be normal, the screen may be for other "
        "images, or light, camera or files have changed"
    ]
