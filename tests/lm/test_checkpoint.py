"""Model folders: a round trip, and refusal of everything that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_models import CODES, LEVELS, SHAPE, coarse_fine_lm, written
from safetensors.torch import load_file, save_file

from codec.common.files import sha256_file
from codec.errors import SoundloomError
from codec.store.reader import StoreFacts
from lm import load_lm, save_lm
from lm.checkpoint import KINDS
from lm.config import TransformerConfig, from_dict
from lm.disk_weights import packed, unpacked
from lm.fine_lm import CoarseFineLM
from lm.generation.request import GenerateConfig
from lm.step_lm import DelayLM, DelayLMConfig
from lm.text.tokenizer import TextTokenizer

FACTS = StoreFacts("f" * 64, 24000, 1, 320, 75.0, CODES, LEVELS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("text")
    return TextTokenizer.train(["hello world", "a small text, with some letters."] * 4, folder, lexicon=None)


def make(kind: str, tokenizer: TextTokenizer) -> torch.nn.Module:
    torch.manual_seed(0)
    facts = (tokenizer.vocab_size, LEVELS, CODES, 75.0, 2.5)
    if kind == "pair":
        return CoarseFineLM(*(KINDS[k][0](KINDS[k][1](*facts, transformer=SHAPE)) for k in ("coarse", "fine"))).eval()
    return KINDS[kind][0](KINDS[kind][1](*facts, transformer=SHAPE)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_lm(folder, make("delay", tokenizer), tokenizer, FACTS)
    return folder


def changed(saved: Path, folder: Path, **files: bytes | None) -> Path:
    """A copy of the saved folder with the named files replaced ("config_json") or removed (None)."""
    folder.mkdir(exist_ok=True)
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.unlink() if content is None else path.write_bytes(content)
    return folder


def test_an_older_folder_opens_as_before(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    del config["model"]["delays"]
    config["model"]["text_pad_id"] = 0
    text = json.loads((saved / "text.json").read_text())
    del text["language"]
    folder = changed(
        saved, tmp_path / "old", config_json=json.dumps(config).encode(), text_json=json.dumps(text).encode()
    )
    old, new = load_lm(folder), load_lm(saved)
    assert old.model.config == new.model.config and old.tokenizer.language is new.tokenizer.language
    assert torch.equal(old.generate([2, 3, 4], max_frames=9), new.generate([2, 3, 4], max_frames=9))


@pytest.mark.parametrize("kind", ["delay", "coarse", "fine", "pair"])
def test_round_trip(kind: str, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    model = make(kind, tokenizer)
    save_lm(tmp_path, model, tokenizer, FACTS)
    state = torch.get_rng_state()
    loaded = load_lm(tmp_path, SimpleNamespace(**{**vars(FACTS), "num_levels": 8}))
    assert torch.equal(torch.get_rng_state(), state)  # loading never moves the global generator
    assert type(loaded.model) is type(model) and loaded.codec_fingerprint == FACTS.fingerprint
    assert not loaded.model.training and loaded.model.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert all(p.requires_grad for p in loaded.model.parameters())
    ids = tokenizer.encode("hello")
    if kind in ("delay", "pair"):
        codes = loaded.generate(ids, seed=3, max_frames=20)
        config = GenerateConfig(max_frames=20)
        assert torch.equal(codes, written(model, torch.tensor([ids]), seeds=[3], config=config).codes)
    else:
        with pytest.raises(SoundloomError, match="alone"):
            loaded.generate(ids)


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.6), ("float16", 0.6), ("int8", 0.4)])
def test_smaller_on_disk(dtype: str, share: float, tokenizer: TextTokenizer, saved: Path, tmp_path: Path) -> None:
    save_lm(tmp_path, make("delay", tokenizer), tokenizer, FACTS, dtype)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path, saved)]
    assert sizes[0] < share * sizes[1]
    for mine, theirs in zip(load_lm(tmp_path).model.parameters(), load_lm(saved).model.parameters(), strict=True):
        assert mine.dtype == torch.float32 and torch.allclose(mine, theirs, atol=0.02)


def test_rows_of_int8_keep_their_largest_value() -> None:
    matrix = torch.tensor([[1e-3, -2e-3, 0.0], [0.5, 1.0, -0.25], [0.0, 0.0, 0.0]])
    back = unpacked(packed({"matrix": matrix, "norm": torch.ones(3) / 3}, "int8"))
    assert torch.equal(back["norm"], torch.ones(3) / 3)
    steps = matrix.abs().amax(1, keepdim=True) / 127
    assert bool(((back["matrix"] - matrix).abs() <= steps / 2 + 1e-9).all())
    with pytest.raises(SoundloomError, match="not finite"):
        packed({"matrix": matrix / 0}, "int8")


def test_int8_without_its_scales_is_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    save_lm(tmp_path, make("delay", tokenizer), tokenizer, FACTS, "int8")
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors = load_file(file)
    lost = next(name for name in sorted(tensors) if name.endswith(".scale"))
    record = json.loads(config.read_text())
    for wrong, said in (({}, "missing"), ({lost: torch.ones(2)}, "shape")):
        save_file({name: value for name, value in tensors.items() if name != lost} | wrong, file)
        config.write_text(json.dumps(record | {"weights_sha256": sha256_file(file)}))
        with pytest.raises(SoundloomError, match=said):
            load_lm(tmp_path)


def test_another_codec_is_refused(saved: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="fingerprint"):
        load_lm(saved, SimpleNamespace(**{**vars(FACTS), "fingerprint": "e" * 64}))
    with pytest.raises(SoundloomError, match="levels"):
        load_lm(saved, SimpleNamespace(**{**vars(FACTS), "num_levels": 2}))
    wrong = StoreFacts(**{**vars(FACTS), "codebook_size": 12})
    with pytest.raises(SoundloomError, match="codebook_size"):
        save_lm(tmp_path, make("delay", tokenizer), tokenizer, wrong)


def edit(saved: Path, *path: str, value: object) -> bytes:
    config = json.loads((saved / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(config).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "cfg_dorp"), 0.1, "did you mean 'cfg_drop'"),
        (("model", "transformer", "heads"), 4, "unknown field 'heads'"),
        (("model", "num_levels"), "3", "num_levels"),
        (("model", "transformer", "dim"), True, "dim"),
        (("model", "transformer", "dim"), 64, "shape"),
        (("model", "transformer", "dim"), 1 << 60, "config.json"),
        (("model", "transformer", "num_layers"), 10**12, "more than the weights"),
        (("model", "transformer", "num_layers"), 3, "missing"),
        (("model", "transformer", "num_layers"), 1, "unknown"),
        (("model", "text_vocab_size"), 10**13, "shape"),
        (("model",), [], "expected an object"),
        (("codec", "codebook_size"), 12, "codebook_size"),
        (("codec", "extra"), 12, "extra"),
        (("codec",), None, "codec"),
        (("kind",), "delai", "kind"),
        (("kind",), ["delay"], "kind"),
        (("more",), 1, "more"),
        (("format",), "v2", "format"),
        (("weights_sha256",), "0", "damaged"),
    ],
)
def test_configs_that_do_not_fit(
    saved: Path, tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    folder = changed(saved, tmp_path / "m", config_json=edit(saved, *path, value=value))
    with pytest.raises(SoundloomError, match=message):
        load_lm(folder)


def test_broken_weights(saved: Path, tmp_path: Path) -> None:
    weights = (saved / "model.safetensors").read_bytes()
    for content in (None, b"", weights[:-10], weights[:5000]):
        with pytest.raises(SoundloomError, match=r"model\.safetensors"):
            load_lm(changed(saved, tmp_path / "m", model_safetensors=content))
    import hashlib

    def with_weights(content: bytes) -> Path:
        digest = hashlib.sha256(content).hexdigest()
        config = edit(saved, "weights_sha256", value=digest)
        return changed(saved, tmp_path / "m", model_safetensors=content, config_json=config)

    for content in (b"\xff" * 100, b"", (1 << 62).to_bytes(8, "little") + b"{}", b"cos\nsystem\n(S'x'\ntR."):
        with pytest.raises(SoundloomError, match="safetensors"):
            load_lm(with_weights(content))
    tensors = load_file(saved / "model.safetensors")
    tensors["hidden_audio"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(SoundloomError, match="not finite"):
        load_lm(with_weights((tmp_path / "nan.safetensors").read_bytes()))


@settings(max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2000), st.binary(min_size=0, max_size=6), st.integers(0, 8))
def test_a_mutated_config_parses_or_raises_our_error(
    saved: Path, tmp_path: Path, at: int, new: bytes, cut: int
) -> None:
    content = (saved / "config.json").read_bytes()
    at %= len(content)
    folder = changed(saved, tmp_path / "m", config_json=content[:at] + new + content[at + cut :])
    try:
        load_lm(folder)
    except SoundloomError as error:
        assert str(folder) in str(error) or "codec" in str(error)


def test_names_that_are_no_folder() -> None:
    for name in ("no such folder", "/nowhere/at/all", "../no-such-place"):
        with pytest.raises(SoundloomError, match="no such folder"):
            load_lm(name)


def test_another_tokenizer_is_refused(saved: Path, tmp_path: Path) -> None:
    TextTokenizer.train(["quite other letters: xyz!"] * 5, tmp_path / "text", lexicon=None)
    files = {n.replace(".", "_"): (tmp_path / "text" / n).read_bytes() for n in ("text.model", "text.json")}
    with pytest.raises(SoundloomError, match="tokenizer"):
        load_lm(changed(saved, tmp_path / "m", **files))


def test_models_that_do_not_pair() -> None:
    pair = coarse_fine_lm()
    other = DelayLMConfig(21, LEVELS, CODES, 75.0, 2.5, transformer=SHAPE)
    with pytest.raises(SoundloomError, match="text_vocab_size"):
        CoarseFineLM(DelayLM(other), pair.fine)  # type: ignore[arg-type]


def test_from_dict_names_the_field() -> None:
    with pytest.raises(SoundloomError, match=r"x\.ffn_dim: '64' is not int"):
        from_dict(TransformerConfig, {"ffn_dim": "64"}, "x")
    with pytest.raises(SoundloomError, match="'text_vocab_size' of DelayLMConfig is missing"):
        from_dict(DelayLMConfig, {}, "x")
    assert from_dict(TransformerConfig, {"num_kv_heads": None, "rope_theta": 100}).rope_theta == 100.0
