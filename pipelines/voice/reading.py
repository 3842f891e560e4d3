"""Was a text read once, from its start to its end? Seen in where the model looks while it writes.

A voice may say a short utterance twice, or continue after its end. Its attention then moves back over the text, or
rests behind the last sound of the text, while there is sound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lm.checkpoint import LoadedLM
from lm.step_lm import StepLM
from pipelines.voice.alignment import clearest_map
from pipelines.voice.word_times import spoken_words

SHORT_UNITS = 24  # text units of two or three words: what is checked by default
# Seconds. At the start a model looks anywhere; sound after a jump back, and behind the text, up to which all is well:
# of 300 takes of one and two words, the good ones had at most 0.04 and 0.1.
_LEAD, _MOST_AGAIN, _MOST_BEHIND = 0.3, 0.1, 0.16
_QUIET = 10 ** (-35 / 20)  # of the loudest frame
_LARGEST_STEP = 4  # text units that may pass within one frame
_FLOOR = 1e-4  # of an attention weight, so that no path is impossible
_JUMP = 8.0  # nats that a jump must gain over the best path without it
_LEAST_JUMP = 2  # units; a smaller one back says nothing again
_LEAST_SHARE = 0.1  # of a frame's attention that a word gets at its best, if it is read
_CLEAR = 0.5  # mean of the largest weights of frames with sound, up to which attention shows nothing


def reads_well(lm: LoadedLM, text: str, text_ids: Sequence[int], codes: Tensor, wave: Tensor) -> bool:
    """Return whether a sentence says its text once: nothing twice, nothing behind it, and no word left out.

    codes long [K, T]; wave [C, T * hop_length]. True where the model gives no attention maps.
    """
    seen = _attention(lm, text_ids, codes, wave)
    if seen is None:
        return True
    pieces = [lm.tokenizer.piece(one) for one in text_ids]
    words = [units for _, units in spoken_words(text, pieces, lm.tokenizer.language)]
    return follows(*seen, words, lm.model.config.frame_rate)


def clarity(lm: LoadedLM, text_ids: Sequence[int], codes: Tensor, wave: Tensor) -> float:
    """Return how surely a sentence follows its text: the mean log of the attention along its path, 0 at best.

    codes long [K, T]; wave [C, T * hop_length]. 0 where the model gives no attention maps.
    """
    seen = _attention(lm, text_ids, codes, wave)
    if seen is None:
        return 0.0
    weights, _ = seen
    path = path_with_jumps(weights, round(_LEAD * lm.model.config.frame_rate))
    return float(weights[torch.arange(len(path)), path].clamp(min=_FLOOR).log().mean())


def _attention(lm: LoadedLM, text_ids: Sequence[int], codes: Tensor, wave: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the clearest attention map [T, L] and the frames with sound, bool [T]; None where there are no maps."""
    if not isinstance(lm.model, StepLM) or not text_ids or codes.shape[1] < 2:
        return None
    maps = lm.model.attention_maps(torch.tensor(text_ids, device=codes.device), codes).flatten(0, 1)
    sound = frames_with_sound(wave.cpu(), codes.shape[1])
    return clearest_map(maps[:, :, : len(text_ids)].cpu(), sound), sound


def follows(weights: Tensor, sound: Tensor, words: Sequence[tuple[int, int]], frame_rate: float) -> bool:
    """Return whether attention [T, L] passes once over ``words``, given by their first and last text units.

    sound bool [T]: frames with sound. True where the attention is too blurred to show anything.
    """
    if not bool(sound.any()) or float(weights[sound].amax(1).mean()) <= _CLEAR:
        return True
    path = path_with_jumps(weights, round(_LEAD * frame_rate))
    back = (path.diff() <= -_LEAST_JUMP).nonzero().flatten()
    again = int(sound[int(back[0]) + 1 :].sum()) if len(back) else 0
    behind = int((sound & (path > words[-1][1])).sum()) if words else 0
    if again > _MOST_AGAIN * frame_rate or behind > _MOST_BEHIND * frame_rate:
        return False
    return all(float(weights[:, first : last + 1].sum(1).max()) >= _LEAST_SHARE for first, last in words)


def frames_with_sound(wave: Tensor, frames: int) -> Tensor:
    """Return which frames of wave [C, N] are not quiet: bool [frames]."""
    size = wave.shape[-1] // frames
    loudness = wave.mean(0)[: frames * size].reshape(frames, size).square().mean(1).sqrt()
    return loudness > loudness.max() * _QUIET


def path_with_jumps(weights: Tensor, lead: int) -> Tensor:
    """Return the text unit of each frame that fits attention [T, L] best, where a jump costs `_JUMP` nats: long [T].

    A jump is a move back, or on by more than `_LARGEST_STEP` units. The first ``lead`` frames are no evidence.
    Viterbi's algorithm.
    """
    scores = np.log(np.maximum(weights.float().numpy(), _FLOOR))
    scores[:lead] = 0
    T, L = scores.shape
    units, best = np.arange(L), np.where(np.arange(L) == 0, scores[0], -np.inf)
    moves = np.zeros((T, L), dtype=np.int64)
    reach = min(_LARGEST_STEP, L - 1) + 1
    for t in range(1, T):
        ways = np.full((reach + 1, L), -np.inf)
        for n in range(reach):
            ways[n, n:] = best[: L - n]
        top = int(best.argmax())
        ways[reach] = best[top] - _JUMP
        way = ways.argmax(0)
        moves[t] = np.where(way == reach, top, units - way)
        best = ways.max(0) + scores[t]
    path = np.empty(T, dtype=np.int64)
    path[-1] = best.argmax()
    for t in range(T - 1, 0, -1):
        path[t - 1] = moves[t, path[t]]
    return torch.from_numpy(path)
