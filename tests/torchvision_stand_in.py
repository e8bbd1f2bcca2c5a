"""Lets timm be imported where torchvision cannot be.

timm imports torchvision for its data sets and transforms, which nothing here uses, and PyPI's torchvision is built for
CUDA: it fails beside a torch for processors alone. Names from these modules are classes without contents.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

_MODULES = (
    *("torchvision", "torchvision.datasets", "torchvision.models", "torchvision.models.feature_extraction"),
    *("torchvision.ops", "torchvision.ops.misc", "torchvision.transforms", "torchvision.transforms.functional"),
)


class _Empty(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty(name, (), {})


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Stand in for torchvision, where it is not installed, while the context lasts."""
    if find_spec("torchvision") is not None:
        yield
        return
    for name in _MODULES:
        sys.modules[name] = _Module(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    try:
        yield
    finally:
        for name in _MODULES:
            del sys.modules[name]
