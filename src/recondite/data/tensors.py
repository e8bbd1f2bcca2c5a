"""From a torch tensor to a numpy array, without importing torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recondite.errors import InputError

_WIDENED = ("torch.bfloat16", "torch.float8")
"""Floats that numpy lacks; float32 holds each of their values."""


def array_of(tensor: Any) -> NDArray[Any]:
    """Return a tensor's values, of any device and with or without gradient.

    Raises:
        InputError: numpy has no such values: sparse, quantised, nested, or none at all.
    """
    try:
        found = tensor.detach().cpu().resolve_conj().resolve_neg()
        widened = found.float() if str(found.dtype).startswith(_WIDENED) else found
        values: NDArray[Any] = widened.numpy()
    except (TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"expected a dense tensor of a type that numpy has: {error}") from error
    return values


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as numpy's own class, such as a matrix.

    Raises:
        InputError: some of its values are masked, which would count all the same.
    """
    if np.ma.is_masked(array):
        raise InputError("expected an array without masked values: fill them, or give a region that leaves them out")
    return np.asarray(array)
