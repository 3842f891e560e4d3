"""The spectral pair: an encoder whose first layer is an STFT and a decoder whose last layer is its inverse.

An STFT is a strided convolution with fixed Fourier filters, and its inverse is the mirrored transposed convolution
(Vocos, Siuzdak 2023). With these two ends fixed, every learned layer runs at the STFT's frame rate or below. On a CPU
that trains several times faster than a pair that begins and ends at the sample rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.errors import SoundloomError
from codec.spectral_steps import FewSteps, PackedDecoder, PackedEncoder

_LARGEST_WINDOW = 1 << 16
_MOST_OVERLAPS = 16  # windows over one sample; the shipped codec has 4, and no weight's shape bounds them


@dataclass(frozen=True)
class SpectralConfig:
    """Sizes of the spectral pair, in samples (``window``, ``hop``), frames (``stride``, ``kernel``) and channels.

    One code frame covers ``hop * stride`` samples. The decoder's windows reach ``decoder_window - hop`` samples past
    their frame; the decoder waits for ``lookahead`` of these (0: strictly causal, the end of each window is predicted).
    """

    window: int = 960
    hop: int = 240
    stride: int = 2
    latent_dim: int = 32
    encoder_dim: int = 256
    encoder_blocks: int = 4
    bottleneck_dim: int = 320
    bottleneck_blocks: int = 2
    decoder_dim: int = 320
    decoder_blocks: int = 5
    decoder_window: int = 960
    lookahead: int = 720
    kernel: int = 7
    expansion: int = 3

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            least = 0 if name.endswith("_blocks") or name == "lookahead" else 1
            if size < least:
                raise SoundloomError(f"spectral.{name}: must be {least} or more, not {size}")
        for window in (self.window, self.decoder_window):
            if window > _LARGEST_WINDOW:  # the windows themselves are made before the weights' shapes are known
                raise SoundloomError(f"spectral: a window of {window} samples; expected at most {_LARGEST_WINDOW}")
            if window % self.hop or window > _MOST_OVERLAPS * self.hop:
                raise SoundloomError(
                    f"spectral: windows must be multiples of hop, up to {_MOST_OVERLAPS} times; "
                    f"they are {self.window} and {self.decoder_window}, hop is {self.hop}"
                )
        if not 0 <= self.lookahead <= self.decoder_window - self.hop or self.lookahead % self.hop:
            raise SoundloomError("spectral.lookahead: must be a multiple of hop, at most decoder_window - hop")

    @property
    def hop_length(self) -> int:
        """Samples per code frame."""
        return self.hop * self.stride


@dataclass
class SpectralState:
    """What a stream carries from chunk to chunk.

    past: by layer, the steps that its next output needs; waiting [B, 1, n]: samples that do not fill a frame yet;
    tail [B, 1, overlap]: the unfinished part of the decoder's sum of windows; skip: samples of the start still to drop;
    packed: the network's weights, laid out for short chunks.
    """

    past: dict[str, Tensor] = field(default_factory=dict)
    waiting: Tensor | None = None
    tail: Tensor | None = None
    skip: int = 0
    packed: Any = None


class Past(nn.Module):
    """Put ``length`` past steps (zeros at the start) before a chunk [B, C, T]; a state holds them between chunks."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.key = ""  # set by `name_pasts`

    def forward(self, x: Tensor, state: SpectralState | None) -> Tensor:
        """Return [B, C, length + T]."""
        if state is None:
            return F.pad(x, (self.length, 0))
        past = state.past.get(self.key)
        if past is None:
            past = x.new_zeros(x.shape[0], x.shape[1], self.length)
        x = torch.cat([past, x], -1)
        state.past[self.key] = x[..., x.shape[-1] - self.length :]
        return x


def name_pasts(module: nn.Module) -> None:
    """Give each `Past` inside a module its own key in the state."""
    for name, part in module.named_modules():
        if isinstance(part, Past):
            part.key = name


class ConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, then two pointwise layers, on [B, C, T] (Liu et al. 2022, in one dimension)."""

    def __init__(self, dim: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.past = Past(kernel - 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.up = nn.Linear(dim, expansion * dim)
        self.down = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.2))

    def forward(self, x: Tensor, state: SpectralState | None = None) -> Tensor:
        """Return [B, C, T]."""
        h = self.depthwise(self.past(x, state)).transpose(1, 2)  # [B, C, T] -> [B, T, C]
        h = self.down(F.gelu(self.up(self.norm(h)))) * self.scale
        return x + h.transpose(1, 2)


def _hann(size: int) -> Tensor:
    # On the CPU even where the module is made on the meta device: no file holds the windows.
    return torch.hann_window(size, device="cpu")


def _blocks(dim: int, count: int, config: SpectralConfig) -> nn.ModuleList:
    return nn.ModuleList(ConvNeXtBlock(dim, config.kernel, config.expansion) for _ in range(count))


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x.transpose(1, 2)).transpose(1, 2)


class SpectralEncoder(FewSteps):
    """Waveform [B, 1, N] -> latent [B, D, T], T = ceil(N / hop_length); no frame depends on what follows it."""

    window: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.hop_length = config.hop_length
        self.register_buffer("window", _hann(config.window), persistent=False)
        self.wave_past = Past(config.window - config.hop)
        bins = config.window // 2 + 1
        self.input = nn.Linear(3 * bins, config.encoder_dim)
        self.input_norm = nn.LayerNorm(config.encoder_dim, eps=1e-6)
        self.blocks = _blocks(config.encoder_dim, config.encoder_blocks, config)
        self.downsample = nn.Linear(config.stride * config.encoder_dim, config.bottleneck_dim)
        self.bottleneck = _blocks(config.bottleneck_dim, config.bottleneck_blocks, config)
        self.norm = nn.LayerNorm(config.bottleneck_dim, eps=1e-6)
        self.output = nn.Linear(config.bottleneck_dim, config.latent_dim)
        name_pasts(self)

    @property
    def latent_dim(self) -> int:
        """Size of a frame's vector."""
        return self.config.latent_dim

    def pack(self) -> PackedEncoder:
        """Return the network after its transform as a function of a few steps."""
        return PackedEncoder(self)

    def init_state(self, batch: int = 1) -> SpectralState:
        """Return the state at the start of ``batch`` streams."""
        return SpectralState(waiting=self.window.new_zeros(batch, 1, 0))

    def forward(self, wave: Tensor, state: SpectralState | None = None, last: bool = False) -> Tensor:
        """Encode the whole, or with ``state`` the next chunk of any length; a partial frame waits until ``last``."""
        config = self.config
        if state is not None and state.waiting is not None:
            wave = torch.cat([state.waiting, wave], -1)
            whole = wave.shape[-1] if last else wave.shape[-1] // self.hop_length * self.hop_length
            state.waiting, wave = wave[..., whole:], wave[..., :whole]
        wave = F.pad(wave, (0, -wave.shape[-1] % self.hop_length))
        if wave.shape[-1] == 0:
            return wave.new_zeros(wave.shape[0], config.latent_dim, 0)
        features = self.features(self.wave_past(wave, state))
        packed = self.packed(features, len(features) * features.shape[1], state)
        if packed is not None and state is not None:
            return packed(features, state.past)
        x = self.input_norm(self.input(features)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, state)
        B, C, frames_count = x.shape
        x = x.transpose(1, 2).reshape(B, frames_count // config.stride, config.stride * C)
        x = self.downsample(x).transpose(1, 2)
        for block in self.bottleneck:
            x = block(x, state)
        return _per_frame(nn.Sequential(self.norm, self.output), x)

    def features(self, wave: Tensor) -> Tensor:
        """Return the compressed spectra [B, F, 3 * bins] of wave [B, 1, (F - 1) * hop + window]."""
        frames = wave.squeeze(1).unfold(-1, self.config.window, self.config.hop)  # [B, F, window]
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = torch.fft.rfft(frames.float() * self.window)  # [B, F, bins]
            power = spectrum.real.square() + spectrum.imag.square() + 1e-8
            # Cube-root magnitudes keep the phase; the logarithm shows quiet parts.
            compressed = spectrum * power.pow(-1 / 3)
            return torch.cat([compressed.real, compressed.imag, 0.25 * power.log()], -1)


class SpectralDecoder(FewSteps):
    """Latent [B, D, T] -> waveform [B, 1, T * hop_length], from predicted spectra and overlapping windows."""

    window: Tensor

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.hop_length = config.hop_length
        self.register_buffer("window", _hann(config.decoder_window), persistent=False)
        self.input = nn.Linear(config.latent_dim, config.bottleneck_dim)
        self.bottleneck = _blocks(config.bottleneck_dim, config.bottleneck_blocks, config)
        self.upsample = nn.Linear(config.bottleneck_dim, config.stride * config.decoder_dim)
        self.blocks = _blocks(config.decoder_dim, config.decoder_blocks, config)
        self.norm = nn.LayerNorm(config.decoder_dim, eps=1e-6)
        bins = config.decoder_window // 2 + 1
        self.magnitude = nn.Linear(config.decoder_dim, bins)
        self.phase = nn.Linear(config.decoder_dim, bins)
        nn.init.constant_(self.magnitude.bias, -2.0)
        name_pasts(self)

    @property
    def overlap(self) -> int:
        """Samples by which a window reaches past its own frame."""
        return self.config.decoder_window - self.config.hop

    def spectra(self, latent: Tensor, state: SpectralState | None) -> Tensor:
        """Return the windowed waveform frames [B, T * stride, decoder_window] of latent [B, D, T]."""
        config = self.config
        packed = self.packed(latent, len(latent) * latent.shape[2] * config.stride, state)
        if packed is not None and state is not None:
            magnitude, phase = packed(latent, state.past)
        else:
            magnitude, phase = self._layers(latent, state)
        return self._windows(magnitude, phase)

    def _windows(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        config = self.config
        with torch.autocast(magnitude.device.type, enabled=False):
            # Above e^5 a spectrum would clip any waveform: the bound keeps an early training step from exploding.
            magnitude = magnitude.clamp(max=5.0).exp()
            frames = torch.fft.irfft(torch.polar(magnitude, phase), n=config.decoder_window)
            # Squared Hann windows sum to 3/8 of the number of overlaps.
            return frames * self.window * (config.hop / config.decoder_window / 0.375)

    def _layers(self, latent: Tensor, state: SpectralState | None) -> tuple[Tensor, Tensor]:
        """Return the logarithmic magnitude and the phase of each bin, [B, T * stride, bins]."""
        config = self.config
        x = _per_frame(self.input, latent)
        for block in self.bottleneck:
            x = block(x, state)
        B, _, T = x.shape
        x = self.upsample(x.transpose(1, 2)).reshape(B, T * config.stride, config.decoder_dim).transpose(1, 2)
        for block in self.blocks:
            x = block(x, state)
        h = self.norm(x.transpose(1, 2))
        return self.magnitude(h).float(), self.phase(h).float()

    def overlap_add(self, frames: Tensor) -> Tensor:
        """Sum frames [B, F, window] at their places: [B, 1, F * hop + overlap]."""
        B, count, window = frames.shape
        hop = self.config.hop
        parts = window // hop
        # Part p of a frame belongs p hops later: add the shifted parts, each [B, F, hop].
        out = frames.new_zeros(B, count + parts - 1, hop)
        for p in range(parts):
            out[:, p : p + count] += frames[..., p * hop : (p + 1) * hop]
        return out.reshape(B, 1, -1)

    @property
    def latent_dim(self) -> int:
        """Size of a frame's vector."""
        return self.config.latent_dim

    def pack(self) -> PackedDecoder:
        """Return the network before its transform as a function of a few steps."""
        return PackedDecoder(self)

    def init_state(self, batch: int = 1) -> SpectralState:
        """Return the state at the start of ``batch`` streams."""
        return SpectralState(tail=self.window.new_zeros(batch, 1, self.overlap), skip=self.config.lookahead)

    def forward(self, latent: Tensor, state: SpectralState | None = None, last: bool = False) -> Tensor:
        """Decode the whole [B, 1, T * hop_length], or with ``state`` the samples that are now final.

        A stream's chunks joined are the whole: the first is ``lookahead`` samples shorter, which come with ``last``.
        """
        if latent.shape[-1] == 0:
            wave = latent.new_zeros(latent.shape[0], 1, self.overlap)
        else:
            wave = self.overlap_add(self.spectra(latent, state))
        return self._final(wave, state, last)

    def _final(self, wave: Tensor, state: SpectralState | None, last: bool) -> Tensor:
        """Return the samples [B, 1, n] that are final, of the summed windows of a chunk."""
        lookahead = self.config.lookahead
        if state is None or state.tail is None:
            return wave[..., lookahead : wave.shape[-1] - (self.overlap - lookahead)]
        wave = torch.cat([wave[..., : self.overlap] + state.tail, wave[..., self.overlap :]], -1)
        final = wave.shape[-1] - (self.overlap - lookahead if last else self.overlap)
        state.tail, wave = wave[..., wave.shape[-1] - self.overlap :], wave[..., :final]
        skipped = min(state.skip, wave.shape[-1])
        state.skip -= skipped
        return wave[..., skipped:]

    def together(
        self, latents: Sequence[Tensor], states: Sequence[SpectralState], last: Sequence[bool]
    ) -> list[Tensor]:
        """Decode the next chunk [1, D, t] of several streams, any t: what each gets alone, within rounding.

        Short chunks of all streams go through the network's layers at once, which reads the weights once.
        """
        waves: list[Tensor] = []
        steps = [latent.shape[2] * self.config.stride for latent in latents]
        for group in self.groups(latents, steps, states):
            packed = states[group[0]].packed
            if len(group) == 1:
                waves += [self(latents[one], states[one], last[one]) for one in group]
                continue
            spectra = packed.together([latents[one] for one in group], [states[one].past for one in group])
            for one, frames in zip(group, self._windows(*spectra).split([steps[i] for i in group], 1), strict=True):
                waves.append(self._final(self.overlap_add(frames), states[one], last[one]))
        return waves
