"""Settings of a language model's training, and the model, tokenizer and data that they describe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from codec.common.checked import read_json
from codec.errors import SoundloomError, quoted
from codec.store.reader import StoreReader
from lm.checkpoint import CONFIG_FILE, FORMAT, KINDS, LoadedLM, kind_of, load_lm
from lm.config import TransformerConfig, check_number
from lm.data.dataset import GridDataset
from lm.fine_lm import CoarseFineLM, FineLM
from lm.llama import find_text_model, read_shape
from lm.step_lm import CoarseLM, DelayLM
from lm.text.tokenizer import TextTokenizer
from lm.transfer_codes import count_pairs, recode
from pipelines.training.run_settings import RunSettings

_MOST_WORKERS = 64  # each holds two batches ready
SHIPPED_LM = Path(__file__).parents[1] / "voice" / "shipped" / "heart" / "lm"


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and its shape; what follows from store and tokenizer is not set here.

    Args:
        kind: ``delay`` writes all levels at once; ``coarse`` level 0 alone; ``fine`` the levels above it.
        start_from: folder or hub name of a model to begin with, or ``shipped``. This one then has its shape (what is
            set here must agree). A language model of ours gives all its weights (those of the first levels, where fewer
            are trained), its tokenizer and its clock of the text. A Llama or Qwen3 text model gives its transformer;
            embeddings and heads begin anew.
        dim: width.
        num_layers: blocks.
        num_heads: attention heads.
        num_kv_heads: heads of keys and values, fewer for grouped-query attention; null = num_heads.
        ffn_dim: width inside a feed-forward block.
        rope_theta: base of the rotary positions.
        dropout: share of activations dropped while training.
        qk_norm: normalise queries and keys.
        cfg_drop: share of rows whose text is hidden while training.
        audio_drop: share of audio inputs hidden while training (delay and coarse).
        code_noise: share of input codes replaced by random ones while training.
        span_drop: share of rows with up to 1.2 s of audio inputs hidden in one piece while training.
        guide_prompt: rows whose text is hidden lose their prompt too, so that guidance strengthens its voice as well.
        delays: steps by which each level runs behind level 0 (delay; 0 for level 0); null = one step a level.
    """

    kind: Literal["delay", "coarse", "fine"] = "delay"
    start_from: str | None = None
    dim: int = 384
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int | None = None
    ffn_dim: int = 1024
    rope_theta: float = 10000.0
    dropout: float = 0.0
    qk_norm: bool = False
    cfg_drop: float = 0.1
    audio_drop: float = 0.0
    code_noise: float = 0.0
    span_drop: float = 0.0
    guide_prompt: bool = False
    delays: list[int] | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "num_kv_heads", "ffn_dim"):
            check_number(f"model.{name}", getattr(self, name), int, 1, 1_000_000, optional=name == "num_kv_heads")
        check_number("model.rope_theta", self.rope_theta, float, 1, 1e12)
        for name in ("dropout", "cfg_drop", "audio_drop", "code_noise", "span_drop"):
            check_number(f"model.{name}", getattr(self, name), float, 0, 0.999)


@dataclass(frozen=True)
class TextSettings:
    """How text becomes ids.

    Args:
        tokenizer: folder of a finished tokenizer; null = train one from the store's texts, kept in the run's folder.
        model_type: SentencePiece's kind.
        vocab_size: number of ids, for unigram and bpe; null = the kind's default.
        lexicon: a shipped lexicon's name or a file; null = letters only.
        spell_probability: share of known words spelled while training, so that unknown words can be read.
    """

    tokenizer: str | None = None
    model_type: Literal["char", "unigram", "bpe"] = "char"
    vocab_size: int | None = None
    lexicon: str | None = "en-us"
    spell_probability: float = 0.1

    def __post_init__(self) -> None:
        check_number("text.vocab_size", self.vocab_size, int, 1, 1_000_000, optional=True)


@dataclass(frozen=True)
class DistillSettings:
    """Learn the distribution that a teacher samples from under guidance, so that guidance 1 suffices afterwards.

    Args:
        share: weight of the divergence from the teacher in the loss; the codes' cross-entropy has the rest. 0 = no
            teacher.
        teacher: folder or hub name of a delay or coarse model, or ``shipped``; null = model.start_from.
        guidance: the teacher's guidance.
        guided_levels: the first n levels learn the guided distribution, those above the plain one; 0 = all are guided.
            Levels that a voice decodes from expected latents need plain probabilities.
        temperature: divides both models' scores; below 1 the likeliest codes count more.
    """

    share: float = 0.0
    teacher: str | None = None
    guidance: float = 2.0
    guided_levels: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_number("distill.share", self.share, float, 0, 1)
        check_number("distill.guidance", self.guidance, float, 0, 100)
        check_number("distill.guided_levels", self.guided_levels, int, 0, 1024)
        check_number("distill.temperature", self.temperature, float, 0, 100, above=True)


@dataclass(frozen=True, kw_only=True)
class TrainLMSettings(RunSettings):
    """A training of one language model on one token store.

    Args:
        store: token store to learn from.
        dev_store: token store for validation; null = none, and ``best`` is then the latest.
        start_grids: where the codec of ``model.start_from`` is not the store's: a token store of (some of) the same
            recordings by that codec, from which the meaning of each new code follows.
        model: which model.
        text: how text becomes ids.
        distill: a teacher whose guided distribution is learned.
        frames_per_batch: most frames plus text units, padding counted, in one forward pass of one process.
        gradient_accumulation: forward passes per step.
        max_frames: longest utterance used; 0 = any.
        join: pairs of utterances of one speaker that are added for each utterance, so that the model learns to continue
            after a prompt and to speak longer texts.
        speakers: speakers whose voices the model shall have of its own, without a prompt; null = all. Others only teach
            it to continue after their prompt (and are left out of validation).
        prompted: pairs of prompt and utterance for each utterance of the others.
        levels: train on the first n levels of the store; 0 = all.
        level_weights: one weight a level in the loss; null = all alike.
        z_loss: weight of the squared logarithm of the softmax's sum, which keeps scores from growing; 0 = none.
        activation_checkpointing: compute the blocks again in the backward pass, to save memory.
        compile: let torch fuse each block's small operations (needs a C++ compiler, half a minute at the start).
        validate_batches: most dev batches used; 0 = all.
        workers: threads that make batches ahead; 0 = none.
    """

    store: str
    dev_store: str | None = None
    start_grids: str | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    text: TextSettings = field(default_factory=TextSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)
    frames_per_batch: int = 6000
    gradient_accumulation: int = 1
    max_frames: int = 1500
    join: float = 0.0
    speakers: list[str] | None = None
    prompted: float = 2.0
    levels: int = 0
    level_weights: list[float] | None = None
    z_loss: float = 0.0
    activation_checkpointing: bool = False
    compile: bool = False
    validate_batches: int = 20
    log_every: int = 10
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(1, "frames_per_batch", "gradient_accumulation")
        self.require_at_least(0, "max_frames", "levels", "validate_batches", "workers")
        if self.workers > _MOST_WORKERS:
            raise SoundloomError(f"workers: must be at most {_MOST_WORKERS}, not {quoted(self.workers)}")
        if not 0 <= self.text.spell_probability <= 1:
            raise SoundloomError(f"text.spell_probability: must be 0 to 1, not {self.text.spell_probability}")
        check_number("z_loss", self.z_loss, float, 0, 1)
        for name in ("join", "prompted"):
            if not 0 <= getattr(self, name) <= 10:
                raise SoundloomError(f"{name}: must be 0 to 10 pairs an utterance, not {getattr(self, name)}")


#: settings that a resumed run takes from its start; another value there would be ignored, so it is refused
FIXED_AT_START = (
    "text.tokenizer",
    "text.model_type",
    "text.vocab_size",
    "text.lexicon",
    "model.kind",
    "model.delays",
    "model.start_from",
    "start_grids",
    "distill",
    "levels",
)


def open_store(path: str, levels: int) -> StoreReader:
    """Open a token store and show its first ``levels`` levels (0 = all)."""
    return StoreReader(path, levels or None)


def make_dataset(settings: TrainLMSettings, reader: StoreReader, tokenizer: TextTokenizer, train: bool) -> GridDataset:
    """Return the store's usable rows; only training spells words at random."""
    spell = settings.text.spell_probability if train and tokenizer.lexicon is not None else 0.0
    join, prompted = (settings.join, settings.prompted) if train else (0.0, 0.0)
    return GridDataset(
        reader,
        tokenizer,
        max_frames=settings.max_frames,
        spell_probability=spell,
        join=join,
        speakers=settings.speakers,
        prompted=prompted,
        seed=settings.seed,
    )


def place_of(name: str | None) -> str | None:
    """Return the folder that ``shipped`` stands for; any other name as it is."""
    return str(SHIPPED_LM) if name == "shipped" else name


def open_start(settings: TrainLMSettings) -> LoadedLM | None:
    """Return the language model of ours to start from, or None: there is none, or it is a text model.

    Of a coarse and a fine model in one folder, the one of the settings' kind is taken.

    Raises:
        SoundloomError: it is of another kind, or ``start_grids`` has nothing to translate.
    """
    kind, name = settings.model.kind, place_of(settings.model.start_from)
    ours = name is not None and read_json(find_text_model(name) / CONFIG_FILE).get("format") == FORMAT
    if name is None or not ours:
        if settings.start_grids is not None:
            raise SoundloomError("start_grids: needs model.start_from, a language model of ours")
        return None
    found = load_lm(name)
    if isinstance(found.model, CoarseFineLM) and kind in ("coarse", "fine"):
        found.model = getattr(found.model, kind)
    if kind_of(found.model) != kind:
        raise SoundloomError(f"model.kind is {kind}, {name} is {kind_of(found.model)}")
    return found


def fit_to_store(found: LoadedLM, reader: StoreReader, settings: TrainLMSettings) -> None:
    """Adapt a model to the store's codes: its first levels, and other codes by way of ``start_grids``.

    Raises:
        SoundloomError: it writes other levels, or another codec's codes and there is no ``start_grids``.
    """
    name = settings.model.start_from
    if isinstance(found.model, DelayLM) and found.model.config.num_levels > reader.num_levels:
        found.model = found.model.first_levels(reader.num_levels)
    for field_name in ("num_levels", "codebook_size", "frame_rate"):
        ours, theirs = getattr(found.model.config, field_name), getattr(reader, field_name)
        if ours != theirs:
            raise SoundloomError(f"{name}: its {field_name} is {ours}, that of {reader.path} is {theirs}")
    if found.codec_fingerprint == reader.codec_fingerprint:
        return
    if settings.start_grids is None:
        raise SoundloomError(
            f"{name}: writes the codes of another codec than {reader.path} holds; give start_grids, a token store of "
            "the same recordings by its codec"
        )
    old = open_store(settings.start_grids, reader.num_levels)
    if found.codec_fingerprint != old.codec_fingerprint:
        raise SoundloomError(f"start_grids: {old.path} is not by the codec of {name}")
    if isinstance(found.model, CoarseFineLM):
        raise SoundloomError(f"{name}: holds a coarse and a fine model; start_grids moves one of them")
    recode(found.model, count_pairs(old, reader))


def make_model(
    settings: ModelSettings,
    reader: StoreReader,
    tokenizer: TextTokenizer,
    pace: tuple[float, float],
    start: LoadedLM | None = None,
) -> DelayLM | CoarseLM | FineLM:
    """Build the model with fresh weights; levels, codebook size and rates come from the store."""
    model_class, config_class = KINDS[settings.kind]
    own: dict[str, Any] = {"delays": _delays(settings, reader.num_levels, start)} if settings.kind == "delay" else {}
    return model_class(
        config_class(
            text_vocab_size=tokenizer.vocab_size,
            num_levels=reader.num_levels,
            codebook_size=reader.codebook_size,
            frame_rate=reader.frame_rate,
            frames_per_text_unit=pace[0],
            frames_around_text=pace[1],
            cfg_drop=settings.cfg_drop,
            audio_drop=settings.audio_drop,
            code_noise=settings.code_noise,
            span_drop=settings.span_drop,
            guide_prompt=settings.guide_prompt,
            transformer=transformer_shape(settings, start),
            **own,
        )
    )


def _delays(settings: ModelSettings, levels: int, start: LoadedLM | None) -> tuple[int, ...]:
    """Return the delays: the settings', or those of the model to start from, with which they must agree."""
    given = tuple(settings.delays or ())
    if start is None or not isinstance(start.model, DelayLM):
        return given
    theirs = start.model.pattern.delays[:levels]
    if given not in ((), theirs):
        raise SoundloomError(f"model.delays: {settings.start_from} has {list(theirs)}; leave it out to take them")
    return start.model.config.delays[:levels]


def transformer_shape(settings: ModelSettings, start: LoadedLM | None = None) -> TransformerConfig:
    """Return the transformer's shape: the settings', or that of the model to start from, with which they must agree."""
    own: dict[str, Any] = {"dropout": settings.dropout, "causal": settings.kind != "fine"}
    names = ("dim", "num_layers", "num_heads", "num_kv_heads", "ffn_dim", "rope_theta", "qk_norm")
    if settings.start_from is None:
        return TransformerConfig(**own, **{name: getattr(settings, name) for name in names})
    found = read_shape(find_text_model(settings.start_from)) if start is None else start.model.config.transformer
    for name in names:
        # A value that nobody set cannot disagree.
        if getattr(settings, name) not in (getattr(ModelSettings(), name), getattr(found, name)):
            raise SoundloomError(
                f"model.{name} is {getattr(settings, name)}, {settings.start_from} has {getattr(found, name)}; "
                "leave it out to take that model's"
            )
    return replace(found, **own)
