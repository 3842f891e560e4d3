"""MusicGen as a whole: a text through T5, codes from our own decoder, sound from our own EnCodec."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec import load_codec
from codec.audio.files import read_audio, write_audio
from codec.common.hub import CONFIG_FILE, Weights
from codec.errors import SoundloomError
from codec.pretrained import AudioCodec
from codec.transformers_codecs import import_transformers, quiet
from lm.musicgen.checkpoint import find_musicgen, load_decoder, read_config, save_musicgen
from lm.musicgen.generate import CrossSettings, generate
from lm.musicgen.network import CrossLM

DEFAULT = "facebook/musicgen-small"
LONGEST_TEXT = 512  # pieces; what T5 was trained with
_TOKENIZERS = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True)
class Music:
    """A piece: ``waveform`` float32 [C, N] at ``sample_rate``; ``codes`` long [K, T], its prompt included."""

    waveform: Tensor
    sample_rate: int
    codes: Tensor

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.waveform.shape[-1] / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as an audio file, of the kind that the suffix says. Raises: SoundloomError."""
        write_audio(path, self.waveform, self.sample_rate)


class TextEncoder:
    """A checkpoint's T5 with its tokenizer, both run by transformers."""

    def __init__(self, network: nn.Module, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> states float32 [B, L, text_dim] and their lengths long [B]."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt", padding_side="right")
        device = next(self.network.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        if ids.shape[1] > LONGEST_TEXT:
            raise SoundloomError(f"the text has {ids.shape[1]} pieces, more than {LONGEST_TEXT}; describe it shorter")
        vocabulary = self.network.config.vocab_size
        if int(ids.max()) >= vocabulary:
            raise SoundloomError(f"the tokenizer gave id {int(ids.max())}, the text encoder knows {vocabulary}")
        return self.network(input_ids=ids, attention_mask=mask).last_hidden_state, mask.sum(dim=1)

    @classmethod
    def open(cls, folder: Path) -> TextEncoder:
        """The part text_encoder of a MusicGen folder. Raises: `SoundloomError` where it is no T5 or lacks a weight."""
        values = read_config(folder)["text_encoder"]
        if values.get("model_type") != "t5":
            raise SoundloomError(f"{folder / CONFIG_FILE}: text_encoder is a {values.get('model_type')!r}, expected t5")
        if not any((folder / name).is_file() for name in _TOKENIZERS):  # transformers would make up an empty one
            raise SoundloomError(f"{folder}: holds no tokenizer; expected {' or '.join(_TOKENIZERS)}")
        weights = Weights(folder)
        try:
            transformers = import_transformers()
            config = transformers.T5Config(**{k: v for k, v in values.items() if k != "model_type"})
            if config.num_layers > len(weights):
                raise SoundloomError(f"config.json has {config.num_layers} layers, for {len(weights)} tensors")
            with torch.device("meta"):
                network = transformers.T5EncoderModel(config)
            shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
            prefix = "text_encoder."
            # One table under two names, of which a file may hold either.
            table = next((n for n in ("shared.weight", "encoder.embed_tokens.weight") if prefix + n in weights), None)
            same = dict.fromkeys(("shared.weight", "encoder.embed_tokens.weight"), table or "shared.weight")
            names = {name: prefix + same.get(name, name) for name in shapes}
            tensors = {source: weights.tensor(source, shapes[name]) for name, source in names.items()}
            network.load_state_dict({name: tensors[source] for name, source in names.items()}, assign=True)
            with quiet(transformers):
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except SoundloomError:
            raise
        except Exception as error:
            raise SoundloomError(f"{folder}: its text encoder cannot be opened: {error}") from None
        return cls(network.eval(), tokenizer)


class MusicGen:
    """Text to music, and music that goes on from a recording; see `load_musicgen`."""

    def __init__(self, folder: Path, decoder: CrossLM, codec: AudioCodec, text: TextEncoder) -> None:
        self.folder, self.decoder, self.codec, self.text = folder, decoder, codec, text
        c = decoder.config
        if (c.num_levels, c.codebook_size) != (codec.num_levels * c.channels, codec.codebook_size):
            raise SoundloomError(
                f"{folder}: the decoder writes {c.num_levels} levels of {c.codebook_size} codes, its codec has "
                f"{codec.num_levels} of {codec.codebook_size}, for {c.channels} channels"
            )

    @property
    def channels(self) -> int:
        return self.decoder.config.channels

    @property
    def longest(self) -> float:
        """Seconds that a piece can last, its prompt included."""
        return (self.decoder.config.max_steps - self.decoder.config.lag) / self.codec.frame_rate

    def write(
        self,
        text: str | None,
        seconds: float,
        *,
        prompt: Tensor | None = None,
        only_new: bool = False,
        seed: int = 0,
        settings: CrossSettings | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Music:
        """Write ``seconds`` of music for a text (None: whatever comes), after prompt float [C, N] where one is given.

        The prompt is at the codec's rate and has the model's channels. The same seed gives the same music.
        Raises: `SoundloomError` for an empty text, or more seconds than the model has positions for.
        """
        if text is not None and not text.strip():
            raise SoundloomError("the text is empty; say what the music should be like")
        codes = None if prompt is None else self.encode(prompt)[None]
        before = 0 if codes is None else codes.shape[2]
        new = round(seconds * self.codec.frame_rate) if 0 < seconds < 1e6 else 0
        if new < 1 or (before + new) / self.codec.frame_rate > self.longest:
            had = f" after a prompt of {before / self.codec.frame_rate:.1f} s" if before else ""
            raise SoundloomError(f"{seconds:g} s{had}: this model writes up to {self.longest:.1f} s, prompt included")
        states, lengths = (None, None) if text is None else self.text.encode([text])
        written = generate(
            self.decoder, states, lengths, before + new,
            prompt_codes=codes, seeds=[seed], settings=settings, on_step=on_step,
        )[0]  # fmt: skip
        wave = self.decode(written)
        if only_new:
            written, wave = written[:, before:], wave[:, before * self.codec.hop_length :]
        return Music(wave, self.codec.sample_rate, written)

    def encode(self, wave: Tensor) -> Tensor:
        """wave float [C, N] -> codes long [K, T]; in stereo, levels come in pairs, left and right."""
        if wave.shape[0] != self.channels:
            raise SoundloomError(f"the prompt has {wave.shape[0]} channels, this model writes {self.channels}")
        codes = self.codec.encode(wave[:, None])  # [C, K, T]
        return codes.transpose(0, 1).flatten(0, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes long [K, T] -> wave float [C, N]."""
        split = codes.view(-1, self.channels, codes.shape[-1]).transpose(0, 1)
        return self.codec.decode(split)[:, 0]

    def read_prompt(self, path: str | os.PathLike[str]) -> Tensor:
        """An audio file (or -) as a prompt [C, N]: at the codec's rate, mixed or doubled to the model's channels."""
        wave = read_audio(path, self.codec.sample_rate, None if self.channels > 1 else 1)
        return wave if wave.shape[0] == self.channels else wave.mean(dim=0, keepdim=True).expand(self.channels, -1)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a checkpoint that transformers opens, the decoder as it now is."""
        save_musicgen(Path(folder), self.decoder, self.folder)


def load_musicgen(name: str | os.PathLike[str] = DEFAULT) -> MusicGen:
    """Open a MusicGen checkpoint in transformers' format, mono or stereo: a folder, or a hub name.

    Raises: `SoundloomError` that names the file and the tensor, or says how to get the files where there is no network.
    """
    folder = find_musicgen(os.fspath(name))
    decoder = load_decoder(folder)
    return MusicGen(folder, decoder, load_codec(folder), TextEncoder.open(folder))
