"""A frozen language model whose guided distribution another one learns (classifier-free guidance, distilled).

Guidance takes two passes a step, with the text and without. A student that learns their mix needs one (Meng et al.
2023, "On distillation of guided diffusion models", for diffusion).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from codec.errors import SoundloomError
from lm.data.dataset import Batch
from lm.generation.grid_writer import guided
from lm.loss import Target
from lm.step_lm import StepLM
from lm.text.tokenizer import TextTokenizer
from pipelines.training.lm_run import Data
from pipelines.training.lm_settings import DistillSettings, TrainLMSettings, fit_to_store, open_start


class Teacher:
    """Scores batches as generation does: with text and without, mixed by guidance.

    ``hidden_texts``: share of training rows that lose their text before teacher and student read them. The student
    then still knows what audio is like without text.
    """

    def __init__(self, model: StepLM, settings: DistillSettings, hidden_texts: float = 0.0) -> None:
        self.model = model.eval().requires_grad_(False)
        self.settings = settings
        self.hidden_texts = hidden_texts

    def hide_texts(self, batch: Batch) -> Batch:
        """Return the batch with some rows' text hidden, sampled by the global generator."""
        if self.hidden_texts == 0:
            return batch
        hidden = torch.rand(len(batch.ids)) < self.hidden_texts
        return replace(batch, text_lengths=batch.text_lengths.masked_fill(hidden, 0))

    @torch.no_grad()
    def target(self, batch: Batch) -> Target:
        """Return what the teacher would sample from after each frame of the batch; call it under autocast."""
        settings = self.settings
        scores = self._scores(batch).float()
        if settings.guidance != 1.0:
            n = settings.guided_levels or scores.shape[1]
            without = self._scores(batch, without_text=True)[:, :n]
            scores[:, :n] = guided(torch.cat([scores[:, :n], without]), settings.guidance)
        return Target(scores, settings.share, settings.temperature)

    def _scores(self, batch: Batch, without_text: bool = False) -> Tensor:
        """Return logits [B, levels, T + 1, outputs]. A hidden text is one unit long, however long the text is."""
        text_ids, text_lengths = batch.text_ids, batch.text_lengths
        if without_text:
            text_ids, text_lengths = text_ids[:, :0], torch.zeros_like(text_lengths)
        where = {"span": batch.span, "prompt_frames": batch.prompt_frames}
        output = self.model(text_ids, text_lengths, batch.codes, batch.lengths, **where, without_text=without_text)
        return output.logits


def open_teacher(settings: TrainLMSettings, data: Data, device: torch.device) -> Teacher | None:
    """Return the teacher that the settings ask for, ready on ``device``; None without one.

    Raises:
        SoundloomError: it is missing, or does not fit the store, the kind of model or the student's tokenizer.
    """
    distill = settings.distill
    if distill.share == 0:
        return None
    name = distill.teacher or settings.model.start_from
    as_start = replace(settings, model=replace(settings.model, start_from=name))
    found = open_start(as_start)
    if found is None:
        raise SoundloomError("distill.share: needs distill.teacher or model.start_from, a language model of ours")
    if not isinstance(found.model, StepLM):
        raise SoundloomError("distill.share: a fine model cannot be distilled; model.kind must be delay or coarse")
    fit_to_store(found, data.reader, as_start)
    if _pieces(found.tokenizer) != _pieces(data.tokenizer):
        raise SoundloomError(f"distill.teacher: {name} reads other text ids than the student; start from it")
    return Teacher(found.model.to(device), distill, settings.model.cfg_drop)


def _pieces(tokenizer: TextTokenizer) -> list[str]:
    return [tokenizer.piece(unit) for unit in range(tokenizer.vocab_size)]
