"""evaluate_codec.py from end to end on a tiny codec: every system scored, failures counted, bitrates from bytes."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from codec import loudness
from codec.audio.files import write_audio
from codec.errors import SoundloomError
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.spectral import SpectralConfig
from pipelines import evaluate_codec
from pipelines.evaluation import codec_report, codec_scores, judges, plots, quality

SIZES = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}


def voice(seconds: float, hertz: float) -> torch.Tensor:
    t = torch.arange(int(seconds * 24_000)) / 24_000
    tone = sum(torch.sin(2 * math.pi * hertz * k * t + torch.sin(2 * math.pi * 3 * t)) / k for k in range(1, 15))
    return (0.1 * tone * (torch.sin(2 * math.pi * 2 * t) > -0.5))[None]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny codec and four recordings: two good, one silent, one broken."""
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    config = CodecConfig(
        spectral=SpectralConfig(**SIZES, decoder_dim=16, decoder_blocks=1),
        quantizer=QuantizerConfig(num_levels=3, codebook_size=16),
    )
    Codec(config).save_pretrained(folder / "codec")
    for name, wave in (("a", voice(1, 130)), ("b", voice(1.5, 190)), ("silent", torch.zeros(1, 24_000))):
        write_audio(folder / "clips" / f"{name}.wav", wave, 24_000)
    (folder / "clips" / "broken.wav").write_bytes(b"RIFF")
    return folder


def test_report_end_to_end(bench: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visqol", None)  # the slowest judge, tested with the metrics
    for package in ("pesq", "pystoi", "matplotlib"):
        pytest.importorskip(package)
    arguments = [str(bench / "codec"), str(bench / "clips"), "-o", str(bench / "report"), "--levels", "1,3"]
    assert evaluate_codec.main([*arguments, "--opus", "12", "--listen", "1", "--no-quality", "--normalize", "off"]) == 0
    out, err = capsys.readouterr()
    assert "broken.wav" in err and "codec, 3 levels: PESQ-WB " in out and "next: listen to" in out
    record = json.loads((bench / "report" / "report.json").read_text())
    quality = {row["system"]: row for row in record["tables"][0]["rows"]}
    assert list(quality) == [
        "reference itself", "another recording", "codec, 1 level", "codec, 3 levels", "Opus, target 12"
    ]  # fmt: skip
    assert quality["reference itself"]["PESQ-WB"]["mean"] == pytest.approx(4.64, abs=0.01)
    assert all(row["n"] == 3 for row in quality.values())
    assert all(row["PESQ-WB"]["n_failed"] >= 1 and row["STOI"]["n_failed"] == 1 for row in quality.values())
    assert quality["codec, 1 level"]["mel distance"]["n"] == 3
    # One second is 50 frames of 4 bits, in whole bytes, and 44 bytes of header.
    assert record["scores"]["codec, 1 level"]["kbit/s"][0] == pytest.approx((44 + 25) * 8 / 1000)
    assert record["scores"]["codec, 3 levels"]["kbit/s"][0] == pytest.approx((44 + 75) * 8 / 1000)
    assert len(record["unread"]) == 1
    page = (bench / "report" / "report.html").read_text()
    assert 'type="range"' in page and page.count("data:audio/flac") == 2 + 1 + 1
    use = record["tables"][1]["rows"]
    assert len(use) == 3 and 0 < use[0]["share of codes used"] <= 1 <= use[0]["perplexity"] <= 16


def test_word_errors_use_transcripts_next_to_the_recordings() -> None:
    pytest.importorskip("jiwer")
    clips = [
        codec_scores.Clip("a", voice(0.3, 130)[0], "good morning"),
        codec_scores.Clip("b", voice(0.3, 190)[0], "hello"),
    ]
    results = codec_report.Results(clips, [])
    results.transcripts = {"reference itself": ["Good morning!", "hello"], "codec, 1 level": ["good", "hello"]}
    table = codec_report.word_table(results)
    assert table is not None and "known transcripts" in table.note
    assert [(row[1].mean, row[2]) for row in table.rows] == [(0, 0), (pytest.approx(1 / 3), pytest.approx(1 / 3))]


def test_word_errors_leave_out_other_languages_and_unknown_texts() -> None:
    pytest.importorskip("jiwer")
    wave = voice(0.3, 130)[0]
    clips = [
        codec_scores.Clip("a", wave, "good morning", "en-US"),
        codec_scores.Clip("b", wave, "bonjour", "fr"),
        codec_scores.Clip("c", wave, None, "en"),  # cut, so that its text does not match
    ]
    results = codec_report.Results(clips, [])
    results.transcripts = {"reference itself": ["good morning", "", "and so"], "x": ["good evening", "", "no"]}
    table = codec_report.word_table(results)
    assert table is not None and "1 of 3" in table.note
    assert [row[1].mean for row in table.rows] == [0, 0.5]
    assert codec_report.word_table(codec_report.Results(clips[1:2], [], transcripts={"reference itself": [""]})) is None


def test_a_manifest_gives_texts_languages_and_splits(tmp_path: Path) -> None:
    for name, seconds in (("a", 0.5), ("b", 2.0), ("c", 0.5)):
        write_audio(tmp_path / f"{name}.wav", voice(seconds, 130), 24_000)
    rows = [
        {"audio": "a.wav", "text": "short", "language": "en", "split": "test"},
        {"audio": "b.wav", "text": "too long for a whole clip", "language": "fr", "split": "test"},
        {"audio": "c.wav", "text": "elsewhere", "split": "train"},
        {"audio": "missing.wav", "split": "test"},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips, unread = codec_scores.read_clips(tmp_path, 24_000, None, 1.0, "test")
    assert [(clip.name, clip.text, clip.english) for clip in clips] == [
        ("a.wav", "short", True),
        ("b.wav", None, False),
    ]
    assert clips[1].wave.shape == (24_000,) and len(unread) == 1


def test_a_variant_and_the_loss_of_quality(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variant has its line in the curves, its row in the spectrograms, its button in the page."""
    for package in ("pesq", "pystoi", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, "visqol", None)
    shown: dict[str, list[str]] = {}

    class Dnsmos:
        name, description = "DNSMOS", "a stand-in"

        def __call__(self, wave: torch.Tensor, sample_rate: int) -> float | None:
            return float(wave.square().mean()) or None

    def spy(kind: str, real: Any) -> Any:
        def draw(things: Any, *words: Any) -> Any:
            shown.setdefault(kind, list(things))
            return real(things, *words)

        return draw

    class DistillMOS(Dnsmos):
        name = "DistillMOS"

        def __init__(self, device: torch.device) -> None:
            assert device.type == "cpu"

    monkeypatch.setattr(quality, "Dnsmos", Dnsmos)
    monkeypatch.setattr(quality, "DistillMOS", DistillMOS)
    monkeypatch.setattr(plots, "curve_figure", spy("curves", plots.curve_figure))
    monkeypatch.setattr(plots, "spectrogram_figure", spy("spectrograms", plots.spectrogram_figure))
    words = [str(bench / "codec"), str(bench / "clips"), "-o", str(bench / "beside"), "--levels", "1,3", "--opus", ""]
    words += ["--beside", f"without GAN={bench / 'codec'}", "--dnsmos", "--listen", "1", "--quality"]
    assert evaluate_codec.main(words) == 0
    assert shown == {
        "curves": ["codec", "without GAN"],
        "spectrograms": ["original", "codec, 3 levels", "without GAN, 3 levels", "codec, 1 level"],
    }
    record = json.loads((bench / "beside" / "report.json").read_text())
    scores = record["scores"]
    for system in ("codec, 1 level", "without GAN, 3 levels"):
        expected = [
            a and b and a - b
            for a, b in zip(scores["reference itself"]["DNSMOS"], scores[system]["DNSMOS"], strict=True)
        ]
        assert scores[system]["DNSMOS loss"] == [None if value is None else pytest.approx(value) for value in expected]
    columns = list(record["tables"][0]["rows"][0])
    assert columns[2:4] == ["DistillMOS", "DistillMOS loss"] and "DNSMOS loss" in columns
    assert "ViSQOL" in record["facts"]
    assert "without GAN, 3 levels" in (bench / "beside" / "report.html").read_text()


def test_names_of_codecs_have_labels_and_decoders(bench: Path) -> None:
    folder = str(bench / "codec")
    assert evaluate_codec._parts("shipped:without-gan") == ("shipped without-gan", "shipped", "without-gan")
    assert evaluate_codec._parts("without GAN=shipped:without-gan") == ("without GAN", "shipped", "without-gan")
    assert evaluate_codec._parts("owner/name") == ("owner/name", "owner/name", "")
    assert evaluate_codec._parts(folder) == ("codec", folder, "")
    assert evaluate_codec._parts(f"{folder}:plain") == ("codec plain", folder, "plain")
    with pytest.raises(SoundloomError, match="plain"):
        evaluate_codec._load(f"{folder}:plain", None, "cpu")


def test_another_decoder_of_a_codec_can_be_compared(tmp_path: Path, bench: Path) -> None:
    """It gets the same codes, so their use is counted once, and it sounds different."""
    codec = Codec.from_pretrained(bench / "codec")
    codec.save_pretrained(tmp_path / "codec")
    weights = {name: value.half() for name, value in codec.decoder.state_dict().items()}
    weights["magnitude.bias"] -= 1
    (tmp_path / "codec" / "decoders").mkdir()
    save_file(weights, tmp_path / "codec" / "decoders" / "plain.safetensors")
    tested = [evaluate_codec._load(f"{tmp_path / 'codec'}{name}", "3", "cpu") for name in ("", ":plain")]
    clip = codec_scores.Clip("a", voice(0.5, 130)[0])
    usual, plain = (next(codec_scores.codec_outputs(one, clip, 24_000)) for one in tested)
    assert (usual.system, plain.system) == ("codec, 3 levels", "codec plain, 3 levels")
    assert usual.num_bytes == plain.num_bytes and not torch.allclose(usual.wave, plain.wave)
    assert list(codec_scores.use_of_codes(tested, bench / "clips", 1)[0]) == ["codec"]


def test_quiet_clips_are_raised_for_the_codec_and_what_stands_next_to_it(bench: Path) -> None:
    folder = str(bench / "codec")
    words = ["x", "y", "-o", "z", "--beside", f"other={folder}", "--peers", folder, "--levels", "3"]
    words[0] = f"first={folder}"
    for option, expected in (("on", [True, True, False]), ("off", [False] * 3), ("both", [True, False, True, False])):
        tested, variants = evaluate_codec._load_all(evaluate_codec.parser().parse_args([*words, "--normalize", option]))
        assert [one.normalize for one in tested] == expected
        assert variants == (["first, not normalised"] if option == "both" else []) + ["other"]
    raised, plain = tested[:2]
    assert plain.label(3) == "first, not normalised, 3 levels"
    quiet = codec_scores.Clip("a", 0.02 * voice(0.5, 130)[0])
    gain = loudness.gain_of(quiet.wave[None], 24_000)
    codes = raised.codec.encode(quiet.wave[None, None] * gain)
    output = next(codec_scores.codec_outputs(raised, quiet, 24_000))
    assert torch.equal(output.wave, raised.codec.decode(codes)[0, 0, : len(quiet.wave)] / gain)
    before = next(codec_scores.codec_outputs(plain, quiet, 24_000))
    assert output.num_bytes == (before.num_bytes or 0) + 4 and not torch.equal(before.wave, output.wave)
    counts = codec_scores.use_of_codes(tested[:2], bench / "clips", 1)[0]
    assert list(counts) == ["first", "first, not normalised"]


def test_visqol_missing_is_reported_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pesq", "pystoi"):
        pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, "visqol", None)
    options = argparse.Namespace(quality=False, dnsmos=False, speaker=False, wer=False, threads=1)
    panel = judges.choose_judges(options, references=True)
    fact = panel.facts["ViSQOL"]
    assert "ViSQOL" not in panel.judges and "not judged" in fact and "pip install" in fact


def test_outputs_have_the_length_and_rate_of_the_clip(bench: Path) -> None:
    codec = Codec.from_pretrained(bench / "codec")
    clip = codec_scores.Clip("x", torch.rand(16_000) - 0.5)
    tested = codec_scores.CodecUnderTest("codec", codec, [1, 2])
    outputs = list(codec_scores.codec_outputs(tested, clip, 16_000))
    assert [output.wave.shape for output in outputs] == [(16_000,)] * 2
    opus = next(codec_scores.opus_outputs([12_000], clip, 16_000))
    assert abs(opus.wave.shape[0] - 16_000) < 1000 and opus.num_bytes


def test_use_of_codes_is_counted_on_more_than_is_judged(bench: Path) -> None:
    tested = [codec_scores.CodecUnderTest("codec", Codec.from_pretrained(bench / "codec"), [1])]
    counts, minutes = codec_scores.use_of_codes(tested, bench / "clips", 1)
    assert minutes == pytest.approx(3.5 / 60) and counts["codec"].shape == (3, 16)
    assert counts["codec"].sum(1).tolist() == [175] * 3  # 50 frames a second of the three that can be read
    few, less = codec_scores.use_of_codes(tested, bench / "clips", 1e-6)
    assert 0 < less < minutes and few["codec"].sum() == 3 * 50 * 60 * less


def test_wrong_arguments_are_refused(bench: Path) -> None:
    start = [str(bench / "codec"), str(bench / "clips"), "-o", str(bench / "x")]
    for extra, message in (
        (["--levels", "1,9"], "levels 1 to 3"),
        (["--levels", "one"], "wanted numbers"),
        (["--opus", "1"], "6 to 256"),
        (["--seconds", "60"], "0.3 to 20"),
        (["--use-minutes", "0"], "--use-minutes"),
        (["--peers", str(bench / "codec")], "two codecs"),
    ):
        with pytest.raises(SoundloomError, match=message):
            evaluate_codec.main([*start, *extra])


def test_a_folder_without_recordings_is_refused(bench: Path) -> None:
    pytest.importorskip("pesq")  # missing judges are reported before any recording is read
    pytest.importorskip("pystoi")
    start = [str(bench / "codec"), str(bench / "clips"), "-o", str(bench / "x")]
    (bench / "nothing").mkdir()
    with pytest.raises(SoundloomError, match="no recording"):
        evaluate_codec.main([start[0], str(bench / "nothing"), *start[2:]])
