"""Files to waveforms and back, resampling, mel filters."""

from codec.audio.files import AudioInfo, audio_files, audio_info, encode_audio, read_audio, write_audio
from codec.audio.signal import mel_filterbank, resample

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
