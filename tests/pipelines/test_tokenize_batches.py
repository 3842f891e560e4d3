"""Tokenizing pieces of similar lengths together: the store of one piece after another, on a CPU and on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from emulated_device import emulated
from store_helpers import speech, store_bytes, write_corpus
from voice_helpers import tiny_codec

from codec.audio.files import read_audio
from codec.errors import SoundloomError
from codec.model import Codec
from codec.store.reader import StoreReader
from pipelines.tokenize_corpus import main

WORDS = ("--shards", "2", "--max-seconds", "2", "--max-reject-rate", "0.2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten utterances: one is cut into pieces, and one file holds no audio."""
    folder = write_corpus(tmp_path_factory.mktemp("batches") / "corpus", 10)
    soundfile.write(folder / "wavs" / "0003.wav", speech(4.7, 3), 8000)
    (folder / "wavs" / "0006.wav").write_bytes(b"no audio")
    return folder


def tokenized(corpus: Path, store: Path, *words: str) -> dict[str, bytes]:
    assert main([str(corpus), str(store), *WORDS, *words], lambda name: tiny_codec()) == 0
    return store_bytes(store)


@pytest.mark.parametrize("device", ["cpu", "emu"])
def test_batches_write_the_store_of_single_pieces(corpus: Path, tmp_path: Path, device: str) -> None:
    alone = tokenized(corpus, tmp_path / "alone")
    reader = StoreReader(tmp_path / "alone")
    assert len(reader) >= 11 and len(list(reader.rejects())) == 1
    with emulated():
        assert tokenized(corpus, tmp_path / "together", "--batch", "3", "--device", device) == alone


def test_a_device_gets_several_pieces_at_a_time(corpus: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sizes: list[int] = []
    encode_rows = Codec.encode_rows
    monkeypatch.setattr(Codec, "encode_rows", lambda self, waves: sizes.append(len(waves)) or encode_rows(self, waves))
    tokenized(corpus, tmp_path / "cpu")
    assert not sizes
    with emulated():
        tokenized(corpus, tmp_path / "device", "--device", "emu")
    assert len(sizes) == 2 and sum(sizes) >= 11  # all pieces of each shard fit into the default's batch


def test_one_piece_that_cannot_be_encoded_rejects_its_utterance_alone(
    corpus: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def read(path: Path, *arguments: Any) -> torch.Tensor:
        return read_audio(path, *arguments) * (1e8 if "0008" in str(path) else 1)

    monkeypatch.setattr("codec.store.encode.read_audio", read)
    tokenized(corpus, tmp_path / "store", "--batch", "8")
    reader = StoreReader(tmp_path / "store")
    assert sorted(reject["id"] for reject in reader.rejects()) == ["u0006", "u0008"]
    assert len(reader) >= 10


def test_a_device_without_room_says_what_to_do(corpus: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(self: Codec, waves: list[torch.Tensor]) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(Codec, "encode_rows", full)
    with pytest.raises(SoundloomError, match="lower --batch"):
        tokenized(corpus, tmp_path / "store", "--batch", "8")
