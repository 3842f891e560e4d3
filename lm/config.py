"""The settings that every language model here shares, and the check of one number."""

from __future__ import annotations

import dataclasses
import numbers
from dataclasses import dataclass, field
from typing import Any

from codec.common.checked import from_dict
from codec.errors import SoundloomError, quoted

__all__ = ["LMConfig", "TransformerConfig", "from_dict", "to_dict"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer in Llama's style: pre-norm, RMSNorm, rotary positions, SwiGLU, no biases.

    ``num_kv_heads`` below ``num_heads`` shares keys and values between heads (grouped-query attention).
    ``head_size``: channels of a head if they are not dim / num_heads (Qwen3's).
    """

    dim: int = 384
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int | None = None
    ffn_dim: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    dropout: float = 0.0
    qk_norm: bool = False
    causal: bool = True
    head_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "ffn_dim"):
            if getattr(self, name) < 1:
                raise SoundloomError(f"transformer.{name} is {getattr(self, name)}; it must be at least 1")
        if self.head_size is not None and (self.head_size < 2 or self.head_size % 2):
            raise SoundloomError(
                f"transformer.head_size is {self.head_size}; each head needs an even number of channels"
            )
        if self.head_size is None and (self.dim % self.num_heads or (self.dim // self.num_heads) % 2):
            raise SoundloomError(
                f"transformer.dim {self.dim} over {self.num_heads} heads: each head needs an even number of channels"
            )
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise SoundloomError(f"transformer.num_kv_heads {self.kv_heads} does not divide num_heads {self.num_heads}")
        check_number("transformer.rope_theta", self.rope_theta, float, 1, 1e12)
        check_number("transformer.norm_eps", self.norm_eps, float, 0, 1, above=True)
        if not 0.0 <= self.dropout < 1.0:
            raise SoundloomError(f"transformer.dropout is {self.dropout}; it must be in [0, 1)")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads if self.head_size is None else self.head_size

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


@dataclass(frozen=True)
class LMConfig:
    """What a model of (text, codes) must know.

    The first five fields are facts: they come from the tokenizer and the token store, never from a person.
    ``frames_per_text_unit`` puts the text on the audio's clock: unit i gets rotary position i * frames_per_text_unit.
    The offset between a frame and its text then stays almost the same, which makes alignment quick to learn.
    ``frames_around_text`` are the frames of an utterance that do not grow with its text: the silence around it.
    Both are the line through frames over text units; a mean ratio in place of the slope would let the clocks drift.
    ``cfg_drop``: share of training rows whose text is replaced by the learned null prefix (for guidance, and for
    continuing audio without text). ``audio_drop``: share of audio inputs hidden while training, so that the model
    must look at the text instead of only repeating the sound before. ``code_noise``: share of input codes replaced
    by random ones while training, so that the model recovers from its own mistakes. ``guide_prompt``: a training row
    whose text is hidden loses its prompt with it, so that guidance strengthens the prompt's voice as well as the text.
    ``span_drop``: share of training rows with 0.2 to 1.2 s of audio inputs hidden in one piece. After a prompt they are
    the first, so that only the prompt carries the voice (a few frames later, the row's own past gives it away).
    """

    text_vocab_size: int
    num_levels: int
    codebook_size: int
    frame_rate: float
    frames_per_text_unit: float
    cfg_drop: float = 0.1
    audio_drop: float = 0.0
    code_noise: float = 0.0
    guide_prompt: bool = False
    span_drop: float = 0.0
    frames_around_text: float = 0.0
    transformer: TransformerConfig = field(default_factory=TransformerConfig)

    def __post_init__(self) -> None:
        for name in ("text_vocab_size", "num_levels", "codebook_size"):
            if getattr(self, name) < 1:
                raise SoundloomError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_number("frame_rate", self.frame_rate, float, 0, 1e5, above=True)
        check_number("frames_per_text_unit", self.frames_per_text_unit, float, 0, 1e4, above=True)
        check_number("frames_around_text", self.frames_around_text, float, 0, 1e5)
        for name in ("cfg_drop", "audio_drop", "code_noise", "span_drop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SoundloomError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")

    def expected_frames(self, text_length: int) -> float:
        """Return how many frames a text of this length takes on average; 0 without text."""
        return self.frames_around_text + text_length * self.frames_per_text_unit if text_length else 0.0

    @property
    def end_id(self) -> int:
        """What level 0 writes after the last frame; as an input it fills every level from there on."""
        return self.codebook_size

    @property
    def start_id(self) -> int:
        """Input where no code exists yet: before the first frame."""
        return self.codebook_size + 1

    @property
    def num_inputs(self) -> int:
        """Size of a level's input table: the codes, END and START."""
        return self.codebook_size + 2

    @property
    def num_outputs(self) -> int:
        """Size of a level's output: the codes and END."""
        return self.codebook_size + 1

    @property
    def null_text_id(self) -> int:
        """Text id of the learned null prefix (no text)."""
        return self.text_vocab_size


def check_number(
    name: str,
    value: object,
    kind: type[int] | type[float],
    least: float,
    most: float,
    *,
    optional: bool = False,
    above: bool = False,
) -> None:
    """Raise `SoundloomError` unless ``value`` is a number of this kind from ``least`` to ``most``.

    ``optional``: None is good too. ``above``: ``least`` itself is not.
    """
    if value is None and optional:
        return
    known = isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    if known and least <= value <= most and not (above and value == least):  # type: ignore[operator]
        return
    what = "a whole number" if kind is int else "a number"
    low, high = (f"{limit:,}" if kind is int else f"{limit:g}" for limit in (least, most))
    limits = f"above {low} and at most {high}" if above else f"from {low} to {high}"
    raise SoundloomError(f"{name} is {quoted(value)}; expected {what} {limits}{', or none' if optional else ''}")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the dataclass as plain JSON values."""
    return dataclasses.asdict(config)
