"""The exceptions Recondite raises on purpose; each message says what was expected and what came."""


class ReconditeError(Exception):
    """Base of every error that Recondite raises on purpose."""


class InputError(ReconditeError, ValueError):
    """An argument, option, image or file given by the caller cannot be used."""


class NotFittedError(ReconditeError, RuntimeError):
    """A detector was asked to score before it was fitted."""


class NotCalibratedError(ReconditeError, RuntimeError):
    """A verdict was asked for where no calibration exists that could give one."""


class ArtifactError(ReconditeError):
    """A saved screen or checkpoint is damaged, tampered with, incompatible or absurd."""


class OutputError(ReconditeError, OSError):
    """Something could not be written: no room is left, or no right to; the message names the file."""


class ReconditeWarning(UserWarning):
    """Images are such that a result may not mean what it seems to; what was asked for is done all the same."""


class SourceError(ReconditeError):
    """Images could not be read for a reason that is not theirs, such as a network that fails; try again later."""
