"""Every program with networks says on the command line where they run, and codes are made in full float32."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from voice_helpers import tiny_codec

from codec import load_codec
from codec.errors import SoundloomError
from codec.pretrained import choose_device
from pipelines.training.loop import start_processes
from pipelines.training.run_settings import RunSettings

PROGRAMS = sorted(
    path.stem for path in (Path(__file__).parents[1] / "pipelines").glob("*.py") if path.stem != "__init__"
)
#: programs without --device, and why
WITHOUT = {
    "ablate_codec": "runs other programs",
    "average_lm": "takes the mean of weights, and runs no network",
    "bench_scale": "runs no network",
    "import_audio": "runs no network but Whisper, on the CPU",
    "make_corpus": "its teachers run on the CPU",
    "make_lexicon": "its teacher runs on the CPU",
    "make_music": "writes a folder, which any device opens",
    "make_music_corpus": "runs no network",
    "make_samples": "its samples are those of a CPU",
    "make_voice": "writes a folder, which any device opens",
    "plan_run": "counts, and runs no network",
    "whole_chain": "runs other programs",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_says_where_networks_run(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"pipelines.{program}").main(["--help"])
    text = capsys.readouterr().out
    assert ("--device" in text) == (program not in WITHOUT)
    if program not in WITHOUT:
        assert "auto" in text and "cpu" in text and "cuda" in text and "mps" in text


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("cuda", "mps"):
        if choose_device("auto").type != name:
            with pytest.raises(SoundloomError, match=f"device {name}"):
                start_processes(RunSettings(output=str(tmp_path), device=name))
    assert start_processes(RunSettings(output=str(tmp_path), device="cpu")).device.type == "cpu"


class Precision:
    """Whether TensorFloat-32 is off at this moment, as far as `full_precision` says."""

    def __init__(self) -> None:
        self.depth = 0

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1


@pytest.fixture
def precision(monkeypatch: pytest.MonkeyPatch) -> Precision:
    full = Precision()
    for module in ("codec.model", "codec.batched", "codec.adapter", "codec.mimi"):
        monkeypatch.setattr(f"{module}.full_precision", full)
    return full


def watch(network: nn.Module, full: Precision) -> list[bool]:
    """Note for every layer that runs whether TensorFloat-32 was off."""
    seen: list[bool] = []
    for part in network.modules():
        if not list(part.children()):
            part.register_forward_pre_hook(lambda *_: seen.append(full.depth > 0))
    return seen


def test_our_codec_makes_codes_without_tensorfloat_32(precision: Precision) -> None:
    codec = tiny_codec()
    seen = watch(codec.encoder, precision)
    wave = torch.zeros(1, 1, 4 * codec.hop_length)
    codec.encode(wave)
    codec.encode_rows([wave[0], wave[0, :, :100]])
    codec.encode_chunk(wave, codec.init_state())
    assert seen and all(seen)


@pytest.mark.parametrize("kind", ["Encodec", "Mimi"])
def test_a_codec_of_transformers_makes_codes_without_tensorfloat_32(
    tmp_path: Path, precision: Precision, kind: str
) -> None:
    import published_codecs

    published_codecs.write(tmp_path, kind, getattr(published_codecs, kind.upper()))
    codec: Any = load_codec(tmp_path, native=False)
    seen = watch(codec.model, precision)
    codec.encode(torch.zeros(1, 1, 500))
    if codec.streams:
        codec.encode_chunk(torch.zeros(1, 1, 500), codec.init_state())
    assert seen and all(seen)
