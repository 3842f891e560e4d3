"""SEANet in EnCodec's shape: strided convolutions down to frames, and their mirror image back up.

    wave ─ conv ─┬─ [residual units ─ ELU ─ strided conv] per ratio ─ LSTM ─ ELU ─ conv ─ latent        Encoder
                 C channels, doubled at each ratio
    latent ─ conv ─ LSTM ─ [ELU ─ transposed conv ─ residual units] per ratio ─ ELU ─ conv ─ wave       Decoder

The layers' order and names are EnCodec's, so a published checkpoint maps on them key by key (`codec.encodec_convert`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.conv import (
    Conv1d,
    ConvState,
    ConvTranspose1d,
    ConvTransposeState,
    PadMode,
    apply_weight_norm,
    by_products,
    frames_before_start,
    mix_channels,
)
from codec.errors import SoundloomError


@dataclass(frozen=True)
class SEANetConfig:
    """Shape of an encoder and its decoder; the defaults are EnCodec's at 24 kHz, except for ``pad_mode``.

    ``ratios`` are the decoder's upsampling factors in its order (the encoder goes through them backwards); their
    product is the hop. ``pad_mode="constant"`` (zeros) is causal from the first sample, and silence after the end
    changes no code before it. ``"reflect"`` is EnCodec's: the first frames read some that follow, so a stream waits for
    ``start_frames`` before the first comes out. ``causal=False`` runs only on the whole.
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
    """State of a `ResidualUnit`: its dilated convolution's, and inputs whose branch is not out yet ``[B, C, n]``."""

    conv: ConvState
    waiting: Tensor


@dataclass
class LSTMState:
    """Hidden and cell state of an LSTM, each ``[layers, B, C]``."""

    hidden: Tensor
    cell: Tensor


@dataclass
class SEANetState:
    """State of an encoder's or decoder's stream: one entry a layer (None where it needs none), and steps taken in."""

    layers: list[ConvState | ConvTransposeState | ResidualState | LSTMState | None]
    steps: int = 0


class ResidualUnit(nn.Module):
    """Two convolutions beside a shortcut; the first is dilated, the second has one tap: ``[B, C, N] -> [B, C, N]``."""

    def __init__(self, config: SEANetConfig, dim: int, dilation: int) -> None:
        super().__init__()
        hidden = dim // config.compress
        pad = {"causal": config.causal, "pad_mode": config.pad_mode}
        dilated = Conv1d(dim, hidden, config.residual_kernel_size, dilation=dilation, **pad)
        # ELUs stand in the list so that the names are EnCodec's: block.1 and block.3.
        self.block = nn.ModuleList([nn.ELU(), dilated, nn.ELU(), Conv1d(hidden, dim, 1, **pad)])
        self.shortcut = Conv1d(dim, dim, 1, **pad) if config.conv_shortcut else nn.Identity()

    def init_state(self, batch: int = 1) -> ResidualState:
        """State at the start of ``batch`` streams."""
        dilated = self.block[1]
        weight = dilated.conv.weight
        return ResidualState(dilated.init_state(batch), weight.new_zeros(batch, dilated.conv.in_channels, 0))

    def forward(self, x: Tensor, state: ResidualState | None = None, last: bool = False) -> Tensor:
        """Run on the whole or, with ``state``, on the next chunk."""
        hidden = self.block[1](F.elu(x), state.conv if state is not None else None, last)
        if state is not None:
            x = torch.cat([state.waiting, x], dim=-1)
            steps = hidden.shape[-1]
            x, state.waiting = x[..., :steps], x[..., steps:]
        last_conv = self.block[3].conv
        if not by_products(x) or isinstance(self.shortcut, nn.Identity):
            return self.block[3](_elu_(hidden)) + self.shortcut(x)
        across = self.shortcut.conv
        parts = [(across.weight[..., 0], x), (last_conv.weight[..., 0], _elu_(hidden))]
        return mix_channels(parts, last_conv.bias + across.bias)


class SkipLSTM(nn.Module):
    """An LSTM over time with its input added to its output: ``[B, C, T] -> [B, C, T]``."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers)

    def init_state(self, batch: int = 1) -> LSTMState:
        """State at the start of ``batch`` streams."""
        zeros = self.lstm.weight_ih_l0.new_zeros(self.lstm.num_layers, batch, self.lstm.hidden_size)
        return LSTMState(zeros, zeros.clone())

    def forward(self, x: Tensor, state: LSTMState | None = None, last: bool = False) -> Tensor:
        """Run on the whole or, with ``state``, on the next chunk."""
        if x.shape[-1] == 0:
            return x
        steps = x.permute(2, 0, 1)  # [T, B, C]
        if state is None:
            out, _ = self.lstm(steps)
        else:
            out, (state.hidden, state.cell) = self.lstm(steps, (state.hidden, state.cell))
        return (out + steps).permute(1, 2, 0)  # [B, C, T]


class SEANetEncoder(nn.Module):
    """Waveform to one latent vector a frame."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.config = config
        pad = {"causal": config.causal, "pad_mode": config.pad_mode}
        dim = config.filters
        layers: list[nn.Module] = [Conv1d(config.channels, dim, config.kernel_size, **pad)]
        for ratio in reversed(config.ratios):
            layers += [ResidualUnit(config, dim, config.dilation_growth**j) for j in range(config.residual_layers)]
            layers += [nn.ELU(), Conv1d(dim, dim * 2, 2 * ratio, ratio, **pad)]
            dim *= 2
        if config.lstm_layers:
            layers.append(SkipLSTM(dim, config.lstm_layers))
        layers += [nn.ELU(), Conv1d(dim, config.latent_dim, config.last_kernel_size, **pad)]
        self.layers = nn.ModuleList(layers)
        if config.weight_norm:
            apply_weight_norm(self)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def latent_dim(self) -> int:
        """Size of a frame's vector."""
        return self.config.latent_dim

    @property
    def start_frames(self) -> int:
        """Frames that a stream takes in before the first comes out (and then all of them): 1 unless reflecting."""
        return _start_frames(self.layers, self.config, steps_per_frame=self.hop_length)

    def init_state(self, batch: int = 1) -> SEANetState:
        """State at the start of ``batch`` streams; raises `SoundloomError` where the network is not causal."""
        return _init_state(self.layers, batch)

    def forward(self, wave: Tensor, state: SEANetState | None = None, last: bool = False) -> Tensor:
        """Encode the whole, or with ``state`` the next chunk of a stream, which advances the state in place.

        Shapes: ``[B, C, N] -> [B, D, T]``, whole: ``T = ceil(N / hop)``. Chunks may have any length; what does not
        fill a frame waits in the state. ``last=True`` ends the stream: nothing waits any longer.
        Raises: `SoundloomError` where the number of channels is another.
        """
        if wave.dim() != 3 or wave.shape[1] != self.config.channels:
            raise SoundloomError(
                f"a waveform of shape {list(wave.shape)} cannot be encoded; "
                f"it must be [batch, {self.config.channels}, samples]"
            )
        taken = wave.shape[-1] if state is None else state.steps + wave.shape[-1]
        if state is not None:
            state.steps = taken
        if self.config.pad_mode == "constant" and (state is None or last):
            # Zeros at the input rather than in every layer: a sound then has the same codes alone, at the end of a
            # stream, and padded to a neighbour's length in a batch.
            wave = F.pad(wave, (0, -taken % self.hop_length))
        return _run(self.layers, wave, state, last)

    def flush(self, state: SEANetState) -> Tensor:
        """End a stream: the frames that still wait, ``[B, D, T >= 0]``."""
        return self.forward(_nothing(self.layers[0], state), state, last=True)


class SEANetDecoder(nn.Module):
    """One latent vector a frame back to a waveform: the encoder's mirror image."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.config = config
        pad = {"causal": config.causal, "pad_mode": config.pad_mode}
        dim = config.filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [Conv1d(config.latent_dim, dim, config.kernel_size, **pad)]
        if config.lstm_layers:
            layers.append(SkipLSTM(dim, config.lstm_layers))
        for ratio in config.ratios:
            layers += [nn.ELU(), ConvTranspose1d(dim, dim // 2, 2 * ratio, ratio, causal=config.causal)]
            dim //= 2
            layers += [ResidualUnit(config, dim, config.dilation_growth**j) for j in range(config.residual_layers)]
        layers += [nn.ELU(), Conv1d(dim, config.channels, config.last_kernel_size, **pad)]
        self.layers = nn.ModuleList(layers)
        if config.weight_norm:
            apply_weight_norm(self)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def latent_dim(self) -> int:
        """Size of a frame's vector."""
        return self.config.latent_dim

    @property
    def start_frames(self) -> int:
        """Frames that a stream takes in before the first samples come out: 1 unless reflecting."""
        return _start_frames(self.layers, self.config, steps_per_frame=1)

    def init_state(self, batch: int = 1) -> SEANetState:
        """State at the start of ``batch`` streams; raises `SoundloomError` where the network is not causal."""
        return _init_state(self.layers, batch)

    def forward(self, latent: Tensor, state: SEANetState | None = None, last: bool = False) -> Tensor:
        """Decode the whole, or with ``state`` the next frames of a stream, which advances the state in place.

        Shapes: ``[B, D, T] -> [B, C, T * hop]``; a stream whose network reflects gives less at first, the rest later.
        Raises: `SoundloomError` where the latent's size is another.
        """
        if latent.dim() != 3 or latent.shape[1] != self.latent_dim:
            raise SoundloomError(
                f"a latent of shape {list(latent.shape)} cannot be decoded; "
                f"it must be [batch, {self.latent_dim}, frames]"
            )
        if state is not None:
            state.steps += latent.shape[-1]
        return _run(self.layers, latent, state, last)

    def flush(self, state: SEANetState) -> Tensor:
        """End a stream: the samples that still wait, ``[B, C, N >= 0]``."""
        return self.forward(_nothing(self.layers[0], state), state, last=True)


def _elu_(x: Tensor) -> Tensor:
    # In place where nobody needs the input again: at 24 kHz the activations, not the weights, fill the memory.
    return F.elu(x, inplace=not torch.is_grad_enabled())


def _init_state(layers: nn.ModuleList, batch: int) -> SEANetState:
    return SEANetState([None if isinstance(layer, nn.ELU) else layer.init_state(batch) for layer in layers])


def _run(layers: nn.ModuleList, x: Tensor, state: SEANetState | None, last: bool) -> Tensor:
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.ELU):
            x = _elu_(x)
        elif isinstance(layer, ConvTranspose1d):
            x = layer(x, state.layers[i] if state is not None else None)
        else:
            x = layer(x, state.layers[i] if state is not None else None, last)
    return x


def _nothing(first: Conv1d, state: SEANetState) -> Tensor:
    history = state.layers[0].history
    return history.new_zeros(history.shape[0], first.conv.in_channels, 0)


def _start_frames(layers: nn.ModuleList, config: SEANetConfig, steps_per_frame: float) -> int:
    if config.pad_mode == "constant":
        return 1
    return max(frames_before_start(conv.padding, steps) for conv, steps in _rates(layers, steps_per_frame))


def _rates(layers: nn.ModuleList, steps_per_frame: float) -> Iterator[tuple[Conv1d, float]]:
    """Every padding convolution with the number of its input steps in a frame."""
    for layer in layers:
        if isinstance(layer, Conv1d):
            yield layer, steps_per_frame
            steps_per_frame /= layer.stride
        elif isinstance(layer, ConvTranspose1d):
            steps_per_frame *= layer.stride
        elif isinstance(layer, ResidualUnit):
            yield layer.block[1], steps_per_frame


def encodec_24khz(**changes: Any) -> SEANetConfig:
    """The published EnCodec 24 kHz network's shape, with ``changes``."""
    return SEANetConfig(**{"pad_mode": "reflect", **changes})
