"""Pictures: waveforms, mel spectrograms, token grids, rate-quality curves, codebook use. matplotlib without windows."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.audio.files import mel_filterbank
from codec.common.files import write_bytes
from codec.errors import SoundloomError
from codec.metrics import Summary, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DECIBELS = 80  # below the loudest bin; what lies deeper is drawn as silence
_COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#30638e", "#66a182", "#8d5a97", "#5c5c5c", "#c06e52")
_MARKERS = "osD^vP*X"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches. Raises: SoundloomError where matplotlib is missing."""
    require("matplotlib", "plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def figure_png(figure: Figure, dots_per_inch: int = 110) -> bytes:
    """The bytes of the figure as a PNG; the same figure gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return out.getvalue()


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write the figure as its suffix says (.png, .svg, .pdf). Raises: SoundloomError."""
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise SoundloomError(f"{path}: pictures end with .png, .svg or .pdf")
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=130)
    write_bytes(path, out.getvalue())


def mel_decibels(wave: Tensor, sample_rate: int, mels: int = 80) -> Tensor:
    """Mel spectrogram in decibels: wave [N] -> [mels, frames] at 10 ms; full scale is about 0."""
    window = 1 << max(8, int(sample_rate * 0.04).bit_length() - 1)
    wave = torch.nn.functional.pad(wave.detach().float().cpu(), (0, max(0, window - wave.shape[-1])))
    hann = torch.hann_window(window)
    spectrum = torch.stft(wave, window, sample_rate // 100, window=hann, return_complex=True).abs() / (window / 4)
    power = mel_filterbank(mels, window, sample_rate).t() @ spectrum.square()
    return 10 * torch.log10(power.clamp(min=1e-12))


def draw_waveform(axes: Axes, wave: Tensor, sample_rate: int, label: str, colour: str = _COLOURS[0]) -> None:
    """Lowest and highest sample of each of up to 2,000 columns: wave [N]."""
    wave = wave.detach().float().cpu()
    step = max(1, wave.shape[0] // 2000)
    columns = wave[: wave.shape[0] // step * step].reshape(-1, step)
    seconds = torch.arange(columns.shape[0]) * step / sample_rate
    axes.fill_between(
        seconds.numpy(), columns.amin(1).numpy(), columns.amax(1).numpy(), color=colour, linewidth=0.4, label=label
    )
    axes.set_ylim(-1, 1)
    axes.set_xlim(0, wave.shape[0] / sample_rate)
    axes.set_ylabel(label)


def draw_spectrogram(axes: Axes, wave: Tensor, sample_rate: int, label: str, top: float | None = None) -> float:
    """Mel spectrogram of wave [N]; ``top`` (returned) is the brightest decibel, one for pictures to compare."""
    mel = mel_decibels(wave, sample_rate)
    top = float(mel.max()) if top is None else top
    extent = (0, wave.shape[-1] / sample_rate, 0, mel.shape[0])
    axes.imshow(mel.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=top - DECIBELS, vmax=top, extent=extent)
    axes.set_yticks([])
    axes.set_ylabel(label)
    return top


def draw_codes(axes: Axes, codes: Tensor, codebook_size: int, frame_rate: float) -> None:
    """Token grid: codes [K, T], level 0 on top; colour is the code's number, so equal colours are equal codes."""
    levels, frames = codes.shape
    extent = (0, frames / frame_rate, levels - 0.5, -0.5)
    axes.imshow(
        codes.cpu().numpy(), aspect="auto", cmap="turbo", vmin=0, vmax=codebook_size - 1, interpolation="nearest",
        extent=extent,
    )  # fmt: skip
    axes.set_yticks(range(levels))
    axes.set_ylabel("codes: level")


def reconstruction_figure(
    original: Tensor, result: Tensor, codes: Tensor, sample_rate: int, codebook_size: int, title: str
) -> Figure:
    """Both waveforms [N], both spectrograms and the codes [K, T] between them, on one axis of time."""
    levels, frames = codes.shape
    figure = new_figure(min(24.0, 9 + 0.2 * original.shape[0] / sample_rate), 6.5 + 0.12 * levels)
    rows = figure.subplots(5, 1, sharex=True, height_ratios=[1, 2, 1 + 0.12 * levels, 2, 1])
    draw_waveform(rows[0], original, sample_rate, "original")
    top = draw_spectrogram(rows[1], original, sample_rate, "mel, original")
    draw_codes(rows[2], codes, codebook_size, frames * sample_rate / original.shape[0])
    draw_spectrogram(rows[3], result, sample_rate, "mel, decoded", top)
    draw_waveform(rows[4], result, sample_rate, "decoded", _COLOURS[1])
    rows[4].set_xlabel("seconds")
    figure.suptitle(title)
    return figure


def spectrogram_figure(waves: Mapping[str, Tensor], sample_rate: int) -> Figure:
    """Mel spectrograms of waves [N] under each other, with one scale of brightness: that of the first."""
    figure = new_figure(9, 1.5 * len(waves) + 0.4)
    rows = figure.subplots(len(waves), 1, sharex=True, squeeze=False)[:, 0]
    top: float | None = None
    for axes, (label, wave) in zip(rows, waves.items(), strict=True):
        top = draw_spectrogram(axes, wave, sample_rate, label, top)
    rows[-1].set_xlabel("seconds")
    return figure


def curve_figure(
    series: Mapping[str, Sequence[tuple[float, Summary]]], x_label: str, y_label: str, anchors: Mapping[str, float]
) -> Figure:
    """Lines of (x, summary) with their intervals on a logarithmic x; ``anchors`` are dashed lines across."""
    figure = new_figure(6, 3.8)
    axes = figure.subplots()
    for i, (label, points) in enumerate(series.items()):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        judged = sorted((point for point in points if point[1].n), key=lambda point: point[0])
        x, summaries = [point[0] for point in judged], [point[1] for point in judged]
        axes.plot(x, [s.mean for s in summaries], marker=marker, color=colour, label=label, linewidth=1.6, markersize=5)
        low, high = [s.low for s in summaries], [s.high for s in summaries]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    for label, value in anchors.items():
        axes.axhline(value, color="#888888", linestyle="--", linewidth=1)
        axes.annotate(label, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#666666")
    axes.set_xscale("log")
    ticks = sorted({x for points in series.values() for x, _ in points})
    if ticks:
        low, high = min(ticks), max(ticks)
        nice = [v for v in (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if low * 0.9 <= v <= high * 1.1]
        axes.set_xticks(nice, [f"{v:g}" for v in nice])
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(frameon=False)
    return figure


def use_figure(counts: Tensor) -> Figure:
    """Codes of each level sorted by how often they occur: counts [K, codebook_size], a line a level; flat is good."""
    figure = new_figure(6, 3.8)
    axes = figure.subplots()
    levels = counts.shape[0]
    colours = require("matplotlib", "plot").colormaps["viridis"]
    for k, level in enumerate(counts.double()):
        share = level.sort(descending=True).values / level.sum().clamp(min=1)
        axes.plot(share.clamp(min=1e-7).numpy(), color=colours(k / max(1, levels)), label=f"{k}", linewidth=1.3)
    axes.axhline(1 / counts.shape[1], color="#888888", linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("codes, most frequent first (dashed: all equal)")
    axes.set_ylabel("share of frames")
    axes.legend(title="level", ncols=2, frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
    return figure
