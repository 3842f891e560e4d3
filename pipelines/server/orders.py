"""The fields of a speech request, checked: JSON in, an `Order` out, or an error that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.server.encoders import MEDIA_TYPES
from pipelines.server.errors import ApiError
from pipelines.voice.timescale import FASTEST, SLOWEST

MAX_INPUT = 4096  # characters, as OpenAI has it
MODEL = "soundloom"
MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "kokoro")
VOICE_ALIASES = (
    *("alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse"),
    *("marin", "cedar"),
)
_LOW_VOICES = ("ash", "ballad", "cedar", "echo", "fable", "onyx", "verse")  # which listeners take for men's


@dataclass(frozen=True)
class SpeechFields:
    """What a client asked for; ``codes``: events carry the frames' codes too (only with ``sse``)."""

    text: str
    voice: str
    format: str = "mp3"
    speed: float = 1.0
    sse: bool = False
    codes: bool = False
    seed: int = 0
    levels: int | None = None


def parse_speech(body: bytes, max_input: int = MAX_INPUT) -> SpeechFields:
    """Read the body of a speech request. Raises: ApiError."""
    fields = json_object(body)
    text = string_of(fields, "input", max_input)
    if not text.strip():
        raise ApiError(400, "input is empty; give some words to speak", "input")
    string_of(fields, "model", 200, needed=False)
    string_of(fields, "instructions", 4096, needed=False)
    form, events, codes = answer_form(fields)
    return SpeechFields(
        text,
        voice_name(fields.get("voice")),
        form,
        number_of(fields, "speed", 1.0, SLOWEST, FASTEST),
        events,
        codes,
        whole_of(fields, "seed", 0, 0, 2**63 - 1) or 0,
        whole_of(fields, "levels", None, 1, 64),
    )


def answer_form(fields: Mapping[str, Any]) -> tuple[str, bool, bool]:
    """Return the format of the sound, whether it comes in events, and whether these carry codes. Raises: ApiError."""
    form = str(fields.get("response_format") or "mp3").lower()[:20]
    if form == "aac":
        message = "response_format aac needs an encoder that this server does not have; ask for mp3 or opus"
        raise ApiError(400, message, "response_format", "unsupported_format")
    if form not in MEDIA_TYPES:
        raise ApiError(400, f"response_format {form!r}: expected one of {', '.join(MEDIA_TYPES)}", "response_format")
    stream = fields.get("stream_format") or "audio"
    if stream not in ("audio", "sse"):
        raise ApiError(400, "stream_format: expected audio or sse", "stream_format")
    codes = fields.get("include_codes") or False
    if not isinstance(codes, bool) or (codes and stream != "sse"):
        raise ApiError(400, "include_codes: expected true or false, and stream_format sse with it", "include_codes")
    return form, stream == "sse", codes


def json_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises: ApiError."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON; send an object with model, input and voice") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body is not a JSON object; send one with model, input and voice")
    return fields


def voice_name(value: Any) -> str:
    """Return the name in ``voice``: a string, or an object with ``id``; "" where none is given."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 100:
        raise ApiError(400, 'voice: expected a name, or {"id": name}', "voice")
    return value.strip()


def alias(name: str, speakers: list[str]) -> str | None:
    """Return which of our speakers stands for one of OpenAI's voices (None: the voice's own), always the same one.

    Raises: KeyError where it is no such name.
    """
    if name not in VOICE_ALIASES:
        raise KeyError(name)
    known = [speaker for speaker in ("fenrir", "daniel") if speaker in speakers]
    if name in _LOW_VOICES:
        return known[_LOW_VOICES.index(name) % len(known)] if known else None
    high = [None, *(speaker for speaker in speakers if speaker not in known)]
    others = [voice for voice in VOICE_ALIASES if voice not in _LOW_VOICES]
    return high[others.index(name) % len(high)]


def string_of(fields: Mapping[str, Any], name: str, longest: int, needed: bool = True) -> str:
    """Return a field that is a string of at most ``longest`` characters. Raises: ApiError."""
    value = fields.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise ApiError(400, f"{name}: expected a string", name)
    if len(value) > longest:
        message = f"{name} has {len(value):,} characters; expected at most {longest:,}"
        raise ApiError(400, message, name, "string_above_max_length")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ApiError(400, f"{name} holds half of a character (a lone surrogate); send whole ones", name)
    return value


def number_of(fields: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """Return a field that is a number in a range. Raises: ApiError."""
    value = fields.get(name)
    if value is None:
        return default
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not least <= value <= most:  # NaN fails the comparison
        raise ApiError(400, f"{name}: expected a number from {least:g} to {most:g}", name)
    return float(value)


def whole_of(fields: Mapping[str, Any], name: str, default: int | None, least: int, most: int) -> int | None:
    """Return a field that is a whole number in a range. Raises: ApiError."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ApiError(400, f"{name}: expected a whole number from {least} to {most}", name)
    return value
