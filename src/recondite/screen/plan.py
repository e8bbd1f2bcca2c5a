"""What will be fitted: detector, options and score, settled before any image is learnt from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recondite.data.sample import Sample
from recondite.detectors import build, detector_class
from recondite.detectors.base import Detector
from recondite.detectors.effects import check_effect
from recondite.detectors.feature_methods import WITH_PLACES
from recondite.errors import InputError
from recondite.options import TrainingOptions, make_options, option_names
from recondite.screen.choose import AUTO_DETECTOR, Choice, choose_detector
from recondite.screen.words import AUTO, ERROR
from recondite.training.presets import Preset, get_preset


@dataclass(frozen=True)
class Plan:
    """What will be fitted.

    Args:
        detector: built, and not fitted.
        training: how it will be.
        score: what images are judged by, if enough of them are left for it.
        named: the score was asked for, by the user or a preset.
        reason: why it is this detector; None where it was named.
    """

    detector: Detector
    training: TrainingOptions
    score: str
    named: bool
    reason: str | None


def recipe_of(
    preset: str | None, detector: str | None, size: tuple[int, int] | None
) -> tuple[Preset | None, str | None]:
    """Return a preset, and the detector that was named; None for either that was not.

    Raises:
        InputError: there is no such preset, or it is for another detector, or for images of another size.
    """
    recipe = get_preset(preset) if preset is not None else None
    if detector == AUTO_DETECTOR:
        detector = None
    if recipe is not None and detector not in (None, recipe.detector):
        raise InputError(f"preset {preset!r} is a recipe for detector {recipe.detector!r}; got {detector!r}")
    if recipe is not None and recipe.shape and size not in (None, recipe.shape[1:]):
        raise InputError(f"preset {preset!r} is for images of {recipe.shape[1]} x {recipe.shape[2]} pixels")
    return recipe, detector


def planned(
    sample: Sample,
    recipe: Preset | None,
    detector: str | None,
    score: str | None,
    size: tuple[int, int] | None,
    networks: Mapping[str, Any],
    options: Mapping[str, Any],
    defects_known: bool,
) -> Plan:
    """Return what to fit on images such as those of a sample.

    Args:
        sample: of the images.
        recipe: whose settings `options` override; None for none.
        detector: its name; None for that of the recipe, or the one that suits the images.
        score: what images are to be judged by; None for the recipe's, or all that tells.
        size: (height, width); None for what suits the detector.
        networks: "encoder", "decoder" and "backbone" -> the user's own, or the name of a backbone; None for none.
        options: of the detector and of `TrainingOptions`, by name.
        defects_known: a head is to learn from known defects.

    Raises:
        InputError: options that are unknown, do not go together or would change nothing.
    """
    choice = None
    if recipe is None and detector is None:
        choice = _meant(networks, defects_known) or choose_detector(sample, options, score)
    name = recipe.detector if recipe is not None else choice.detector if choice is not None else str(detector)
    if isinstance(backbone := networks["backbone"], str):
        options, networks = {**options, "backbone": backbone}, {**networks, "backbone": None}
    settings = {**(recipe.options if recipe is not None else {}), **options}
    wanted = score if score is not None or recipe is None else recipe.score
    judged_by = AUTO if wanted is None else wanted
    if judged_by in detector_class(name).own_scores():
        settings["score"], judged_by = judged_by, ERROR
    chosen, training = _sort_options(name, settings)
    if choice is not None and defects_known:
        chosen.setdefault("methods", WITH_PLACES)
    fixed = None if recipe is None else recipe.shape
    shape = fixed or sample.shape(size, detector_class(name).image_size)
    modules = {**networks, "backbone": chosen.pop("backbone", networks["backbone"])}
    model = build(name, image_shape=shape, seed=training.seed, **modules, **chosen)
    check_effect(model, options)
    return Plan(model, training, judged_by, wanted is not None, None if choice is None else choice.reason)


def _meant(networks: Mapping[str, Any], defects_known: bool) -> Choice | None:
    """Return the detector that is meant by known defects, or a network of the user's own; None without either."""
    if defects_known:
        return Choice("features", "known defects, which a head on features learns from")
    by_network = {"features": networks["backbone"], "autoencoder": networks["encoder"]}
    given = next((name for name, network in by_network.items() if network is not None), None)
    return None if given is None else Choice(given, "the network that was given")


def _sort_options(detector: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], TrainingOptions]:
    """Tell the options of the detector from those of training."""
    training_names = option_names(TrainingOptions)
    own_names = option_names(detector_class(detector).Options)
    training = {name: value for name, value in options.items() if name in training_names}
    own = {name: value for name, value in options.items() if name not in training_names}
    unknown = [name for name in own if name not in own_names]
    if unknown:
        listed = ", ".join(sorted(own_names | training_names))
        raise InputError(f"detector {detector!r} and its training have no option {unknown[0]!r}; they have: {listed}")
    defaults = detector_class(detector).training_defaults
    return own, make_options(TrainingOptions, {**defaults, **training}, "training")
