"""One-dimensional convolutions over time, whole or in chunks with explicit state, and weight norm on and off.

The rules of EnCodec: a convolution of kernel k and stride s pads ``k - s`` steps, all on the left when causal, so
that n steps give ``ceil(n / s)``; its transpose gives ``n * s``. Fed in chunks, every layer here gives exactly the
steps that it gives on the whole, whatever the chunks' sizes:

    whole     pad | x0 x1 x2 x3 x4 x5 x6 x7
    chunked   pad | x0 x1 x2      history | x3 x4 x5 x6      history | x7

`Conv1d` keeps the inputs that later outputs need; `ConvTranspose1d` keeps the unfinished tail of its overlap-add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from codec.errors import SoundloomError

PadMode = Literal["constant", "reflect"]


@dataclass
class ConvState:
    """What a `Conv1d` still needs of its past.

    Fields: ``history`` ``[B, C, n]``, inputs that later outputs read; ``started``, whether the left padding is in it
    (reflection needs ``padding + 1`` inputs before it can be made, and until then nothing comes out).
    """

    history: Tensor
    started: bool


@dataclass
class ConvTransposeState:
    """The overlap that a `ConvTranspose1d` has summed up and not yet given out: ``[B, C, kernel - stride]``."""

    tail: Tensor


def pad1d(x: Tensor, left: int, right: int, mode: PadMode) -> Tensor:
    """Pad the last axis with zeros, or by reflection, also where the input is too short to reflect.

    Shapes: ``[B, C, N] -> [B, C, left + N + right]``. A short input is first lengthened with zeros, reflected, and
    shortened again: EnCodec's rule, on which its codes of very short sounds depend.
    """
    if left == 0 and right == 0:
        return x
    if mode == "constant":
        return F.pad(x, (left, right))
    missing = max(0, max(left, right) - x.shape[-1] + 1)
    padded = _reflect(F.pad(x, (0, missing)) if missing else x, left, right)
    return padded[..., : padded.shape[-1] - missing]


def _reflect(x: Tensor, left: int, right: int) -> Tensor:
    # F.pad's reflection goes element by element; joining mirrored ends copies whole rows, several times faster.
    end = x.shape[-1] - 1
    ends = [x[..., 1 : left + 1].flip(-1), x, x[..., end - right : end].flip(-1)]
    return torch.cat([part for part in ends if part.shape[-1]], dim=-1)


class Conv1d(nn.Module):
    """Strided convolution that gives ``ceil(n / stride)`` steps for n; causal unless told otherwise.

    Causal, output t reads inputs up to ``(t + 1) * stride - 1`` (with ``pad_mode="reflect"`` the first outputs also
    read the ``padding`` inputs after the first, of which the padding is the mirror image).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = True,
        pad_mode: PadMode = "constant",
    ) -> None:
        super().__init__()
        span = (kernel_size - 1) * dilation + 1
        # Chunked reflection at the end reads back `stride - 1` steps, and the history keeps `span - stride` of them.
        if span < stride or (stride > 1 and span < 2 * stride):
            raise SoundloomError(
                f"a convolution of kernel {kernel_size} cannot have stride {stride}; it takes a kernel of twice that"
            )
        self.causal = causal
        self.pad_mode: PadMode = pad_mode
        self.stride = stride
        self.padding = span - stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation)

    def init_state(self, batch: int = 1) -> ConvState:
        """State at the start of ``batch`` streams; raises `SoundloomError` where the layer is not causal."""
        _require_causal(self.causal)
        weight = self.conv.weight
        started = self.pad_mode == "constant"
        history = weight.new_zeros(batch, self.conv.in_channels, self.padding if started else 0)
        return ConvState(history, started=started or self.padding == 0)

    def forward(self, x: Tensor, state: ConvState | None = None, last: bool = False) -> Tensor:
        """Convolve the whole, or with ``state`` the next chunk of a stream, which advances the state in place.

        Shapes: ``[B, C, N] -> [B, D, T]``; whole: ``T = ceil(N / stride)``. A stream gives as many steps as its past
        allows, and with ``last=True`` the rest, padded to a whole step.
        """
        if state is None:
            return self._whole(x)
        if self.padding == 0 and self.stride == 1:
            return self.conv(x)
        x = torch.cat([state.history, x], dim=-1)
        if not state.started:
            if last:
                state.history, state.started = x[..., :0], True
                return self._whole(x)
            if x.shape[-1] <= self.padding:
                state.history = x
                return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
            x = _reflect(x, self.padding, 0)
            state.started = True
        available = x.shape[-1] - self.padding
        if last and available > 0:
            x = pad1d(x, 0, -available % self.stride, self.pad_mode)
            available = x.shape[-1] - self.padding
        steps = max(0, available // self.stride)
        state.history = x[..., steps * self.stride :]
        if steps == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        return self.conv(x[..., : steps * self.stride + self.padding])

    def _whole(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        extra = -x.shape[-1] % self.stride
        right = 0 if self.causal else self.padding // 2
        return self.conv(pad1d(x, self.padding - right, right + extra, self.pad_mode))


class ConvTranspose1d(nn.Module):
    """Transposed convolution that gives ``n * stride`` steps for n; causal unless told otherwise.

    Causal, output t reads inputs up to ``t // stride``: the overlap past the end is cut off.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, causal: bool = True
    ) -> None:
        super().__init__()
        if kernel_size < stride:
            raise SoundloomError(
                f"a transposed convolution of kernel {kernel_size} cannot have stride {stride}; "
                "the kernel must be at least as long"
            )
        self.causal = causal
        self.stride = stride
        self.overlap = kernel_size - stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)

    def init_state(self, batch: int = 1) -> ConvTransposeState:
        """State at the start of ``batch`` streams; raises `SoundloomError` where the layer is not causal."""
        _require_causal(self.causal)
        return ConvTransposeState(self.conv.weight.new_zeros(batch, self.conv.out_channels, self.overlap))

    def forward(self, x: Tensor, state: ConvTransposeState | None = None) -> Tensor:
        """Upsample the whole, or with ``state`` the next chunk of a stream: ``[B, C, T] -> [B, D, T * stride]``."""
        length = x.shape[-1] * self.stride
        if length == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        if state is None:
            left = 0 if self.causal else self.overlap - self.overlap // 2
            y = self._spread(x, self.conv.bias) if self._as_products(x) else self.conv(x)
            return y[..., left : left + length]
        # Without the bias, or steps in the overlap of two chunks would get it twice.
        weight = self.conv.weight
        y = self._spread(x, None) if self._as_products(x) else F.conv_transpose1d(x, weight, None, self.stride)
        y[..., : self.overlap] += state.tail
        state.tail = y[..., length:].clone()  # or the view would keep the whole chunk in memory
        y = y[..., :length]
        return y if self.conv.bias is None else y + self.conv.bias[:, None]

    def _as_products(self, x: Tensor) -> bool:
        return by_products(x) and self.overlap == self.stride

    def _spread(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The transposed convolution of kernel 2 * stride as two products: [B, C, T] -> [B, D, (T + 1) * stride].

        Step t gives ``stride`` outputs to its own place and as many to the next; the library's kernel takes two to
        four times as long where there are few channels.
        """
        B, C, T = x.shape
        D = self.conv.out_channels
        weight = self.conv.weight.permute(0, 2, 1).reshape(C, 2, self.stride * D)
        begin = x.new_zeros(1) if bias is None else bias.repeat(self.stride)
        out = x.new_empty(B, D, (T + 1) * self.stride)
        for row in range(B):
            blocks = x.new_empty(T + 1, self.stride * D)
            torch.addmm(begin, x[row].t(), weight[:, 0], out=blocks[:-1])
            blocks[-1] = begin
            blocks[1:].addmm_(x[row].t(), weight[:, 1])
            out[row] = blocks.view(-1, D).t()
        return out


def by_products(x: Tensor) -> bool:
    """Whether layers compute on ``x`` by matrix products in place: on a CPU, in float32, with no gradient recorded."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not torch.is_grad_enabled()


def mix_channels(parts: Sequence[tuple[Tensor, Tensor]], bias: Tensor) -> Tensor:
    """Sum of one-tap convolutions, each a weight [D, C_i] and its input [B, C_i, N] -> [B, D, N], and a bias [D].

    The products add into one output: no pass, and no memory, for each of them and for their sum.
    """
    x = parts[0][1]
    out = x.new_empty(x.shape[0], len(bias), x.shape[-1])
    for row in range(x.shape[0]):
        torch.addmm(bias[:, None], parts[0][0], x[row], out=out[row])
        for weight, other in parts[1:]:
            out[row].addmm_(weight, other[row])
    return out


def apply_weight_norm(module: nn.Module) -> None:
    """Give every convolution inside ``module`` weight norm, from its present weight, which stays the same."""
    for layer in _convolutions(module):
        if not parametrize.is_parametrized(layer, "weight"):
            weight_norm(layer)


def fold_weight_norm(module: nn.Module) -> None:
    """Replace weight norm inside ``module`` by the plain weights that it amounts to, for inference."""
    for layer in _convolutions(module):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def has_weight_norm(module: nn.Module) -> bool:
    """Whether any convolution inside ``module`` has weight norm."""
    return any(parametrize.is_parametrized(layer, "weight") for layer in _convolutions(module))


def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors as they are once weight norm is folded away; the module keeps it.

    What a checkpoint for inference holds, and what a fingerprint should be taken of: the same with weight norm or not.
    """
    state = module.state_dict()
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)) and parametrize.is_parametrized(layer, "weight"):
            for part in ("original0", "original1"):
                del state[f"{name}.parametrizations.weight.{part}".removeprefix(".")]
            state[f"{name}.weight".removeprefix(".")] = layer.weight.detach()
    return state


def _convolutions(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))]


def _require_causal(causal: bool) -> None:
    if not causal:
        raise SoundloomError("this network is not causal, so it cannot run in chunks; give it the whole at once")


def frames_before_start(padding: int, steps_per_frame: float) -> int:
    """Frames that a stream must have before a reflecting layer of this padding can start."""
    return math.ceil((padding + 1) / steps_per_frame)
