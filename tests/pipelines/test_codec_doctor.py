"""codec_doctor.py: exit codes, the table, the JSON, the training's log, codecs of other makers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codec.audio import resample, write_audio
from codec.errors import SoundloomError
from codec.model import Codec, CodecConfig
from codec.quantize import QuantizerConfig
from codec.spectral import SpectralConfig
from pipelines import codec_doctor
from pipelines.command_line.run import run

SIZES = {"latent_dim": 8, "encoder_dim": 16, "encoder_blocks": 1, "bottleneck_dim": 16, "bottleneck_blocks": 1}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an untrained codec whose last level is empty, its log, and recordings, one of them broken."""
    folder = tmp_path_factory.mktemp("ward")
    torch.manual_seed(0)
    config = CodecConfig(
        spectral=SpectralConfig(**SIZES, decoder_dim=16, decoder_blocks=1),
        quantizer=QuantizerConfig(num_levels=3, codebook_size=16),
    )
    codec = Codec(config)
    codec.quantizer.levels[2].codebook.zero_()  # the fault
    codec.save_pretrained(folder / "run" / "codec")
    (folder / "run" / "log.jsonl").write_text('{"step": 1, "mel": null}\n')
    for name in ("a", "b"):
        write_audio(folder / "clips" / f"{name}.wav", 0.1 * torch.randn(1, 48_000), 24_000)
    (folder / "clips" / "broken.wav").write_bytes(b"RIFF")
    return folder


def test_a_sick_codec_ends_with_one_and_says_what_to_change(ward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(ward / "run" / "codec"), str(ward / "clips"), "--json", str(ward / "health.json"), "--threads", "1"]
    assert run(lambda: codec_doctor.main(words)) == 1
    out, err = capsys.readouterr()
    assert "broken.wav" in err
    assert "SICK  energy" in out and "->" in out and "SICK  finite log" in out
    assert "findings sick (" in out and "next: " in out.splitlines()[-1]
    record = json.loads((ward / "health.json").read_text())
    assert {"energy", "finite log"} <= set(record["sick"])
    assert len(record["survey"]["usage"]) == len(record["survey"]["gain_decibels"]) == 3
    assert record["survey"]["frames"] == 200
    by_name = {one["detector"]: one["status"] for one in record["findings"]}
    assert by_name["straight-through gradient"] == "well" and by_name["discriminators"] == "not judged"


def test_weights_that_are_not_finite_end_the_examination(ward: Path) -> None:
    codec = Codec.from_pretrained(ward / "run" / "codec")
    codec.quantizer.levels[0].codebook[0, 0] = float("nan")
    found, findings = codec_doctor.examine(codec, codec_doctor.Recordings(str(ward / "clips"), codec, 3, 1.0), 1, True)
    record = json.loads(codec_doctor.to_json("x", codec, found, findings))
    assert record["sick"] == ["finite weights"] and "survey" not in record
    codec.save_pretrained(ward / "nan" / "codec")
    with pytest.raises(SoundloomError, match="not finite"):  # a folder is refused when it is opened
        codec_doctor.main([str(ward / "nan" / "codec"), str(ward / "clips")])


def test_a_codec_of_other_makers_shows_use_and_gain_in_sound(ward: Path) -> None:
    class Foreign:
        sample_rate, channels, hop_length, codebook_size, num_levels = 24_000, 1, 480, 16, 3

        def __init__(self) -> None:
            self.codec = Codec.from_pretrained(ward / "run" / "codec")
            self.encode, self.decode = self.codec.encode, self.codec.decode

    foreign = Foreign()
    recordings = codec_doctor.Recordings(str(ward / "clips"), foreign, 3, 1.0)
    found, findings = codec_doctor.examine(foreign, recordings, 2, trials=True)
    status = {one.detector: one.status for one in findings}
    assert found is not None and len(found.usage) == 3 and len(found.mel_by_levels) == 3 and found.energy == []
    assert status["usage"] != "not judged" and status["gain in sound"] != "not judged"
    assert status["energy"] == status["effective rank"] == status["finite weights"] == "not judged"
    assert "energy left" in codec_doctor.table(found)


def test_the_shipped_codec_is_the_default_and_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines import load_voice

    # Some seconds: on one alone, chance decides whether a late level shortens the mel distance.
    texts = ["The children played in the garden after lunch.", "She bought a new coat because the winter was cold."]
    for number, speech in enumerate(load_voice().speak_batch(texts)):
        # Played slower: as it comes out of the codec's first levels, the levels above would have nothing to add.
        wave = resample(speech.waveform, 22_000, speech.sample_rate)
        write_audio(tmp_path / f"{number}.wav", wave, speech.sample_rate)
    code = codec_doctor.main([str(tmp_path), "--threads", "1"])
    out = capsys.readouterr().out
    assert code == 0, out
    assert f"next: python pipelines/evaluate_codec.py shipped {tmp_path} -o report/" in out
    assert "shipped: nothing sick" in out and "ok    one-clip overfit" in out


def test_bad_input_is_refused(ward: Path) -> None:
    start = [str(ward / "run" / "codec")]
    (ward / "none").mkdir()
    for words, message in (
        ([*start, str(ward / "none")], "no recording"),
        ([*start, str(ward / "clips"), "--log", "nowhere.jsonl"], "no such file"),
        ([*start, str(ward / "clips"), "--files", "0"], "--files 0: expected 1"),
        (["nowhere", str(ward / "clips")], "no codec"),
    ):
        with pytest.raises(SoundloomError, match=message):
            codec_doctor.main(words)
