"""The exceptions Recondite raises on purpose; each message says what was expected and what came."""

import difflib
from collections.abc import Iterable

_SHORTEST = 3  # letters that a name may be known by
_MOST = 3


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
    """What is read could not be, for a reason that is not its own, such as a network that fails; try again later."""


def not_among(what: str, known: Iterable[str], got: object) -> InputError:
    """Return the error about a name that is not known, which offers those like it.

    Args:
        what: was expected, such as "a corruption".
        known: the names that there are.
        got: in their place.

    >>> print(not_among("a corruption", ("gaussian-blur", "motion-blur"), "blur"))
    expected a corruption among gaussian-blur, motion-blur; got 'blur'; did you mean 'gaussian-blur' or 'motion-blur'?
    """
    names = list(known)
    return InputError(f"expected {what} among {', '.join(names)}; got {got!r}{did_you_mean(got, names)}")


def did_you_mean(got: object, known: Iterable[str]) -> str:
    """Return a question after the names that are like the one given, as the end of a sentence; "" where none is.

    >>> did_you_mean("Digts", ("digits", "mnist")), did_you_mean("cats", ("digits", "mnist"))
    ("; did you mean 'digits'?", '')
    """
    given = str(got).casefold()
    by_form = {name.casefold(): name for name in known}
    within = [form for form in by_form if len(given) >= _SHORTEST and given in form]
    near = within[:_MOST] or difflib.get_close_matches(given, by_form, n=1)
    return f"; did you mean {' or '.join(repr(by_form[form]) for form in near)}?" if near else ""
