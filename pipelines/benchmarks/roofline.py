"""What a computation asks of a GPU: its operations recorded on tensors without memory, and the time that they take.

    recorder = Recorder()
    with without_memory(), recorder:
        loss = model(x).sum()
        loss.backward()
    recorder.flop, recorder.launches, recorder.saved
    time_of(recorder.operations, GPUS["h100"])

Nothing is computed: FakeTensorMode follows shapes and dtypes, autocast and the backward pass included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from codec.errors import SoundloomError, quoted

#: what a kernel reaches of the published peaks, and what the host needs to start one in eager mode
PRODUCT_SHARE = 0.6
BANDWIDTH_SHARE = 0.8
LAUNCH_SECONDS = 13e-6
_ALIASES = {"_unsafe_view", "detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty"}


@dataclass(frozen=True)
class Gpu:
    """A card: its name, dense bf16 FLOP/s of the tensor cores (float32 sums), memory in bytes, bytes a second."""

    name: str
    flops: float
    memory: float
    bandwidth: float


#: the makers' data sheets; figures with sparsity are halved
GPUS = {
    "h100": Gpu("H100 SXM", 989e12, 80e9, 3.35e12),
    "h200": Gpu("H200 SXM", 989e12, 141e9, 4.8e12),
    "a100": Gpu("A100 SXM 80 GB", 312e12, 80e9, 2.039e12),
    "l4": Gpu("L4", 121e12, 24e9, 0.3e12),
    "rtx4090": Gpu("RTX 4090", 165.2e12, 24e9, 1.008e12),
    "rtx3090": Gpu("RTX 3090", 71e12, 24e9, 0.936e12),
}


def find_gpu(name: str) -> Gpu:
    """Return the card of this name. Raises: SoundloomError for an unknown one."""
    if name.lower() not in GPUS:
        raise SoundloomError(f"--gpu {quoted(name)}: unknown; expected one of {', '.join(GPUS)}")
    return GPUS[name.lower()]


@dataclass(frozen=True)
class Operation:
    """One kernel: its FLOP (matrix products and convolutions only) and the bytes that it reads and writes."""

    flop: float
    moved: float


class Recorder(TorchDispatchMode):
    """Record each operation that would start a kernel, and the bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._kept: dict[int, Any] = {}
        self._hooks: Any = None

    def __enter__(self) -> Recorder:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if func.namespace == "aten" and not func.is_view and packet.__name__ not in _ALIASES:
            count = flop_registry.get(packet)
            flop = 0 if count is None else count(*args, **kwargs, out_val=out)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.operations.append(Operation(flop, sum(map(_size, tensors))))
        return out

    def _keep(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            self._kept[storage._cdata] = storage  # held, so that no later storage gets its address
        return tensor

    @property
    def flop(self) -> float:
        """FLOP of all recorded operations."""
        return sum(operation.flop for operation in self.operations)

    @property
    def launches(self) -> int:
        """Number of recorded operations."""
        return len(self.operations)

    @property
    def saved(self) -> int:
        """Bytes that autograd keeps for the backward pass, parameters not counted."""
        return sum(storage.nbytes() for storage in self._kept.values())


def _size(tensor: Tensor) -> int:
    # An expanded tensor is read once, whatever its shape says.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def without_memory() -> FakeTensorMode:
    """Return a context in which tensors have shapes and dtypes but no values; buffers made outside may enter."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Time:
    """Seconds of a step, by what limits them: the host that starts kernels, or the device that runs them."""

    host: float
    products: float
    traffic: float

    @property
    def total(self) -> float:
        """The step's seconds: host and device work at the same time."""
        return max(self.host, self.products + self.traffic)

    @property
    def limit(self) -> str:
        """What limits the step, in words."""
        if self.host >= self.products + self.traffic:
            return f"starting kernels at {LAUNCH_SECONDS * 1e6:.0f} µs each"
        return "matrix products" if self.products >= self.traffic else "memory traffic of unfused kernels"


def time_of(operations: Iterable[Operation], gpu: Gpu) -> Time:
    """Return the time on ``gpu`` by a roofline for each operation."""
    launches, products, traffic = 0, 0.0, 0.0
    for one in operations:
        launches += 1
        compute = one.flop / (PRODUCT_SHARE * gpu.flops)
        move = one.moved / (BANDWIDTH_SHARE * gpu.bandwidth)
        if compute >= move:
            products += compute
        else:
            traffic += move
    return Time(launches * LAUNCH_SECONDS, products, traffic)
