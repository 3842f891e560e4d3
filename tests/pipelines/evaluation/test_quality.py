"""DistillMOS: the package's own scores at any level, where torchaudio's extension does not load, without a print."""

from __future__ import annotations

import pytest
import torch

from codec.errors import SoundloomError
from pipelines.evaluation.packages import installed
from pipelines.evaluation.quality import DistillMOS, at_level


@pytest.fixture(scope="module")
def judge() -> DistillMOS:
    if not installed("distillmos"):
        pytest.skip("distillmos is not installed")
    return DistillMOS()


def noise(seconds: float) -> torch.Tensor:
    return 0.1 * torch.randn(1, round(16_000 * seconds), generator=torch.Generator().manual_seed(0))


def test_it_gives_the_packages_scores_without_its_print(judge: DistillMOS, capsys: pytest.CaptureFixture[str]) -> None:
    from distillmos import ConvTransformerSQAModel

    DistillMOS()
    assert capsys.readouterr().out == ""
    peer = ConvTransformerSQAModel().eval()
    wave = noise(9.2)  # three crops
    level = at_level(wave, 16_000)
    assert level is not None
    with torch.no_grad():
        expected = float(peer(level[None]))
    assert judge(wave, 16_000) == pytest.approx(expected, abs=1e-5)


def test_the_score_does_not_depend_on_level_or_shape(judge: DistillMOS) -> None:
    wave = noise(1)
    scores = [judge(wave, 16_000), judge(0.01 * wave, 16_000), judge(wave[0], 16_000)]
    assert scores[0] is not None and 1 <= scores[0] <= 5
    assert scores[1:] == pytest.approx([scores[0]] * 2, abs=1e-3)


def test_silence_and_stereo_are_refused() -> None:
    assert at_level(torch.zeros(1, 16_000), 16_000) is None and at_level(torch.zeros(0), 16_000) is None
    level = at_level(noise(0.5), 16_000)
    assert level is not None and float(level.square().mean().sqrt()) == pytest.approx(10 ** (-26 / 20), rel=1e-4)
    with pytest.raises(SoundloomError, match="one channel"):
        at_level(torch.zeros(2, 16_000), 16_000)
