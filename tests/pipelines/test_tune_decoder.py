"""A voice's own decoder: learns from what the voice's model knows, resumes exactly, and changes only latents' sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from voice_helpers import save_lms, tiny_codec

from codec.audio.files import read_audio, write_audio
from codec.errors import SoundloomError
from pipelines import load_voice, make_voice, tokenize_corpus, tune_decoder
from pipelines.training.decoder_crops import VoiceCrops, audio_by_id

TEXTS = ("hello", "how are you", "world hello", "you world how")
LAYERS = "[bottleneck, upsample]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of two speakers, its store, and a voice whose levels 1 and 2 are means."""
    folder = tmp_path_factory.mktemp("tune")
    codec = tiny_codec()
    codec.save_pretrained(folder / "codec")
    save_lms(folder, codec)
    arguments = ["--codec", str(folder / "codec"), "--lm", str(folder / "delay"), "--drawn-levels", "1"]
    assert make_voice.main([str(folder / "voice"), *arguments]) == 0
    rows = []
    rng = np.random.default_rng(0)
    for i in range(16):
        seconds = 0.6 + 0.05 * i
        time = torch.arange(round(seconds * 24_000)) / 24_000
        wave = 0.3 * torch.sin(2 * torch.pi * float(rng.uniform(100, 300)) * time)
        write_audio(folder / f"{i}.wav", wave[None], 24_000)
        speaker = "own" if i % 2 else "other"
        rows.append({"id": f"u{i}", "audio": f"{i}.wav", "text": TEXTS[i % 4], "speaker": speaker, "duration": seconds})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    made = [str(folder / "manifest.jsonl"), str(folder / "store"), "--codec", str(folder / "codec")]
    assert tokenize_corpus.main(made) == 0
    return folder


def words(place: Path, output: Path, *more: str) -> list[str]:
    stores = ["--store", str(place / "store"), "--dev_store", str(place / "store")]
    paths = ["--voice", str(place / "voice"), "--audio", json.dumps([str(place / "manifest.jsonl")])]
    sizes = ["--segment_seconds", "0.2", "--rows", "4", "--dev_batches", "2", "--layers", LAYERS, "--threads", "1"]
    sizes += ["--optimizer.lr", "3e-3", "--optimizer.warmup_steps", "2", "--speakers", "[own]"]
    return [*paths, *stores, "--output", str(output), *sizes, "--steps", "12", "--validate_every", "4", *more]


def test_it_lowers_the_distance_and_changes_what_latents_sound_like_alone(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert tune_decoder.main(words(place, run)) == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    distances = [row["dev_mel"] for row in log if "dev_mel" in row]
    assert len(distances) == 3 and distances[-1] < distances[0]
    before = load_voice(place / "voice")
    old = before.codec.decoder.state_dict()
    tuned = load_file(run / "decoder.safetensors")
    assert tuned and all(name.startswith(("bottleneck", "upsample")) for name in tuned)
    assert all(not torch.equal(value, old[name]) for name, value in tuned.items())
    parts = ["--codec", str(place / "codec"), "--lm", str(place / "delay"), "--drawn-levels", "1"]
    assert make_voice.main([str(tmp_path / "v"), *parts, "--decoder", str(run / "decoder.safetensors")]) == 0
    after = load_voice(tmp_path / "v")
    assert "of its parameters are the voice's own" in after.card and "voice's own" not in before.card
    means = [voice.speak("Hello world", seed=1) for voice in (before, after)]
    drawn = [voice.speak("Hello world", seed=1, sampled_levels=3) for voice in (before, after)]
    assert torch.equal(means[0].codes, means[1].codes) and not torch.equal(means[0].waveform, means[1].waveform)
    assert torch.equal(drawn[0].waveform, drawn[1].waveform) and after.codec.fingerprint == before.codec.fingerprint
    chunks = list(after.stream("Hello world", seed=1))
    assert torch.allclose(torch.cat(chunks, dim=1), means[1].waveform, atol=1e-5)
    words_again = words(place, tmp_path / "more", "--voice", str(tmp_path / "v"), "--layers", "[input]")
    assert tune_decoder.main(words_again) == 0  # tuned further elsewhere, what it had of its own stays
    more = load_file(tmp_path / "more" / "decoder.safetensors")
    assert tuned.keys() < more.keys() and all(torch.equal(more[name], value) for name, value in tuned.items())
    after.save(tmp_path / "again")
    assert torch.equal(load_voice(tmp_path / "again").speak("Hello world", seed=1).waveform, means[1].waveform)


@pytest.mark.parametrize("judged", [False, True])
def test_resumed_it_gives_the_same(place: Path, tmp_path: Path, judged: bool) -> None:
    more = ["--discriminator_start", "2", "--losses.discriminator_seconds", "0.1"] if judged else []
    assert tune_decoder.main(words(place, tmp_path / "whole", *more)) == 0
    assert (
        tune_decoder.main(words(place, tmp_path / "cut", "--time_limit_minutes", "0", "--save_every", "5", *more)) == 0
    )
    assert [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()] == ["step-00000001"]
    assert tune_decoder.main(words(place, tmp_path / "cut", *more)) == 0
    whole, cut = (load_file(tmp_path / name / "decoder.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(cut[name], value) for name, value in whole.items())
    with pytest.raises(SoundloomError, match="holds checkpoints"):
        tune_decoder.main(words(place, tmp_path / "cut", "--resume", "never"))
    with pytest.raises(SoundloomError, match="drawn_levels: the run"):
        tune_decoder.main(words(place, tmp_path / "cut", "--drawn_levels", "2"))


def test_a_crop_is_the_sound_of_its_latents(place: Path) -> None:
    voice = load_voice(place / "voice")
    reader = tune_decoder.open_store(str(place / "store"), voice.num_levels)
    dataset = tune_decoder.GridDataset(reader, voice.lm.tokenizer, speakers=["own"], prompted=1.0)
    audio = audio_by_id([str(place / "manifest.jsonl")])
    options = {"levels": 3, "drawn": 1, "seconds": 0.2, "rows": 4, "codes_share": 1.0}
    crops = VoiceCrops(voice, dataset, audio, **options)  # type: ignore[arg-type]
    prefixed = audio_by_id([f"new-={place / 'manifest.jsonl'}"])
    assert prefixed == {f"new-{name}": path for name, path in audio.items()}
    lengths = set()
    for step in range(12):
        latents, wave, names = crops.batch(step)
        assert torch.equal(crops.batch(step)[0], latents) and len(names) == 4
        lengths.add((latents.shape[2], wave.shape[2] // voice.codec.hop_length))
        for latent, sound in zip(latents, wave, strict=True):
            # true codes' latents: the place in the recordings where they come from is where the sound must be too
            frames = {
                reader.id(row): torch.from_numpy(np.asarray(reader.codes(row))).long() for row in range(len(reader))
            }
            found = [
                (name, at)
                for name, codes in frames.items()
                for at in range(codes.shape[1] - latent.shape[1] + 1)
                if torch.equal(voice.codec.quantizer.decode(codes[None, :, at : at + latent.shape[1]])[0], latent)
            ]
            hop = voice.codec.hop_length
            matches = []
            for name, at in found:
                first = (at + latent.shape[1]) * hop - sound.shape[1]
                whole = recording(audio[name])
                piece = whole[:, first : first + sound.shape[1]]
                matches.append(torch.allclose(piece, sound[:, : piece.shape[1]], atol=1e-4))
            assert any(matches)
    assert lengths == {(22, 10), (22, 22)}  # in the midst of an utterance, and from its start


def recording(path: Path) -> torch.Tensor:
    return read_audio(path, 24_000, 1)


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(SoundloomError, match="no part of the decoder"):
        tune_decoder.main(words(place, tmp_path / "a", "--layers", "[head]"))
    with pytest.raises(SoundloomError, match="have a recording"):
        tune_decoder.main(words(place, tmp_path / "b", "--segment_seconds", "20"))
    with pytest.raises(SoundloomError, match="the voice writes 3"):
        tune_decoder.main(words(place, tmp_path / "c", "--drawn_levels", "4"))
    with pytest.raises(SoundloomError, match=r"none\.jsonl is missing"):
        tune_decoder.main(words(place, tmp_path / "d", "--audio", json.dumps([str(place / "none.jsonl")])))
    wrong = {"bottleneck.9.norm.weight": torch.zeros(3)}
    with pytest.raises(SoundloomError, match="does not fit this codec"):
        tiny_codec().with_decoder(wrong)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    parts = ["--codec", str(place / "codec"), "--lm", str(place / "delay")]
    with pytest.raises(SoundloomError, match="safetensors"):
        make_voice.main([str(tmp_path / "v"), *parts, "--decoder", str(tmp_path / "bad.safetensors")])
