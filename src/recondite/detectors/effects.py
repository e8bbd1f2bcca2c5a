"""Options that would change nothing with a detector as it is: they are refused where somebody gives them."""

from collections.abc import Iterable
from typing import Any

from recondite.errors import InputError
from recondite.options import TrainingOptions, option_names

_WITHOUT_STEPS = ("seed", "device", "augment")
"""Options of training that every detector follows, or refuses by itself."""
_PLACES = ("padim", "subspace", "patchcore", "dfr")
_METHODS = {
    **dict.fromkeys(("neighbours", "bank_size"), ("knn", "patchcore")),
    **dict.fromkeys(("place_layers", "worst_places", "smooth"), _PLACES),
    "place_shrinkage": ("padim",),
}
"""Option of `features` -> the methods that look at it."""


def check_effect(detector: Any, given: Iterable[str]) -> None:
    """Raise InputError for the first of the options given, of the detector or of training, without effect."""
    reasons = without_effect(detector)
    for name in given:
        if name in reasons:
            raise InputError(f"{name} would change nothing: {reasons[name]}")


def without_effect(detector: Any) -> dict[str, str]:
    """Return the options that change nothing with the others as they are: name -> why."""
    found: dict[str, str] = {}
    methods: tuple[str, ...] = getattr(detector, "methods", ())
    if not detector.trains_by_steps:
        what = f"{detector.name} is fitted in one pass, without epochs"
        if methods:
            what = f"of the methods of {detector.name}, dfr alone is trained; got {', '.join(methods)}"
        found |= dict.fromkeys(option_names(TrainingOptions).difference(_WITHOUT_STEPS), what)
    if not detector.rebuilds:
        found.setdefault("picture_epochs", f"{detector.name} rebuilds no images")
    if detector.modules_given:
        found |= dict.fromkeys(("network", "width", "backbone"), "the network was given")
    elif getattr(detector.options, "network", "auto") != "auto":
        found["width"] = f"network {detector.options.network} has its own"
    for name, needed in _METHODS.items() if methods else ():
        if not set(needed) & set(methods):
            found[name] = f"only {', '.join(needed)} of the methods look at it; got {', '.join(methods)}"
    return found
