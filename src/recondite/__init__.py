"""Recondite finds the images that do not belong.

    import recondite
    screen = recondite.fit("good_images/", alpha=0.01)
    verdicts = screen.predict("new_images/")

The names below are the public surface. They are imported when first used, so importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recondite.detectors import DETECTORS, build
    from recondite.detectors.base import Detector
    from recondite.errors import ArtifactError, InputError, NotCalibratedError, NotFittedError, ReconditeError
    from recondite.reports.report import write_report
    from recondite.screen.fit import fit
    from recondite.screen.monitor import Monitor
    from recondite.screen.screen import Screen, load
    from recondite.statistics.calibration import Calibrator
    from recondite.statistics.scores import Scores, Verdicts
    from recondite.training.presets import PRESETS

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
    "Calibrator": "statistics.calibration",
    "DETECTORS": "detectors",
    "Detector": "detectors.base",
    "InputError": "errors",
    "Monitor": "screen.monitor",
    "NotCalibratedError": "errors",
    "NotFittedError": "errors",
    "PRESETS": "training.presets",
    "ReconditeError": "errors",
    "Scores": "statistics.scores",
    "Screen": "screen.screen",
    "Verdicts": "statistics.scores",
    "build": "detectors",
    "fit": "screen.fit",
    "load": "screen.screen",
    "write_report": "reports.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recondite' has no attribute {name!r}")
    return getattr(import_module(f"recondite.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
