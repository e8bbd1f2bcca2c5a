"""The methods of the detector of features, and which of them an image of some size is judged by."""

from recondite.data.sample import LARGEST_SMALL_SIDE
from recondite.detector_options import FEATURE_COMPONENTS, FeaturesOptions, Method
from recondite.errors import InputError

LOCAL: tuple[Method, ...] = ("padim", "subspace", "patchcore", "dfr")
WITH_PLACES: tuple[Method, ...] = ("mahalanobis", "padim")
"""What images are judged by where their places count: the default of large ones, and where defects are known."""
COMBINED = "combined"
LARGEST_FEATURES = 8192


def methods_of(options: FeaturesOptions, shape: tuple[int, ...]) -> tuple[Method, ...]:
    """Return the methods; where none are named, those that suit the score and images of a shape (C, H, W).

    Raises:
        InputError: one is named twice.
    """
    if options.methods:
        if len(set(options.methods)) < len(options.methods):
            raise InputError(f"expected every method once; got {', '.join(options.methods)}")
        return options.methods
    if options.score in ("knn", *LOCAL):
        return (options.score,)
    return ("mahalanobis",) if max(shape[1:]) <= LARGEST_SMALL_SIDE else WITH_PLACES


def components_of(options: FeaturesOptions, size: int) -> int:
    """Return how many principal components of images with so many features are kept.

    Raises:
        InputError: more than there are features, or too many features.
    """
    kept = options.latent_size or min(FEATURE_COMPONENTS, size)
    if not kept <= size <= LARGEST_FEATURES:
        raise InputError(
            f"expected latent_size <= the features of an image <= {LARGEST_FEATURES:,}; got {kept} and {size:,}: give "
            "another latent_size (--latent-size), or layers with fewer features (--layers)"
        )
    return kept
