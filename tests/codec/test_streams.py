"""Streams as a state machine: any order of chunks, in both directions and several streams at once, gives the whole."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from published_codecs import our_codec
from torch import Tensor

from codec import SoundloomError
from codec.model import Codec


class Streams(RuleBasedStateMachine):
    """Two streams of one codec, each fed from a recording of its own; what came out is compared with the whole."""

    codec: Codec

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.waves = [0.1 * torch.randn(rows, 1, 48 * 30 + 7, generator=generator) for rows in (1, 2)]
        self.codes = [self.codec.encode(wave) for wave in self.waves]
        self.states = [self.codec.init_state(len(wave)) for wave in self.waves]
        self.fed, self.played = [0, 0], [0, 0]  # samples and frames that went in
        self.encoded: list[list[Tensor]] = [[], []]
        self.decoded: list[list[Tensor]] = [[], []]

    @rule(i=st.integers(0, 1), size=st.integers(0, 400), last=st.booleans())
    def encode(self, i: int, size: int, last: bool) -> None:
        if "encoding" in self.states[i].ended:
            with pytest.raises(SoundloomError, match="has ended"):
                self.codec.encode_chunk(self.waves[i][..., :size], self.states[i])
            return
        chunk = self.waves[i][..., self.fed[i] : self.fed[i] + size]
        self.fed[i] += chunk.shape[-1]
        self.encoded[i].append(self.codec.encode_chunk(chunk, self.states[i], last))
        got = torch.cat(self.encoded[i], -1)
        whole = self.codes[i] if not last else self.codec.encode(self.waves[i][..., : self.fed[i]])
        assert torch.equal(got, whole[..., : got.shape[-1]])
        assert got.shape[-1] == (-(-self.fed[i] // 48) if last else self.fed[i] // 48)

    @rule(i=st.integers(0, 1), size=st.integers(0, 8), last=st.booleans())
    def decode(self, i: int, size: int, last: bool) -> None:
        if "decoding" in self.states[i].ended:
            with pytest.raises(SoundloomError, match="has ended"):
                self.codec.decode_chunk(self.codes[i][..., :size], self.states[i])
            return
        chunk = self.codes[i][..., self.played[i] : self.played[i] + size]
        self.played[i] += chunk.shape[-1]
        self.decoded[i].append(self.codec.decode_chunk(chunk, self.states[i], last))
        got = torch.cat(self.decoded[i], -1)
        if last:
            assert got.shape[-1] == self.played[i] * 48
        whole = self.codec.decode(self.codes[i][..., : self.played[i]])
        torch.testing.assert_close(got, whole[..., : got.shape[-1]], rtol=1e-4, atol=1e-5)

    @rule(i=st.integers(0, 1))
    def another_batch(self, i: int) -> None:
        with pytest.raises(SoundloomError, match="in a stream of"):
            self.codec.encode_chunk(self.waves[1 - i], self.states[i])

    @precondition(lambda self: all(len(state.ended) == 2 for state in self.states))
    @rule(i=st.integers(0, 1))
    def again(self, i: int) -> None:
        self.states[i] = self.codec.init_state(len(self.waves[i]))
        self.fed[i] = self.played[i] = 0
        self.encoded[i], self.decoded[i] = [], []


class SpectralStreams(Streams):
    codec = our_codec("spectral")


class SEANetStreams(Streams):
    codec = our_codec("seanet")


LIMITS = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestSpectralStreams = SpectralStreams.TestCase
TestSpectralStreams.settings = LIMITS
TestSEANetStreams = SEANetStreams.TestCase
TestSEANetStreams.settings = LIMITS
