"""Each judge of music on sounds and numbers whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tf_checkpoint_file import write_checkpoint

from codec.errors import SoundloomError
from pipelines.music_corpus.instruments import FAMILIES
from pipelines.music_judge.distance import kernel_distance
from pipelines.music_judge.families import fit_families
from pipelines.music_judge.faults import find_faults
from pipelines.music_judge.keys import KRUMHANSL, Key, find_key, key_score
from pipelines.music_judge.notes import FRAME_RATE, LOWEST, FoundNote, Transcription, onset_f1
from pipelines.music_judge.tempo import find_tempo, related_tempo, same_tempo
from pipelines.music_judge.tf_checkpoint import read_checkpoint

RATE = 24_000


@pytest.mark.parametrize("tonic", [0, 5, 11])
@pytest.mark.parametrize("third", ["major", "minor"])
def test_a_key_is_found_by_its_scale(tonic: int, third: str) -> None:
    scale = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}[third]
    classes = np.array([1.0 if (i - tonic) % 12 in scale else 0.0 for i in range(12)])
    classes[tonic] += 1
    classes[(tonic + 7) % 12] += 0.5
    assert find_key(classes) == Key(tonic, third)
    assert find_key(np.roll(KRUMHANSL[third], tonic)) == Key(tonic, third)


def test_keys_are_weighted_as_mirex_does() -> None:
    c = Key(0, "major")
    found = [(0, "major"), (7, "major"), (9, "minor"), (0, "minor"), (5, "major")]
    assert [key_score(Key(*key), c) for key in found] == [1.0, 0.5, 0.3, 0.2, 0.0]
    assert key_score(Key(3, "major"), Key(0, "minor")) == 0.3
    assert find_key(np.full(12, 1 / 12)) == c


def test_notes_are_cut_from_probabilities() -> None:
    frames, onsets = np.zeros((200, 88), np.float32), np.zeros((200, 88), np.float32)
    frames[20:60, 60 - LOWEST] = frames[80:120, 60 - LOWEST] = frames[30:33, 64 - LOWEST] = 0.9
    onsets[20, 60 - LOWEST] = onsets[80, 60 - LOWEST] = onsets[30, 64 - LOWEST] = 0.8
    found = Transcription(frames, onsets)
    expected = [FoundNote(20 / FRAME_RATE, 60 / FRAME_RATE, 60), FoundNote(80 / FRAME_RATE, 120 / FRAME_RATE, 60)]
    assert found.notes() == expected  # the third is shorter than five frames
    assert found.pitch_classes()[0] == pytest.approx(80 / 83)
    assert find_key(Transcription(frames[:5], onsets[:5]).pitch_classes()) == Key(0, "major")


def test_onsets_match_once_within_50_ms() -> None:
    true = [FoundNote(0, 1, 60), FoundNote(1, 2, 62)]
    assert onset_f1(true, true) == 1
    assert onset_f1([FoundNote(0.04, 1, 60), FoundNote(0.02, 1, 60)], true) == 0.5
    assert onset_f1([FoundNote(0.06, 1, 60)], true) == 0 == onset_f1([], true)


def test_tempo_of_clicks() -> None:
    pytest.importorskip("librosa")
    wave = torch.zeros(10 * RATE)
    for i in range(20):  # every half second
        wave[i * RATE // 2 : i * RATE // 2 + 400] = torch.hann_window(400) * torch.sin(torch.arange(400) * 0.5)
    assert same_tempo(find_tempo(wave, RATE), 120)
    assert find_tempo(torch.zeros(10 * RATE), RATE) == 0
    assert same_tempo(107, 100) and not same_tempo(109, 100) and not same_tempo(0, 100)
    assert related_tempo(201, 100) and related_tempo(52, 100) and not related_tempo(150, 100)


def test_distance_grows_with_the_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, same = (torch.randn(200, 8, generator=generator) for _ in range(2))
    none, near, far = (kernel_distance(same + shift, reference) for shift in (0, 0.5, 2))
    assert abs(none) < near / 2 < far / 4


def test_families_are_learned_from_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[FAMILIES[i % 3], FAMILIES[5]] if i % 2 else [FAMILIES[i % 3]] for i in range(120)]
    y = torch.tensor([[float(family in row) for family in FAMILIES] for row in rows])
    x = y @ torch.randn(len(FAMILIES), 30, generator=generator) + 0.1 * torch.randn(120, 30, generator=generator)
    judge = fit_families(x[:90], rows[:90])
    hits = [set(judge.likeliest(x[i], len(rows[i]))) == set(rows[i]) for i in range(90, 120)]
    assert sum(hits) >= 28
    with pytest.raises(SoundloomError, match="at least 20"):
        fit_families(x[:5], rows[:5])


def test_faults() -> None:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(8 * RATE) / RATE
    music = sum(torch.sin(2 * math.pi * f * time) * (torch.sin(3 * f * time) > 0) for f in (220, 277, 331)) / 5
    noise = torch.randn(8 * RATE, generator=generator) * 0.1
    fine = find_faults(music + noise, RATE)
    assert (fine.silent, fine.clipped, fine.is_loop) == (0, False, False)
    assert find_faults(torch.zeros(8 * RATE), RATE).is_silent
    assert find_faults(torch.cat((music[: 3 * RATE], torch.zeros(5 * RATE))), RATE).is_silent
    assert find_faults((3 * music).clamp(-1, 1), RATE).clipped
    assert not find_faults(music / music.abs().max(), RATE).clipped
    half = (torch.randn(RATE // 2, generator=generator) * 0.2) * torch.hann_window(RATE // 2)
    assert find_faults(half.repeat(16), RATE).is_loop
    assert not find_faults(0.5 * torch.sin(440 * time), RATE).is_loop  # a note that is held
    assert find_faults(music[: RATE // 50], RATE).loop == 0


def test_a_checkpoint_is_read_without_tensorflow(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"conv2d/bias": (3,), "conv2d/kernel": (7, 2, 1, 3), "conv2d_1/bias": (4,), "step": (), "wide": (300,)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write_checkpoint(f"{tmp_path}/", tensors)
    found = read_checkpoint(f"{tmp_path}/")
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    index = (tmp_path / ".index").read_bytes()
    for broken in (b"", index[:-1] + b"x", index[:20] + index[-48:]):
        (tmp_path / ".index").write_bytes(broken)
        with pytest.raises(SoundloomError, match="no TensorFlow checkpoint"):
            read_checkpoint(f"{tmp_path}/")
    with pytest.raises(SoundloomError, match="no TensorFlow checkpoint"):
        read_checkpoint(f"{tmp_path}/none")
