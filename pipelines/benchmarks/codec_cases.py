"""Time codecs: EnCodec against transformers with the same weights, the shipped codec, whole and in chunks."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from codec import load_codec
from codec.encodec_weights import convert_encodec
from codec.model import Codec
from codec.transformers_codecs import import_transformers
from pipelines.benchmarks.size import Size, noise
from pipelines.benchmarks.timing import Entry, Work, take_turns


def random_encodec(folder: Path, settings: dict[str, Any]) -> Any:
    """Save transformers' EnCodec with random weights in the published format, and return it."""
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
    """Time our EnCodec network against transformers' with the same weights, the shipped codec, and both in chunks."""
    with tempfile.TemporaryDirectory() as folder:
        peer = random_encodec(Path(folder), dict(size.encodec))
        ours = convert_encodec(Path(folder))
    peer.to(size.device)
    ours.to(size.device)
    second = noise(1, 1.0, ours)
    codes = ours.encode(second)
    counts = {
        "encode": _operations(lambda: ours.encode(second), ours.encoder, ours.frame_rate),
        "decode": _operations(lambda: ours.decode(codes), ours.decoder, ours.frame_rate),
    }
    for batch, seconds in [*((b, size.seconds) for b in size.batches), *((1, s) for s in size.longer)]:
        yield from _encodec_cases(ours, peer, size, batch, seconds, counts)
    yield from _bfloat16_cases(ours, peer, size)
    yield from _stream_cases("EnCodec", ours, size)
    shipped = load_codec(device=size.device)
    assert isinstance(shipped, Codec)
    for batch in size.batches:
        yield from _shipped_cases(shipped, size, batch)
    yield from _stream_cases("shipped codec", shipped, size)


def _encodec_cases(
    ours: Codec, peer: Any, size: Size, batch: int, seconds: float, counts: dict[str, float]
) -> Iterator[Entry]:
    """Time both networks on one batch and compare their results. ``counts``: operations of a second of sound."""
    bandwidth = peer.config.target_bandwidths[-1]
    wave = noise(batch, seconds, ours)
    codes, theirs = ours.encode(wave), peer.encode(wave, bandwidth=bandwidth).audio_codes
    difference = float((ours.decode(codes) - peer.decode(theirs, [None])[0]).abs().max())
    pairs: dict[str, tuple[dict[str, Callable[[], object]], dict[str, Any]]] = {
        "encode": (
            {"ours": lambda: ours.encode(wave), "peer": lambda: peer.encode(wave, bandwidth=bandwidth)},
            {"codes equal": torch.equal(codes, theirs[0])},
        ),
        "decode": (
            {"ours": lambda: ours.decode(codes), "peer": lambda: peer.decode(theirs, [None])},
            {"largest difference": difference},
        ),
    }
    for name, (functions, checks) in pairs.items():
        times = take_turns(functions, size.repeats, settle=1, device=size.device)
        label = f"EnCodec {name}, batch {batch} of {seconds:g} s"
        work = Work(operations=counts[name] * batch * seconds)
        yield Entry("codec", label, "s of sound", batch * seconds, times, "transformers", work, checks)


def _shipped_cases(shipped: Codec, size: Size, batch: int) -> Iterator[Entry]:
    wave = noise(batch, size.seconds, shipped)
    codes = shipped.encode(wave)
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: shipped.encode(wave),
        "decode": lambda: shipped.decode(codes),
    }
    for name, call in calls.items():
        times = take_turns({"ours": call}, size.repeats, settle=1, device=size.device)
        label = f"shipped codec {name}, batch {batch} of {size.seconds:g} s"
        yield Entry("codec", label, "s of sound", batch * size.seconds, times)


def _operations(call: Callable[[], object], network: torch.nn.Module, steps: float) -> float:
    """Return the floating-point operations of a call in which the network's LSTMs, if any, take this many steps."""
    with FlopCounterMode(display=False) as counter:
        call()
    # on a CPU an LSTM is one call, which the counter does not see into
    lstms = [module for module in network.modules() if isinstance(module, torch.nn.LSTM)]
    weights = sum(p.numel() for lstm in lstms for p in lstm.parameters() if p.dim() == 2)
    return counter.get_total_flops() + 2 * steps * weights


def _bfloat16_cases(ours: Codec, peer: Any, size: Size) -> Iterator[Entry]:
    """Time our EnCodec network in bfloat16 against transformers' in float32, batch 1; report what rounding changes."""
    half = copy.deepcopy(ours).compute_in(torch.bfloat16)
    bandwidth = peer.config.target_bandwidths[-1]
    wave = noise(1, size.seconds, ours)
    codes, theirs = ours.encode(wave), peer.encode(wave, bandwidth=bandwidth).audio_codes
    equal = (half.encode(wave) == codes).float().mean((0, 2))
    sound = ours.decode(codes)
    ratio = 10 * torch.log10(sound.square().sum() / (half.decode(codes) - sound).square().sum())
    times = take_turns(
        {"ours": lambda: half.encode(wave), "peer": lambda: peer.encode(wave, bandwidth=bandwidth)},
        size.repeats,
        settle=1,
        device=size.device,
    )
    checks: dict[str, Any] = {"codes of level 0 equal": float(equal[0]), "of all levels": float(equal.mean())}
    label = "EnCodec encode, batch 1, bfloat16"
    yield Entry("codec", label, "s of sound", size.seconds, times, "transformers, float32", checks=checks)
    times = take_turns(
        {"ours": lambda: half.decode(codes), "peer": lambda: peer.decode(theirs, [None])},
        size.repeats,
        settle=1,
        device=size.device,
    )
    label, checks = "EnCodec decode, batch 1, bfloat16", {"dB above the difference": round(float(ratio), 1)}
    yield Entry("codec", label, "s of sound", size.seconds, times, "transformers, float32", checks=checks)


def _stream_cases(label: str, codec: Codec, size: Size) -> Iterator[Entry]:
    """Time chunks of about 80 ms against our own network on the whole: the cost of streaming."""
    wave = noise(1, size.seconds, codec)
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
        times = take_turns({"ours": call, "peer": wholes[name]}, size.repeats, settle=1, device=size.device)
        yield Entry("codec", f"{label} {name}, streaming", "s of sound", size.seconds, times, "ours, whole")
