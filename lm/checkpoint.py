"""A language model as a folder: config.json, model.safetensors and the tokenizer's files. Nothing in it can run code.

config.json::

    {"format": "soundloom-lm-1",
     "kind": "delay" | "coarse" | "fine" | "coarse+fine",
     "model": {... the config's fields; for the pair {"coarse": {...}, "fine": {...}}},
     "codec": {... codec.store.StoreFacts: what the model's codes mean ...},
     "weights_sha256": "...", "text_sha256": "..."}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from codec.common.checked import read_json
from codec.common.files import atomic_path, check_file, sha256_file, write_text
from codec.common.hub import resolve
from codec.common.meta import shapes_only
from codec.errors import SoundloomError, quoted
from codec.store.facts import StoreFacts
from lm.config import LMConfig, from_dict, to_dict
from lm.disk_weights import packed, scale_shapes, unpacked
from lm.fine_lm import CoarseFineLM, FineLM
from lm.step_lm import CoarseLM, DelayLM, DelayLMConfig
from lm.text.tokenizer import MODEL_FILE as TEXT_FILE
from lm.text.tokenizer import TextTokenizer

FORMAT = "soundloom-lm-1"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
LanguageModel = DelayLM | CoarseLM | FineLM | CoarseFineLM
KINDS: dict[str, tuple[type[Any], type[LMConfig]]] = {
    "delay": (DelayLM, DelayLMConfig),
    "coarse": (CoarseLM, LMConfig),
    "fine": (FineLM, LMConfig),
}
PAIR = "coarse+fine"
RETIRED = ("text_pad_id",)  # fields that older folders hold and nothing reads


@dataclass
class LoadedLM:
    """A model ready to write, its tokenizer, and the facts of the codec that its codes belong to."""

    model: LanguageModel
    tokenizer: TextTokenizer
    codec_facts: StoreFacts

    def generate(self, text_ids: Tensor | list[int], prompt_codes: Tensor | None = None, **options: Any) -> Tensor:
        """Write codes [B, K, T]; see `lm.generation.generate.generate_codes` for the options."""
        if isinstance(self.model, (CoarseLM, FineLM)):
            raise SoundloomError(f"a {kind_of(self.model)} model alone writes no whole grid; join it: CoarseFineLM(…)")
        return self.model.generate(text_ids, prompt_codes, **options)

    @property
    def codec_fingerprint(self) -> str:
        return self.codec_facts.fingerprint

    def require_codec(self, codec: Any) -> None:
        """Raise `SoundloomError` unless ``codec`` makes the codes that this model writes (its first levels do)."""
        self.codec_facts.require(StoreFacts.of(codec, self.codec_facts.num_levels), "this language model")


def kind_of(model: nn.Module) -> str:
    """Return the name of the model's kind, as in config.json."""
    if isinstance(model, CoarseFineLM):
        return PAIR
    for name, (cls, _) in KINDS.items():
        if type(model) is cls:
            return name
    raise SoundloomError(f"{type(model).__name__} is no language model of soundloom; it has {', '.join(KINDS)}, {PAIR}")


def save_lm(
    folder: str | Path, model: LanguageModel, tokenizer: TextTokenizer, facts: StoreFacts, dtype: str = "float32"
) -> None:
    """Write a model folder; ``facts`` come from the token store that the model was trained on.

    ``dtype`` is the weights' type on disk: float32, bfloat16, float16 or int8. config.json comes last and holds the
    weights' sha256, so that loading notices an interrupted write.
    """
    kind = kind_of(model)
    weights = packed(model.state_dict(), dtype)
    _check_facts(model.config, facts, str(folder))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary)
        digest = sha256_file(temporary)
    if isinstance(model, CoarseFineLM):
        settings = {"coarse": to_dict(model.coarse.config), "fine": to_dict(model.fine.config)}
    else:
        settings = to_dict(model.config)
    config = {"format": FORMAT, "kind": kind, "model": settings, "codec": asdict(facts)}
    config |= {"weights_sha256": digest, "text_sha256": sha256_file(folder / TEXT_FILE)}
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def load_lm(name: str | Path, codec: Any = None) -> LoadedLM:
    """Load a model folder, or a Hugging Face hub name such as "someone/voice", for generation (eval mode, float32).

    ``codec`` (anything with a codec's face): the codec that the model's codes must belong to.

    Raises: SoundloomError that names the file, for anything missing, damaged, unknown or not fitting.
    """
    folder = find_folder(name)
    path = folder / CONFIG_FILE
    config = _read_config(path)
    facts = StoreFacts.parse(config["codec"], str(path))
    if set(config["codec"]) != set(asdict(facts)):
        raise SoundloomError(f"{path}: codec has unknown fields {sorted(set(config['codec']) - set(asdict(facts)))}")
    model = _load_model(folder, config, path)
    _check_facts(model.config, facts, str(path))
    tokenizer = TextTokenizer.from_pretrained(folder)
    if sha256_file(folder / TEXT_FILE) != config["text_sha256"] or tokenizer.vocab_size != model.config.text_vocab_size:
        raise SoundloomError(f"{folder / TEXT_FILE}: not the tokenizer that the model was trained with")
    loaded = LoadedLM(model, tokenizer, facts)
    if codec is not None:
        loaded.require_codec(codec)
    return loaded


def find_folder(name: str | Path) -> Path:
    """Return the folder itself, or the local copy of a hub repository (only what a model folder holds is fetched)."""
    patterns = ["*.json", "*.safetensors", "text.*", "lexicon.*", "README.md"]
    return resolve(name, "language model", patterns, "someone/voice")


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    keys = {"format", "kind", "model", "codec", "weights_sha256", "text_sha256"}
    if config.get("format") != FORMAT:
        raise SoundloomError(f'{path}: expected the config of a language model, with "format": "{FORMAT}"')
    if set(config) != keys:
        wrong = quoted(", ".join(sorted(set(config) ^ keys)))
        raise SoundloomError(f"{path}: unknown or missing: {wrong}; it must hold {', '.join(sorted(keys))}")
    if not isinstance(config["kind"], str) or config["kind"] not in (*KINDS, PAIR):
        raise SoundloomError(f"{path}: kind {quoted(config['kind'])}; expected one of {', '.join(KINDS)}, {PAIR}")
    if not isinstance(config["codec"], dict):
        raise SoundloomError(f"{path}: codec is {quoted(config['codec'])}, expected an object")
    return config


def _load_model(folder: Path, config: dict[str, Any], path: Path) -> LanguageModel:
    """Check the model's shapes against the weights' file before reading a tensor."""
    file = folder / WEIGHTS_FILE
    check_file(file)
    try:
        digest = sha256_file(file)
        if digest != config["weights_sha256"]:
            raise SoundloomError(f"{file}: damaged, its sha256 is not the one in {CONFIG_FILE}")
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            with shapes_only():
                model = _build(config, str(path), len(names))
            expected = {name: list(t.shape) for name, t in model.state_dict().items()}
            shapes = {name: opened.get_slice(name).get_shape() for name in names}
            expected |= scale_shapes({name: opened.get_slice(name).get_dtype() for name in names}, expected)
            for name in sorted(set(expected) ^ set(shapes)):
                raise SoundloomError(f"{file}: tensor {name!r} is {'missing' if name in expected else 'unknown'}")
            for name, shape in expected.items():
                if shapes[name] != shape:
                    raise SoundloomError(f"{file}: {name} has shape {shapes[name]}, the config says {shape}")
            weights = unpacked({name: opened.get_tensor(name) for name in names})
    except (OSError, SafetensorError) as error:
        raise SoundloomError(f"{file}: not readable as safetensors ({error})") from error
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise SoundloomError(f"{file}: {name} holds values that are not finite")
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _build(config: dict[str, Any], where: str, num_tensors: int) -> LanguageModel:
    """Return a model of the config's shape; ``num_tensors`` of the file limits the number of layers."""

    def one(kind: str, values: Any, name: str) -> Any:
        cls, config_class = KINDS[kind]
        if isinstance(values, dict):
            values = {key: value for key, value in values.items() if key not in RETIRED}
        settings = from_dict(config_class, values, f"{where}: {name}")
        if settings.transformer.num_layers > num_tensors or settings.num_levels > 1024:
            raise SoundloomError(
                f"{where}: {settings.transformer.num_layers} layers, more than the weights' file holds"
            )
        return cls(settings)

    values = config["model"]
    try:
        if config["kind"] != PAIR:
            return one(config["kind"], values, "model")
        if not isinstance(values, dict) or set(values) != {"coarse", "fine"}:
            raise SoundloomError(f'{where}: model must hold "coarse" and "fine"')
        coarse, fine = (one(kind, values[kind], f"model.{kind}") for kind in ("coarse", "fine"))
        return CoarseFineLM(coarse, fine)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond what a tensor can have
        raise SoundloomError(f"{where}: impossible sizes ({error})") from error


def _check_facts(config: LMConfig, facts: StoreFacts, where: str) -> None:
    for name in ("num_levels", "codebook_size", "frame_rate"):
        ours, theirs = getattr(config, name), getattr(facts, name)
        if ours != theirs:
            raise SoundloomError(f"{where}: the model's {name} is {ours}, its codec's is {theirs}")
