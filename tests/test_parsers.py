"""Every parser and loader is total: whatever a file holds, it is read or one typed error says what is wrong with it.

Each gets 1,000 mutated files here and 20,000 in the tests marked slow; SOUNDLOOM_EXAMPLES sets another number for both.
No case may take 2 seconds, no format 256 MB.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
import resource
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from store_helpers import FakeCodec, write_corpus
from voice_helpers import save_lms, tiny_codec, tiny_voice

from codec.audio.files import encode_audio, read_audio
from codec.common.files import sha256_bytes
from codec.errors import SoundloomError
from codec.folder import read_layers
from codec.loom import CodeFile, load_codes, mark_of, save_codes
from codec.model import Codec
from codec.store.plan import Settings, Utterance, load_plans, make_plan
from codec.store.reader import StoreFacts, StoreReader, seal, shard_paths, verify_store
from codec.store.writer import finalize, tokenize_shard
from lm.checkpoint import load_lm
from lm.text.lexicon import Lexicon
from lm.text.tokenizer import TextTokenizer
from pipelines.books.epub import read_epub
from pipelines.books.plain import read_plain
from pipelines.command_line.settings import parse_settings
from pipelines.corpus.read import open_corpus
from pipelines.music_model.config import MUSIC_FILE, MusicConfig, write_record
from pipelines.music_model.config import read_config as read_music_config
from pipelines.training.checkpoints import load_checkpoint, save_checkpoint
from pipelines.training.lm_settings import TextSettings
from pipelines.training.log import JsonlLog
from pipelines.training.whisper_weights import read_whisper_encoder
from pipelines.voice.folder import VoiceParts, read_voice, write_voice

EXAMPLES = int(os.environ.get("SOUNDLOOM_EXAMPLES", "1000"))
MANY = int(os.environ.get("SOUNDLOOM_EXAMPLES", "20000"))


@dataclass(frozen=True)
class Target:
    """A file to damage, how to read it, and how to make hashes right again, so that the parser itself is met."""

    file: Path
    read: Callable[[], Any]
    seal: Callable[[], None] | None = None


# --- what there is to read -------------------------------------------------------------------------------------------


@functools.cache
def folder() -> Path:
    """One folder for all, in memory where the system has such a place."""
    shared = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="parsers-", dir=shared if shared.is_dir() else None))
    return path


@pytest.fixture(scope="module", autouse=True)
def clean() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    shutil.rmtree(folder(), ignore_errors=True)
    for function in (folder, store, models):
        function.cache_clear()


@functools.cache
def store() -> Path:
    """A store of three rows and a reject."""
    corpus, path = write_corpus(folder() / "corpus", 3), folder() / "store"
    items = [Utterance(f"u{i}", f"wavs/{i:04d}.wav", f"text {i} é", "s", "en") for i in range(3)]
    items.append(Utterance("gone", "wavs/gone.wav", "never heard"))
    plan = make_plan(path, lambda: items, StoreFacts.of(FakeCodec()), Settings(str(corpus), str(corpus)), 1)
    tokenize_shard(plan, 0, FakeCodec())
    finalize(path)
    return path


def reseal_store() -> None:
    """Make every hash and size of the store right again."""
    header = json.loads((store() / "plan.json").read_bytes())
    packed = (store() / "plan.arrow.zst").read_bytes()
    header["utterances_sha256"] = sha256_bytes(packed)
    header["parts"] |= {"bytes": [len(packed)], "sha256": [sha256_bytes(packed)]}
    (store() / "plan.json").write_bytes(seal(header))
    record = json.loads((store() / "store.json").read_bytes())
    for name in record["files"]:
        record["files"][name] = sha256_bytes((store() / name).read_bytes())
    data = shard_paths(store(), 0)[0].read_bytes()
    record["shards"][0].update(bytes=len(data), sha256=sha256_bytes(data), probe_sha256="")
    record["shards"][0]["rejects_bytes"] = shard_paths(store(), 0)[2].stat().st_size
    (store() / "store.json").write_bytes(seal(record))


def reseal_json(name: str) -> Callable[[], None]:
    def again() -> None:
        try:
            record = json.loads((store() / name).read_bytes())
            (store() / name).write_bytes(seal(record) if isinstance(record, dict) else b"[]")
        except (ValueError, RecursionError):
            return

    return again


def read_store() -> None:
    """Do all that a reader does; what comes out must be what a store promises."""
    reader = StoreReader(store())
    for row in reader:
        assert row.codes.shape[0] == reader.num_levels
        assert 0 <= int(row.codes.min()) <= int(row.codes.max()) < reader.codebook_size
    reader.rejects()


def read_plan() -> None:
    for plan in load_plans(store()):
        assert all(isinstance(item.text, str) and item.seconds >= 0 for item in plan)
        assert plan.shard(plan.first_shard)


def read_codes(name: str, gain: float = 1.0) -> Target:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 1000, (3, 7)))
    file = folder() / name
    save_codes(file, CodeFile(codes, 1000, 24_000, 480, 3355, mark_of("a codec"), gain))

    def read() -> None:
        back = load_codes(file)
        assert 0 <= int(back.codes.min()) <= int(back.codes.max()) < back.codebook_size
        assert 1e-4 <= back.gain <= 1e4

    return Target(file, read)


@functools.cache
def models() -> Path:
    """A voice's folder with a codec, a language model and its tokenizer."""
    path = folder() / "models"
    codec = tiny_codec()
    save_lms(path, codec)
    voice = tiny_voice(path / "text")
    own = {"input.weight": codec.decoder.input.weight.detach(), "input.bias": codec.decoder.input.bias.detach()}
    write_voice(path / "voice", VoiceParts(voice.config, codec, load_lm(path / "delay"), "# tiny\n", decoder=own))
    return path / "voice"


def reseal_lm() -> None:
    """Tell the language model's config what its files hash to now."""
    path = models() / "lm" / "config.json"
    record = json.loads(path.read_bytes())
    record["weights_sha256"] = sha256_bytes((models() / "lm" / "model.safetensors").read_bytes())
    record["text_sha256"] = sha256_bytes((models() / "lm" / "text.model").read_bytes())
    path.write_text(json.dumps(record))
    text = models() / "lm" / "text.json"
    text.write_text(json.dumps(json.loads(text.read_bytes()) | {"model_sha256": record["text_sha256"]}))


def model_target(name: str) -> Target:
    readers: dict[str, Callable[[], Any]] = {
        "codec": lambda: Codec.from_pretrained(models() / "codec"),
        "lm": lambda: load_lm(models() / "lm"),
        "voice.json": lambda: read_voice(models()),
        "decoder.safetensors": lambda: tiny_codec().with_decoder(read_layers(models() / "decoder.safetensors")),
    }
    seal = reseal_lm if name == "lm/model.safetensors" else None
    return Target(models() / name, readers[name.partition("/")[0]], seal)


def text_target(name: str, seal: Callable[[], None] | None = None) -> Target:
    return Target(models() / "lm" / name, lambda: TextTokenizer.from_pretrained(models() / "lm"), seal)


def lexicon_target(name: str) -> Target:
    words = Lexicon({"hello": "həlO", "the": "ðə", "Polish": "pOliʃ"}, {"the": "ði"})
    data = words.dumps("a header")
    file = folder() / name
    import gzip

    file.write_bytes(data if name.endswith(".gz") else gzip.decompress(data))

    def read() -> None:
        assert Lexicon.load(file).lookup("hello") is not Ellipsis

    return Target(file, read)


def corpus_target(name: str, content: str) -> Target:
    file = folder() / name / ("manifest.jsonl" if name == "jsonl" else "metadata.csv" if name == "lj" else "m.csv")
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")

    def read() -> None:
        for item in open_corpus(Settings("", str(file))).utterances():
            assert isinstance(item.id, str) and item.start >= 0 and item.duration >= 0
            item.id.encode("utf-8"), item.text.encode("utf-8")

    return Target(file, read)


def audio_target(suffix: str) -> Target:
    noise = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 600))).float()
    file = folder() / f"x{suffix}"
    if suffix == ".mp3":
        import soundfile

        soundfile.write(file, noise[0].numpy(), 24_000)
    else:
        file.write_bytes(encode_audio(noise, 24_000, suffix))

    def read() -> None:
        wave = read_audio(io.BytesIO(file.read_bytes()), 16_000)
        assert torch.isfinite(wave).all() and 0 < wave.numel() < 1 << 24

    return Target(file, read)


@dataclass(frozen=True)
class Run:
    """A run's settings, one of each kind.

    Args:
        store: a folder.
        text: how text is read.
        weights: one a level.
        limit: minutes.
        bf16: fast and rough.
    """

    store: str
    text: TextSettings = field(default_factory=TextSettings)
    weights: list[float] | None = None
    limit: float = 1.0
    bf16: bool = True


def settings_target() -> Target:
    file = folder() / "config.yaml"
    file.write_text(
        "store: a\ntext: {model_type: bpe, vocab_size: 9, lexicon: null}\nweights: [1e-1, 2]\nlimit: 1.5\nbf16: no\n"
    )
    return Target(file, lambda: parse_settings(Run, ["--config", str(file)]))


def checkpoint_target(name: str) -> Target:
    path = folder() / f"checkpoints-{name}"
    save_checkpoint(path, 3, {"model.weight": torch.arange(6.0)}, {"settings": {"a": 1}, "best": None})

    def again() -> None:
        record_path = path / "step-00000003" / "record.json"
        record = json.loads(record_path.read_bytes())
        for file in ("state.safetensors", "facts.json"):
            data = (path / "step-00000003" / file).read_bytes()
            record["files"][file] = {"bytes": len(data), "sha256": sha256_bytes(data)}
        record_path.write_text(json.dumps(record))

    file = path / "step-00000003" / name
    return Target(file, lambda: load_checkpoint(path, warn=lambda _: None), None if name == "record.json" else again)


def log_target() -> Target:
    log = JsonlLog(folder() / "log.jsonl")
    log.write(step=1, loss=2.5, per_level=[1.0, float("nan")])
    log.write(step=2, loss=1.5)
    return Target(log.path, lambda: (log.read(), log.rewind(1)))


def music_target() -> Target:
    file = folder() / "music" / MUSIC_FILE
    file.parent.mkdir()
    file.write_text(write_record(MusicConfig("m", 24_000, "codec", "0" * 64, 4, files={"lm/config.json": "0" * 64})))
    return Target(file, lambda: read_music_config(file))


def whisper_target() -> Target:
    """A CTranslate2 file: version, kind, two arrays with name, shape, type, bytes."""

    def named(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    file = folder() / "whisper" / "model.bin"
    file.parent.mkdir()
    data = struct.pack("<I", 6) + named("WhisperSpec") + struct.pack("<II", 1, 2)
    data += named("encoder/num_heads") + struct.pack("<BBIh", 0, 2, 2, 4)
    data += named("encoder/conv1/weight") + struct.pack("<BIIBI", 2, 1, 2, 0, 8) + bytes(8)
    file.write_bytes(data)
    return Target(file, lambda: read_whisper_encoder(file.parent))


def book_target(name: str) -> Target:
    """One of the parts of an EPUB, which is packed again for each change."""
    parts = folder() / f"book-{name}"
    parts.mkdir()
    for part, content in BOOK.items():
        (parts / part).write_text(content)
    packed = folder() / f"{name}.epub"

    def pack() -> None:
        with zipfile.ZipFile(packed, "w") as archive:
            for part in BOOK:
                archive.writestr(
                    "META-INF/container.xml" if part == "container.xml" else part, (parts / part).read_bytes()
                )

    def read() -> None:
        if not packed.exists():
            pack()
        for chapter in read_epub(packed):
            chapter.title.encode("utf-8"), [block.text.encode("utf-8") for block in chapter.blocks]

    return Target(parts / name, read, pack)


def page_target(name: str) -> Target:
    file = folder() / name
    file.write_text(
        "# One\n\nHello *world* [there](x).\n\n## Two\n\n- a\n- b\n" if name[-2:] == "md" else BOOK["a.xhtml"]
    )
    return Target(file, lambda: [block.text.encode("utf-8") for part in read_plain(file) for block in part.blocks])


BOOK = {
    "container.xml": "<container><rootfiles><rootfile full-path='b.opf'/></rootfiles></container>",
    "b.opf": "<package><manifest><item id='a' href='a.xhtml'/><item id='n' href='n.ncx'/></manifest>"
    "<spine toc='n'><itemref idref='a'/></spine></package>",
    "n.ncx": "<ncx><navMap><navPoint><navLabel><text>Uno</text></navLabel>"
    "<content src='a.xhtml'/></navPoint></navMap></ncx>",
    "a.xhtml": "<html><body><h1>One</h1><p>Hello <b>world</b>&amp; all.</p><ul><li>a</li></ul></body></html>",
}
JSONL = '{"audio": "a.wav", "text": "x", "duration": 1.5}\n{"id": "b", "audio": "b.wav", "start": 1, "end": 2.5}\n'
JSONL += '{"audio": "c.wav", "segments": [{"start": 0, "end": 1, "text": "y"}, {"start": 1.0, "end": 9}]}\n'
TARGETS: dict[str, Callable[[], Target]] = {
    "store: a shard": lambda: Target(shard_paths(store(), 0)[0], read_store, reseal_store),
    "store: a commit record": lambda: Target(shard_paths(store(), 0)[1], lambda: finalize(store())),
    "store: rejects": lambda: Target(shard_paths(store(), 0)[2], read_store, reseal_store),
    "store: store.json": lambda: Target(store() / "store.json", read_store, reseal_json("store.json")),
    "store: what verify reads": lambda: Target(store() / "store.json", lambda: verify_store(store())),
    "plan: its header": lambda: Target(store() / "plan.json", read_plan, reseal_json("plan.json")),
    "plan: its utterances": lambda: Target(store() / "plan.arrow.zst", read_plan, reseal_store),
    "codes: .loom": lambda: read_codes("x.loom"),
    "codes: .loom with a gain": lambda: read_codes("y.loom", 4.0),
    "codes: .safetensors": lambda: read_codes("x.safetensors"),
    "codec: config.json": lambda: model_target("codec/config.json"),
    "codec: model.safetensors": lambda: model_target("codec/model.safetensors"),
    "language model: config.json": lambda: model_target("lm/config.json"),
    "language model: model.safetensors": lambda: model_target("lm/model.safetensors"),
    "text tokenizer: text.json": lambda: text_target("text.json"),
    "text tokenizer: text.model": lambda: text_target("text.model", reseal_lm),
    "voice: voice.json": lambda: model_target("voice.json"),
    "voice: decoder.safetensors": lambda: model_target("decoder.safetensors"),
    "lexicon: TSV": lambda: lexicon_target("x.tsv"),
    "lexicon: gzipped TSV": lambda: lexicon_target("x.tsv.gz"),
    "manifest: JSONL": lambda: corpus_target("jsonl", JSONL),
    "manifest: CSV": lambda: corpus_target("csv", 'audio,text,speaker,start\na.wav,x,me,1.5\nb.wav,"y, z",,\n'),
    "manifest: LJSpeech": lambda: corpus_target("lj", "LJ001-0001|In 1455|In fourteen\nLJ001-0002|Only raw|\n"),
    "audio: WAV": lambda: audio_target(".wav"),
    "audio: FLAC": lambda: audio_target(".flac"),
    "audio: Ogg": lambda: audio_target(".ogg"),
    "audio: AIFF": lambda: audio_target(".aiff"),
    "audio: MP3": lambda: audio_target(".mp3"),
    "settings: YAML": settings_target,
    "checkpoint: record.json": lambda: checkpoint_target("record.json"),
    "checkpoint: facts.json": lambda: checkpoint_target("facts.json"),
    "checkpoint: state.safetensors": lambda: checkpoint_target("state.safetensors"),
    "training log": log_target,
    "music: music.json": music_target,
    "Whisper: model.bin": whisper_target,
    "book: package": lambda: book_target("b.opf"),
    "book: contents": lambda: book_target("n.ncx"),
    "book: container": lambda: book_target("container.xml"),
    "book: page": lambda: page_target("x.html"),
    "book: Markdown": lambda: page_target("x.md"),
}


# --- damage ----------------------------------------------------------------------------------------------------------

WORDS = [b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b'""', b"[]", b"{}", b"99999999999999999999", b"1.5"]
WORDS += [
    b'"\\ud800"',
    b'"x"',
    b"\xff",
    b"\x00",
    b"\n",
    b'"',
    b"[[[[",
    b"1e300",
    b"4611686018427387904",
    b"&a *a",
    b"'",
]
_TOKEN = re.compile(rb'"[^"\n]{0,80}"|-?\d[\d.e+-]*|true|false|null')
DAMAGE = st.tuples(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(WORDS)), max_size=2),  # values in place of values
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4),  # single bytes
    st.one_of(st.just(0), st.integers(0, 1 << 20)),  # a cut
    st.binary(max_size=6),  # something at the end
)


def damage(data: bytes, how: tuple[Any, ...]) -> bytes:
    words, edits, cut, extra = how
    tokens = [match.span() for match in _TOKEN.finditer(data[:20_000])] if data[:1].isascii() else []
    for which, word in sorted(words, key=lambda item: -item[0] % max(1, len(tokens))):
        if tokens:
            begin, end = tokens[which % len(tokens)]
            data = data[:begin] + word + data[end:]
    changed = bytearray(data)
    for position, value in edits:
        # Headers come first and decide most: half of the edits go there.
        changed[position // 2 % (min(256, len(data)) if position % 2 else len(data))] = value
    return bytes(changed[: len(data) - cut % len(data)]) + extra


def check(name: str, examples: int) -> None:
    """Damage one file again and again; anything but a value or our typed error fails."""
    target = TARGETS[name]()
    originals = {path: path.read_bytes() for path in target.file.parent.iterdir() if path.is_file()}
    target.read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @given(DAMAGE)
    @settings(
        max_examples=examples,
        deadline=2000,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    def total(how: tuple[Any, ...]) -> None:
        target.file.write_bytes(damage(originals[target.file], how))
        try:
            if target.seal is not None:
                target.seal()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read()
        except SoundloomError as error:
            assert str(error)
        finally:
            for path, data in originals.items():
                if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
                    path.write_bytes(data)

    total()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 256 << 10, f"{grown >> 10} MB more memory"  # ru_maxrss counts in kB


@pytest.mark.proof("damaged files are read or refused by one typed error")
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name: str, record_property: Any) -> None:
    check(name, EXAMPLES)
    record_property("files:", EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files_are_read_or_refused(name: str) -> None:
    check(name, MANY)
