"""Steps of fixed shapes: the codes of steps whose cache grows, and nothing that a CUDA graph could not replay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from emulated_device import emulated
from lm_models import CODES, LEVELS, coarse_fine_lm, delay_lm
from torch.utils._python_dispatch import TorchDispatchMode

from lm.config import TransformerConfig
from lm.fixed_step import FixedStep
from lm.generation.generate import generate, stream
from lm.generation.grid_writer import GridWriter
from lm.generation.request import GenerateConfig, Request, make_request
from lm.step_lm import StepLM

GROUPED = TransformerConfig(dim=16, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=24, qk_norm=True)
MODELS = {
    "delay": delay_lm,
    "grouped": lambda: delay_lm(transformer=GROUPED),
    "coarse": coarse_fine_lm,
    "hides its prompt": lambda: delay_lm(guide_prompt=True),
}


def request(model: Any, guidance: float = 2.0, prompted: bool = True, seed: int = 0, latents: bool = True) -> Request:
    """Two texts of different lengths after prompts of different lengths."""
    ids, lengths = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2])
    prompt = torch.ones(2, LEVELS, 4, dtype=torch.long) if prompted else None
    config = GenerateConfig(guidance=guidance, max_frames=16, min_frames=10, top_k=5, sampled_levels=1)
    vectors = torch.randn(LEVELS, CODES, 4, generator=torch.Generator().manual_seed(2)) if latents else None
    frames, units = (torch.tensor([4, 2]), torch.tensor([1, 1])) if prompted else (None, None)
    return make_request(model.config, ids, lengths, prompt, frames, [seed, seed + 1], config, units, vectors)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("prompted", [True, False])
def test_the_codes_are_those_of_a_growing_cache(kind: str, guidance: float, prompted: bool) -> None:
    model = MODELS[kind]()
    wanted = request(model, guidance, prompted, latents=kind != "coarse")
    expected = generate(model, wanted)
    model.decoder.fixed_shapes = True
    made = generate(model, wanted)
    assert torch.equal(made.codes, expected.codes) and made.finish_reasons == expected.finish_reasons
    if expected.latents is not None:
        assert torch.allclose(made.latents, expected.latents, atol=1e-5)
    assert len(model.decoder._writer.steps._free) == 1


class Recorded(TorchDispatchMode):
    """Every operation with the shapes and places of its tensors and its other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return tuple(value.shape), value.stride(), value.storage_offset()
            return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

        self.calls.append((str(func), plain(args), plain(list((kwargs or {}).items()))))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[Any]]]:
    """The operations of each fixed step that runs."""
    steps: list[list[Any]] = []
    take = FixedStep._run

    def run(self: FixedStep) -> None:
        assert self.scores is not None or not steps
        with Recorded() as found:
            take(self)
        steps.append(found.calls)

    monkeypatch.setattr(FixedStep, "_run", run)
    yield steps


def test_every_step_starts_the_same_kernels_on_the_same_shapes(recorded: list[list[Any]]) -> None:
    model = delay_lm(transformer=GROUPED)
    model.fixed_shapes = True
    generate(model, request(model))
    assert len(recorded) > 8 and len(recorded[2]) > 20
    # The first step makes the tensor of scores; `_local_scalar_dense` would be a number that the host reads.
    assert all(calls == recorded[2] for calls in recorded[1:])
    assert not any("_local_scalar_dense" in name for name, *_ in recorded[2])


def test_requests_of_a_size_share_a_step_and_streams_do_not() -> None:
    model = delay_lm()
    wanted = [request(model, seed=seed) for seed in (0, 5)]
    single = [one.rows([0], [one.seeds[0]]) for one in wanted]
    expected = [generate(model, one).codes for one in single]
    model.fixed_shapes = True
    streams = [stream(model, one) for one in single]
    frames: list[list[torch.Tensor]] = [[], []]
    for pair in zip(*streams, strict=False):  # taking turns: each has a cache of its own
        for own, frame in zip(frames, pair, strict=True):
            own.append(frame.codes)
    for own, codes in zip(frames, expected, strict=True):
        first = int(single[0].prompt_lengths[0])
        assert torch.equal(torch.stack(own, 1), codes[0, :, first : first + len(own)])
    del streams
    gc.collect()  # a stream that is left refers to itself
    kept = list(model._writer.steps._free)
    assert len(kept) == 2
    assert all(torch.equal(generate(model, one).codes, codes) for one, codes in zip(single, expected, strict=True))
    assert {id(step) for step in model._writer.steps._free} == {id(step) for step in kept}


def test_changed_weights_are_used() -> None:
    model, wanted = delay_lm(), request(delay_lm())
    model.fixed_shapes = True
    before = generate(model, wanted).codes
    with torch.no_grad():
        for parameter in (model.heads, model.code_embedding, *model.transformer.parameters()):
            parameter.copy_(parameter.flip(0))
    after = generate(model, wanted).codes
    model.fixed_shapes = False
    assert torch.equal(after, generate(model, wanted).codes) and not torch.equal(before, after)


def test_on_a_device_a_step_waits_once() -> None:
    model = delay_lm()
    expected = generate(model, request(model)).codes
    with emulated() as device:
        model.to("emu").fixed_shapes = True
        one = request(model)
        one = make_request(
            model.config,
            one.text_ids.to("emu"),
            one.text_lengths,
            one.prompt_codes,
            one.prompt_lengths,
            one.seeds,
            one.config,
            one.span.units if one.span is not None else None,
            one.vectors.to("emu") if one.vectors is not None else None,
        )
        with torch.no_grad():
            run = GridWriter(model, one)
            while not run.finished:
                device.clear()
                run.advance()
                assert sum(device.syncs.values()) <= 1 and not device.copies
            assert torch.equal(run.grid().cpu(), expected)


def test_a_cpu_has_no_fixed_steps_unless_asked() -> None:
    model = delay_lm()
    assert isinstance(model, StepLM)
    with torch.inference_mode():
        assert GridWriter(model, request(model)).state.fixed is None
