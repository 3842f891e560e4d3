"""Time what takes hours: tokenizing a corpus and training steps."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from codec import load_codec
from codec.audio.files import write_audio
from codec.losses import MelLoss
from codec.model import Codec
from lm.loss import lm_loss
from pipelines.benchmarks.size import Size, noise
from pipelines.benchmarks.timing import Entry, take_turns
from pipelines.voice.voice import load_voice


def tokenize_cases(size: Size) -> Iterator[Entry]:
    """Time tokenize_corpus.py on a folder of recordings, start of Python included: 2 processes against 1."""
    program = Path(__file__).parents[1] / "tokenize_corpus.py"
    with tempfile.TemporaryDirectory() as place:
        corpus = Path(place) / "corpus"
        corpus.mkdir()
        generator = torch.Generator().manual_seed(0)
        files = max(4, round(size.corpus_minutes * 6))
        seconds = size.corpus_minutes * 60 / files
        for index in range(files):
            wave = torch.randn(1, int(seconds * 24000), generator=generator) * 0.1
            write_audio(corpus / f"{index:04d}.wav", wave, 24000)
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for repeat in range(max(1, min(3, size.repeats))):
            for who, workers in (("ours", "2"), ("peer", "1")):
                store = Path(place) / f"{who}{repeat}"
                command = [sys.executable, str(program), str(corpus), str(store), "--workers", workers, "--shards", "8"]
                command += ["--device", size.device]
                begin = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                times[who].append(time.perf_counter() - begin)
    yield Entry("tokenize", "folder, 2 processes", "s of sound", files * seconds, times, "1 process")


def train_cases(size: Size) -> Iterator[Entry]:
    """Time forward, backward and AdamW: the shipped codec with its mel loss, and the voice's language model."""
    codec = load_codec(device=size.device)
    assert isinstance(codec, Codec)
    wave = noise(4, 1.0, codec)
    mel = MelLoss(codec.sample_rate).to(size.device)
    codec.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-6)

    def codec_step() -> None:
        latent = codec.encoder(wave)
        rebuilt = codec.decoder(codec.quantizer(latent).latent)
        _learn(mel(rebuilt, wave[..., : rebuilt.shape[-1]]), optimizer)

    times = take_turns({"ours": codec_step}, size.repeats, device=size.device)
    yield Entry("train", "codec step, 4 crops of 1 s", "s of sound", 4.0, times)
    model = load_voice(device=size.device).lm.model
    model.train().requires_grad_(True)
    c = model.config
    lm_optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    text = torch.randint(1, c.text_vocab_size, (4, 50)).to(size.device)
    codes = torch.randint(0, c.codebook_size, (4, c.num_levels, 150)).to(size.device)
    text_lengths, lengths = (torch.full((4,), length, device=size.device) for length in (50, 150))

    def lm_step() -> None:
        _learn(lm_loss(model(text, text_lengths, codes, lengths), codes, lengths).loss, lm_optimizer)

    times = take_turns({"ours": lm_step}, size.repeats, device=size.device)
    yield Entry("train", "language model step, 4 rows of 3 s", "s of sound", 600 / c.frame_rate, times)


def _learn(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
