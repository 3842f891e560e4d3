"""Files to waveforms and back, resampling, mel filters."""

from codec.audio.files import (
    AudioInfo,
    audio_files,
    audio_info,
    encode_audio,
    mel_filterbank,
    read_audio,
    resample,
    write_audio,
)

__all__ = [
    "AudioInfo",
    "audio_files",
    "audio_info",
    "encode_audio",
    "mel_filterbank",
    "read_audio",
    "resample",
    "write_audio",
]
