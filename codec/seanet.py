"""SEANet in EnCodec's shape: strided convolutions down to frames, and their mirror image back up.

    wave ─ conv ─┬─ [residual units ─ ELU ─ strided conv] per ratio ─ LSTM ─ ELU ─ conv ─ latent        Encoder
                 C channels, doubled at each ratio
    latent ─ conv ─ LSTM ─ [ELU ─ transposed conv ─ residual units] per ratio ─ ELU ─ conv ─ wave       Decoder

The layers' order and names are EnCodec's, so a published checkpoint maps to them key by key (`codec.encodec_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from codec.conv import (
    Conv1d,
    ConvState,
    ConvTranspose1d,
    apply_weight_norm,
    frames_before_start,
    join,
    steps_first,
)
from codec.errors import SoundloomError
from codec.seanet_layers import (
    LSTMState,
    ResidualState,
    ResidualUnit,
    SEANetConfig,
    SEANetState,
    SkipLSTM,
    encodec_24khz,
)

__all__ = [
    "LSTMState",
    "ResidualState",
    "ResidualUnit",
    "SEANetConfig",
    "SEANetDecoder",
    "SEANetEncoder",
    "SEANetState",
    "SkipLSTM",
    "encodec_24khz",
]

_PIECE_BYTES = 12_000_000  # of a float32 activation at the sample rate: 4 s of EnCodec's


class SEANetEncoder(nn.Module):
    """Waveform to one latent vector a frame."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.config = config
        pad: dict[str, Any] = {"causal": config.causal, "pad_mode": config.pad_mode}
        dim = config.filters
        layers: list[nn.Module] = [Conv1d(config.channels, dim, config.kernel_size, **pad)]
        for ratio in reversed(config.ratios):
            layers += [ResidualUnit(config, dim, config.dilation_growth**j) for j in range(config.residual_layers)]
            layers += [nn.ELU(), Conv1d(dim, dim * 2, 2 * ratio, ratio, elu=True, **pad)]
            dim *= 2
        if config.lstm_layers:
            layers.append(SkipLSTM(dim, config.lstm_layers))
        layers += [nn.ELU(), Conv1d(dim, config.latent_dim, config.last_kernel_size, elu=True, **pad)]
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
        """Frames that a stream must receive before the first comes out (and then all of them): 1 unless reflecting."""
        return _start_frames(self.layers, self.config, steps_per_frame=self.hop_length)

    def init_state(self, batch: int = 1) -> SEANetState:
        """Return the state at the start of ``batch`` streams. Raises: `SoundloomError` unless the network is causal."""
        return _init_state(self.layers, batch)

    def forward(self, wave: Tensor, state: SEANetState | None = None, last: bool = False) -> Tensor:
        """Encode the whole, or with ``state`` the next chunk of a stream, which advances the state in place.

        Shapes: ``[B, C, N] -> [B, D, T]``, whole: ``T = ceil(N / hop)``. Chunks may have any length; samples that do
        not fill a frame wait in the state. ``last=True`` ends the stream and pads the last frame.
        Raises: `SoundloomError` for another number of channels.
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
            # Zeros at the input rather than in every layer: a recording then has the same codes alone, at the end of a
            # stream, and padded to another's length in a batch.
            wave = F.pad(wave, (0, -taken % self.hop_length))
        inner = len(self.layers) - (3 if self.config.lstm_layers else 2)
        hidden = _run_in_pieces(self.layers, range(inner), wave, state, last, self.config, self.hop_length)
        return _run(self.layers, range(inner, len(self.layers)), hidden, state, last)

    def flush(self, state: SEANetState) -> Tensor:
        """End a stream: return the frames that still wait, ``[B, D, T >= 0]``."""
        return self.forward(_nothing(self.layers[0], state), state, last=True)


class SEANetDecoder(nn.Module):
    """One latent vector a frame back to a waveform: the encoder's mirror image."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        self.config = config
        pad: dict[str, Any] = {"causal": config.causal, "pad_mode": config.pad_mode}
        dim = config.filters * 2 ** len(config.ratios)
        layers: list[nn.Module] = [Conv1d(config.latent_dim, dim, config.kernel_size, **pad)]
        if config.lstm_layers:
            layers.append(SkipLSTM(dim, config.lstm_layers))
        for ratio in config.ratios:
            layers += [nn.ELU(), ConvTranspose1d(dim, dim // 2, 2 * ratio, ratio, config.causal, elu=True)]
            dim //= 2
            layers += [ResidualUnit(config, dim, config.dilation_growth**j) for j in range(config.residual_layers)]
        layers += [nn.ELU(), Conv1d(dim, config.channels, config.last_kernel_size, elu=True, **pad)]
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
        """Frames that a stream must receive before the first samples come out: 1 unless reflecting."""
        return _start_frames(self.layers, self.config, steps_per_frame=1)

    def init_state(self, batch: int = 1) -> SEANetState:
        """Return the state at the start of ``batch`` streams. Raises: `SoundloomError` unless the network is causal."""
        return _init_state(self.layers, batch)

    def forward(self, latent: Tensor, state: SEANetState | None = None, last: bool = False) -> Tensor:
        """Decode the whole, or with ``state`` the next frames of a stream, which advances the state in place.

        Shapes: ``[B, D, T] -> [B, C, T * hop]``; a stream whose network reflects gives less at first, the rest later.
        Raises: `SoundloomError` for latents of another size.
        """
        if latent.dim() != 3 or latent.shape[1] != self.latent_dim:
            raise SoundloomError(
                f"a latent of shape {list(latent.shape)} cannot be decoded; "
                f"it must be [batch, {self.latent_dim}, frames]"
            )
        if state is not None:
            state.steps += latent.shape[-1]
        inner = 2 if self.config.lstm_layers else 1
        hidden = _run(self.layers, range(inner), latent, state, last)
        return _run_in_pieces(self.layers, range(inner, len(self.layers)), hidden, state, last, self.config, 1)

    def flush(self, state: SEANetState) -> Tensor:
        """End a stream: return the samples that still wait, ``[B, C, N >= 0]``."""
        return self.forward(_nothing(self.layers[0], state), state, last=True)


def _init_state(layers: nn.ModuleList, batch: int) -> SEANetState:
    states = (None if isinstance(layer, nn.ELU) else cast(Any, layer).init_state(batch) for layer in layers)
    return SEANetState(list(states))


def _run(layers: nn.ModuleList, which: range, x: Tensor, state: SEANetState | None, last: bool) -> Tensor:
    for i in which:
        layer = layers[i]
        if isinstance(layer, nn.ELU):
            continue  # the convolution after it applies it
        own = state.layers[i] if state is not None else None
        x = layer(x, own) if isinstance(layer, ConvTranspose1d) else layer(x, own, last)
    return x


def _run_in_pieces(
    layers: nn.ModuleList,
    which: range,
    x: Tensor,
    state: SEANetState | None,
    last: bool,
    config: SEANetConfig,
    steps_per_frame: int,
) -> Tensor:
    """Run the layers between the frames and the wave, on a CPU over one piece of time after another.

    The allocator reuses tensors of a few megabytes; larger ones come as fresh pages each time, which cost a quarter of
    the time. The layers at the frame rate run on long pieces instead: at each call their weights (19 MB in EnCodec)
    are copied into the library's order.
    """
    frames = max(1, _PIECE_BYTES // (4 * len(x) * config.filters * config.hop_length))
    if not steps_first(x) or x.shape[-1] <= frames * steps_per_frame:
        return _run(layers, which, x, state, last)
    if not config.causal:
        return _run_overlapping(layers, which, x, frames, steps_per_frame)
    pieces = x.split(frames * steps_per_frame, -1)
    ends = last or state is None
    state = state or _init_state(layers, len(x))
    return join([_run(layers, which, piece, state, ends and i == len(pieces) - 1) for i, piece in enumerate(pieces)])


def _run_overlapping(layers: nn.ModuleList, which: range, x: Tensor, frames: int, steps_per_frame: int) -> Tensor:
    """Run convolutions that are not causal over pieces, each with as much before and after it as its outputs read."""
    around = _reach(layers, which, steps_per_frame) * steps_per_frame
    parts = []
    for begin in range(0, x.shape[-1], frames * steps_per_frame):
        left, end = max(0, begin - around), begin + frames * steps_per_frame
        piece = x[..., left : end + around]
        out = _run(layers, which, piece, None, False)
        rate = out.shape[-1] // -(-piece.shape[-1] // steps_per_frame)  # outputs a frame
        first, past = ((step - left) // steps_per_frame * rate for step in (begin, end))
        parts.append(out[..., first:past])
    return join(parts)


def _reach(layers: nn.ModuleList, which: range, steps_per_frame: float) -> int:
    """Return how many frames before or after its own an output may depend on, rounded up."""
    reach = 0.0
    for i in which:
        layer = layers[i]
        if isinstance(layer, ConvTranspose1d):
            reach += math.ceil(layer.overlap / layer.stride) / steps_per_frame
            steps_per_frame *= layer.stride
        elif isinstance(layer, (Conv1d, ResidualUnit)):
            conv = layer if isinstance(layer, Conv1d) else layer.dilated
            reach += (conv.padding + conv.stride) / steps_per_frame
            steps_per_frame /= conv.stride
    return math.ceil(reach)


def _nothing(first: nn.Module, state: SEANetState) -> Tensor:
    past = state.layers[0]
    assert isinstance(first, Conv1d) and isinstance(past, ConvState)
    return past.history.new_zeros(past.history.shape[0], first.conv.in_channels, 0)


def _start_frames(layers: nn.ModuleList, config: SEANetConfig, steps_per_frame: float) -> int:
    if config.pad_mode == "constant":
        return 1
    return max(frames_before_start(conv.padding, steps) for conv, steps in _rates(layers, steps_per_frame))


def _rates(layers: nn.ModuleList, steps_per_frame: float) -> Iterator[tuple[Conv1d, float]]:
    """Yield every padding convolution with the number of its input steps in a frame."""
    for layer in layers:
        if isinstance(layer, Conv1d):
            yield layer, steps_per_frame
            steps_per_frame /= layer.stride
        elif isinstance(layer, ConvTranspose1d):
            steps_per_frame *= layer.stride
        elif isinstance(layer, ResidualUnit):
            yield layer.dilated, steps_per_frame
