"""Whether the parts in a few images seem to lie at any angle, so that turned copies of them are worth learning."""

import numpy as np
import torch

from recondite.data.spool import Rows
from recondite.detectors import Detector
from recondite.detectors.features import Features
from recondite.training.augmentation import with_turned

FEWEST_ASKED, MOST_ASKED = 8, 60
_LOOKED_AT, _QUARTERS, _FEWEST_TURNED, _SHARE_TURNED = 16, 4, 3, 0.2
ADVICE = (
    "the images look as if the parts in them lay at any angle: many are more like another one turned by a quarter than "
    "like any as it is. If they do, --rotations 8 learns each turned too, and finds more (--rotations 1: do not ask)"
)


def seem_turned(detector: Detector, images: Rows) -> bool:
    """Return whether the nearest of the other images is one turned by a quarter, for a fifth of them and at least 3.

    The other images count as they are and turned by a half and by quarters, by the vectors of all of their places. Of
    parts at any angle that is half of the nearest ones, were they many; of parts that lie alike hardly any. Sixteen
    images are looked at, and none where there are fewer than 8 or more than 60, or the detector looks at no places.

    Args:
        detector: fitted.
        images: that it has learnt from.
    """
    if not (isinstance(detector, Features) and detector.locates) or not FEWEST_ASKED <= len(images) <= MOST_ASKED:
        return False
    if detector.options.rotations > 1 or detector.preprocessing.restricted:
        return False
    some = images.index[np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).round().astype(int)]
    every = []
    for row in some:
        turned = Rows(with_turned(torch.from_numpy(images.pixels[[row]]), _QUARTERS).numpy(), np.arange(_QUARTERS))
        every += [seen.places.flatten(1).cpu() for seen in detector.seen_in(turned)]
    vectors = torch.cat(every)
    distances = torch.cdist(vectors[::_QUARTERS], vectors).reshape(len(some), len(some), _QUARTERS)
    distances.diagonal().fill_(torch.inf)
    quarters = distances.flatten(1).argmin(1) % 2  # of 0, 1, 2, 3 quarters the odd ones
    return int(quarters.sum()) >= max(_FEWEST_TURNED, _SHARE_TURNED * len(some))
