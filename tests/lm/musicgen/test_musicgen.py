"""MusicGen checkpoints that transformers writes, opened by our network and held against transformers."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from musicgen_checkpoint import transformers, write_musicgen
from safetensors.torch import load_file, save_file

from codec.common.hub import INDEX_FILE, WEIGHTS_FILE
from codec.errors import SoundloomError
from lm.cpu_linear import linear
from lm.musicgen.checkpoint import load_decoder, save_musicgen
from lm.musicgen.generate import MusicGenSampling, generate
from lm.musicgen.network import MusicGenLM, MusicGenLMConfig
from pipelines.musicgen.model import MusicGen, load_musicgen

torch.set_num_threads(1)
TEXTS = ["a calm piano piece", "loud drums"]
GREEDY = {1.0: MusicGenSampling(temperature=0, guidance=1.0), 3.0: MusicGenSampling(temperature=0, guidance=3.0)}


@pytest.fixture(scope="module", params=["mono", "stereo", "same width"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, MusicGen]:
    """transformers' model and ours, from one folder."""
    folder = tmp_path_factory.mktemp("musicgen")
    changes = {"mono": {}, "stereo": {"num_codebooks": 8, "audio_channels": 2}, "same width": {"hidden_size": 16}}
    changes["same width"] |= {"num_attention_heads": 2, "activation_function": "relu"}
    model = write_musicgen(folder, **changes[request.param])
    state = torch.get_rng_state()
    load_decoder(folder)
    assert torch.equal(torch.get_rng_state(), state)  # loading never moves the global generator
    return model, load_musicgen(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mono")
    write_musicgen(folder)
    return folder


def tokens(music: MusicGen, texts: list[str]) -> Any:
    return transformers.AutoTokenizer.from_pretrained(music.folder)(texts, padding=True, return_tensors="pt")


def some_codes(music: MusicGen, batch: int, frames: int) -> torch.Tensor:
    c = music.decoder.config
    g = torch.Generator().manual_seed(3)
    return torch.randint(0, c.codebook_size, (batch, c.num_levels, frames), generator=g)


def heard_codes(model: Any, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' generate: the codes [B, K, T] that it decodes, and its waveform."""
    decoded: list[torch.Tensor] = []
    decode = model.audio_encoder.decode

    def keep(codes: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(codes[0])
        return decode(codes, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model.audio_encoder, "decode", keep)
        wave = model.generate(**inputs)
    codes = decoded[0] if len(decoded) == 1 else torch.stack(decoded, dim=2).flatten(1, 2)
    return codes, wave


@torch.no_grad()
def test_logits_equal(pair: tuple[Any, MusicGen]) -> None:
    model, music = pair
    inputs = tokens(music, TEXTS)
    codes = some_codes(music, 2, 9)
    c = music.decoder.config
    delayed = music.decoder.step_inputs(codes)[:, :, :-1]
    theirs = model(**inputs, decoder_input_ids=delayed.flatten(0, 1)).logits
    theirs = theirs.view(2, c.num_levels, -1, c.codebook_size)
    expected = torch.stack([theirs[:, k, k // c.channels :][:, :9] for k in range(c.num_levels)], dim=1)
    states, lengths = music.text.encode(TEXTS)
    assert lengths.tolist() == [5, 3]
    out = music.decoder(states, lengths, codes, torch.tensor([9, 9]))
    assert expected.std() > 0.1
    torch.testing.assert_close(out.logits, expected, rtol=0, atol=1e-4)
    assert bool(out.mask.all())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_greedy_generation_is_equal_code_for_code(
    pair: tuple[Any, MusicGen], guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, music = pair
    frames, lag = 20, music.decoder.config.lag
    for texts in (TEXTS[:1], TEXTS):
        inputs = tokens(music, texts)
        expected, wave = heard_codes(
            model, monkeypatch, **inputs, do_sample=False, guidance_scale=guidance, max_new_tokens=frames + lag
        )
        states, lengths = music.text.encode(texts)
        codes = generate(music.decoder, states, lengths, frames, seeds=range(len(texts)), settings=GREEDY[guidance])
        assert codes.shape == expected.shape and len(codes.unique()) > 8
        assert torch.equal(codes, expected)
        for row, heard in zip(codes, wave, strict=True):
            torch.testing.assert_close(music.decode(row), heard, rtol=0, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_continuation_of_a_recording_is_equal(
    pair: tuple[Any, MusicGen], guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, music = pair
    sound = torch.randn(music.channels, 24 * 7, generator=torch.Generator().manual_seed(5))
    expected, wave = heard_codes(
        model, monkeypatch, **tokens(music, TEXTS[:1]), input_values=sound[None],
        do_sample=False, guidance_scale=guidance, max_new_tokens=12 + music.decoder.config.lag,
    )  # fmt: skip
    result = music.write(TEXTS[0], 0.12, prompt=sound, settings=GREEDY[guidance])
    assert torch.equal(result.codes, expected[0])
    assert result.codes.shape[1] == 19 and torch.equal(result.codes[:, :7], music.encode(sound))
    torch.testing.assert_close(result.waveform, wave[0], rtol=0, atol=1e-4)
    new = music.write(TEXTS[0], 0.12, prompt=sound, settings=GREEDY[guidance], only_new=True)
    assert torch.equal(new.codes, result.codes[:, 7:]) and new.waveform.shape == (music.channels, 12 * 24)


def test_without_text(pair: tuple[Any, MusicGen], monkeypatch: pytest.MonkeyPatch) -> None:
    model, music = pair
    inputs = model.get_unconditional_inputs(num_samples=1)
    expected, _ = heard_codes(
        model, monkeypatch, **inputs, do_sample=False, max_new_tokens=10 + music.decoder.config.lag
    )
    assert torch.equal(music.write(None, 0.1, settings=GREEDY[3.0]).codes, expected[0])


@torch.no_grad()
def test_saved_back_it_opens_in_transformers_with_equal_logits(pair: tuple[Any, MusicGen], tmp_path: Path) -> None:
    model, music = pair
    music.save_pretrained(tmp_path / "same")
    changed = MusicGen(music.folder, load_decoder(music.folder), music.codec, music.text)
    g = torch.Generator().manual_seed(7)
    for weight in changed.decoder.parameters():  # as if it had been trained on
        weight.add_(0.1 * torch.randn(weight.shape, generator=g))
    changed.save_pretrained(tmp_path / "changed")
    inputs = tokens(music, TEXTS)
    c = music.decoder.config
    ids = torch.randint(0, c.num_inputs, (2, c.num_levels, 6), generator=g)
    states, lengths = music.text.encode(TEXTS)
    for name, ours in (("same", music), ("changed", changed)):
        opened, told = transformers.MusicgenForConditionalGeneration.from_pretrained(
            tmp_path / name, output_loading_info=True
        )
        assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
        theirs = opened.eval()(**inputs, decoder_input_ids=ids.flatten(0, 1)).logits.view(2, c.num_levels, 6, -1)
        state = ours.decoder.start(states, lengths, 2, 6)
        steps = [ours.decoder.advance(state, ids[:, :, s : s + 1]) for s in range(6)]
        torch.testing.assert_close(torch.stack(steps, dim=2), theirs, rtol=0, atol=1e-4)
        again = load_musicgen(tmp_path / name)
        for key, value in ours.decoder.state_dict().items():
            assert torch.equal(value, again.decoder.state_dict()[key]), key
    whole = model(**inputs, decoder_input_ids=ids.flatten(0, 1)).logits.view(2, c.num_levels, 6, -1)
    assert (whole - theirs).abs().max() > 0.1  # the change is in the file


def test_a_row_does_not_depend_on_its_neighbours(pair: tuple[Any, MusicGen]) -> None:
    _, music = pair
    states, lengths = music.text.encode([*TEXTS, "slow strings with drums"])
    together = generate(music.decoder, states, lengths, 15, seeds=[4, 5, 6])
    assert len({tuple(row.flatten().tolist()) for row in together}) == 3
    for row in range(3):
        n = int(lengths[row])
        alone = generate(music.decoder, states[row : row + 1, :n], lengths[row : row + 1], 15, seeds=[4 + row])
        assert torch.equal(alone[0], together[row])


def test_settings_change_the_result_and_bad_ones_are_refused(pair: tuple[Any, MusicGen]) -> None:
    _, music = pair
    first = music.write(TEXTS[0], 0.1)
    assert torch.equal(first.codes, music.write(TEXTS[0], 0.1).codes)
    assert not torch.equal(first.codes, music.write(TEXTS[0], 0.1, seed=1).codes)
    assert not torch.equal(first.codes, music.write(TEXTS[1], 0.1).codes)
    for bad in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"guidance": float("nan")}):
        with pytest.raises(SoundloomError, match=next(iter(bad))):
            MusicGenSampling(**bad)
    for text, seconds, told in (
        ("", 1, "empty"),
        ("a " * 600, 0.1, "shorter"),
        ("a", 0, "seconds is 0"),
        ("a", 601, "at most 600"),
        ("a", float("nan"), "seconds is nan"),
    ):
        with pytest.raises(SoundloomError, match=told):
            music.write(text, seconds)
    c = music.decoder.config
    for codes, frames, told in (
        (torch.full((1, c.num_levels, 3), c.codebook_size), 9, "another codec"),
        (torch.zeros(1, c.num_levels, 3, dtype=torch.long), 3, "no room"),
        (torch.zeros(1, c.num_levels + 1, 3, dtype=torch.long), 9, "shape"),
    ):
        with pytest.raises(SoundloomError, match=told):
            generate(music.decoder, None, None, frames, prompt_codes=codes)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the tensors of a checkpoint: a value replaces, None removes."""
    tensors = load_file(folder / WEIGHTS_FILE)
    for name, value in changes.items():
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


QUERY = "decoder.model.decoder.layers.1.self_attn.q_proj.weight"
T5_KEY = "text_encoder.encoder.block.0.layer.0.SelfAttention.q.weight"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({QUERY: None}, f"model.safetensors: lacks tensor '{QUERY}'"),
        ({QUERY: torch.zeros(24, 23)}, f"{QUERY} has shape \\[24, 23\\], config.json says \\[24, 24\\]"),
        ({QUERY: torch.full((24, 24), float("nan"))}, f"{QUERY} holds values that are not finite"),
        ({"decoder.model.extra": torch.zeros(1)}, "tensor 'decoder.model.extra' is unknown"),
        ({T5_KEY: None}, f"lacks tensor '{T5_KEY}'"),
        ({T5_KEY: torch.zeros(2, 2)}, f"{T5_KEY} has shape"),
        ({"audio_encoder.quantizer.layers.2.codebook.embed": None}, "EnCodec network"),
    ],
)
def test_broken_weights_are_named(folder: Path, tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    rewrite(tmp_path / "copy", **changes)
    with pytest.raises(SoundloomError, match=told) as error:
        load_musicgen(tmp_path / "copy")
    assert str(tmp_path / "copy") in str(error.value)


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("", {"model_type": "musicgen_melody"}, "not supported"),
        ("", {"model_type": "llama"}, "model_type"),
        ("", {"decoder": 3}, "decoder is 3"),
        ("decoder", {"num_hidden_layers": 10**9}, "10000.* layers"),
        ("decoder", {"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ("decoder", {"num_attention_heads": 5}, "5 heads"),
        ("decoder", {"activation_function": "tanh"}, "'tanh'"),
        ("decoder", {"activation_function": []}, "activation_function is "),
        ("decoder", {"vocab_size": 64, "pad_token_id": 64}, "has shape"),
        ("decoder", {"pad_token_id": 0}, "pad_token_id"),
        ("decoder", {"num_codebooks": 3}, "lm_heads.3.weight' is unknown"),
        ("text_encoder", {"model_type": "bert"}, "'bert'"),
        ("text_encoder", {"num_layers": 10**9}, "layers, for"),
        ("audio_encoder", {"model_type": "dac"}, "encodec"),
        ("audio_encoder", {"norm_type": "time_group_norm"}, "norm_type"),
    ],
)
def test_broken_configurations_are_named(
    folder: Path, tmp_path: Path, part: str, change: dict[str, Any], told: str
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(SoundloomError, match=told):
        load_musicgen(tmp_path / "copy")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(min_size=0, max_size=6), st.integers(0, 8))
def test_a_mutated_config_parses_or_raises_our_error(
    folder: Path, tmp_path: Path, at: int, new: bytes, cut: int
) -> None:
    content = (folder / "config.json").read_bytes()
    at %= len(content)
    copy = tmp_path / "copy"
    if not copy.exists():
        shutil.copytree(folder, copy)
    (copy / "config.json").write_bytes(content[:at] + new + content[at + cut :])
    with contextlib.suppress(SoundloomError):
        load_musicgen(copy)


def test_truncated_and_missing_files(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    data = (copy / WEIGHTS_FILE).read_bytes()
    for size in (0, 5, 100, len(data) // 2, len(data) - 1):
        (copy / WEIGHTS_FILE).write_bytes(data[:size])
        with pytest.raises(SoundloomError, match=f"{WEIGHTS_FILE}: not readable"):
            load_musicgen(copy)
    (copy / WEIGHTS_FILE).unlink()
    with pytest.raises(SoundloomError, match=f"holds no {WEIGHTS_FILE}"):
        load_musicgen(copy)
    (copy / WEIGHTS_FILE).write_bytes(data)
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(SoundloomError, match="text encoder cannot be opened"):
        load_musicgen(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(SoundloomError, match="holds no tokenizer"):
        load_musicgen(copy)
    with pytest.raises(SoundloomError, match=r"no MusicGen checkpoint .* facebook/musicgen-small"):
        load_musicgen(tmp_path / "nothing")


def test_shards_and_older_files_open_as_well(folder: Path, tmp_path: Path) -> None:
    whole = load_decoder(folder).state_dict()
    shutil.copytree(folder, tmp_path / "copy")
    copy = tmp_path / "copy"
    tensors = load_file(copy / WEIGHTS_FILE)
    tensors["decoder.model.decoder.embed_positions.weights"] = torch.zeros(64, 24)  # what older releases saved
    (copy / WEIGHTS_FILE).unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, copy / file)
    (copy / INDEX_FILE).write_text(json.dumps({"weight_map": places}))
    opened = load_musicgen(copy)
    assert all(torch.equal(value, whole[name]) for name, value in opened.decoder.state_dict().items())
    for bad in ("../model.safetensors", 3, "model.bin"):
        (copy / INDEX_FILE).write_text(json.dumps({"weight_map": places | {names[0]: bad}}))
        with pytest.raises(SoundloomError, match="expected a file of this folder"):
            load_decoder(copy)


def test_only_what_fits_is_saved(folder: Path, tmp_path: Path) -> None:
    small = {"dim": 8, "num_layers": 1, "num_heads": 2, "ffn_dim": 8}
    with pytest.raises(SoundloomError, match="a Linear is no MusicGen"):
        save_musicgen(tmp_path, torch.nn.Linear(2, 2), folder)
    with pytest.raises(SoundloomError, match="another text encoder"):
        save_musicgen(tmp_path, MusicGenLM(MusicGenLMConfig(codebook_size=32, text_dim=5, **small)), folder)
    with pytest.raises(SoundloomError, match="another codec"):
        save_musicgen(tmp_path, MusicGenLM(MusicGenLMConfig(codebook_size=33, text_dim=16, **small)), folder)
    with pytest.raises(SoundloomError, match="choose another"):
        save_musicgen(folder, MusicGenLM(MusicGenLMConfig(codebook_size=32, text_dim=16, **small)), folder)
    save_musicgen(tmp_path / "new", MusicGenLM(MusicGenLMConfig(codebook_size=32, text_dim=16, **small)), folder)
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(tmp_path / "new")
    assert model.decoder.config.hidden_size == 8 and len(model.decoder.model.decoder.layers) == 1


@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.inference_mode()
def test_few_rows_equal_the_usual_product(threads: int) -> None:
    g = torch.Generator().manual_seed(0)
    torch.set_num_threads(threads)
    try:
        for rows in range(1, 11):
            for out in (6, 7):
                x, weight = torch.randn(rows, 5, generator=g), torch.randn(out, 5, generator=g)
                torch.testing.assert_close(linear(x, weight), torch.nn.functional.linear(x, weight))
                several = linear(x[:, None], weight)
                assert several.shape == (rows, 1, out) and several.is_contiguous()
    finally:
        torch.set_num_threads(1)


def test_it_learns() -> None:
    """Training through `forward`: the loss of one small batch falls, and every weight gets a gradient."""
    torch.manual_seed(0)
    shape = {"num_levels": 3, "codebook_size": 11, "dim": 24, "num_layers": 2, "num_heads": 2, "ffn_dim": 32}
    model = MusicGenLM(MusicGenLMConfig(text_dim=6, **shape))
    states, text_lengths = torch.randn(2, 4, 6), torch.tensor([4, 0])
    codes, lengths = torch.randint(0, 11, (2, 3, 7)), torch.tensor([7, 5])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        out = model(states, text_lengths, codes, lengths)
        loss = torch.nn.functional.cross_entropy(out.logits[out.mask], codes[out.mask])
        optimizer.zero_grad()
        loss.backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 2.2 and losses[-1] < 0.5
