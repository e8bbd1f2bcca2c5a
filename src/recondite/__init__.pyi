from .audits.result import Audit as Audit
from .audits.run import audit as audit
from .detectors import DETECTORS as DETECTORS
from .detectors import build as build
from .detectors.base import Detector as Detector
from .errors import ArtifactError as ArtifactError
from .errors import InputError as InputError
from .errors import NotCalibratedError as NotCalibratedError
from .errors import NotFittedError as NotFittedError
from .errors import OutputError as OutputError
from .errors import ReconditeError as ReconditeError
from .errors import ReconditeWarning as ReconditeWarning
from .errors import SourceError as SourceError
from .reports.report import write_report as write_report
from .screen.fit import fit as fit
from .screen.monitor import Monitor as Monitor
from .screen.screen import Screen as Screen
from .screen.screen import load as load
from .statistics.calibration import Calibrator as Calibrator
from .statistics.scores import Scores as Scores
from .statistics.scores import Verdicts as Verdicts
from .training.presets import PRESETS as PRESETS

__version__: str
