"""The best of several takes: by the guard's measures, or by who counts wrong words; the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from voice_helpers import tiny_voice

from codec.common.seeds import retry_seed
from codec.errors import SoundloomError
from pipelines.evaluation import word_checker
from pipelines.evaluation.tts_outputs import voice_items
from pipelines.evaluation.word_checker import WordChecker
from pipelines.voice import synthesis
from pipelines.voice.speech import Sentence
from pipelines.voice.takes import Take, rounds
from pipelines.voice.voice import Voice


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Voice:
    return tiny_voice(tmp_path_factory.mktemp("text"))


def take(reason: str, wrong: int = 0, clarity: float = 0.0) -> Take:
    sentence = Sentence("a", torch.zeros(1, 1), 0, reason, 1, 0, 1)
    return Take(sentence, torch.zeros(1, 1), wrong, clarity)


def test_a_complete_take_with_few_wrong_words_comes_first() -> None:
    best_first = [take("end"), take("words"), take("end", 1, -0.5), take("end", 1, -1.0), take("words", 1), take("cap")]
    assert sorted(best_first[::-1], key=lambda one: one.rank) == best_first
    assert [one.is_good for one in best_first] == [True, False, False, False, False, False]


def test_a_checker_may_be_content_with_the_first_take() -> None:
    assert list(rounds(1, 2, False)) == list(rounds(1, 2, True)) == [range(1), range(1, 2), range(2, 3)]
    assert list(rounds(4, 1, False)) == [range(4), range(4, 5)]
    assert list(rounds(4, 1, True)) == [range(1), range(1, 4), range(4, 5)]


def seeds(voice: Voice, wrong: dict[int, int], **options: object) -> tuple[list[int], int, int]:
    """Return whose takes a checker was asked for, the seed that was kept, and the attempts."""
    names = [0, *(retry_seed(0, attempt) for attempt in range(1, 6))]
    sounds = {voice.speak("Hello world", seed=0, retries=0).waveform.mean(0).sum().item(): 0}
    for attempt in range(1, 6):
        sounds[voice.speak("Hello world", seed=names[attempt], retries=0).waveform.mean(0).sum().item()] = attempt
    asked: list[int] = []

    def checker(text: str, wave: Tensor, rate: int) -> int:
        assert text == "Hello world" and rate == voice.sample_rate
        key = min(sounds, key=lambda known: abs(known - wave.sum().item()))
        asked.append(sounds[key])
        return wrong.get(sounds[key], 0)

    speech = voice.speak("Hello world", checker=checker, retries=0, **options)  # type: ignore[arg-type]
    return asked, names.index(speech.sentences[0].seed), speech.attempts


def test_the_take_with_the_fewest_wrong_words_is_kept(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "finish_reason", lambda *_: "end")
    assert seeds(voice, {}, takes=4) == ([0], 0, 1)
    assert seeds(voice, {0: 2, 1: 1, 3: 1}, takes=4) == ([0, 1, 2, 3], 2, 4)
    assert seeds(voice, {0: 1, 1: 2, 2: 1, 3: 2}, takes=4) == ([0, 1, 2, 3], 0, 4)


def test_without_a_checker_all_takes_are_compared(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "finish_reason", lambda *_: "end")
    clear = iter([-3.0, -1.0, -2.0])
    monkeypatch.setattr(synthesis, "clarity", lambda *_: next(clear))
    speech = voice.speak("Hello world", takes=3)
    assert speech.sentences[0].seed == retry_seed(0, 1) and speech.attempts == 3
    assert torch.equal(speech.waveform, voice.speak("Hello world", seed=retry_seed(0, 1), retries=0).waveform)


def test_takes_do_not_depend_on_neighbours(voice: Voice) -> None:
    alone = voice.speak("Hello world", seed=3, takes=3)
    both = voice.speak_batch(["How are you?", "Hello world"], seeds=[1, 3], takes=3)
    assert alone.sentences[0].seed == both[1].sentences[0].seed
    assert torch.equal(alone.codes, both[1].codes)


def test_what_cannot_be_is_refused(voice: Voice) -> None:
    for options, message in (({"takes": 0}, "takes is 0; expected 1 to 20"), ({"takes": 21}, "takes is 21")):
        with pytest.raises(SoundloomError, match=message):
            voice.speak("Hello", **options)  # type: ignore[arg-type]
    with pytest.raises(SoundloomError, match="need whole sentences: use speak"):
        voice.stream("Hello", takes=2)
    with pytest.raises(SoundloomError, match="'base' chooses the takes and judges them"):
        word_checker.check_choice("base", "base")
    with pytest.raises(SoundloomError, match="--choose-by 'huge': expected guard, tiny, base, or the folder"):
        word_checker.check_choice("huge")


def test_wrong_words_are_counted_against_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jiwer")
    said = {1: "Say GIF now.", 2: "USA", 3: "Say it."}

    class Whisper:
        description = "stand-in"

        def __init__(self, model: str, threads: int) -> None:
            assert (model, threads) == ("tiny", 1)

        def __call__(self, wave: Tensor, sample_rate: int) -> str:
            return said[len(wave)]

    monkeypatch.setattr(word_checker, "Transcriber", Whisper)
    count = WordChecker()
    texts = ["Say [gif](/\u02a4\u02c8\u026af/) now.", "U. S. A.", "Say what I say."]
    assert [count(text, torch.zeros(n), 8000) for n, text in enumerate(texts, 1)] == [0, 0, 3]
    assert count("!", torch.zeros(3), 8000) == 0


def test_a_report_compares_one_take_with_the_best_of_several(voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "finish_reason", lambda *_: "end")
    monkeypatch.setattr(synthesis, "reads_well", lambda *_: True)
    settings = {"takes": 2, "checker": lambda text, *_: int(text == "Hello."), "retries": 0}
    items = list(voice_items(voice, ["Hello world.", "Hello."], 0, settings))
    assert [(item.system, item.attempts) for item in items] == [
        ("voice, guard off", 1),
        ("voice", 1),
        ("voice, guard off", 1),
        ("voice", 2),
    ]
    assert items[0].wave is items[1].wave  # so that it is judged once
