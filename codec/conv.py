"""One-dimensional convolutions over time, whole or in chunks with explicit state, and weight norm on and off.

The rules are EnCodec's: a convolution of kernel k and stride s pads ``k - s`` steps, all on the left when causal, so
that n steps give ``ceil(n / s)``; its transpose gives ``n * s``. In chunks of any sizes, every layer here gives
exactly the steps that it gives on the whole:

    whole     pad | x0 x1 x2 x3 x4 x5 x6 x7
    chunked   pad | x0 x1 x2      history | x3 x4 x5 x6      history | x7

`Conv1d` keeps the inputs that later outputs need; `ConvTranspose1d` keeps the unfinished tail of its overlap-add.

On a CPU, where no gradient is recorded, activations [B, C, T] are stored steps first, as [B, T, C]. In that order the
library's convolutions run near the machine's peak. In the other they run at half of it, because each copies its input
into an order of its own and its output back. See `steps_first`.
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
    """The past inputs that a `Conv1d` still needs.

    ``history`` [B, C, n]: inputs that later outputs read. Once ``started``, it includes the left padding, and its ELU
    is applied. A reflection needs ``padding + 1`` inputs to start; until then nothing comes out.
    """

    history: Tensor
    started: bool


@dataclass
class ConvTransposeState:
    """The overlap that a `ConvTranspose1d` has summed and not yet returned: ``[B, C, kernel - stride]``."""

    tail: Tensor


def pad1d(x: Tensor, left: int, right: int, mode: PadMode, elu: bool = False) -> Tensor:
    """Pad the last axis with zeros, or by reflection, also where the input is too short to reflect.

    Shapes: ``[B, C, N] -> [B, C, left + N + right]``; ``elu``: apply ELU to the input first. A short input is
    lengthened with zeros, reflected, and shortened again: EnCodec's rule, on which its codes of very short sounds
    depend.
    """
    if mode == "constant":
        return join([_zeros(x, left), x, _zeros(x, right)], [elu] * 3)
    missing = max(0, max(left, right) - x.shape[-1] + 1)
    padded = _reflect(join([x, _zeros(x, missing)]), left, right, elu)
    return padded[..., : padded.shape[-1] - missing]


def _zeros(x: Tensor, steps: int) -> Tensor:
    return x.new_zeros(x.shape[0], x.shape[1], steps)


def _reflect(x: Tensor, left: int, right: int, elu: bool) -> Tensor:
    # F.pad's reflection works element by element; joining mirrored ends copies whole rows, several times faster.
    end = x.shape[-1] - 1
    return join([x[..., 1 : left + 1].flip(-1), x, x[..., end - right : end].flip(-1)], [elu] * 3)


def steps_first(x: Tensor) -> bool:
    """Return whether layers here store ``x`` steps first: on a CPU, with no gradient recorded, without autocast."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def join(parts: Sequence[Tensor], elu: Sequence[bool] = ()) -> Tensor:
    """Join parts [B, C, n_i] in time: [B, C, sum of n_i]. ``elu[i]``: apply ELU to part i first.

    A single part that is not empty is not copied.
    """
    flags = list(elu) or [False] * len(parts)
    filled = [(part, flag) for part, flag in zip(parts, flags, strict=True) if part.shape[-1]]
    if len(filled) < 2 or not steps_first(parts[0]):
        activated = [F.elu(part) if flag else part for part, flag in filled] or [parts[0]]
        return activated[0] if len(activated) == 1 else torch.cat(activated, dim=-1)
    # Each part is written straight to its place: an ELU then takes one pass over the memory, not two.
    B, C, _ = parts[0].shape
    joined = parts[0].new_empty(B, sum(part.shape[-1] for part, _ in filled), C).transpose(1, 2)
    begin = 0
    for part, flag in filled:
        place = joined[..., begin : begin + part.shape[-1]]
        begin += part.shape[-1]
        if flag:
            torch.ops.aten.elu.out(part, out=place)
        else:
            place.copy_(part)
    return joined


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, dilation: int = 1) -> Tensor:
    """Do as `torch.nn.functional.conv1d`, but steps first in and out where `steps_first`."""
    if not steps_first(x):
        return F.conv1d(x, weight, bias, stride, dilation=dilation)
    x = x.transpose(1, 2).contiguous().transpose(1, 2)  # no copy where steps are first already
    if _few(x, stride) and dilation == 1:
        windows = x.unfold(-1, weight.shape[-1], stride).transpose(1, 2)  # [B, T, C, k]
        return F.linear(windows.flatten(2), weight.flatten(1), bias).transpose(1, 2)
    # Torch supports this order of memory for four axes only.
    image = F.conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, (1, stride), dilation=(1, dilation))
    return image.squeeze(2)


def _few(x: Tensor, stride: int = 1) -> bool:
    # The library copies the weights into an order of its own at each call. For so few steps that takes longer than a
    # product that reads them in place.
    return x.shape[0] * x.shape[-1] < 4 * stride * x.shape[1]


class Conv1d(nn.Module):
    """Strided convolution that gives ``ceil(n / stride)`` steps for n; causal by default.

    Causal, output t reads inputs up to ``(t + 1) * stride - 1``. With ``pad_mode="reflect"`` the first outputs also
    read the ``padding`` inputs after the first, whose mirror image the padding is. ``elu``: apply ELU to the input
    first.
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
        elu: bool = False,
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
        self.elu = elu
        self.stride = stride
        self.padding = span - stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation)

    def init_state(self, batch: int = 1) -> ConvState:
        """Return the state at the start of ``batch`` streams. Raises: `SoundloomError` unless the layer is causal."""
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
            return self._whole(x)
        if not state.started:
            x = join([state.history, x])
            if last:
                state.history, state.started = x[..., :0], True
                return self._whole(x)
            if x.shape[-1] <= self.padding:
                state.history = x
                return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
            x = _reflect(x, self.padding, 0, self.elu)
            state.started = True
        else:
            x = join([state.history, x], [False, self.elu])
        available = x.shape[-1] - self.padding
        if last and available > 0:
            x = pad1d(x, 0, -available % self.stride, self.pad_mode)
            available = x.shape[-1] - self.padding
        steps = max(0, available // self.stride)
        state.history = x[..., steps * self.stride :].clone()  # or the view would keep the whole chunk in memory
        if steps == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        return self._convolve(x[..., : steps * self.stride + self.padding])

    def _whole(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        extra = -x.shape[-1] % self.stride
        right = 0 if self.causal else self.padding // 2
        return self._convolve(pad1d(x, self.padding - right, right + extra, self.pad_mode, self.elu))

    def _convolve(self, x: Tensor) -> Tensor:
        return _convolve(x, self.conv.weight, self.conv.bias, self.stride, self.conv.dilation[0])


class ConvTranspose1d(nn.Module):
    """Transposed convolution that gives ``n * stride`` steps for n; causal by default.

    Causal, output t reads inputs up to ``t // stride``: the overlap past the end is cut off. ``elu``: apply ELU to the
    input first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        causal: bool = True,
        elu: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size < stride:
            raise SoundloomError(
                f"a transposed convolution of kernel {kernel_size} cannot have stride {stride}; "
                "the kernel must be at least as long"
            )
        self.causal = causal
        self.elu = elu
        self.stride = stride
        self.overlap = kernel_size - stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)

    def init_state(self, batch: int = 1) -> ConvTransposeState:
        """Return the state at the start of ``batch`` streams. Raises: `SoundloomError` unless the layer is causal."""
        _require_causal(self.causal)
        return ConvTransposeState(self.conv.weight.new_zeros(batch, self.conv.out_channels, self.overlap))

    def forward(self, x: Tensor, state: ConvTransposeState | None = None) -> Tensor:
        """Upsample the whole, or with ``state`` the next chunk of a stream: ``[B, C, T] -> [B, D, T * stride]``."""
        length = x.shape[-1] * self.stride
        if length == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        if state is None:
            left = 0 if self.causal else self.overlap - self.overlap // 2
            return self._spread(x, self.conv.bias)[..., left : left + length]
        # Without the bias, which steps in the overlap of two chunks would get twice.
        y = self._spread(x, None)
        y[..., : self.overlap] += state.tail
        state.tail = y[..., length:].clone()
        y = y[..., :length]
        return y if self.conv.bias is None else y.add_(self.conv.bias[:, None])

    def _spread(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return every output that ``x`` contributes to: [B, C, T] -> [B, D, T * stride + overlap]."""
        weight = self.conv.weight  # [C, D, kernel]
        if self.overlap != self.stride or not steps_first(x):
            return F.conv_transpose1d(F.elu(x) if self.elu else x, weight, bias, self.stride)
        # Step t adds `stride` outputs to its own block and as many to the next. That is a convolution of two taps
        # whose channels are the outputs of one block. The library's transposed kernel takes two to four times as long.
        (B, C, T), D = x.shape, weight.shape[1]
        if _few(x):
            x = (F.elu(x) if self.elu else x).transpose(1, 2)
            own, following = (x @ weight.flatten(1)).view(B, T, D, 2, self.stride).transpose(2, 4).unbind(3)
            blocks = (x.new_zeros(D) if bias is None else bias).repeat(B, T + 1, self.stride, 1)
            blocks[:, :-1] += own
            blocks[:, 1:] += following
        else:
            taps = weight.view(C, D, 2, self.stride).permute(3, 1, 0, 2).reshape(self.stride * D, C, 2).flip(-1)
            padded = pad1d(x, 1, 1, "constant", self.elu)
            blocks = _convolve(padded, taps, None if bias is None else bias.repeat(self.stride)).transpose(1, 2)
        return blocks.reshape(B, -1, D).transpose(1, 2)


def apply_weight_norm(module: nn.Module) -> None:
    """Give every convolution inside ``module`` weight norm; the weights themselves stay the same."""
    for layer in _convolutions(module):
        if not parametrize.is_parametrized(layer, "weight"):
            weight_norm(layer)


def fold_weight_norm(module: nn.Module) -> None:
    """Replace weight norm inside ``module`` by the plain weights that it results in, for inference."""
    for layer in _convolutions(module):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's tensors with weight norm folded away; the module itself keeps it.

    Checkpoints for inference hold these, and fingerprints are computed from these: weight norm makes no difference.
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
    """Return how many frames a stream needs before a reflecting layer of this padding can start."""
    return math.ceil((padding + 1) / steps_per_frame)
