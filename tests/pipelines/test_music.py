"""music.py as people call it: files, pipes, lines, continuation, pictures, saving the model, bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from music_models import write_parts
from musicgen_checkpoint import transformers, write_musicgen

import pipelines.music_model.folder as music_folder
import pipelines.music_model.model as music_model
from codec.audio.files import read_audio, write_audio
from codec.errors import SoundloomError
from codec.pretrained import load_codec
from lm.musicgen.generate import generate
from pipelines import make_music, music
from pipelines.command_line.run import run
from pipelines.music_model.windows import Windows, window_seed
from pipelines.musicgen.codes_file import save_codes
from pipelines.musicgen.model import MusicGen, load_musicgen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    write_musicgen(folder, max_position_embeddings=256)
    return folder


def test_text_to_file_and_its_settings(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["a", "calm", "piano piece", "--model", str(folder), "--seconds", "0.5"]
    outputs = [tmp_path / f"{name}.wav" for name in "abcde"]
    assert music.main([*common, "-o", str(outputs[0])]) == 0
    said = capsys.readouterr().err
    assert "0.50 s of music in" in said
    assert read_audio(outputs[0]).shape == (1, 1200)
    for output, change in zip(
        outputs[1:], (["--seed", "0"], ["--seed", "1"], ["--temperature", "0"], ["--guidance", "1"]), strict=True
    ):
        assert music.main([*common, "-o", str(output), *change, "--threads", "1"]) == 0
    data = [output.read_bytes() for output in outputs]
    assert data[0] == data[1] and len(set(data)) == 4


def test_a_recording_goes_on(folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "melody.wav"
    write_audio(prompt, 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)), 8000)
    common = ["loud drums", "--model", str(folder), "--seconds", "0.3", "--prompt", str(prompt)]
    assert music.main([*common, "-o", str(tmp_path / "both.wav"), "--plot", str(tmp_path / "both.png")]) == 0
    assert music.main([*common, "-o", str(tmp_path / "new.wav"), "--only-new"]) == 0
    both, new = read_audio(tmp_path / "both.wav"), read_audio(tmp_path / "new.wav")
    assert both.shape[1] == 2400 + 720 and torch.equal(both[:, 2400:], new)
    assert (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG"
    assert music.main([*common, "-o", str(tmp_path / "x.wav"), "--seconds", "2"]) == 0  # longer than the model's 2.5 s
    assert torch.equal(read_audio(tmp_path / "x.wav")[:, :100], both[:, :100])


def test_pipes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["--model", str(folder), "--seconds", "0.2"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"slow strings\n"), isatty=lambda: False))
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=out, isatty=lambda: False, flush=lambda: None))
    assert music.main([*common, "-o", "-"]) == 0
    assert out.getvalue()[:4] == b"RIFF"
    assert music.main(["slow strings", *common, "-o", str(tmp_path / "a.wav")]) == 0
    assert torch.equal(read_audio(io.BytesIO(out.getvalue())), read_audio(tmp_path / "a.wav"))


def test_a_file_a_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a calm piano piece\n\nloud drums\n")
    out = tmp_path / "out"
    common = ["--lines", "-f", str(lines), "-o", str(out), "--model", str(folder)]
    assert music.main([*common, "--seconds", "0.2"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0001.wav", "0002.wav"]
    assert (out / "0001.wav").read_bytes() != (out / "0002.wav").read_bytes()
    lines.write_text("a calm piano piece\nloud " + "drums " * 600 + "\nslow strings\n")
    assert music.main([*common, "--seconds", "0.1"]) == 1
    said = capsys.readouterr().err
    assert "error: line 2: the text has" in said and "0003.wav" in said


def test_a_file_for_each_clip_of_a_corpus(folder: Path, tmp_path: Path) -> None:
    rows = [{"id": n, "text": t, "split": s, "captions": []} for n, t, s in (
        ("aa", "a calm piano piece", "test"), ("bb", "loud drums", "train"), ("cc", "slow strings", "test")
    )]  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "made"
    common = ["--corpus", str(tmp_path), "--split", "test", "-o", str(out), "--model", str(folder), "--seconds", "0.1"]
    assert music.main([*common, "--limit", "1"]) == 0
    assert [path.name for path in out.iterdir()] == ["aa.wav"]
    before = (out / "aa.wav").stat().st_mtime_ns
    assert music.main(common) == 0 and sorted(path.name for path in out.iterdir()) == ["aa.wav", "cc.wav"]
    assert (out / "aa.wav").stat().st_mtime_ns == before
    for change, message in (({"split": "x"}, "no clips of the split 'test'"), ({"id": "../x"}, "cannot be the name")):
        (tmp_path / "manifest.jsonl").write_text(json.dumps(rows[0] | change) + "\n")
        with pytest.raises(SoundloomError, match=message):
            music.main(common)
    (tmp_path / "manifest.jsonl").write_text('{"id": "aa"}\n')
    with pytest.raises(SoundloomError, match="line 1: expected a row of"):
        music.main(common)


def test_pieces_side_by_side_are_those_alone(folder: Path) -> None:
    model = load_musicgen(folder)
    texts, seeds = ["a calm piano piece", "loud drums", "slow strings"], [3, 4, 5]
    together = model.write_batch(texts, 0.3, seeds=seeds)
    for text, seed, piece in zip(texts, seeds, together, strict=True):
        alone = model.write(text, 0.3, seed=seed)
        assert torch.equal(alone.codes, piece.codes) and torch.allclose(alone.waveform, piece.waveform, atol=1e-5)
    with pytest.raises(SoundloomError, match="2 seeds for 3 texts"):
        model.write_codes(texts, 0.3, seeds=[1, 2])
    with pytest.raises(SoundloomError, match="a single str"):
        model.write_codes("a", 0.3)  # type: ignore[arg-type]


def test_long_pieces_are_written_in_windows(folder: Path) -> None:
    model = load_musicgen(folder)
    assert model.windows == Windows(longest=253, stride=152)
    steps: list[tuple[int, int]] = []
    long = model.write("a calm piano piece", 5.0, seed=1, on_step=lambda step, of: steps.append((step, of)))
    assert long.codes.shape == (4, 500) and long.seconds == 5.0
    assert steps[-1] == (model.steps(5.0), model.steps(5.0)) and [step for step, _ in steps] == list(
        range(1, len(steps) + 1)
    )
    first = model.write("a calm piano piece", 2.53, seed=1)
    assert torch.equal(long.codes[:, :253], first.codes)
    # the second window continues the last 101 frames of the first, with a seed of its own
    states, lengths = model.text.encode(["a calm piano piece"])
    second = generate(
        model.decoder, states, lengths, 253, prompt_codes=first.codes[None, :, -101:], seeds=[window_seed(1, 1)]
    )
    assert torch.equal(second[0, :, 101:], long.codes[:, 253:405])
    again = model.write_codes(["a calm piano piece", "loud drums"], 5.0, seeds=[1, 2])
    assert torch.equal(again[0], long.codes)


def test_windows_add_up() -> None:
    windows = Windows(longest=30, stride=18)
    assert list(windows.parts(0, 30)) == [(0, 30)] and list(windows.parts(10, 20)) == [(10, 20)]
    assert list(windows.parts(0, 60)) == [(0, 30), (12, 18), (12, 12)]
    assert list(windows.parts(25, 20)) == [(12, 18), (12, 2)] and list(windows.parts(200, 5)) == [(12, 5)]


def test_codes_are_kept_before_they_are_decoded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, codes = tmp_path / "a.wav", tmp_path / "a.wav.codes.safetensors"
    common = ["loud drums", "--model", str(folder), "--seconds", "0.3", "-o", str(out), "--keep-codes"]
    with monkeypatch.context() as patch:
        patch.setattr(MusicGen, "decode", lambda *_: (_ for _ in ()).throw(SoundloomError("decoding failed")))
        with pytest.raises(SoundloomError, match="decoding failed"):
            music.main(common)
    assert codes.is_file() and not out.exists()
    assert music.main(["--decode", str(codes), "--model", str(folder), "-o", str(out)]) == 0
    assert music.main([*common[:-3], "-o", str(tmp_path / "b.wav")]) == 0
    assert out.read_bytes() == (tmp_path / "b.wav").read_bytes()
    save_codes(codes, torch.zeros(4, 3, dtype=torch.long), "another", "")
    for data, message in ((None, "belongs to another model"), (b"junk", "does not hold codes")):
        if data is not None:
            codes.write_bytes(data)
        with pytest.raises(SoundloomError, match=message):
            music.main(["--decode", str(codes), "--model", str(folder), "-o", str(out)])


def test_the_model_is_saved_for_transformers(folder: Path, tmp_path: Path) -> None:
    assert music.main(["--model", str(folder), "--save-model", str(tmp_path / "copy")]) == 0
    model = transformers.MusicgenForConditionalGeneration.from_pretrained(tmp_path / "copy")
    assert model.generation_config.guidance_scale == 3.0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")("a calm piano").input_ids[-1] == 1
    assert load_codec(tmp_path / "copy").fingerprint == load_codec(folder).fingerprint


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["", "-o", "x.wav"], "empty"),
        (["a", "-o", "x.txt"], "unknown kind of file"),
        (["a", "-o", "x.wav", "--seconds", "-1"], "--seconds -1"),
        (["a", "-o", "x.wav", "--seconds", "nan"], "--seconds nan"),
        (["a", "-o", "x.wav", "--seconds", "601"], "--seconds 601"),
        (["a", "--decode", "x"], "leave description"),
        (["a", "-o", "x.wav", "--top-k", "0"], "--top-k 0: expected 1"),
        (["a", "-o", "x.wav", "--threads", "0"], "--threads 0"),
        (["a", "-o", "x.wav", "--prompt", "nothing.wav"], "no such file"),
        (["a", "-o", "x.wav", "--plot", "x.wav"], "unknown kind of file"),
        (["a", "--lines"], "give -o FOLDER"),
        (["--corpus", "x"], "--corpus writes a folder of files: give -o FOLDER"),
        (["a", "--corpus", "x", "-o", "out"], "leave the description and --lines out"),
        (["a", "--save-model", "copy"], "leave the description out"),
        (["a", "-o", "x.wav", "--model", "nowhere"], "no MusicGen checkpoint 'nowhere'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    arguments = arguments if "--model" in arguments else [*arguments, "--model", str(folder)]
    assert run(lambda: music.main(arguments)) == 2
    said = capsys.readouterr().err.strip().split("\n")[-1]
    assert said.startswith("error: ") and told in said
    assert not list(tmp_path.iterdir())


def test_a_hub_out_of_reach_tells_the_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SoundloomError, match=r"hf download facebook/musicgen-small .* give FOLDER.*no route$"):
        music.main(["a calm piano", "-o", "never.wav", "--model", "facebook/musicgen-small"])


def test_without_shipped_weights_the_way_round_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(music_folder, "SHIPPED_MUSIC", tmp_path)
    with pytest.raises(SoundloomError, match=r"shipped music model is missing .* name another with --model, such as"):
        music.main(["a calm piano", "-o", str(tmp_path / "never.wav")])
    write_parts(tmp_path)
    parts = ["--lm", str(tmp_path / "lm"), "--codec", str(tmp_path / "codec")]
    assert make_music.main([str(tmp_path / "small"), *parts]) == 0
    monkeypatch.chdir(tmp_path)
    assert music.main(["a calm piano", "-o", "a.wav", "--seconds", "0.2"]) == 0 and read_audio("a.wav").shape[1] == 4800
    assert music.main(["a calm piano", "-o", "b.wav", "--seconds", "0.2", "--model", "shipped", "--keep-codes"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    assert music.main(["--decode", "b.wav.codes.safetensors", "-o", "c.wav"]) == 0
    assert Path("c.wav").read_bytes() == Path("b.wav").read_bytes()


def test_streams(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path)
    make_music.main([str(tmp_path / "m"), "--lm", str(tmp_path / "lm"), "--codec", str(tmp_path / "codec")])
    common = ["a calm piano", "--model", str(tmp_path / "m"), "--seconds", "0.5", "--guidance", "1"]
    assert music.main([*common, "-o", str(tmp_path / "whole.wav")]) == 0
    assert music.main([*common, "-o", str(tmp_path / "stream.wav"), "--stream"]) == 0
    out = io.BytesIO()
    stdout = SimpleNamespace(buffer=out, isatty=lambda: False, flush=lambda: None)
    monkeypatch.setattr("sys.stdout", stdout)
    assert music.main([*common, "--stream"]) == 0
    whole, streamed = (read_audio(tmp_path / f"{name}.wav")[0] for name in ("whole", "stream"))
    piped = torch.frombuffer(bytearray(out.getvalue()), dtype=torch.int16) / 32768
    for other in (streamed, piped):
        assert other.shape == whole.shape == (12_000,) and torch.allclose(other, whole, atol=2e-4)
    with pytest.raises(SoundloomError, match="--stream: MusicGen decodes only the whole"):
        music.main(["a calm piano", "--model", str(folder), "--stream"])
    with pytest.raises(SoundloomError, match="leave --keep-codes and --decode out"):
        music.main([*common, "-o", "x.wav", "--stream", "--keep-codes"])


def test_how_a_piece_ended_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parts(tmp_path)
    make_music.main([str(tmp_path / "m"), "--lm", str(tmp_path / "lm"), "--codec", str(tmp_path / "codec")])
    monkeypatch.setattr(music_model, "verdict", lambda *_: "loop")
    common = ["--model", str(tmp_path / "m"), "--seconds", "0.2", "-o", str(tmp_path / "a.wav")]
    assert music.main(["a calm piano", *common]) == 0
    assert capsys.readouterr().err.rstrip().endswith("finish reason: loop; try another --seed, 3 attempts")
