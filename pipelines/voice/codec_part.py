"""The codec of a voice's or a music model's folder: copied into it, or named; and layers that are tuned for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import codec.pretrained as pretrained
from codec.errors import SoundloomError, quoted
from codec.folder import read_layers
from codec.model import Codec
from codec.pretrained import AudioCodec, load_codec
from lm.disk_weights import DTYPES
from pipelines.voice.contents import require_regular

OWN_CODEC, DECODER_FILE = "codec", "decoder.safetensors"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def codec_reference(name: str) -> tuple[str, str]:
    """Return what a folder's record calls the codec, and what `load_codec` opens.

    A shipped codec goes by its name, a folder by "codec". Raises: SoundloomError for what cannot be a name.
    """
    weights, shipped = pretrained.SHIPPED.parent, pretrained.shipped_folder(name)
    if shipped is not None:
        return shipped.name, name
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise SoundloomError(f"no codec {quoted(name)}: not the name of a folder ({error})") from None
    if re.fullmatch(r"[\w-]+", name) and (weights / name).is_dir() and not is_folder:
        return name, str(weights / name)
    if is_folder and path.resolve().parent == weights.resolve():
        return path.resolve().name, str(path)
    return (OWN_CODEC, name) if is_folder else (name, name)


def require_copyable(codec: AudioCodec, reference: str, name: str) -> None:
    """Raises: SoundloomError where the codec is to be copied, and is not one of ours."""
    if reference == OWN_CODEC and not isinstance(codec, Codec):
        raise SoundloomError(f"{name}: only codecs of soundloom can be copied; give this one by its hub name")


def copy_codec(codec: AudioCodec, folder: Path) -> None:
    """Write a folder's own codec. Raises: SoundloomError for a codec that is not ours."""
    require_copyable(codec, OWN_CODEC, "this codec")
    assert isinstance(codec, Codec)
    codec.save_pretrained(folder / OWN_CODEC)


def write_own_layers(folder: Path, layers: Mapping[str, Tensor] | None, dtype: str) -> None:
    """Write a folder's own layers of the codec's decoder, where there are any; in float16 where ``dtype`` is int8."""
    if layers:
        kind = torch.float16 if dtype == "int8" else DTYPES[dtype]
        tensors = {name: value.to("cpu", kind).contiguous() for name, value in layers.items()}
        save_file(tensors, folder / DECODER_FILE)


def open_codec(folder: Path, reference: str, record: Path) -> AudioCodec:
    """Open the codec that a folder's ``record`` names; never a path out of the folder. Raises: SoundloomError."""
    if reference == OWN_CODEC:
        return load_codec(folder / OWN_CODEC)
    if re.fullmatch(r"[\w-]+", reference):
        place = pretrained.SHIPPED.parent / reference
        if not place.is_dir():
            raise SoundloomError(f"{record}: codec {reference!r} is not shipped with this soundloom ({place})")
        return load_codec(place)
    if not _HUB_NAME.fullmatch(reference):
        known = f'"{OWN_CODEC}", "{pretrained.SHIPPED.name}" or a hub name owner/name'
        raise SoundloomError(f"{record}: codec {reference!r}; expected {known}")
    return load_codec(reference)


def require_fit(codec: AudioCodec, reference: str, fingerprint: str, sample_rate: int, record: Path) -> None:
    """Raises: SoundloomError where the codec is not the one that the folder was made for."""
    if codec.fingerprint != fingerprint:
        raise SoundloomError(
            f"{record}: was made for a codec with fingerprint {fingerprint[:16]}…, but {reference!r} has "
            f"{codec.fingerprint[:16]}…; give the folder its own codec, or make it again"
        )
    if codec.sample_rate != sample_rate:
        raise SoundloomError(f"{record}: sample_rate is {sample_rate}, the codec's is {codec.sample_rate}")


def read_own_layers(folder: Path, files: Mapping[str, str], record: str, program: str) -> dict[str, Tensor] | None:
    """Read a folder's own layers of the codec's decoder; None where it has none. ``files``: what ``record`` lists.

    Raises: SoundloomError where the file is not listed, or no trained weights.
    """
    own = folder / DECODER_FILE
    if not (own.exists() or own.is_symlink()):
        return None
    if files and DECODER_FILE not in files:
        raise SoundloomError(f"{own}: is not listed in {record}; add it with {program} --decoder")
    require_regular(own, folder)
    return read_layers(own)
