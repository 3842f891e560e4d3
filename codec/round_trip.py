"""A recording or a file of codes, sent through a codec and described in one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from codec.audio.files import read_audio
from codec.errors import SoundloomError
from codec.loom import READ_SUFFIXES, CodeFile, load_codes, mark_of, pack
from codec.metrics import mel_distance
from codec.pretrained import AudioCodec

_PCM_BITS = 16


@dataclass(frozen=True)
class Reconstruction:
    """A recording [C, N] (None where the input was codes), its codes, and the decoded wave [C, N]; on the CPU."""

    original: Tensor | None
    codes: CodeFile
    decoded: Tensor


def reconstruct(codec: AudioCodec, source: str | Path, levels: int | None = None) -> Reconstruction:
    """Read ``source``, audio or a file of codes, and send it through ``codec``.

    ``levels``: use the first n levels (None: all that there are). Raises: `SoundloomError` for input that does not fit.
    """
    if levels is not None and not 1 <= levels <= codec.num_levels:
        raise SoundloomError(f"--levels {levels}: this codec has levels 1 to {codec.num_levels}")
    original: Tensor | None = None
    if Path(source).suffix.lower() in READ_SUFFIXES:
        file = load_codes(source)
        file.check_codec(codec, str(source))
        if levels is not None and levels > file.codes.shape[0]:
            raise SoundloomError(f"--levels {levels}: {source} holds {file.codes.shape[0]} levels")
        codes, num_samples = file.codes[:levels], file.num_samples
    else:
        original = read_audio(source, codec.sample_rate, codec.channels)
        codes, num_samples = codec.encode(original[None])[0, :levels].cpu(), original.shape[1]
    num_samples = min(num_samples, codes.shape[1] * codec.hop_length)
    mark = mark_of(codec.fingerprint)
    file = CodeFile(codes, codec.codebook_size, codec.sample_rate, codec.hop_length, num_samples, mark)
    return Reconstruction(original, file, codec.decode(codes[None])[0, :, :num_samples].cpu())


def describe(result: Reconstruction, codec: AudioCodec) -> str:
    """Return one line: seconds, levels, bitrate of the codes and of a packed file, tokens, size, mel distance."""
    seconds = result.codes.num_samples / codec.sample_rate
    levels = result.codes.codes.shape[0]
    bitrate = codec.bitrate(levels)
    pcm = codec.sample_rate * codec.channels * _PCM_BITS
    parts = [
        f"{seconds:.2f} s",
        f"{levels} of {codec.num_levels} levels",
        f"{bitrate / 1000:.2f} kbit/s (packed file {8 * len(pack(result.codes)) / seconds / 1000:.2f})",
        f"{levels * codec.frame_rate:,.4g} tokens/s",
        f"{pcm / bitrate:.0f} times smaller than {_PCM_BITS}-bit PCM",
    ]
    if result.original is not None:
        distance = mel_distance(result.original[:, : result.codes.num_samples], result.decoded, codec.sample_rate)
        parts.append(f"mel distance {distance:.3f}")
    return ", ".join(parts)
