"""Recondite finds the images that do not belong.

    import recondite
    screen = recondite.fit("good_images/", alpha=0.01)
    verdicts = screen.predict("new_images/")

The names below are the public surface. They are imported when first used, so importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recondite.calibration import Calibrator
    from recondite.detectors import DETECTORS, build
    from recondite.detectors.base import Detector
    from recondite.errors import ArtifactError, InputError, NotCalibratedError, NotFittedError, ReconditeError
    from recondite.fitting import fit
    from recondite.monitor import Monitor
    from recondite.presets import PRESETS
    from recondite.report import write_report
    from recondite.scores import Scores, Verdicts
    from recondite.screen import Screen, load

__version__ = "0.1.0"
__all__ = [
    "DETECTORS",
    "PRESETS",
    "ArtifactError",
    "Calibrator",
    "Detector",
    "InputError",
    "Monitor",
    "NotCalibratedError",
    "NotFittedError",
    "ReconditeError",
    "Scores",
    "Screen",
    "Verdicts",
    "build",
    "fit",
    "load",
    "write_report",
]

_HOMES = {
    "ArtifactError": "errors",
    "Calibrator": "calibration",
    "DETECTORS": "detectors",
    "Detector": "detectors.base",
    "InputError": "errors",
    "Monitor": "monitor",
    "NotCalibratedError": "errors",
    "NotFittedError": "errors",
    "PRESETS": "presets",
    "ReconditeError": "errors",
    "Scores": "scores",
    "Screen": "screen",
    "Verdicts": "scores",
    "build": "detectors",
    "fit": "fitting",
    "load": "screen",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recondite' has no attribute {name!r}")
    return getattr(import_module(f"recondite.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
