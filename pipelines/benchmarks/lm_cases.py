"""Time language models: the shipped voice's, and a MusicGen, against transformers."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from codec.common.packed import packs_in_half
from codec.transformers_codecs import import_transformers
from lm.step_lm import StepLM
from pipelines.benchmarks.size import Size
from pipelines.benchmarks.timing import Entry, Work, take_turns
from pipelines.voice.voice import load_voice


@torch.inference_mode()
def lm_cases(size: Size) -> Iterator[Entry]:
    """Time the shipped voice's language model against transformers' Llama of the same shape, heads included."""
    model = load_voice(device=size.device).lm.model.decoder
    assert isinstance(model, StepLM)
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
    llama.to(size.device)
    for batch in size.batches:
        yield from _writing_cases(model, llama, size, batch)


def _writing_cases(model: StepLM, llama: Any, size: Size, batch: int, units: int = 80) -> Iterator[Entry]:
    """Time reading a text of ``units`` and the steps after it."""
    rows = 2 * batch  # guidance: with text and without
    place, c = torch.device(size.device), model.config
    text = torch.randint(1, c.text_vocab_size, (rows, units)).to(place)
    lengths = torch.tensor([units] * batch + [0] * batch).to(place)
    embedded = torch.randn(rows, units, c.transformer.dim).to(place)
    step = torch.randint(0, c.codebook_size, (rows, model.levels, 1)).to(place)

    def prefill() -> Any:
        return model.start(text, lengths, size.steps)

    def prefill_peer() -> Any:
        return llama(inputs_embeds=embedded, use_cache=True).past_key_values

    state, past = prefill(), prefill_peer()
    model.fix_shapes(state)  # as generation does on a GPU

    def steps() -> None:
        state.step, state.cache.length = 0, units  # back to the end of the text
        for _ in range(size.steps):
            model.advance(state, step)

    def steps_peer() -> None:
        after_text = copy.deepcopy(past)  # a cache only grows; the copy costs far less than a step
        for _ in range(size.steps):
            output = llama(inputs_embeds=embedded[:, :1], past_key_values=after_text, use_cache=True)
            torch.nn.functional.linear(output.last_hidden_state[:, -1], model.heads)

    label, peer = f"voice, batch {batch} with guidance", "transformers' Llama, same shape"
    times = take_turns({"ours": prefill, "peer": prefill_peer}, size.repeats, device=size.device)
    yield Entry("lm", f"{label}, prefill", "text units", units * rows, times, peer)
    times = take_turns({"ours": steps, "peer": steps_peer}, size.repeats, device=size.device)
    codes = size.steps * batch * model.levels
    work = step_work(model, rows, units + size.steps // 2)
    work = Work(work.bytes * size.steps, work.operations * size.steps)
    yield Entry("lm", f"{label}, writing", "codes", codes, times, peer, work)


def step_work(model: StepLM, rows: int, length: int) -> Work:
    """Return what one step reads and computes: every weight once, and keys and values of ``length`` positions."""
    weights = [p for p in model.transformer.parameters() if p.dim() == 2] + [model.heads]
    c = model.config.transformer
    cached = 2 * c.num_layers * rows * length * c.kv_heads * c.head_dim
    read = sum(w.numel() * (2 if packs_in_half(w.detach()) else 4) for w in weights)
    return Work(read + 4 * cached, 2 * rows * sum(w.numel() for w in weights) + 2 * cached)


@torch.inference_mode()
def music_cases(size: Size) -> Iterator[Entry]:
    """Time our MusicGen decoder against transformers' `generate`: same random weights, greedy, guidance 3."""
    try:
        from lm.musicgen.checkpoint import load_decoder
        from lm.musicgen.generate import MusicGenSampling, generate
    except ImportError:
        print("music: this installation has no MusicGen decoder; left out", file=sys.stderr)
        return
    layers, width, frames = size.music
    model, levels = _random_musicgen(layers, width), 4
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        ours = load_decoder(folder).to(size.device)
    model.to(size.device)
    for batch in size.batches:
        text = torch.randint(1, 39, (batch, 10)).to(size.device)

        def write(text: Tensor = text) -> Tensor:
            states = model.text_encoder(input_ids=text).last_hidden_state
            lengths = torch.full((len(text),), text.shape[1], device=text.device)
            settings = MusicGenSampling(temperature=0.0, guidance=3.0)
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

        times = take_turns({"ours": write, "peer": write_peer}, size.repeats, device=size.device)
        weights = sum(p.numel() for p in model.decoder.parameters() if p.dim() == 2)
        steps = frames + levels - 1
        cached = 2 * layers * 2 * batch * (steps // 2 + 10) * width
        work = Work(4.0 * steps * (weights + cached), 2.0 * steps * (2 * batch * weights + cached))
        label = f"MusicGen of {layers} layers of {width}, batch {batch}, writing"
        yield Entry("music", label, "codes", batch * levels * frames, times, "transformers' generate", work)


def _random_musicgen(layers: int, width: int) -> Any:
    """Return a decoder of this shape between a tiny text encoder and a tiny codec, which cost next to nothing."""
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
