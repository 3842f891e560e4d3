"""Send clips through a codec, a peer or an anchor, and score the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codec.audio import read_audio, resample
from codec.common.seeds import stable_seed
from codec.errors import SoundloomError
from codec.loom import CodeFile, mark_of, pack
from codec.loudness import gain_of
from codec.metrics import count_codes, si_sdr
from codec.pretrained import AudioCodec
from codec.store.plan import Settings
from pipelines.command_line.progress import track
from pipelines.corpus.read import open_corpus
from pipelines.evaluation.anchors import through_opus
from pipelines.evaluation.judges import Judge


@dataclass(frozen=True)
class Clip:
    """A recording [N] at the sample rate of the first codec. ``text``: what is said, where known.

    ``language``: as in the manifest, such as ``en``; empty where unknown.
    """

    name: str
    wave: Tensor
    text: str | None = None
    language: str = ""

    @property
    def english(self) -> bool:
        """Return whether the English recogniser can judge it; true where the language is unknown."""
        return not self.language or self.language.lower().startswith("en")


@dataclass(frozen=True)
class Output:
    """A clip after ``system``: a wave [N] at the clip's rate, and the bytes of its file (None for anchors)."""

    system: str
    wave: Tensor
    num_bytes: int | None


@dataclass(frozen=True)
class CodecUnderTest:
    """A codec, its name in tables, the numbers of levels to judge, and whether quiet clips are raised for it."""

    name: str
    codec: AudioCodec
    levels: Sequence[int]
    normalize: bool = False

    def label(self, levels: int) -> str:
        """Return the name of its system at a number of levels."""
        return f"{self.name}, {levels} level{'s' if levels > 1 else ''}"

    def encode(self, wave: Tensor) -> tuple[Tensor, float]:
        """Return the codes [1, K, T] of a wave [N] at the codec's rate, and the gain that it had in the encoder."""
        wave = wave.expand(self.codec.channels, -1)
        gain = gain_of(wave, self.codec.sample_rate) if self.normalize else 1.0
        return self.codec.encode(wave[None] * gain), gain


def read_clips(
    corpus: str | Path, sample_rate: int, limit: int | None, seconds: float, split: str = "", language: str = ""
) -> tuple[list[Clip], list[str]]:
    """Read up to ``limit`` recordings of a folder or manifest, spread over its list, each cut to ``seconds``.

    A transcript is in the manifest or next to the recording (``x.txt``, ``x.wav``); a recording that is cut has none.
    ``language``: of recordings whose language is not in a manifest.
    Returns the clips, and a line for each unreadable file. Raises: SoundloomError where no file can be read.
    """
    source = open_corpus(Settings(root="", corpus=str(corpus), split=split, language=language))
    items = list(source.utterances())
    if limit is not None and len(items) > limit:
        items = [items[i * len(items) // limit] for i in range(limit)]
    clips, wrong = [], []
    for item in items:
        name = item.path or item.id
        length = min(seconds, item.duration or seconds)
        try:
            if item.problem:
                raise SoundloomError(f"{name}: {item.problem}")
            with source.fetch(item) as path:
                wave = read_audio(path, sample_rate, start=item.start, duration=length + 0.1)[0]
        except SoundloomError as error:
            wrong.append(str(error))
            continue
        whole = item.duration or wave.shape[0] / sample_rate
        text = item.text if whole <= seconds else ""
        clips.append(Clip(name, wave[: round(length * sample_rate)], text or None, item.language))
    if not clips:
        raise SoundloomError(f"{corpus}: no recording could be read{': ' + wrong[0] if wrong else ''}")
    return clips, wrong


def use_of_codes(
    tested: Sequence[CodecUnderTest], corpus: str | Path, minutes: float, split: str = ""
) -> tuple[dict[str, Tensor], float]:
    """Count how often each codec uses each code, [K, V], on up to ``minutes`` of a folder; return the minutes too.

    Longer than the clips to judge, because a codebook of 1,024 needs tens of thousands of frames to be seen whole. The
    order of the recordings follows a hash of their names; each is cut to its first minute. Unreadable files are left
    out. A codec with the same codes as an earlier one, another decoder of it for example, is not counted again.
    Quiet recordings are raised as they are for the clips.
    """
    source = open_corpus(Settings(root="", corpus=str(corpus), split=split))
    items = sorted(source.utterances(), key=lambda item: stable_seed(0, "use", item.id))
    counts: dict[str, Tensor] = {}
    prints = [(one.codec.fingerprint, one.normalize) for one in tested]
    tested = [one for i, one in enumerate(tested) if prints[i] not in prints[:i]]
    seconds = 0.0
    for item in track(items, "file", "use of codes"):
        if seconds >= 60 * minutes:
            break
        length = min(60.0, item.duration or 60.0)
        try:
            if item.problem:
                continue
            with source.fetch(item) as path:
                waves = [read_audio(path, t.codec.sample_rate, start=item.start, duration=length)[:1] for t in tested]
        except SoundloomError:
            continue
        for one, wave in zip(tested, waves, strict=True):
            new = count_codes(one.encode(wave[0])[0].cpu(), one.codec.codebook_size)
            counts[one.name] = counts[one.name] + new if one.name in counts else new
        seconds += waves[0].shape[-1] / tested[0].codec.sample_rate
    return counts, seconds / 60


def codec_outputs(tested: CodecUnderTest, clip: Clip, sample_rate: int) -> Iterator[Output]:
    """Yield the clip through the codec at each number of levels; the bytes are those of the packed codes."""
    codec = tested.codec
    wave = resample(clip.wave, sample_rate, codec.sample_rate)
    codes, gain = tested.encode(wave)
    num_samples = min(wave.shape[0], codes.shape[2] * codec.hop_length)
    mark = mark_of(codec.fingerprint)
    for levels in tested.levels:
        kept = codes[:, :levels]
        file = CodeFile(kept[0], codec.codebook_size, codec.sample_rate, codec.hop_length, num_samples, mark, gain)
        decoded = codec.decode(kept)[0].mean(0)[:num_samples].cpu() / gain
        yield Output(tested.label(levels), resample(decoded, codec.sample_rate, sample_rate), len(pack(file)))


def opus_outputs(bitrates: Sequence[int], clip: Clip, sample_rate: int) -> Iterator[Output]:
    """Yield the clip through Opus at each target in bit/s."""
    for bitrate in bitrates:
        wave, num_bytes = through_opus(clip.wave, sample_rate, bitrate)
        yield Output(f"Opus, target {bitrate / 1000:g}", wave, num_bytes)


def anchor_outputs(clips: Sequence[Clip], i: int) -> Iterator[Output]:
    """Yield the ceiling, the recording itself, and the floor, another recording in its place."""
    yield Output("reference itself", clips[i].wave, None)
    if len(clips) > 1:
        other = clips[(i + len(clips) // 2) % len(clips)].wave
        n = clips[i].wave.shape[0]
        yield Output("another recording", other.repeat(-(-n // other.shape[0]))[:n], None)


def score(clip: Clip, output: Output, sample_rate: int, judges: Mapping[str, Judge]) -> dict[str, float | None]:
    """Return all scores of one output by column, with SI-SDR and its lag, and the bitrate in kbit/s of its file."""
    n = clip.wave.shape[0]
    estimate = output.wave[:n]
    estimate = torch.nn.functional.pad(estimate, (0, n - estimate.shape[0]))  # missing samples count as silence
    scores = {name: judge(estimate, clip.wave, sample_rate) for name, judge in judges.items()}
    try:
        ratio = si_sdr(clip.wave, estimate, max_lag=sample_rate // 20)
        scores["SI-SDR"], scores["lag"] = ratio.decibels, float(ratio.lag)
    except SoundloomError:
        scores["SI-SDR"] = scores["lag"] = None
    scores["kbit/s"] = None if output.num_bytes is None else output.num_bytes * 8 / 1000 / (n / sample_rate)
    return scores
