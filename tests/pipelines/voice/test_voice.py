"""A voice: the same speech whole and streamed, joins without a click, folders that fit or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from voice_helpers import LEVELS, save_lms, tiny_codec, tiny_voice

import pipelines.voice.folder as voice_folder
import pipelines.voice.prompts as prompts_module
import pipelines.voice.voice as voice_module
from codec.audio.files import read_audio, write_audio
from codec.common.seeds import sentence_seed
from codec.equalize import spectrum_gains
from codec.errors import SoundloomError
from lm.generation.latents import fit_latents
from pipelines import load_voice, make_voice
from pipelines.voice.edges import Edges
from pipelines.voice.guard import FINISH_REASONS, verdict
from pipelines.voice.request import SentenceRequest
from pipelines.voice.takes import Take
from pipelines.voice.voice import Voice

TWO = "Hello world. How are you?"


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    return tiny_voice(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a codec, another codec, and language models by kind."""
    folder = tmp_path_factory.mktemp("parts")
    codec = tiny_codec()
    codec.save_pretrained(folder / "codec")
    tiny_codec(1).save_pretrained(folder / "other")
    return {"codec": folder / "codec", "other": folder / "other", **save_lms(folder, codec)}


def make(parts: dict[str, Path], out: Path, *more: str, codec: str = "codec") -> int:
    return make_voice.main([str(out), "--codec", str(parts[codec]), *more])


def prompt_wave() -> torch.Tensor:
    return 0.1 * torch.randn(1, 12_000, generator=torch.Generator().manual_seed(0))


# --- speaking -------------------------------------------------------------------------------------------------------


def test_the_same_request_gives_the_same_speech_and_codes_that_decode_to_it(voice: Voice) -> None:
    speech = voice.speak("Hello world", seed=2)
    assert torch.equal(voice.speak("Hello world", seed=2).waveform, speech.waveform)
    assert not torch.equal(voice.speak("Hello world", seed=3).codes, speech.codes)
    assert speech.waveform.dtype == torch.float32 and speech.sample_rate == 24_000
    assert speech.waveform.shape == (1, speech.codes.shape[1] * voice.codec.hop_length)
    middle = slice(240, -240)  # the edges rise and fall
    assert torch.equal(voice.codec.decode(speech.codes[None])[0][:, middle], speech.waveform[:, middle])


def test_of_levels_that_are_not_drawn_the_mean_is_heard(voice: Voice) -> None:
    drawn, mean = voice.speak(TWO, seed=2), voice.speak(TWO, seed=2, sampled_levels=1)
    assert torch.equal(drawn.codes, mean.codes) and not torch.allclose(drawn.waveform, mean.waveform, atol=1e-3)
    sentence = mean.sentences[1]
    assert sentence.latents is not None and drawn.sentences[1].latents is None
    wave = mean.waveform[:, sentence.start : sentence.start + sentence.num_samples]
    middle = slice(240, -240)  # the edges rise and fall
    assert torch.equal(voice.codec.decode_latent(sentence.latents[None])[0][:, middle], wave[:, middle])
    assert torch.equal(voice.speak(TWO, seed=2, drawn_levels=LEVELS).waveform, drawn.waveform)
    with pytest.raises(SoundloomError, match=r"(drawn|sampled)_levels is 0"):
        voice.speak(TWO, sampled_levels=0)
    with pytest.raises(SoundloomError, match=r"levels is 1\.5"):
        voice.speak(TWO, levels=1.5)
    assert torch.equal(voice.speak(TWO, seed=2, drawn_levels=1).waveform, mean.waveform)  # the old name


def test_after_a_recording_means_lie_where_its_own_latents_do(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt: dict[str, Any] = {"prompt": prompt_wave(), "prompt_text": "how", "drawn_levels": 1, "retries": 0}
    fitted = voice.speak(TWO, **prompt).sentences[0].latents
    monkeypatch.setattr(prompts_module, "fit_latents", lambda *args: None)
    plain = voice.speak(TWO, **prompt).sentences[0].latents
    monkeypatch.undo()
    seen: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr(prompts_module, "fit_latents", lambda *args: seen.append(args))
    voice.speak(TWO, **prompt)
    ((known, true),) = seen  # once, whatever is spoken after it; where it tells nothing, nobody asks further
    codes = voice.codec.encode(prompt_wave()[None])
    assert torch.equal(true, voice.codec.quantizer.decode(codes)[0]) and known.shape == true.shape
    fit = fit_latents(known, true)
    assert fit is not None and fitted is not None and plain is not None
    assert torch.allclose(fitted, fit(plain), atol=1e-5) and not torch.allclose(fitted, plain, atol=1e-2)


def test_after_a_recording_speech_has_its_spectrum(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt: dict[str, Any] = {"prompt": prompt_wave(), "prompt_text": "how", "drawn_levels": 1, "retries": 0}
    found: list[torch.Tensor] = []

    def gains(made: torch.Tensor, wanted: torch.Tensor, rate: int, window: int) -> torch.Tensor:
        # what the model knows of the recording beside the recording, without the start, where it knows nothing yet
        assert made.shape == wanted.shape == (prompt_wave().shape[-1] - 10 * voice.codec.hop_length,)
        found.append(spectrum_gains(made, wanted, rate, window))
        return found[-1]

    monkeypatch.setattr(prompts_module, "spectrum_gains", gains)
    speech = voice.speak("Hello world", **prompt)
    monkeypatch.setattr(prompts_module, "spectrum_gains", lambda *args: 0 * found[0])
    flat = voice.speak("Hello world", **prompt)
    assert found[0].abs().max() > 0.1 and torch.equal(speech.codes, flat.codes)
    assert torch.equal(speech.sentences[0].latents, flat.sentences[0].latents)  # what was written is the same
    assert not torch.allclose(speech.waveform, flat.waveform, atol=1e-2)


def test_a_fit_carries_mean_and_spread_over() -> None:
    g = torch.Generator().manual_seed(0)
    known = torch.randn(4, 2000, generator=g)
    fit = fit_latents(known, 2 * known + 3)
    assert fit is not None
    assert torch.allclose(fit(known).mean(1), torch.full((4,), 3.0), atol=0.1)
    assert torch.allclose(fit(known).std(1), torch.full((4,), 2.0), atol=0.1)
    assert fit_latents(known[:, :15], known[:, :15]) is None  # tells nothing
    wild = fit_latents(1e-9 * known, known)
    assert wild is not None and torch.isfinite(wild(known)).all() and float(wild.scale.max()) <= 4.0


@pytest.mark.parametrize("drawn", [None, 1])
@pytest.mark.parametrize("prompted", [False, True])
def test_side_by_side_equals_alone(voice: Voice, prompted: bool, drawn: int | None) -> None:
    prompt: dict[str, Any] = {"prompt": prompt_wave(), "prompt_text": "how"} if prompted else {}
    prompt["drawn_levels"] = drawn
    texts = ["Hello world", TWO, "you", "Hello, how are you? World, hello."]
    seeds = [5, 6, 7, 8]
    together = voice.speak_batch(texts, seeds=seeds, batch_size=3, retries=1, **prompt)
    for text, seed, speech in zip(texts, seeds, together, strict=True):
        alone = voice.speak(text, seed=seed, retries=1, **prompt)
        assert torch.equal(alone.codes, speech.codes) and alone.finish_reason == speech.finish_reason
        assert torch.allclose(alone.waveform, speech.waveform, atol=1e-5) and alone.attempts == speech.attempts
        assert [s.start for s in alone.sentences] == [s.start for s in speech.sentences]
    assert voice.speak_batch([]) == []
    with pytest.raises(SoundloomError, match="batch_size"):
        voice.speak_batch(texts, batch_size=0)


def test_words_that_just_stop_are_spoken_as_a_sentence(voice: Voice) -> None:
    assert torch.equal(voice.speak("Hello world", seed=3).codes, voice.speak("Hello world.", seed=3).codes)
    assert not torch.equal(voice.speak("Hello world?", seed=3).codes, voice.speak("Hello world.", seed=3).codes)
    assert voice.speak("Hello world", seed=3).text == "Hello world"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("drawn", [None, 1])
def test_streamed_equals_whole(voice: Voice, seed: int, prompted: bool, drawn: int | None) -> None:
    prompt: dict[str, Any] = {"prompt": prompt_wave(), "prompt_text": "how"} if prompted else {}
    prompt["drawn_levels"] = drawn
    whole = voice.speak(TWO, seed=seed, retries=0, levels=2, **prompt)
    stream = voice.stream(TWO, seed=seed, levels=2, **prompt)
    chunks = list(stream)
    assert len(chunks) > 4 and all(chunk.shape[1] for chunk in chunks)
    assert torch.allclose(torch.cat(chunks, dim=1), whole.waveform, atol=1e-5)
    assert stream.speech is not None and torch.equal(stream.speech.codes, whole.codes)
    assert whole.codes.shape[0] == 2 and stream.speech.finish_reason == whole.finish_reason
    for ours, theirs in zip(stream.speech.sentences, whole.sentences, strict=True):
        assert (ours.latents is None) == (theirs.latents is None) == (drawn is None)
        assert ours.latents is None or torch.allclose(ours.latents, theirs.latents, atol=1e-5)
    assert [(s.start, s.num_samples) for s in stream.speech.sentences] == [
        (s.start, s.num_samples) for s in whole.sentences
    ]


def test_joins_of_sentences_are_silent_and_without_a_step(voice: Voice) -> None:
    speech = voice.speak(TWO + " I am fine.", seed=0)
    wave = speech.waveform[0]
    assert len(speech.sentences) == 3 and speech.sentences[0].text == "Hello world."
    pause = round(0.15 * 24_000)
    for before, after in zip(speech.sentences, speech.sentences[1:], strict=False):
        end = before.start + before.num_samples
        assert after.start - end == pause and not wave[end : after.start].any()
        loud = wave[before.start : end].abs().max()
        assert (wave[end - 3 : end + 1].diff().abs() < 0.01 * loud).all()
        assert (wave[after.start - 1 : after.start + 3].diff().abs() < 0.01 * loud).all()
    assert wave[0] == 0 and wave[-1].abs() < 1e-3


def test_edges_are_the_same_in_pieces() -> None:
    wave = torch.rand(1, 700) + 0.5
    whole = Edges(24_000)
    expected = torch.cat([whole.push(wave), whole.finish()], dim=1)
    assert expected.shape == wave.shape and expected[0, 0] == 0 and expected[0, -1] < 1e-2
    assert torch.equal(expected[:, 96:460], wave[:, 96:460])
    for size in (1, 7, 333):
        edges = Edges(24_000)
        pieces = [edges.push(wave[:, i : i + size]) for i in range(0, 700, size)]
        assert torch.equal(torch.cat([*pieces, edges.finish()], dim=1), expected)
    assert Edges(24_000).finish().shape == (1, 0)


def test_the_guard_tries_again_a_bounded_number_of_times(voice: Voice) -> None:
    told = {"cap_factor": 0.01, "cap_seconds": 0.4, "floor_factor": 1.0}  # END is never allowed: always the cap
    speech = voice.speak("Hello world", retries=3, **told)
    assert speech.finish_reason == "cap" and speech.attempts == 4
    assert voice.speak("Hello world", retries=0, **told).attempts == 1
    loop = voice.speak("Hello world", retries=1, temperature=0.0, loop_seconds=0.2, min_frames=300, max_frames=400)
    assert loop.finish_reason == "loop" and loop.attempts == 2
    bad = voice.speak(TWO, seed=0, retries=0, **told)
    assert bad.finish_reason == max((s.finish_reason for s in bad.sentences), key=FINISH_REASONS.index)


def test_what_the_guard_hears() -> None:
    noise = 0.1 * torch.randn(1, 48_000)
    assert verdict("end", noise, 24_000, 2.0) == "end"
    assert verdict("cap", noise, 24_000, 2.0) == "cap"
    assert verdict("end", noise * 0.001, 24_000, 2.0) == "silence"
    hole = noise.repeat(1, 2)
    hole[:, 30_000:70_000] = 0
    assert verdict("end", hole, 24_000, 4.0) == "silence"
    assert verdict("end", noise, 24_000, 5.0) == "length"
    assert verdict("end", noise, 24_000, 0.9) == "length"
    assert verdict("end", noise, 24_000, 0.0) in ("end", "length")


def test_sentences_have_seeds_of_their_own() -> None:
    seeds = {sentence_seed(seed, index) for seed in (0, 1, 2) for index in range(10)}
    assert len(seeds) == 30 and sentence_seed(7, 0) == 7


def test_the_first_sentence_is_carried_where_the_voice_wants_it(tmp_path: Path) -> None:
    voice = tiny_voice(tmp_path, carry=True)
    plain = Voice(tiny_voice(tmp_path).config, voice.codec, voice.lm)
    for seed in range(6):
        carried, alone = (v.speak(TWO, seed=seed) for v in (voice, plain))
        if alone.sentences[0].finish_reason == "end":
            assert not torch.equal(carried.sentences[1].codes, alone.sentences[1].codes)
            stream = voice.stream(TWO, seed=seed)
            list(stream)
            if carried.attempts == 1:
                assert stream.speech is not None and torch.equal(stream.speech.codes, carried.codes)
                return
    pytest.fail("no seed whose first sentence ends well")


def test_a_prompt_changes_the_voice_but_is_not_heard(voice: Voice) -> None:
    with_prompt = voice.speak("Hello", prompt=prompt_wave(), prompt_text="how are you", retries=0)
    again = voice.speak("Hello", prompt=prompt_wave()[0], prompt_text="how are you", retries=0)
    assert torch.equal(with_prompt.waveform, again.waveform)
    assert with_prompt.waveform.shape[1] == with_prompt.codes.shape[1] * voice.codec.hop_length


# --- continuing -----------------------------------------------------------------------------------------------------


def test_continuation_has_the_asked_length_and_no_seam(voice: Voice) -> None:
    wave = prompt_wave()
    whole = voice.continue_audio(wave, 0.5, seed=1)
    assert whole.waveform.shape == (1, 24_000) and whole.finish_reason == "end"
    assert torch.equal(whole.waveform[:, :11_500], wave[:, :11_500])
    new = voice.continue_audio(wave, 0.5, seed=1, only_new=True)
    assert torch.equal(new.codes, whole.codes) and new.waveform.shape == (1, 12_000)
    assert torch.allclose(new.waveform[:, 200:], whole.waveform[:, 12_200:], atol=1e-6)
    inside = whole.waveform[0].diff().abs()
    assert inside[11_990:12_010].max() <= inside.max() * 0.9
    told = voice.continue_audio(wave, 2.0, text="hello", prompt_text="how are you", seed=1)
    assert 12_000 < told.waveform.shape[1] <= 60_000


# --- bad requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "empty"),
        ("  \n", {}, "empty"),
        ("?!...", {}, "nothing to speak"),
        ("word " * 20_000, {}, "characters"),
        ("x" * 3000, {}, "one word"),
        ("hi", {"levels": 0}, "levels 1 to 3"),
        ("hi", {"levels": 4}, "levels 1 to 3"),
        ("hi", {"seed": -1}, "seed"),
        ("hi", {"retries": 99}, "retries"),
        ("hi", {"temperatur": 1.0}, "temperature"),
        ("hi", {"temperature": "hot"}, "temperature"),
        ("hi", {"temperature": -1.0}, "temperature"),
        ("hi", {"prompt": torch.zeros(1, 24_000)}, "prompt_text"),
        ("hi", {"prompt_text": "hello"}, "prompt"),
        ("hi", {"prompt": torch.zeros(1, 100), "prompt_text": "hello"}, "shorter than"),
        ("hi", {"prompt": torch.zeros(1, 24_000 * 30), "prompt_text": "hello"}, "at most 20"),
        ("hi", {"prompt": torch.full((1, 24_000), float("nan")), "prompt_text": "hello"}, "finite"),
        ("hi", {"prompt": "/nowhere.wav", "prompt_text": "hello"}, "nowhere.wav"),
    ],
)
def test_bad_requests_are_told(voice: Voice, text: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SoundloomError, match=message):
        voice.speak(text, **arguments)
    if "retries" not in arguments:
        with pytest.raises(SoundloomError, match=message):
            voice.stream(text, **arguments)


@pytest.mark.parametrize("kind", ["numpy", "int16", "numpy int16", "int32"])
def test_prompts_of_other_types_are_the_same_prompt(voice: Voice, kind: str) -> None:
    exact = (prompt_wave().clamp(-1, 1) * 2**15).round() / 2**15
    prompt: Any = exact.numpy() if kind == "numpy" else (exact * 2**15).short()
    prompt = prompt.numpy() if kind == "numpy int16" else (exact.double() * 2**31).int() if kind == "int32" else prompt
    made = [voice.speak("hi", prompt=one, prompt_text="how", retries=0) for one in (exact, prompt)]
    assert torch.equal(made[0].waveform, made[1].waveform)


def test_prompts_of_no_sound_are_refused(voice: Voice) -> None:
    for prompt in (torch.zeros(1, 24_000, dtype=torch.uint8), torch.zeros(24_000).bool(), np.zeros(24_000, complex)):
        with pytest.raises(SoundloomError, match="expected floats from -1 to 1, or int16"):
            voice.speak("hi", prompt=prompt, prompt_text="how")


def test_batches_of_another_length_are_refused(voice: Voice) -> None:
    for texts, seeds, message in ((["a", "b"], [1], "1 seeds for 2 texts"), ("ab", None, "a single str")):
        with pytest.raises(SoundloomError, match=message):
            voice.speak_batch(texts, seeds=seeds)


def test_a_text_is_tokenised_once(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = type(voice.lm.tokenizer).encode

    def spy(tokenizer: Any, text: str) -> list[int]:
        seen.append(text)
        return encode(tokenizer, text)

    monkeypatch.setattr(type(voice.lm.tokenizer), "encode", spy)
    voice.speak(TWO, retries=2)
    assert seen == ["Hello world.", "How are you?"]
    list(voice.stream(TWO))
    assert seen == ["Hello world.", "How are you?"] * 2


def test_skipped_text_and_pauses(voice: Voice) -> None:
    speech = voice.speak("[pause:0.2s]Hello. Привет. [pause:1s]World.", retries=0)
    assert speech.skipped == ("Привет.",) and speech.text == "Hello. World."
    first, second = speech.sentences
    assert first.start == 4800 and second.start == first.start + first.num_samples + 24_000
    assert not speech.waveform[:, :4800].any()
    stream = voice.stream("[pause:0.2s]Hello. Привет. [pause:1s]World.")
    joined = torch.cat(list(stream), dim=1)
    assert torch.allclose(joined, speech.waveform, atol=1e-5)
    assert stream.speech is not None and stream.speech.skipped == speech.skipped
    assert [s.start for s in stream.speech.sentences] == [s.start for s in speech.sentences]
    with pytest.raises(SoundloomError, match="1 part of the text cannot be spoken"):
        voice.speak("Hello. Привет.", strict=True)


def test_words_of_ones_own(tmp_path: Path) -> None:
    voice = tiny_voice(tmp_path)
    plain = voice.text_ids("Hello world")
    voice.add_words({"hello": "bI"})
    assert voice.text_ids("Hello world") != plain and voice.text_ids("HELLO world") == voice.text_ids("Hello world")
    with pytest.raises(SoundloomError, match="expected a word and its phonemes"):
        voice.add_words({"hello": "123"})


def test_it_moves_to_a_device(tmp_path: Path) -> None:
    voice = tiny_voice(tmp_path)
    assert voice.to("cpu") is voice and voice.device == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(SoundloomError, match="device cuda"):
            voice.to("cuda")


def test_without_a_text_speech_is_drawn_freely(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    synthesize = voice_module.synthesize

    def spy(lm: Any, requests: list[SentenceRequest]) -> list[Take]:
        used.append(requests[0].style.sampling.temperature)
        return synthesize(lm, requests)

    monkeypatch.setattr(voice_module, "synthesize", spy)
    voice.continue_audio(prompt_wave(), 0.2)
    voice.continue_audio(prompt_wave(), 0.2, temperature=0.4)
    voice.continue_audio(prompt_wave(), 0.2, text="Hello world", prompt_text="how")
    assert used == [voice_module.FREE_TEMPERATURE, 0.4, voice.config.generation.temperature]


def test_bad_continuations_are_told(voice: Voice) -> None:
    for seconds in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(SoundloomError, match="seconds"):
            voice.continue_audio(prompt_wave(), seconds)
    with pytest.raises(SoundloomError, match="prompt_text without text"):
        voice.continue_audio(prompt_wave(), 1.0, prompt_text="hello")


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_voice_is_made_opened_and_saved(parts: dict[str, Path], tmp_path: Path, voice: Voice) -> None:
    out = tmp_path / "v"
    assert make(parts, out, "--lm", str(parts["delay"]), "--temperature", "0.8", "--data", "nothing") == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "codec", "lm", "voice.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["v"]  # no leftovers
    made = load_voice(out)
    assert made.config.generation.temperature == 0.8 and "nothing" in made.card and made.num_levels == LEVELS
    speech = made.speak("Hello world", seed=4)
    assert speech.codes.shape[0] == LEVELS
    made.save(tmp_path / "w")
    assert torch.equal(load_voice(tmp_path / "w").speak("Hello world", seed=4).waveform, speech.waveform)


def test_a_voice_has_more_speakers(parts: dict[str, Path], tmp_path: Path) -> None:
    speakers, text = tmp_path / "speakers", "How are you?"
    speakers.mkdir()
    write_audio(speakers / "ann.flac", prompt_wave(), 24_000)
    (speakers / "ann.txt").write_text(f"{text}\n")
    (speakers / ".DS_Store").write_bytes(b"what some systems put into every folder")
    assert make(parts, tmp_path / "v", "--lm", str(parts["delay"]), "--speakers", str(speakers)) == 0
    made = load_voice(tmp_path / "v")
    assert "**more speakers:** ann" in made.card
    speech = made.speak("Hello", speaker="ann")
    prompted = made.speak("Hello", prompt=speakers / "ann.flac", prompt_text=text)
    assert torch.equal(speech.waveform, prompted.waveform)
    assert not torch.equal(speech.codes, made.speak("Hello").codes)
    chunks = list(made.stream("Hello", speaker="ann"))
    torch.testing.assert_close(torch.cat(chunks, -1), speech.waveform, atol=1e-5, rtol=0)
    made.save(tmp_path / "v", replace_voice=True)  # the recordings come from the folder that is replaced
    assert torch.equal(load_voice(tmp_path / "v").speak("Hello", speaker="ann").waveform, speech.waveform)
    with pytest.raises(SoundloomError, match=r"no speaker 'bob'.* has: ann"):
        made.speak("Hello", speaker="bob")
    with pytest.raises(SoundloomError, match="one of them"):
        made.speak("Hello", speaker="ann", prompt_text=text)
    for name, content, message in (("ann", "", "is empty"), ("bob", "hello", "no recording of bob")):
        (speakers / f"{name}.txt").write_text(content)
        with pytest.raises(SoundloomError, match=message):
            make(parts, tmp_path / "w", "--lm", str(parts["delay"]), "--speakers", str(speakers))
        (speakers / "ann.txt").write_text(text)
    (speakers / "ann.txt").unlink()
    with pytest.raises(SoundloomError, match=r"ann.txt is missing"):
        make(parts, tmp_path / "w", "--lm", str(parts["delay"]), "--speakers", str(speakers))
    with pytest.raises(SoundloomError, match="holds no speakers"):
        make(parts, tmp_path / "w", "--lm", str(parts["delay"]), "--speakers", str(tmp_path / "absent"))


def test_the_pair_speaks_and_streams(parts: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "v"
    arguments = ["--coarse", str(parts["coarse"]), "--fine", str(parts["fine"]), "--dtype", "float16"]
    make(parts, out, *arguments)
    assert (out / "coarse").is_dir() and (out / "fine").is_dir()
    voice = load_voice(out)
    whole, stream = voice.speak(TWO, seed=1, retries=0), voice.stream(TWO, seed=1)
    assert torch.allclose(torch.cat(list(stream), dim=1), whole.waveform, atol=1e-5)
    with pytest.raises(SoundloomError, match="need a codec of soundloom and a delay model"):
        voice.speak(TWO, sampled_levels=1)
    with pytest.raises(SoundloomError, match="exists already"):
        make(parts, out, *arguments)
    assert make(parts, out, *arguments, "--replace") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(SoundloomError, match="not a voice"):
        make(parts, tmp_path / "mine", *arguments, "--replace")


def test_a_shipped_codec_is_named_not_copied(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(parts["codec"], tmp_path / "weights" / "small")
    monkeypatch.setattr("codec.pretrained.SHIPPED", tmp_path / "weights" / "speech-24khz")
    out = tmp_path / "v"
    assert make_voice.main([str(out), "--codec", "small", "--lm", str(parts["delay"])]) == 0
    assert not (out / "codec").exists() and json.loads((out / "voice.json").read_text())["codec"] == "small"
    assert load_voice(out).speak("hi").seconds > 0
    monkeypatch.setattr(voice_folder, "SHIPPED_VOICES", tmp_path)
    assert load_voice("v").config.codec == "small"
    shutil.rmtree(tmp_path / "weights" / "small")
    shutil.copytree(parts["other"], tmp_path / "weights" / "small")
    with pytest.raises(SoundloomError, match="fingerprint"):
        load_voice(out)


def test_a_voice_decodes_its_own_number_of_levels(parts: dict[str, Path], tmp_path: Path) -> None:
    assert make(parts, tmp_path / "v", "--lm", str(parts["delay"]), "--levels", "2") == 0
    voice = load_voice(tmp_path / "v")
    speech = voice.speak("Hello world", seed=4)
    assert speech.codes.shape[0] == 2 < LEVELS == voice.speak("Hello world", seed=4, levels=LEVELS).codes.shape[0]
    assert torch.equal(speech.waveform, voice.speak("Hello world", seed=4, levels=2).waveform)
    assert torch.allclose(speech.waveform, torch.cat(list(voice.stream("Hello world", seed=4)), dim=-1), atol=1e-5)
    for levels, message in (("9", "decodes 9 levels, its model writes 3"), ("0", "--levels 0: expected 1 to")):
        with pytest.raises(SoundloomError, match=message):
            make(parts, tmp_path / "w", "--lm", str(parts["delay"]), "--levels", levels)


def test_parts_that_do_not_fit_are_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "v"
    for arguments, codec, message in (
        (["--lm", str(parts["delay"])], "other", "another codec"),
        (["--lm", str(parts["coarse"])], "codec", "only some of the levels"),
        (["--coarse", str(parts["delay"]), "--fine", str(parts["fine"])], "codec", "not a coarse model"),
        (["--coarse", str(parts["coarse"]), "--fine", str(parts["delay"])], "codec", "not a fine model"),
        (["--coarse", str(parts["coarse"])], "codec", "--fine"),
        (["--lm", str(parts["delay"]), "--dtype", "int3"], "codec", "int3"),
        (["--lm", str(parts["delay"]), "--temperature", "-1"], "codec", "temperature"),
        (["--lm", str(parts["delay"]), "--figures", "/nowhere"], "codec", "nowhere"),
    ):
        with pytest.raises(SoundloomError, match=message):
            make(parts, out, *arguments, codec=codec)
        assert not list(tmp_path.iterdir())


def test_broken_folders_are_told(parts: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "v"
    make(parts, out, "--lm", str(parts["delay"]))
    good = json.loads((out / "voice.json").read_text())
    for change, message in (
        ({"format": "else"}, "format"),
        ({"version": 9}, "version"),
        ({"codec": "../../etc"}, "codec"),
        ({"codec": "absent"}, "not shipped"),
        ({"codec_fingerprint": "0"}, "codec_fingerprint"),
        ({"codec_fingerprint": "0" * 64}, "was made for a codec"),
        ({"sample_rate": 1}, "sample_rate"),
        ({"retries": -1}, "retries"),
        ({"paus_seconds": 1}, "pause_seconds"),
        ({"generation": {"temperature": "1"}}, "temperature"),
    ):
        (out / "voice.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(SoundloomError, match=message):
            load_voice(out)
    (out / "voice.json").write_text("{")
    with pytest.raises(SoundloomError, match="JSON"):
        load_voice(out)
    (out / "voice.json").write_text(json.dumps(good))
    shutil.rmtree(out / "lm")
    with pytest.raises(SoundloomError, match=r"config.json is missing"):
        load_voice(out)
    for name, message in (
        (tmp_path, "voice.json is missing"),
        ("no-such", "no such folder"),
        (out / "voice.json", "a file"),
    ):
        with pytest.raises(SoundloomError, match=message):
            load_voice(name)


def test_speakers_of_the_shipped_voice() -> None:
    shipped = load_voice()
    own = shipped.speak("Yes, of course.").codes
    assert len(shipped.speakers) >= 4
    for name, prompt in shipped.speakers.items():
        assert 2 < read_audio(prompt.audio, shipped.sample_rate).shape[1] / shipped.sample_rate < 6
        speech = shipped.speak("Yes, of course.", speaker=name)
        assert speech.finish_reason == "end" and not torch.equal(speech.codes, own)


def test_a_single_word_that_is_asked_or_cried_gets_a_full_stop(voice: Voice) -> None:
    ids, tokenizer = voice.text_ids, voice.lm.tokenizer
    assert ids("How?") == ids("How!") == ids("How.") == ids("How")
    assert tokenizer.piece(ids("How so?")[-1]) == "?"
    assert ids("How?")[:-1] == tokenizer.encode("How?")[:-1]
