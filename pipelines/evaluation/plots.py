"""Draw waveforms, spectrograms, token grids, rate-quality curves and codebook use, with matplotlib but no windows."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.audio.signal import mel_filterbank
from codec.common.files import write_bytes
from codec.errors import SoundloomError
from codec.metrics import Summary, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DECIBELS = 80  # range of brightness; what is further below the loudest bin looks like silence
HARMONICS_TOP = 12_000  # Hz
HARMONICS_WINDOW = 0.05  # seconds; the harmonics of a voice of 100 Hz are still apart
_COLOURS = ("#1f6f8b", "#d1495b", "#edae49", "#30638e", "#66a182", "#8d5a97", "#5c5c5c", "#c06e52")
_MARKERS = "osD^vP*X"
_TICKS = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # kbit/s


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches. Raises: SoundloomError where matplotlib is missing."""
    require("matplotlib", "plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def figure_png(figure: Figure, dots_per_inch: int = 110) -> bytes:
    """Return the bytes of the figure as a PNG; the same figure gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return out.getvalue()


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write the figure in the format of its suffix: .png, .svg or .pdf. Raises: SoundloomError on another one."""
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise SoundloomError(f"{path}: pictures end with .png, .svg or .pdf")
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=130)
    write_bytes(path, out.getvalue())


def spectrum_power(wave: Tensor, sample_rate: int, seconds: float = 0.04) -> Tensor:
    """Return the power spectrogram [bins, frames] of wave [N]: a hop of 10 ms, windows of about ``seconds``."""
    window = 1 << max(8, int(sample_rate * seconds).bit_length() - 1)
    wave = torch.nn.functional.pad(wave.detach().float().cpu(), (0, max(0, window - wave.shape[-1])))
    hann = torch.hann_window(window)
    spectrum = torch.stft(wave, window, sample_rate // 100, window=hann, return_complex=True).abs() / (window / 4)
    return spectrum.square()


def mel_decibels(wave: Tensor, sample_rate: int, mels: int = 80) -> Tensor:
    """Return the mel spectrogram of wave [N] in decibels, [mels, frames] at 10 ms; full scale is about 0."""
    power = spectrum_power(wave, sample_rate)
    return _decibels(mel_filterbank(mels, 2 * (power.shape[0] - 1), sample_rate).t() @ power)


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.clamp(min=1e-12))


def draw_waveform(axes: Axes, wave: Tensor, sample_rate: int, label: str, colour: str = _COLOURS[0]) -> None:
    """Draw wave [N]: lowest and highest sample of each of up to 2,000 columns."""
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
    """Draw the mel spectrogram of wave [N].

    ``top`` (returned): the brightest decibel, one for pictures to compare.
    """
    mel = mel_decibels(wave, sample_rate)
    top = float(mel.max()) if top is None else top
    extent = (0, wave.shape[-1] / sample_rate, 0, mel.shape[0])
    axes.imshow(mel.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=top - DECIBELS, vmax=top, extent=extent)
    axes.set_yticks([])
    axes.set_ylabel(label)
    return top


def draw_codes(axes: Axes, codes: Tensor, codebook_size: int, frame_rate: float) -> None:
    """Draw the grid of codes [K, T], level 0 on top; equal colours are equal codes."""
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
    """Draw both waveforms [N], both spectrograms and the codes [K, T] between them, on one axis of time."""
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


def draw_harmonics(axes: Axes, wave: Tensor, sample_rate: int, title: str, top: float | None = None) -> float:
    """Draw the spectrogram of wave [N] on a linear scale from 0 to `HARMONICS_TOP`, on which harmonics are lines.

    ``top`` (returned): the brightest decibel, one for pictures to compare.
    """
    power = spectrum_power(wave, sample_rate, HARMONICS_WINDOW)
    kept = min(power.shape[0], round(HARMONICS_TOP / (sample_rate / 2) * (power.shape[0] - 1)) + 1)
    decibels = _decibels(power[:kept])
    top = float(decibels.max()) if top is None else top
    khz = (kept - 1) / (power.shape[0] - 1) * sample_rate / 2000
    axes.imshow(
        decibels.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=top - DECIBELS, vmax=top,
        extent=(0, wave.shape[-1] / sample_rate, 0, khz),
    )  # fmt: skip
    axes.set_title(title, fontsize="small")
    return top


def spectrogram_figure(waves: Mapping[str, Tensor], sample_rate: int, seconds: float = 2.5, columns: int = 3) -> Figure:
    """Draw spectrograms of waves [N] side by side, with the brightness scale of the first.

    Of each the same ``seconds`` are shown, the loudest of the first wave: more would hide the harmonics.
    """
    first = next(iter(waves.values()))
    begin, end = loudest_part(first, round(seconds * sample_rate))
    columns = min(columns, len(waves))
    count = -(-len(waves) // columns)
    figure = new_figure(4.2 * columns, 3.1 * count)
    grid = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False)
    top: float | None = None
    for axes, (label, wave) in zip(grid.flat, waves.items(), strict=False):
        top = draw_harmonics(axes, wave[begin:end], sample_rate, label, top)
    for axes in grid.flat[len(waves) :]:
        axes.set_visible(False)
    figure.supxlabel("seconds", fontsize="small")
    figure.supylabel("kHz", fontsize="small")
    return figure


def loudest_part(wave: Tensor, length: int) -> tuple[int, int]:
    """Return begin and end of the ``length`` samples of wave [N] with the most energy; all of a shorter wave."""
    if wave.shape[0] <= length:
        return 0, wave.shape[0]
    energy = torch.nn.functional.pad(wave.detach().double().cpu().square().cumsum(0), (1, 0))
    begin = int((energy[length:] - energy[:-length]).argmax())
    return begin, begin + length


def curve_figure(
    series: Mapping[str, Sequence[tuple[float, Summary]]], x_label: str, y_label: str, anchors: Mapping[str, float]
) -> Figure:
    """Draw lines of (x, summary) with their intervals on a logarithmic x; ``anchors`` are dashed lines across."""
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
        around = (min(ticks) * 0.9, max(ticks) * 1.1)
        nice = [v for v in _TICKS if around[0] <= v <= around[1]]
        axes.set_xticks(nice, [f"{v:g}" for v in nice])
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(frameon=False)
    return figure


def use_figure(counts: Tensor) -> Figure:
    """Draw how often codes occur, most frequent first: counts [K, codebook_size], a line per level; flat is good."""
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
