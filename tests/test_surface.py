"""The public names, pinned: a change here is a change for every user."""

import subprocess
import sys

import pytest

import recondite
from recondite.errors import ArtifactError, InputError, NotCalibratedError, NotFittedError, ReconditeError


def test_the_public_names():
    assert recondite.__all__ == [
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
    for name in recondite.__all__:
        assert getattr(recondite, name) is not None
        assert name in dir(recondite)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = recondite.nonsense


def test_the_tree_of_errors():
    for kind in (InputError, NotFittedError, NotCalibratedError, ArtifactError):
        assert issubclass(kind, ReconditeError)
    assert issubclass(InputError, ValueError)


def test_importing_the_package_is_cheap():
    code = "import sys, recondite; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'matplotlib', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_things_are_documented():
    for name in recondite.__all__:
        thing = getattr(recondite, name)
        if callable(thing):
            assert thing.__doc__, name
            assert "Raises:" in thing.__doc__ or isinstance(thing, type), name
