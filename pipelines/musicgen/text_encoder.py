"""The text side of MusicGen: T5 with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec.common.hub import CONFIG_FILE, Weights
from codec.errors import SoundloomError
from codec.transformers_codecs import import_transformers, quiet, refuse_kernels
from lm.musicgen.checkpoint import read_config

LONGEST_TEXT = 512  # pieces; what T5 was trained with
_TOKENIZERS = ("tokenizer.json", "spiece.model")


class TextEncoder:
    """A checkpoint's T5 with its tokenizer, both run by transformers."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode texts to states float32 [B, L, text_dim] and their lengths long [B]."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt", padding_side="right")
        device = next(self.network.parameters()).device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        if ids.shape[1] > LONGEST_TEXT:
            raise SoundloomError(f"the text has {ids.shape[1]} pieces, more than {LONGEST_TEXT}; describe it shorter")
        vocabulary = int(self.network.config.vocab_size)
        if int(ids.max()) >= vocabulary:
            raise SoundloomError(f"the tokenizer gave id {int(ids.max())}, the text encoder knows {vocabulary}")
        return self.network(input_ids=ids, attention_mask=mask).last_hidden_state, mask.sum(dim=1)

    @classmethod
    def open(cls, folder: Path) -> TextEncoder:
        """Open the part text_encoder of a MusicGen folder. Raises: `SoundloomError` for no T5, or a missing weight."""
        values = read_config(folder)["text_encoder"]
        refuse_kernels(values, folder)
        if values.get("model_type") != "t5":
            raise SoundloomError(f"{folder / CONFIG_FILE}: text_encoder is a {values.get('model_type')!r}, expected t5")
        if not any((folder / name).is_file() for name in _TOKENIZERS):  # transformers would make up an empty one
            raise SoundloomError(f"{folder}: holds no tokenizer; expected {' or '.join(_TOKENIZERS)}")
        weights = Weights(folder)
        try:
            transformers = import_transformers()
            config = transformers.T5Config(**{k: v for k, v in values.items() if k != "model_type"})
            if config.num_layers > len(weights):
                raise SoundloomError(f"config.json has {config.num_layers} layers, for {len(weights)} tensors")
            with torch.device("meta"):
                network = transformers.T5EncoderModel(config)
            shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
            prefix = "text_encoder."
            # One table has two names; a file may hold either.
            table = next((n for n in ("shared.weight", "encoder.embed_tokens.weight") if prefix + n in weights), None)
            same = dict.fromkeys(("shared.weight", "encoder.embed_tokens.weight"), table or "shared.weight")
            names = {name: prefix + same.get(name, name) for name in shapes}
            tensors = {source: weights.tensor(source, shapes[name]) for name, source in names.items()}
            network.load_state_dict({name: tensors[source] for name, source in names.items()}, assign=True)
            with quiet(transformers):
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )  # None may ask on standard input whether to run a folder's code
        except SoundloomError:
            raise
        except Exception as error:
            raise SoundloomError(f"{folder}: its text encoder cannot be opened: {error}") from None
        return cls(network.eval(), tokenizer)
