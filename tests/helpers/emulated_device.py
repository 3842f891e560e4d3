"""A second device made of CPU memory: `emu`. It holds programs to what a GPU asks of them, on any machine.

    with emulated() as device:
        codec.to("emu").encode(wave)
    device.syncs                  # where the host waited for the device, and how often

Its tensors are on the device `emu:0` for PyTorch itself, so `.to`, factories, autograd and autocast work as on a real
one. An operation that mixes devices raises `WrongDevice`, and so does a CPU generator for a tensor on the device.
Counted by source line: reads by the host (`syncs`), copies to the device that the host waits for (`copies`), and
operations (`launches`: one for each that is no view; a real device may fuse some). It measures no time.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "emu"
ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / room) for room in ("codec", "lm", "pipelines"))
#: operations whose results the host needs, to know a size or to decide something
READS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "unique", "_unique2", "unique_dim"}
READS |= {"is_nonzero", "repeat_interleave", "histc", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
#: operations that only allocate, or look at the same memory in another way
NO_KERNELS = {"detach", "_unsafe_view", "empty", "empty_strided", "empty_like", "new_empty", "alias"}
#: what GPUs compute in one kernel and other devices in several (forward; backward passes are counted in parts)
ONE_KERNEL = {torch.rms_norm, torch.nn.functional.scaled_dot_product_attention}
#: operations that take tensors of both kinds
COPIES = {"copy_", "_to_copy", "_foreach_copy_", "set_"}
#: what autocast computes in the lower precision: the products
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "conv1d", "conv2d", "conv_transpose1d")


class WrongDevice(RuntimeError):
    """An operation was given tensors, or a generator, of another device."""


class Counts:
    """What happened since the last `clear`, each by the source line that asked for it."""

    def __init__(self) -> None:
        self.inside = False  # an operation that is one launch already
        self.has_float64 = True  # Apple's GPUs have none
        self.clear()

    def clear(self) -> None:
        """Count from here on."""
        self.syncs: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()


COUNTS = Counts()


class EmulatedTensor(Tensor):
    """A tensor on the device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> EmulatedTensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = Tensor._make_wrapper_subclass(cls, inner.size(), device=f"{NAME}:0", **layout)
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"emu({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = EmulatedTensor(self.inner.clone()).requires_grad_(self.requires_grad)
        copied.__dict__.update({name: value for name, value in self.__dict__.items() if name != "inner"})
        return memo.setdefault(id(self), copied)

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __getitem__(self, index: Any) -> Any:
        # PyTorch makes tensors of lists below the level at which a tensor can say how.
        parts = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts))

    def tolist(self) -> Any:  # PyTorch's own does not take subclasses
        COUNTS.syncs[f"tolist {caller()}"] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func not in ONE_KERNEL or COUNTS.inside:
                return func(*args, **(kwargs or {}))
            COUNTS.launches[f"{func.__name__} {caller()}"] += 1
            COUNTS.inside = True
            try:
                return func(*args, **(kwargs or {}))
            finally:
                COUNTS.inside = False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation on the numbers inside, after checking and counting it."""
    name = func._schema.name.removeprefix("aten::")
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    _check(name, given, kwargs)
    _count(func, name, args, kwargs, given)
    inside = tree_map(lambda x: x.inner if isinstance(x, EmulatedTensor) else x, (args, kwargs))
    if kwargs.get("device") is not None:
        inside[1]["device"] = torch.device("cpu")
    out = LSTM[name](*inside[0]) if name in LSTM else func(*inside[0], **inside[1])
    if to_host(name, args, kwargs):
        return out
    if not COUNTS.has_float64 and any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(out)):
        raise WrongDevice(f"{name}: this device has no float64, at {caller()}")
    # What is conjugate or negative on paper only is made so in fact: a wrapper does not carry that mark.
    out = tree_map(lambda x: EmulatedTensor(_in_fact(x)) if type(x) is Tensor else x, out)
    return out if name in LSTM else return_and_correct_aliasing(func, args, kwargs, out)


def _in_fact(x: Tensor) -> Tensor:
    if x.is_conj():
        return torch.conj_physical(x.conj())
    return x.resolve_neg()


def _check(name: str, given: list[Tensor], kwargs: dict[str, Any]) -> None:
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise WrongDevice(f"{name}: a CPU generator for a tensor on the device, at {caller()}")
    host = [x for x in given if not isinstance(x, EmulatedTensor)]
    # As on CUDA: a tensor of one number may be anywhere, and an index may come from the host.
    if all(x.dim() == 0 for x in host) or name in COPIES or name in INDEXING:
        return
    shapes = [tuple(x.shape) for x in given], [tuple(x.shape) for x in host]
    raise WrongDevice(f"{name} of shapes {shapes[0]}: those on the CPU are {shapes[1]}, at {caller()}")


def _count(func: Any, name: str, args: Any, kwargs: dict[str, Any], given: list[Tensor]) -> None:
    if func.is_view or name in NO_KERNELS:
        return
    place = caller()
    if not COUNTS.inside:
        COUNTS.launches[f"{name} {place}"] += 1
    if name in READS or (name in INDEXING and _by_mask(args[1])):
        COUNTS.syncs[f"{name} {place}"] += 1
    host = [x for x in given if not isinstance(x, EmulatedTensor) and x.dim()]
    if to_host(name, args, kwargs):
        COUNTS.syncs[f"to the CPU {place}"] += 1
    elif host and name in INDEXING:
        COUNTS.copies[place] += 1
    elif host and name == "copy_" and not (len(args) > 2 and args[2] and getattr(args[1], "is_pinned_here", False)):
        COUNTS.copies[place] += 1  # only memory that cannot move is copied while the host works on


def to_host(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether an operation copies from the device."""
    if name == "_to_copy":
        return torch.device(kwargs.get("device") or NAME).type == "cpu"
    return name == "copy_" and not isinstance(args[0], EmulatedTensor)


def _by_mask(indices: Any) -> bool:
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in indices)


def caller() -> str:
    """Return the innermost line of ours, as ``codec/model.py:120``."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return "in the backward pass, or outside"
    return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"


# --- an LSTM, which a device computes cell by cell where it has no kernel of its own ---------------------------------


def _lstm_cell(inputs: Tensor, hidden: Tensor, cell: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Any:
    gates = inputs + hidden if b is None or c is None else inputs + hidden + b + c
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new = f * cell + i * g
    return o * new.tanh(), new, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(
    grad_hidden: Tensor | None, grad_cell: Tensor | None, cell: Tensor, new: Tensor, saved: Tensor, biased: bool
) -> Any:
    i, f, g, o = saved.chunk(4, 1)
    zero = torch.zeros_like(new)
    to_hidden = zero if grad_hidden is None else grad_hidden
    to_cell = (zero if grad_cell is None else grad_cell) + to_hidden * o * (1 - new.tanh() ** 2)
    parts = to_cell * g * i * (1 - i), to_cell * cell * f * (1 - f), to_cell * i * (1 - g**2)
    gates = torch.cat([*parts, to_hidden * new.tanh() * o * (1 - o)], 1)
    return gates, to_cell * f, gates.sum(0) if biased else torch.empty(0)


LSTM = {"_thnn_fused_lstm_cell": _lstm_cell, "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward}


# --- the device as PyTorch knows it ----------------------------------------------------------------------------------


class _Backend:
    """The module `torch.emu`. `torch.accelerator` sees no device, so that other tests in this process do not either."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _Hook(torch._C._acc.PrivateUse1Hooks):  # type: ignore[misc,name-defined]
    """What PyTorch's C++ asks about the device."""

    def is_available(self) -> bool:
        return True

    def has_primary_context(self, dev_id: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


def _lower(name: str) -> Any:
    def product(*args: Any, **kwargs: Any) -> Any:
        def rounded(x: Any) -> Any:
            if isinstance(x, Tensor) and x.dtype == torch.float32:
                return x.to(torch.get_autocast_dtype(NAME))
            return x

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return getattr(torch.ops.aten, name)(*tree_map(rounded, args), **kwargs)

    return product


def _register() -> list[torch.library.Library]:
    _setup_privateuseone_for_python_backend(NAME, _Backend(), _Hook())
    factories, autocast = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    factories.fallback(lambda func, *args, **kwargs: compute(func, args, kwargs), "PrivateUse1")
    factories.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in PRODUCTS:
        packet = getattr(torch.ops.aten, name)
        overload = name if "default" in packet.overloads() else f"{name}.{packet.overloads()[0]}"
        autocast.impl(overload, _lower(name), "AutocastPrivateUse1")
    return [factories, autocast]


# At import, before any test runs: PyTorch counts its devices at the first backward pass, and cannot forget one.
_LIBRARIES = _register()


def _pinned(tensor: Tensor, *_: Any) -> Tensor:
    copied = tensor.clone()
    copied.is_pinned_here = True  # type: ignore[attr-defined]
    return copied


def _built(build: Any) -> Any:
    """Return `torch.tensor` or `torch.as_tensor` that builds on the CPU and copies, as they do for a GPU."""

    def on_device(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(data, EmulatedTensor):
            return data.to(device=device, **kwargs)
        made = build(data, *args, **kwargs)
        return made if device is None else made.to(device)

    return on_device


def _enter_no_grad(mode: Any) -> None:
    mode.was_on = torch.is_grad_enabled()
    torch.set_grad_enabled(False)


def _leave_no_grad(mode: Any, *_: Any) -> None:
    torch.set_grad_enabled(mode.was_on)


#: what is another while the device is in use: memory that cannot move needs a real device, and wrapped tensors know no
#: inference mode
PATCHES: tuple[tuple[Any, str, Any], ...] = (
    (torch, "tensor", _built(torch.tensor)),
    (torch, "as_tensor", _built(torch.as_tensor)),
    (Tensor, "pin_memory", _pinned),
    (torch.inference_mode, "__enter__", _enter_no_grad),
    (torch.inference_mode, "__exit__", _leave_no_grad),
    (optimizer, "_foreach_supported_types", [Tensor, torch.nn.Parameter, EmulatedTensor]),
)


@contextmanager
def emulated() -> Iterator[Counts]:
    """Make the device usable and count from zero."""
    before = [getattr(owner, name) for owner, name, _ in PATCHES]
    for owner, name, value in PATCHES:
        setattr(owner, name, value)
    COUNTS.has_float64 = True
    COUNTS.clear()
    try:
        yield COUNTS
    finally:
        for (owner, name, _), value in zip(PATCHES, before, strict=True):
            setattr(owner, name, value)
