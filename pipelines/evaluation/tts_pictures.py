"""Draw what a voice said over where its model looked in the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lm.step_lm import DelayLM
from pipelines.evaluation import plots
from pipelines.voice.alignment import clearest_map
from pipelines.voice.speech import Speech
from pipelines.voice.voice import Voice

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def alignment(voice: Voice, speech: Speech) -> Tensor | None:
    """Return where the first sentence's frames look in its text, [T, L] of the clearest head.

    None where the model gives no maps.
    """
    model = voice.lm.model.decoder
    if not isinstance(model, DelayLM) or speech.codes.shape[0] < model.levels:
        return None
    sentence = speech.sentences[0]
    ids = torch.tensor(voice.text_ids(sentence.text))
    return clearest_map(model.attention_maps(ids, sentence.codes).flatten(0, 1))  # of [layers * heads, T, L]


def speech_figure(voice: Voice, speech: Speech) -> Figure:
    """Draw a spectrogram over the alignment of the first sentence."""
    figure = plots.new_figure(8, 4.5)
    rows = figure.subplots(2, 1, height_ratios=[1, 1.4])
    plots.draw_harmonics(rows[0], speech.waveform.mean(0), speech.sample_rate, "")
    rows[0].set_ylabel("kHz")
    found = alignment(voice, speech)
    if found is None:
        plots.draw_codes(rows[1], speech.codes, voice.codec.codebook_size, voice.frame_rate)
        return figure
    seconds = found.shape[0] / voice.frame_rate
    extent = (0, seconds, 0, found.shape[1])
    rows[1].imshow(found.t().numpy(), origin="lower", aspect="auto", cmap="viridis", extent=extent)
    rows[1].set_xlabel("seconds")
    rows[1].set_ylabel("text unit")
    return figure
