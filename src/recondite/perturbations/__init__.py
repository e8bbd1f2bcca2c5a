"""Images changed on purpose: masks, corruptions of five severities, turns, flips, and small defects with their truth.

All take floating-point images (N, C, H, W) with any number of channels and return float32; the draws of an image depend
on the seed and its index alone.
"""

from recondite.perturbations.base import Perturbed
from recondite.perturbations.corruptions import CORRUPTIONS, SEVERITIES, blurred, corrupted, flipped, rotated
from recondite.perturbations.defects import DEFECTS, defective
from recondite.perturbations.masks import MaskKind, masked

__all__ = [
    "CORRUPTIONS",
    "DEFECTS",
    "SEVERITIES",
    "MaskKind",
    "Perturbed",
    "blurred",
    "corrupted",
    "defective",
    "flipped",
    "masked",
    "rotated",
]
