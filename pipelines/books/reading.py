"""Chapters to sound: each chapter is one file in a working folder, so that a stopped reading can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile
import torch
from torch import Tensor

from codec.common.checked import dump_json, from_dict, read_json
from codec.common.files import atomic_path, sha256_file, write_bytes
from codec.common.seeds import sentence_seed
from codec.errors import SoundloomError
from pipelines.books.chapters import Block, Chapter, count_words
from pipelines.command_line.run import version
from pipelines.voice.captions import WordTime, moved
from pipelines.voice.word_times import word_times

if TYPE_CHECKING:
    from pipelines.voice.voice import Voice

PARAGRAPH_PAUSE, HEADING_PAUSE = 0.5, 0.9  # seconds of silence after a block; between sentences the voice's own
LONGEST_BLOCK = 4_000  # characters; a longer paragraph is spoken in parts
GROUP = 6_000  # characters, about 7 minutes of speech: the most that is held in memory at once
SIDE_BY_SIDE = 8  # sentences
MOST_WORDS_BYTES = 1 << 28  # of a chapter's file of word times


@dataclass(frozen=True)
class Part:
    """The record of a chapter that was read: its sound, and what could not be spoken.

    ``skipped``: how many parts of the text; ``shown``: the first of them. ``bad``: sentences that did not end well.
    ``words_sha256``: of the file with the times of its words, "" without one.
    """

    key: str
    sha256: str
    sample_rate: int
    channels: int
    samples: int
    words: int
    sentences: int
    bad: int
    skipped: int
    shown: list[str] = field(default_factory=list)
    words_sha256: str = ""


@dataclass
class Reader:
    """Reads chapters with one voice into ``folder``. ``options``: those of `Voice.speak_batch`, without seeds.

    ``facts``: what else determines the sound, such as the hash of a lexicon. ``times``: also keep when each word is
    spoken.
    """

    voice: Voice
    folder: Path
    seed: int
    options: dict[str, Any]
    facts: dict[str, Any]
    times: bool = False

    def __post_init__(self) -> None:
        pauses = [PARAGRAPH_PAUSE, HEADING_PAUSE, LONGEST_BLOCK, GROUP]
        settings = {"seed": self.seed, "options": self.options, "pauses": pauses, "soundloom": version()}
        self._settings = settings | {"voice": voice_digest(self.voice)} | self.facts

    def key(self, chapter: Chapter) -> str:
        """Return the name of a chapter's files: a hash of its text, the voice and the settings."""
        blocks = [[block.text, block.level] for block in chapter.blocks]
        record = json.dumps([blocks, self._settings], sort_keys=True, default=str)
        return hashlib.sha256(record.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def sound(self, key: str) -> Path:
        """Return the file with a chapter's sound."""
        return self.folder / f"{key}.flac"

    def find(self, chapter: Chapter) -> Part | None:
        """Return the record of a chapter that was read before, whole and with these settings, or None."""
        key = self.key(chapter)
        try:
            part = from_dict(Part, read_json(self.folder / f"{key}.json"))
            good = part.key == key and sha256_file(self.sound(key)) == part.sha256
            if self.times:
                good = good and bool(part.words_sha256) and sha256_file(self._words_file(key)) == part.words_sha256
        except (SoundloomError, OSError):
            return None
        return part if good else None

    def read(self, chapter: Chapter, progress: Callable[[int], None]) -> Part:
        """Read a chapter and commit it: first the sound, then its record. ``progress`` counts words.

        Raises: SoundloomError.
        """
        key, tally, samples, words = self.key(chapter), Tally(), 0, list[WordTime]()
        rate, channels = self.voice.sample_rate, self.voice.codec.channels
        with atomic_path(self.sound(key)) as place:
            with soundfile.SoundFile(place, "w", rate, channels, "PCM_16", format="FLAC") as file:
                for group in groups(chapter.blocks):
                    for wave, spoken in self._speak(group, tally):
                        words += moved(spoken, samples / rate)
                        samples += wave.shape[-1]
                        file.write(wave.clamp(-1, 1).t().cpu().numpy())
                    progress(sum(count_words(block.text) for _, block in group))
            digest = sha256_file(place)
        part = Part(key, digest, rate, channels, samples, chapter.words, **vars(tally))
        if self.times:
            write_bytes(self._words_file(key), dump_json({"words": [asdict(word) for word in words]}))
            part = replace(part, words_sha256=sha256_file(self._words_file(key)))
        write_bytes(self.folder / f"{key}.json", dump_json(asdict(part)))
        return part

    def words(self, key: str) -> list[WordTime]:
        """Return the times of a chapter's words, in its own sound. Raises: SoundloomError."""
        path = self._words_file(key)
        return [from_dict(WordTime, word, str(path)) for word in read_json(path, MOST_WORDS_BYTES)["words"]]

    def _words_file(self, key: str) -> Path:
        return self.folder / f"{key}.words.json"

    def _speak(self, group: Sequence[tuple[int, Block]], tally: Tally) -> Iterator[tuple[Tensor, list[WordTime]]]:
        """Yield the sound of some blocks [C, n], each followed by its pause, with the times of the words."""
        good = [(number, block) for number, block in group if self._can_speak(block, tally)]
        if not good:
            return
        seeds = [sentence_seed(self.seed, number) for number, _ in good]
        texts = [block.text for _, block in good]
        speeches = self.voice.speak_batch(texts, seeds=seeds, batch_size=SIDE_BY_SIDE, **self.options)
        for (_, block), speech in zip(good, speeches, strict=True):
            tally.sentences += len(speech.sentences)
            tally.bad += sum(1 for sentence in speech.sentences if sentence.finish_reason != "end")
            tally.skip(speech.skipped)
            yield speech.waveform, word_times(self.voice, speech) if self.times else []
            yield self.voice.silence(HEADING_PAUSE if block.level else PARAGRAPH_PAUSE), []

    def _can_speak(self, block: Block, tally: Tally) -> bool:
        try:
            self.voice.check_text(block.text)
        except SoundloomError:
            if any(map(str.isalnum, block.text)):  # else it is an ornament, such as "* * *"
                tally.skip([block.text])
            return False
        return True


@dataclass
class Tally:
    """Counts what a chapter has; the fields are those of `Part`."""

    sentences: int = 0
    bad: int = 0
    skipped: int = 0
    shown: list[str] = field(default_factory=list)

    def skip(self, texts: Sequence[str]) -> None:
        """Count what cannot be spoken, and keep the first three."""
        self.skipped += len(texts)
        for text in texts[: 3 - len(self.shown)]:
            self.shown.append(text if len(text) <= 40 else text[:39] + "…")


def groups(blocks: Sequence[Block]) -> Iterator[list[tuple[int, Block]]]:
    """Yield neighbouring blocks, with their numbers, that are spoken together; long ones are cut first."""
    group: list[tuple[int, Block]] = []
    length = 0
    cut = (Block(text, block.level) for block in blocks for text in cut_text(block.text, LONGEST_BLOCK))
    for number, block in enumerate(cut):
        if group and length + len(block.text) > GROUP:
            yield group
            group, length = [], 0
        group.append((number, block))
        length += len(block.text)
    if group:
        yield group


def cut_text(text: str, longest: int) -> Iterator[str]:
    """Cut a text after a sentence, else between words, else anywhere."""
    while len(text) > longest:
        place = max(text.rfind(mark, longest // 2, longest) + 1 for mark in (". ", "? ", "! "))
        place = place or text.rfind(" ", longest // 2, longest) + 1 or longest
        yield text[:place].strip()
        text = text[place:].strip()
    if text:
        yield text


def voice_digest(voice: Voice) -> str:
    """Return a hash of what a voice sounds like: its settings and weights."""
    digest = hashlib.sha256(json.dumps(asdict(voice.config), sort_keys=True, default=str).encode())
    for network in (voice.codec, voice.player, voice.lm.model):
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
