"""Networks of shapes alone, to be filled from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_SCALES = (torch.Tensor.__mul__, torch.Tensor.__truediv__, torch.Tensor.mul, torch.Tensor.div)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make tensors on the meta device: nothing is allocated, and torch's global generator stays where it is.

    Starting values are left out. On that device even random numbers and factors would import torch's compiler and
    its algebra: a second at the start of a program, for values that nobody sees.
    """
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func is torch.randn:
            return torch.empty(*args, **{name: value for name, value in kwargs.items() if name != "generator"})
        if func in _SCALES and args[0].is_meta and isinstance(args[1], (int, float)):
            return args[0]
        return func(*args, **kwargs)
