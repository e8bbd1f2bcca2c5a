"""The public names, pinned: a change here is a change for every user."""

import subprocess
import sys

import pytest

import recondite
from recondite import errors
from recondite.errors import (
    ArtifactError,
    InputError,
    NotCalibratedError,
    NotFittedError,
    OutputError,
    ReconditeError,
    SourceError,
)


def test_the_public_names():
    assert recondite.__all__ == [
        "ArtifactError",
        "Audit",
        "Calibrator",
        "DETECTORS",
        "Detector",
        "InputError",
        "Monitor",
        "NotCalibratedError",
        "NotFittedError",
        "OutputError",
        "PRESETS",
        "ReconditeError",
        "ReconditeWarning",
        "Scores",
        "Screen",
        "SourceError",
        "Verdicts",
        "audit",
        "build",
        "fit",
        "load",
        "write_report",
    ]
    for name in recondite.__all__:
        assert getattr(recondite, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = recondite.nonsense


def test_dir_shows_public_names_only():
    import recondite.cli
    import recondite.screen.fit

    assert dir(recondite) == sorted(recondite.__all__)
    assert callable(recondite.fit)


def test_every_error_a_user_can_meet_is_public():
    found = {name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)}
    assert found <= set(recondite.__all__)


def test_the_tree_of_errors():
    for kind in (InputError, NotFittedError, NotCalibratedError, ArtifactError, SourceError, OutputError):
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


@pytest.mark.parametrize("name", list(recondite.DETECTORS))
def test_what_a_user_types_is_shown_in_one_line(name, screens, digits):
    screen = screens(name)
    verdicts = screen.predict(digits[:40], feature_score=True)
    for shown in (repr(one) for one in (screen, screen.calibrator, verdicts)):
        assert len(shown) < 400
        assert "\n" not in shown
    assert "alpha=0.05" in repr(screen)
    assert f"<float64 ({len(screen.calibrator.scores)},)>" in repr(screen)
    assert "instance_score=<float64 (40,)>" in repr(verdicts)
