"""Models that write audio step by step: sum of embeddings in, one head a level out.

`DelayLM` writes all levels with a delay pattern, `CoarseLM` writes level 0 alone; both are `StepLM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.common.devices import to_device
from codec.common.packed import pack_linear, weights_version
from codec.errors import SoundloomError
from lm.config import LMConfig
from lm.cpu_linear import PackedTransformer
from lm.delay import Pattern
from lm.fixed_step import FixedStep, FixedSteps, Loan
from lm.generation.generate import generate_codes
from lm.generation.request import Request
from lm.loss import LMOutput
from lm.prefix import PromptSpan, TextPrefix, causal_mask, positions
from lm.transformer import KVCache, Transformer, additive_mask


class Writer:
    """A snapshot of the weights that a step of generation needs, laid out for it."""

    def __init__(self, model: StepLM) -> None:
        self.embed = model.embed
        self.steps = FixedSteps(lambda rows, room: FixedStep(self, rows, room))
        self.version = model.written_version()
        self.transformer = PackedTransformer(model.transformer)
        self.heads = pack_linear(model.heads)
        self.offsets = torch.arange(model.levels, device=model.heads.device) * model.config.num_inputs


@dataclass
class StepState:
    """The state of a generation.

    The run's packed weights, rotary tables [L + max_steps, 1, head_dim] (one a row of the batch after a prompt) and
    mask of keys [B, 1, 1, L + max_steps] (added to the scores; None if all text is shown), all made once; the cache;
    the number of audio steps taken; and the step of fixed shapes, where one is used.
    """

    writer: Writer
    tables: tuple[Tensor, Tensor]
    mask: Tensor | None
    cache: KVCache
    text_length: int
    step: int = 0
    fixed: Loan | None = None


class StepLM(nn.Module):
    """Autoregressive model over audio steps after a text prefix; its levels are delayed by ``pattern``."""

    def __init__(self, config: LMConfig, pattern: Pattern) -> None:
        super().__init__()
        if not config.transformer.causal:
            raise SoundloomError("transformer.causal is false; a model that writes step by step looks back only")
        self.config = config
        self.pattern = pattern
        self.levels = levels = pattern.levels
        dim = config.transformer.dim
        self.prefix = TextPrefix(config)
        # One table for all levels: level k owns rows k * num_inputs …, so that one lookup sums the levels.
        self.code_embedding = nn.Parameter(torch.randn(levels * config.num_inputs, dim) * (0.3 * levels**-0.5))
        self.hidden_audio = nn.Parameter(torch.zeros(dim))
        self.transformer = Transformer(config.transformer)
        self.heads = nn.Parameter(torch.randn(levels * config.num_outputs, dim) * (0.64 * dim**-0.5))
        self._writer: Writer | None = None  # made by `start`
        #: whether steps have fixed shapes, as a CUDA graph needs them (`lm.fixed_step`); None: on CUDA alone
        self.fixed_shapes: bool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writer": None}  # a snapshot is made again, never copied

    # --- training -------------------------------------------------------------------------------------------------

    def forward(
        self,
        text_ids: Tensor,
        text_lengths: Tensor,
        codes: Tensor,
        lengths: Tensor,
        generator: torch.Generator | None = None,
        span: PromptSpan | None = None,
        prompt_frames: Tensor | None = None,
        without_text: bool = False,
    ) -> LMOutput:
        """Score codes long [B, K, T] given text_ids long [B, L]: logits [B, levels, T + 1, outputs], aligned.

        ``span``: which part of each row is its prompt, or the first of two utterances. ``prompt_frames`` long [B]: how
        many of its frames are a prompt.
        Position t scores frame t; position ``length`` of level 0 scores END, other levels are not scored there.
        While training, the config's drops are sampled by ``generator``, or by the global one.
        ``without_text`` hides the text of every row, as guidance does (and the prompt, if the config says so).
        """
        B, _, T = codes.shape
        inputs = self.step_inputs(codes[:, : self.levels], lengths)
        steps = inputs.shape[2]
        drop = self._chosen(self.config.cfg_drop, (B,), generator, codes)
        if without_text:
            drop = torch.ones(B, dtype=torch.bool, device=codes.device)
        text, text_lengths = self.prefix(text_ids, text_lengths, drop)
        lost = self._lost_span(B, steps, prompt_frames, generator, codes)
        if self.config.guide_prompt and drop is not None and prompt_frames is not None:
            prompt = self.pattern.reads(prompt_frames, 0, steps) & drop[:, None]
            lost = prompt if lost is None else lost | prompt
        L = text.shape[1]
        x = torch.cat([text, self._embed_training(inputs, generator, lost)], dim=1)
        mask = causal_mask(text_lengths, L, steps)
        hidden = self.transformer(x, positions(self.config, L, steps, x.device, span), mask)[:, L:]
        aligned = self.pattern.aligned(hidden, T + 1)  # [levels, B, T + 1, D]
        heads = self.heads.view(self.levels, self.config.num_outputs, -1).transpose(1, 2)
        logits = torch.bmm(aligned.flatten(1, 2), heads).view(self.levels, B, T + 1, -1).transpose(0, 1)
        frames = torch.arange(T + 1, device=codes.device)
        last = lengths[:, None] - torch.arange(self.levels, device=codes.device).clamp(max=1)  # END on level 0 only
        return LMOutput(logits, frames <= last[:, :, None])

    def step_inputs(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Return the input ids of all steps: codes [B, levels, T] -> long [B, levels, T + lag + 1].

        START before the first frame of a level, END from frame ``length`` on.
        """
        ended = torch.arange(codes.shape[2], device=codes.device) >= lengths[:, None, None]
        codes = torch.where(ended, self.config.end_id, codes.long())
        return self.pattern.inputs(codes, self.config.start_id, self.config.end_id)

    def embed(self, inputs: Tensor, offsets: Tensor | None = None) -> Tensor:
        """Sum the levels' embeddings: ids [B, levels, S] -> [B, S, D]; ``offsets``: each level's first row."""
        B, K, S = inputs.shape
        if offsets is None:
            offsets = torch.arange(K, device=inputs.device) * self.config.num_inputs
        rows = (inputs.transpose(1, 2) + offsets).reshape(B * S, K)
        return F.embedding_bag(rows, self.code_embedding, mode="sum").view(B, S, -1) + self.prefix.audio_type

    def _hide(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Replace x [B, S, D] by the vector of hidden audio where ``hidden`` [B, S]."""
        if hidden is None:
            return x
        return torch.where(hidden[..., None], self.hidden_audio + self.prefix.audio_type, x)

    def _embed_training(self, inputs: Tensor, generator: torch.Generator | None, lost: Tensor | None = None) -> Tensor:
        B, K, S = inputs.shape
        noisy = self._chosen(self.config.code_noise, (B, K, S), generator, inputs)
        if noisy is not None:
            random = torch.randint(self.config.codebook_size, (B, K, S), generator=generator)
            random = to_device(random, inputs.device)
            inputs = torch.where(noisy & (inputs < self.config.codebook_size), random, inputs)
        x = self.embed(inputs)
        return self._hide(self._hide(x, self._chosen(self.config.audio_drop, (B, S), generator, inputs)), lost)

    def _lost_span(
        self, B: int, steps: int, prompt_frames: Tensor | None, generator: torch.Generator | None, like: Tensor
    ) -> Tensor | None:
        """Return the steps of a hidden piece of some rows, bool [B, steps]: anywhere, or from a prompt's end on."""
        chosen = self._chosen(self.config.span_drop, (B,), generator, like)
        if chosen is None:
            return None
        place, length = to_device(torch.rand(2, B, generator=generator), like.device)
        first = (place * steps).long()
        if prompt_frames is not None:
            first = torch.where(prompt_frames > 0, self.pattern.free_of(prompt_frames), first)
        last = first + ((0.2 + length) * self.config.frame_rate).long()
        index = torch.arange(steps, device=like.device)
        return (index >= first[:, None]) & (index < last[:, None]) & chosen[:, None]

    def _chosen(
        self, probability: float, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor
    ) -> Tensor | None:
        """Return a bool mask, True with this probability; None if nothing is dropped (evaluation, or probability 0)."""
        if not self.training or probability == 0.0:
            return None
        return to_device(torch.rand(shape, generator=generator) < probability, like.device)

    # --- generation -----------------------------------------------------------------------------------------------

    def start(
        self, text_ids: Tensor, text_lengths: Tensor, max_steps: int, span: PromptSpan | None = None
    ) -> StepState:
        """Read the text once; return the state that `advance` continues for at most ``max_steps`` audio steps."""
        if self._writer is None or self._writer.version != self.written_version():
            self._writer = Writer(self)
        writer = self._writer
        text, lengths = self.prefix(text_ids, text_lengths)
        B, L, _ = text.shape
        cache = self.transformer.init_cache(B, L + max_steps)
        cos, sin = writer.transformer.tables(positions(self.config, L, max_steps, text.device, span))
        mask = None
        if bool((lengths < L).any()):
            index = torch.arange(L + max_steps, device=text.device)
            shown = (index < lengths[:, None]) | (index >= L)
            mask = additive_mask(shown, text.dtype)[:, None, None]
        among_text = None if mask is None else additive_mask(causal_mask(lengths, L, 0), text.dtype)
        writer.transformer(text, cos[..., :L, :, :], sin[..., :L, :, :], among_text, cache)
        return StepState(writer, (cos, sin), mask, cache, L)

    def advance(self, state: StepState, inputs: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Take the next n steps with input ids [B, levels, n]: scores [B, levels, outputs] of the last of them.

        ``hidden`` bool [B, n]: steps whose inputs the model must not know.
        """
        B, n = inputs.shape[0], inputs.shape[2]
        first = state.text_length + state.step
        if state.fixed is not None and n == 1 and hidden is None:
            state.step += 1
            return state.fixed.step(inputs, first)
        end = first + n
        cos, sin = (table[..., first:end, :, :] for table in state.tables)
        mask = None if state.mask is None else state.mask[..., :end]
        if n > 1:
            later = torch.ones(n, end, dtype=torch.bool, device=inputs.device).triu(first + 1)
            causal = additive_mask(~later, cos.dtype)[None, None]
            mask = causal if mask is None else mask + causal
        x = self._hide(self.embed(inputs, state.writer.offsets), hidden)
        last = state.writer.transformer(x, cos, sin, mask, state.cache)[:, -1]
        state.step += n
        return state.writer.heads(last).view(B, self.levels, -1)

    def fix_shapes(self, state: StepState) -> None:
        """Let the steps that follow have fixed shapes, where `fixed_shapes` says so; their scores are valid for a step.

        A step of several inputs, as for a prompt, is taken as before.
        """
        wanted = state.cache.keys[0].device.type == "cuda" if self.fixed_shapes is None else self.fixed_shapes
        if wanted:
            rows, positions = len(state.cache.keys[0]), state.tables[0].shape[-3]
            state.fixed = state.writer.steps.lend(rows, positions)
            state.fixed.step.begin(state)

    def written_version(self) -> tuple[tuple[Any, ...], ...]:
        """Return what changes when the weights that generation copies do, or those that it reads are elsewhere."""
        places = self.code_embedding.data_ptr(), self.prefix.audio_type.data_ptr()
        return (*weights_version([self.heads, *self.transformer.parameters()]), places)

    @property
    def decoder(self) -> StepLM:
        """The model that `lm.generation.generate` takes steps with: this one."""
        return self

    def complete(
        self, codes: Tensor, lengths: Tensor, request: Request, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Return the codes as they are: nothing is left to write after the steps."""
        return codes

    def generate(self, text_ids: Tensor | Sequence[int], prompt_codes: Tensor | None = None, **options: Any) -> Tensor:
        """Write codes [B, levels, T]; see `lm.generation.generate.generate_codes` for the options."""
        return generate_codes(self, text_ids, prompt_codes, **options)

    @torch.no_grad()
    def attention_maps(self, text_ids: Tensor, codes: Tensor) -> Tensor:
        """Return where audio attends to the text, for pictures: text_ids [L], codes [K, T] -> [layers, heads, T, L].

        Row t is the step that writes frame t of level 0.
        """
        text_ids, codes = text_ids[None], codes[None, : self.levels]
        T = codes.shape[2]
        inputs = self.step_inputs(codes, torch.tensor([T], device=codes.device))
        text, lengths = self.prefix(text_ids, torch.tensor([text_ids.shape[1]], device=codes.device))
        L = text.shape[1]
        x = torch.cat([text, self.embed(inputs)], dim=1)
        mask = causal_mask(lengths, L, inputs.shape[2])
        maps = self.transformer.attention_maps(x, positions(self.config, L, inputs.shape[2], x.device), mask)
        return maps[:, :, L : L + T, :L]


class CoarseLM(StepLM):
    """Text to level 0, codes [B, 1, T], with END; `lm.fine_lm.FineLM` writes the other levels.

    The config's ``num_levels`` is the whole grid's, as in the store.
    """

    def __init__(self, config: LMConfig) -> None:
        super().__init__(config, Pattern([0]))


@dataclass(frozen=True)
class DelayLMConfig(LMConfig):
    """Settings of `DelayLM`. ``delays``: one a level, as `lm.delay.Pattern` takes them (default: 0, 1, 2 …)."""

    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delays and len(self.pattern.delays) != self.num_levels:
            raise SoundloomError(
                f"delays has {len(self.delays)} numbers; expected one for each of {self.num_levels} levels"
            )

    @property
    def pattern(self) -> Pattern:
        """The delays in use."""
        return Pattern(self.delays) if self.delays else Pattern.one_step_a_level(self.num_levels)


class DelayLM(StepLM):
    """Text to codes [B, K, T] in T + lag steps, each step one code a level."""

    config: DelayLMConfig

    def __init__(self, config: DelayLMConfig) -> None:
        super().__init__(config, config.pattern)

    def first_levels(self, count: int) -> DelayLM:
        """Return the same model writing its first ``count`` levels only: those levels' tables, and the transformer.

        Its inputs lack the levels above, so train it a little before use.

        Raises: SoundloomError unless ``count`` is 1 to the number of levels.
        """
        c = self.config
        if not 1 <= count <= c.num_levels:
            raise SoundloomError(f"{count} levels wanted; the model has levels 1 to {c.num_levels}")
        state = self.state_dict()
        state["code_embedding"] = state["code_embedding"][: count * c.num_inputs]
        state["heads"] = state["heads"][: count * c.num_outputs]
        with torch.device("meta"):
            cut = DelayLM(replace(c, num_levels=count, delays=c.delays[:count]))
        cut.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
        return cut
