"""Methods that live in files of their own."""

from collections.abc import Callable
from importlib import import_module
from types import MethodType
from typing import Any


class Later:
    """A function as a method, imported when it is first asked for: a class with it is imported without torch.

    Args:
        module: where it is.
        name: of the function.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return function if instance is None else MethodType(function, instance)
