"""What is timed: codecs, language models, MusicGen, tokenization, training; each gives the entries of its group.

Peers run the same weights (EnCodec, MusicGen) or, where nobody else has our network, weights of the same shape.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codec import load_codec
from codec.audio.files import write_audio
from codec.encodec_weights import convert_encodec
from codec.losses import MelLoss
from codec.model import Codec
from codec.transformers_codecs import import_transformers
from lm.cpu_linear import packs_in_half
from lm.loss import lm_loss
from lm.step_lm import StepLM
from pipelines.benchmarks.timing import Entry, Work, take_turns
from pipelines.voice.voice import load_voice


@dataclass(frozen=True)
class Size:
    """How much is timed: ``seconds`` of sound a row, ``longer`` rows of a codec, ``steps`` of writing.

    ``music``: layers, width and frames of a MusicGen. What a second of sound costs depends on how many there are:
    large tensors cost more than as much in small ones.
    """

    seconds: float = 4.0
    longer: tuple[float, ...] = (10.0, 60.0)
    steps: int = 100
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 5
    encodec: tuple[tuple[str, Any], ...] = ()
    music: tuple[int, int, int] = (24, 1024, 50)
    corpus_minutes: float = 180.0


def random_encodec(folder: Path, settings: dict[str, Any]) -> Any:
    """transformers' EnCodec with random weights, saved in the published format."""
    transformers = import_transformers()
    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig(**settings)).eval()
    for name, value in model.named_buffers():
        if name.endswith(".embed"):
            value.normal_()  # transformers starts codebooks at zero, and then any codes agree
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def codec_cases(size: Size) -> Iterator[Entry]:
    """Our EnCodec network against transformers', same weights; the shipped codec; both in chunks."""
    with tempfile.TemporaryDirectory() as folder:
        peer = random_encodec(Path(folder), dict(size.encodec))
        ours = convert_encodec(Path(folder))
    bandwidth = peer.config.target_bandwidths[-1]
    second = _noise(1, 1.0, ours)
    codes = ours.encode(second)
    counts = {
        "encode": _operations(lambda: ours.encode(second), ours.encoder, ours.frame_rate),
        "decode": _operations(lambda: ours.decode(codes), ours.decoder, ours.frame_rate),
    }
    for batch, seconds in [*((b, size.seconds) for b in size.batches), *((1, s) for s in size.longer)]:
        wave = _noise(batch, seconds, ours)
        codes, theirs = ours.encode(wave), peer.encode(wave, bandwidth=bandwidth).audio_codes
        difference = float((ours.decode(codes) - peer.decode(theirs, [None])[0]).abs().max())
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object], dict[str, Any]]] = {
            "encode": (
                lambda wave=wave: ours.encode(wave),
                lambda wave=wave: peer.encode(wave, bandwidth=bandwidth),
                {"codes equal": torch.equal(codes, theirs[0])},
            ),
            "decode": (
                lambda codes=codes: ours.decode(codes),
                lambda theirs=theirs: peer.decode(theirs, [None]),
                {"largest difference": difference},
            ),
        }
        for name, (mine, other, checks) in pairs.items():
            times = take_turns({"ours": mine, "peer": other}, size.repeats, settle=1)
            label = f"EnCodec {name}, batch {batch} of {seconds:g} s"
            work = Work(operations=counts[name] * batch * seconds)
            yield Entry("codec", label, "s of sound", batch * seconds, times, "transformers", work, checks)
    yield from _bfloat16_cases(ours, peer, size)
    yield from _stream_cases("EnCodec", ours, size)
    shipped = load_codec()
    assert isinstance(shipped, Codec)
    for batch in size.batches:
        wave = _noise(batch, size.seconds, shipped)
        codes = shipped.encode(wave)
        for name, call in (("encode", lambda w=wave: shipped.encode(w)), ("decode", lambda c=codes: shipped.decode(c))):
            times = take_turns({"ours": call}, size.repeats, settle=1)
            label = f"shipped codec {name}, batch {batch} of {size.seconds:g} s"
            yield Entry("codec", label, "s of sound", batch * size.seconds, times)
    yield from _stream_cases("shipped codec", shipped, size)


def _operations(call: Callable[[], object], network: torch.nn.Module, steps: float) -> float:
    """Floating-point operations of a call in which the network's LSTMs, where it has any, take so many steps."""
    with FlopCounterMode(display=False) as counter:
        call()
    # The counter does not see into the one call that an LSTM is on a CPU.
    lstms = [module for module in network.modules() if isinstance(module, torch.nn.LSTM)]
    weights = sum(p.numel() for lstm in lstms for p in lstm.parameters() if p.dim() == 2)
    return counter.get_total_flops() + 2 * steps * weights


def _bfloat16_cases(ours: Codec, peer: Any, size: Size) -> Iterator[Entry]:
    """Our EnCodec network in bfloat16 against transformers' in float32, batch 1, and what the rounding changes."""
    half = copy.deepcopy(ours).compute_in(torch.bfloat16)
    bandwidth = peer.config.target_bandwidths[-1]
    wave = _noise(1, size.seconds, ours)
    codes, theirs = ours.encode(wave), peer.encode(wave, bandwidth=bandwidth).audio_codes
    equal = (half.encode(wave) == codes).float().mean((0, 2))
    sound = ours.decode(codes)
    ratio = 10 * torch.log10(sound.square().sum() / (half.decode(codes) - sound).square().sum())
    times = take_turns(
        {"ours": lambda: half.encode(wave), "peer": lambda: peer.encode(wave, bandwidth=bandwidth)},
        size.repeats,
        settle=1,
    )
    checks: dict[str, Any] = {"codes of level 0 equal": float(equal[0]), "of all levels": float(equal.mean())}
    label = "EnCodec encode, batch 1, bfloat16"
    yield Entry("codec", label, "s of sound", size.seconds, times, "transformers, float32", checks=checks)
    times = take_turns(
        {"ours": lambda: half.decode(codes), "peer": lambda: peer.decode(theirs, [None])}, size.repeats, settle=1
    )
    label, checks = "EnCodec decode, batch 1, bfloat16", {"dB above the difference": round(float(ratio), 1)}
    yield Entry("codec", label, "s of sound", size.seconds, times, "transformers, float32", checks=checks)


def _stream_cases(label: str, codec: Codec, size: Size) -> Iterator[Entry]:
    """Chunks of about 80 ms against our own whole: what streaming costs."""
    wave = _noise(1, size.seconds, codec)
    codes = codec.encode(wave)
    frames = max(1, round(0.08 * codec.frame_rate))

    def encode() -> None:
        state = codec.init_state(1)
        for chunk in wave.split(frames * codec.hop_length, -1):
            codec.encode_chunk(chunk, state)

    def decode() -> None:
        state = codec.init_state(1)
        for chunk in codes.split(frames, -1):
            codec.decode_chunk(chunk, state)

    wholes = {"encode": lambda: codec.encode(wave), "decode": lambda: codec.decode(codes)}
    for name, call in (("encode", encode), ("decode", decode)):
        times = take_turns({"ours": call, "peer": wholes[name]}, size.repeats, settle=1)
        yield Entry("codec", f"{label} {name}, streaming", "s of sound", size.seconds, times, "ours, whole")


def _noise(batch: int, seconds: float, codec: Codec) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, codec.channels, int(seconds * codec.sample_rate), generator=generator) * 0.1


@torch.inference_mode()
def lm_cases(size: Size) -> Iterator[Entry]:
    """The shipped voice's language model against transformers' Llama of the same shape with heads of the same size."""
    model = load_voice().lm.model.decoder
    c = model.config.transformer
    transformers = import_transformers()
    llama = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=8,
            hidden_size=c.dim,
            intermediate_size=c.ffn_dim,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_key_value_heads=c.kv_heads,
        )
    ).eval()
    units = 80
    for batch in size.batches:
        rows = 2 * batch  # guidance: with text and without
        text = torch.randint(1, model.config.text_vocab_size, (rows, units))
        lengths = torch.tensor([units] * batch + [0] * batch)
        embedded = torch.randn(rows, units, c.dim)
        step = torch.randint(0, model.config.codebook_size, (rows, model.levels, 1))

        def prefill(text: Tensor = text, lengths: Tensor = lengths) -> Any:
            return model.start(text, lengths, size.steps)

        def prefill_peer(embedded: Tensor = embedded) -> Any:
            return llama(inputs_embeds=embedded, use_cache=True).past_key_values

        state, past = prefill(), prefill_peer()

        def steps(step: Tensor = step, state: Any = state) -> None:
            state.step, state.cache.length = 0, units  # back to the end of the text
            for _ in range(size.steps):
                model.advance(state, step)

        def steps_peer(embedded: Tensor = embedded[:, :1], past: Any = past) -> None:
            after_text = copy.deepcopy(past)  # a cache only grows; the copy costs far less than a step
            for _ in range(size.steps):
                hidden = llama(inputs_embeds=embedded, past_key_values=after_text, use_cache=True).last_hidden_state
                torch.nn.functional.linear(hidden[:, -1], model.heads)

        label = f"voice, batch {batch} with guidance"
        times = take_turns({"ours": prefill, "peer": prefill_peer}, size.repeats)
        yield Entry("lm", f"{label}, prefill", "text units", units * rows, times, "transformers' Llama, same shape")
        times = take_turns({"ours": steps, "peer": steps_peer}, size.repeats)
        codes = size.steps * batch * model.levels
        work = step_work(model, rows, units + size.steps // 2)
        work = Work(work.bytes * size.steps, work.operations * size.steps)
        yield Entry("lm", f"{label}, writing", "codes", codes, times, "transformers' Llama, same shape", work)


def step_work(model: StepLM, rows: int, length: int) -> Work:
    """What one step reads and computes: every weight once, and keys and values of ``length`` positions."""
    weights = [p for p in model.transformer.parameters() if p.dim() == 2] + [model.heads]
    c = model.config.transformer
    cached = 2 * c.num_layers * rows * length * c.kv_heads * c.head_dim
    read = sum(w.numel() * (2 if packs_in_half(w.detach()) else 4) for w in weights)
    return Work(read + 4 * cached, 2 * rows * sum(w.numel() for w in weights) + 2 * cached)


@torch.inference_mode()
def music_cases(size: Size) -> Iterator[Entry]:
    """Our MusicGen decoder against transformers' `generate`, same random weights, greedy, guidance 3."""
    try:
        from lm.musicgen.checkpoint import load_decoder
        from lm.musicgen.generate import CrossSettings, generate
    except ImportError:
        print("music: this installation has no MusicGen decoder; left out", file=sys.stderr)
        return
    layers, width, frames = size.music
    model, levels = _random_musicgen(layers, width), 4
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours = load_decoder(folder)
    for batch in size.batches:
        text = torch.randint(1, 39, (batch, 10))

        def write(text: Tensor = text) -> Tensor:
            states = model.text_encoder(input_ids=text).last_hidden_state
            lengths = torch.full((len(text),), text.shape[1])
            settings = CrossSettings(temperature=0.0, guidance=3.0)
            return generate(ours, states, lengths, frames, seeds=range(len(text)), settings=settings)

        def write_peer(text: Tensor = text) -> Tensor:
            mask = torch.ones_like(text)
            return model.generate(
                input_ids=text,
                attention_mask=mask,
                do_sample=False,
                guidance_scale=3.0,
                max_new_tokens=frames + levels - 1,
            )

        times = take_turns({"ours": write, "peer": write_peer}, size.repeats)
        weights = sum(p.numel() for p in model.decoder.parameters() if p.dim() == 2)
        steps = frames + levels - 1
        cached = 2 * layers * 2 * batch * (steps // 2 + 10) * width
        work = Work(4.0 * steps * (weights + cached), 2.0 * steps * (2 * batch * weights + cached))
        label = f"MusicGen of {layers} layers of {width}, batch {batch}, writing"
        yield Entry("music", label, "codes", batch * levels * frames, times, "transformers' generate", work)


def _random_musicgen(layers: int, width: int) -> Any:
    """A decoder of this shape between a tiny text encoder and a tiny codec, which cost next to nothing."""
    transformers = import_transformers()
    torch.manual_seed(0)
    t5 = {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
    codec = {"num_filters": 2, "upsampling_ratios": [4, 3, 2], "hidden_size": 6, "num_lstm_layers": 1}
    codec |= {"codebook_size": 2048, "sampling_rate": 1200, "target_bandwidths": [2.2]}
    decoder = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": max(1, width // 64)}
    decoder |= {"ffn_dim": 4 * width, "pad_token_id": 2048, "bos_token_id": 2048}
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(**t5).to_dict(),
        audio_encoder=transformers.EncodecConfig(**codec).to_dict(),
        decoder=transformers.MusicgenDecoderConfig(**decoder).to_dict(),
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    model.generation_config.update(pad_token_id=2048, bos_token_id=2048, decoder_start_token_id=2048)
    return model


def tokenize_cases(size: Size) -> Iterator[Entry]:
    """A folder of recordings through pipelines/tokenize_corpus.py, start of Python included: 1 process against 2."""
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
                begin = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                times[who].append(time.perf_counter() - begin)
    yield Entry("tokenize", "folder, 2 processes", "s of sound", files * seconds, times, "1 process")


def train_cases(size: Size) -> Iterator[Entry]:
    """Forward, backward and AdamW: the shipped codec with its mel loss, and the voice's language model."""
    codec = load_codec()
    assert isinstance(codec, Codec)
    wave = _noise(4, 1.0, codec)
    mel = MelLoss(codec.sample_rate)
    codec.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(codec.parameters(), lr=1e-6)

    def codec_step() -> None:
        latent = codec.encoder(wave)
        rebuilt = codec.decoder(codec.quantizer(latent).latent)
        _learn(mel(rebuilt, wave[..., : rebuilt.shape[-1]]), optimizer)

    times = take_turns({"ours": codec_step}, size.repeats)
    yield Entry("train", "codec step, 4 crops of 1 s", "s of sound", 4.0, times)
    model = load_voice().lm.model
    model.train().requires_grad_(True)
    c = model.config
    lm_optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    text = torch.randint(1, c.text_vocab_size, (4, 50))
    codes = torch.randint(0, c.codebook_size, (4, c.num_levels, 150))
    text_lengths, lengths = torch.full((4,), 50), torch.full((4,), 150)

    def lm_step() -> None:
        _learn(lm_loss(model(text, text_lengths, codes, lengths), codes, lengths).loss, lm_optimizer)

    times = take_turns({"ours": lm_step}, size.repeats)
    yield Entry("train", "language model step, 4 rows of 3 s", "s of sound", 600 / c.frame_rate, times)


def _learn(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


CASES: dict[str, Callable[[Size], Iterator[Entry]]] = {
    "codec": codec_cases,
    "lm": lm_cases,
    "music": music_cases,
    "tokenize": tokenize_cases,
    "train": train_cases,
}
