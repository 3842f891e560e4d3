"""SEANet's configuration and its layers: residual units and an LSTM with a skip connection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.conv import Conv1d, ConvState, ConvTransposeState, PadMode, join
from codec.errors import SoundloomError


@dataclass(frozen=True)
class SEANetConfig:
    """Shape of an encoder and its decoder; the defaults are EnCodec's at 24 kHz, except for ``pad_mode``.

    ``ratios`` are the decoder's upsampling factors in order (the encoder uses them in reverse); their product is the
    hop. ``pad_mode="constant"`` (zeros) is causal from the first sample, and silence after the end changes no code
    before it. ``"reflect"`` is EnCodec's: the first frames read some that follow, so a stream waits for
    ``start_frames`` before the first comes out. With ``causal=False`` the networks run only on the whole.
    """

    channels: int = 1
    filters: int = 32
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    latent_dim: int = 128
    residual_layers: int = 1
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth: int = 2
    compress: int = 2
    lstm_layers: int = 2
    conv_shortcut: bool = True
    causal: bool = True
    pad_mode: PadMode = "constant"
    weight_norm: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", tuple(self.ratios))
        if not self.ratios or any(not isinstance(ratio, int) or ratio < 1 for ratio in self.ratios):
            raise SoundloomError(f"SEANet ratios {self.ratios} must be whole numbers of 1 or more, at least one")
        if self.pad_mode not in ("constant", "reflect"):
            raise SoundloomError(f"SEANet pad_mode {self.pad_mode!r} must be 'constant' or 'reflect'")
        at_least_one = ("channels", "filters", "latent_dim", "kernel_size", "last_kernel_size", "residual_kernel_size")
        for name in (*at_least_one, "dilation_growth", "compress"):
            if getattr(self, name) < 1:
                raise SoundloomError(f"SEANet {name} {getattr(self, name)} must be 1 or more")
        if self.residual_layers < 0 or self.lstm_layers < 0:
            raise SoundloomError("SEANet residual_layers and lstm_layers must be 0 or more")
        if self.filters % self.compress:
            raise SoundloomError(f"SEANet filters {self.filters} must be a multiple of compress {self.compress}")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.ratios)


@dataclass
class ResidualState:
    """State of a `ResidualUnit`: its dilated convolution's, and inputs whose branch is not finished ``[B, C, n]``."""

    conv: ConvState
    waiting: Tensor


@dataclass
class LSTMState:
    """Hidden and cell state of an LSTM, each ``[layers, B, C]``."""

    hidden: Tensor
    cell: Tensor


@dataclass
class SEANetState:
    """State of an encoder's or decoder's stream: one entry a layer (None for an ELU), and the input steps so far."""

    layers: list[ConvState | ConvTransposeState | ResidualState | LSTMState | None]
    steps: int = 0


class ResidualUnit(nn.Module):
    """Two convolutions and a shortcut; the first is dilated, the second has one tap: ``[B, C, N] -> [B, C, N]``."""

    def __init__(self, config: SEANetConfig, dim: int, dilation: int) -> None:
        super().__init__()
        hidden = dim // config.compress
        pad: dict[str, Any] = {"causal": config.causal, "pad_mode": config.pad_mode}
        dilated = Conv1d(dim, hidden, config.residual_kernel_size, dilation=dilation, elu=True, **pad)
        # The ELUs are in the list so that names are EnCodec's, here block.1 and block.3; the layer after applies them.
        self.block = nn.ModuleList([nn.ELU(), dilated, nn.ELU(), Conv1d(hidden, dim, 1, **pad)])
        self.shortcut = Conv1d(dim, dim, 1, **pad) if config.conv_shortcut else nn.Identity()

    @property
    def dilated(self) -> Conv1d:
        """The first convolution."""
        return cast(Conv1d, self.block[1])

    def init_state(self, batch: int = 1) -> ResidualState:
        """Return the state at the start of ``batch`` streams."""
        conv = self.dilated.conv
        return ResidualState(self.dilated.init_state(batch), conv.weight.new_zeros(batch, conv.in_channels, 0))

    def forward(self, x: Tensor, state: ResidualState | None = None, last: bool = False) -> Tensor:
        """Run on the whole or, with ``state``, on the next chunk."""
        hidden = self.dilated(x, state.conv if state is not None else None, last)
        if state is not None:
            x = join([state.waiting, x])
            steps = hidden.shape[-1]
            x, state.waiting = x[..., :steps], x[..., steps:]
        # In place where nothing needs the input again: at 24 kHz the activations, not the weights, fill the memory.
        return self.block[3](F.elu(hidden, inplace=not torch.is_grad_enabled())).add_(self.shortcut(x))


class SkipLSTM(nn.Module):
    """An LSTM over time with its input added to its output: ``[B, C, T] -> [B, C, T]``."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers)

    def init_state(self, batch: int = 1) -> LSTMState:
        """Return the state at the start of ``batch`` streams."""
        zeros = next(self.lstm.parameters()).new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        return LSTMState(zeros, zeros.clone())

    def forward(self, x: Tensor, state: LSTMState | None = None, last: bool = False) -> Tensor:
        """Run on the whole or, with ``state``, on the next chunk."""
        if x.shape[-1] == 0:
            return x
        steps = x.permute(2, 0, 1)  # [T, B, C]
        if x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type):
            # There autocast would run it in float16, whatever type was asked for, and its gradients would underflow.
            with torch.autocast(x.device.type, enabled=False):
                return self._run(steps.float(), state)
        return self._run(steps, state)

    def _run(self, steps: Tensor, state: LSTMState | None) -> Tensor:
        if state is None:
            out, _ = self.lstm(steps)
        else:
            out, (state.hidden, state.cell) = self.lstm(steps, (state.hidden, state.cell))
        return (out + steps).permute(1, 2, 0)  # [B, C, T]


def encodec_24khz(**changes: Any) -> SEANetConfig:
    """Return the shape of the published EnCodec 24 kHz network, with ``changes``."""
    return SEANetConfig(**{"pad_mode": "reflect", **changes})
