"""Mimi as a stream: codes and samples of the whole, whatever the chunks."""

import pytest
import torch
from published_codecs import MIMI, noise, write

from codec.mimi import MimiAdapter
from codec.pretrained import load_codec


@pytest.fixture(scope="module")
def mimi(tmp_path_factory: pytest.TempPathFactory) -> MimiAdapter:
    folder = tmp_path_factory.mktemp("mimi")
    write(folder, "Mimi", MIMI)  # its attention reaches back 5 steps
    codec = load_codec(folder)
    assert isinstance(codec, MimiAdapter)
    return codec


@pytest.mark.parametrize("samples", [48 * 40, 48 * 40 + 1, 48 * 39 + 25, 7])
@pytest.mark.parametrize("size", [5, 48, 100, 700, 5000])
def test_chunks_give_the_codes_of_the_whole(mimi: MimiAdapter, samples: int, size: int) -> None:
    wave = noise(2, 1, samples)
    codes = mimi.encode(wave)
    state = mimi.init_state(2)
    pieces = [mimi.encode_chunk(chunk, state) for chunk in wave.split(size, -1)]
    pieces.append(mimi.encode_chunk(wave[..., :0], state, last=True))
    assert torch.equal(torch.cat(pieces, -1), codes)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("levels", [1, 4])
def test_chunks_give_the_samples_of_the_whole(mimi: MimiAdapter, size: int, levels: int) -> None:
    codes = mimi.encode(noise(2, 1, 48 * 40))[:, :levels]
    state = mimi.init_state(2)
    played = [mimi.decode_chunk(chunk, state) for chunk in codes.split(size, -1)]
    assert all(
        part.shape[-1] == chunk.shape[-1] * 48 for part, chunk in zip(played, codes.split(size, -1), strict=True)
    )
    played.append(mimi.decode_chunk(codes[..., :0], state, last=True))
    torch.testing.assert_close(torch.cat(played, -1), mimi.decode(codes), rtol=0, atol=1e-5)


def test_streams_do_not_meet(mimi: MimiAdapter) -> None:
    waves = [noise(1, 1, 48 * 20, seed=seed) for seed in (1, 2)]
    states = [mimi.init_state(), mimi.init_state()]
    for place in range(0, 48 * 20, 96):
        codes = [
            mimi.encode_chunk(wave[..., place : place + 96], state) for wave, state in zip(waves, states, strict=True)
        ]
    assert all(torch.equal(c, mimi.encode(wave)[..., -2:]) for c, wave in zip(codes, waves, strict=True))
