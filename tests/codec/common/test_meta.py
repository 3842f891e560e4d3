"""Networks of shapes alone: nothing is allocated or sampled, and nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys

import torch

from codec.common.meta import shapes_only
from codec.config import CodecConfig
from codec.model import Codec


def test_only_shapes_are_made_and_the_global_generator_stays() -> None:
    before = torch.random.get_rng_state()
    with shapes_only():
        codec, table = Codec(CodecConfig()), torch.nn.Embedding(3, 4)
        scaled = 2.0 * torch.ones(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.is_meta for parameter in codec.parameters()) and table.weight.shape == (3, 4)
    assert scaled.shape == (2,)
    made = Codec(CodecConfig())
    shapes = {name: value.shape for name, value in codec.state_dict().items()}
    assert shapes == {name: value.shape for name, value in made.state_dict().items()}


def test_a_voice_starts_without_the_compiler_and_the_store() -> None:
    heavy = ("torch._dynamo", "sympy", "pyarrow")
    script = (
        f"import sys; from pipelines import load_voice; load_voice(); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
