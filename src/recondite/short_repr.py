"""One line about an object that holds many numbers, for whoever types its name at a prompt."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

_LONG = 60


class ShortRepr:
    """Base of a data class made with repr=False: its repr tells arrays by type and shape, and what is long by length.

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(repr=False)
    ... class Scores(ShortRepr):
    ...     ids: tuple
    ...     values: np.ndarray
    ...     alpha: float
    >>> Scores(tuple(range(100)), np.zeros((100, 2)), 0.05)
    Scores(ids=<100>, values=<float64 (100, 2)>, alpha=0.05)
    """

    def __repr__(self) -> str:
        names = [one.name for one in fields(self) if one.repr]  # type: ignore[arg-type]  # its children are data classes
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={_brief(value)}' for name, value in values.items())})"


def _brief(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        # How long it is, before all of it is made into words.
        words = repr(value) if len(value) <= _LONG // 4 else ""
        return words if words and len(words) <= _LONG else f"<{len(value)}>"
    words = repr(value)
    return words if isinstance(value, ShortRepr) or len(words) <= _LONG else f"<{type(value).__name__}>"
