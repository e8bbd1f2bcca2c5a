"""Cases of a test that `make test` leaves out and `make test-all` runs, for being slow."""

from collections.abc import Callable, Iterable

import pytest


def slow(cases: Iterable[str], which: Callable[[str], bool]) -> list:
    """Return the cases of a parametrized test, those for which `which` is true marked as slow."""
    return [pytest.param(case, marks=pytest.mark.slow) if which(case) else case for case in cases]
