"""evaluate_tts.py: the whole report of a tiny voice with stand-in judges, and its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from voice_helpers import tiny_voice

from codec.audio.files import write_audio
from codec.errors import SoundloomError
from codec.metrics import Summary
from pipelines import evaluate_tts
from pipelines.corpus.texts import read_texts
from pipelines.evaluation import tts_scores as scores
from pipelines.evaluation import words
from pipelines.evaluation.sentence_sets import FOLDER, PLAIN, chosen_sets, read_set
from pipelines.evaluation.tts_outputs import Item, voice_items
from pipelines.evaluation.tts_pictures import alignment
from pipelines.evaluation.tts_report import Results, set_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("voice")
    return tiny_voice(place / "text").save(place / "tiny")


class Parrot:
    """A transcriber that always hears the same."""

    description = "parrot"

    def __init__(self, model: str, threads: int = 1) -> None:
        assert model == "base"

    def __call__(self, wave: torch.Tensor, sample_rate: int) -> str:
        return "hello world"


def test_the_sentences_that_come_along() -> None:
    lines = read_set(PLAIN)
    assert len(lines) >= 200 and len(set(lines)) == len(lines)
    assert all(5 <= len(line.split()) <= 30 for line in lines)
    assert read_texts(FOLDER / "english.txt") == lines  # one sentence a line, none lost, none cut


def test_named_sets_are_what_their_names_say() -> None:
    sets = chosen_sets("all")
    assert {name: len(lines) for name, lines in sets.items() if name != PLAIN} == {
        "short": 200, "letters": 74, "questions": 60, "lists": 50, "long": 30, "open": 60,
    }  # fmt: skip
    for name, lines in sets.items():
        assert len(set(lines)) == len(lines) and all(line == line.strip() and line for line in lines), name
    assert all(1 <= len(line.split()) <= 2 for line in sets["short"])
    assert all(line.endswith("?") for line in sets["questions"])
    assert all(line[-1].isalpha() for line in sets["open"])
    assert all(len(line.split()) >= 35 for line in sets["long"])
    assert chosen_sets("short, long", 2) == {"short": sets["short"][:2], "long": sets["long"][:2]}
    with pytest.raises(SoundloomError, match="'shorts' is no set; there are english, short"):
        chosen_sets("shorts")


def test_letters_count_as_they_sound() -> None:
    pytest.importorskip("jiwer")
    for said in ("U S A.", "U-S-A", "USA", "You S A!"):
        assert words.spelled_words(said) == ["usa"]
    assert words.spelled_words("Plan B, or see?") == ["plan", "b", "or", "c"]
    assert words.word_errors(["U S A.", "See me."], ["USA", "C me."], spelled=range(1)).corpus.mean == 1 / 3


def test_the_whole_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jiwer")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(words, "Transcriber", Parrot)
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"audio": f"{i}.wav", "text": text, "split": "test"} for i, text in enumerate(["Hello world.", "How so?"])]
    for row in rows:
        write_audio(tmp_path / row["audio"], 0.1 * torch.randn(1, 24_000), 24_000)
    manifest.write_text("".join(json.dumps(row) + "\n" for row in [{"audio": "absent.wav", "split": "train"}, *rows]))
    arguments = [str(folder), "-o", str(tmp_path / "report"), "--reference", str(manifest), "--split", "test"]
    arguments += ["--seeds", "0,1", "--first-sound", "2", "--cold", "1", "--listen", "1", "--threads", "1"]
    arguments += ["--levels", "2", "--no-quality", "--recogniser", "base", "--opus", "12"]
    assert evaluate_tts.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "reference: WER, corpus 0.500 [" in shown and "next: listen to" in shown
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    tables = {table["title"]: {row[next(iter(row))]: row for row in table["rows"]} for table in report["tables"]}
    found = tables["Word errors"]
    assert found["reference"]["WER, corpus"]["mean"] == 0.5  # "hello world" for 2 + 2 words
    assert found["voice"]["outputs"] == 4 and "voice, seed 1" in found and "voice, other sentences (floor)" in found
    ends = tables["How requests end"]
    assert sum(ends["voice"][key] for key in ("end", "length", "silence", "loop", "cap", "error")) == 4
    assert ends["voice"]["end"] >= ends["voice, guard off"]["end"]
    assert tables["Speed"]["time to first audio, cold, ms"]["n"] == 1
    assert tables["Sound"]["reference"]["duration ratio"]["mean"] == 1
    anchors = {"reference through the codec", "reference through the codec, 2 levels"}
    assert anchors | {"reference through Opus, target 12"} <= set(tables["Sound"])
    assert report["tables"][0]["title"] == "Sound"
    page = (tmp_path / "report" / "report.html").read_text()
    assert "audio/flac" in page and "Spectrogram and alignment" in page


def test_each_set_has_its_own_figures() -> None:
    pytest.importorskip("jiwer")
    items = [Item("voice", 0, 0, None, transcript="USA"), Item("voice", 1, 0, None, "cap", 3, transcript="yes yes")]
    results = Results(["U S A.", "Yes."], 16_000, None, items, sets={"letters": range(1), "short": range(1, 2)})
    table = set_table(results)
    assert [row[0] for row in table.rows] == ["letters: voice", "short: voice"]
    (_, _, good, *right), (_, _, bad, *wrong) = table.rows
    assert isinstance(good, Summary) and isinstance(bad, Summary) and (good.mean, bad.mean) == (0, 1)
    assert right == [0, 1, 0] and wrong == [1, 3, 1]


def test_word_errors_group_seeds_and_count_what_is_missing() -> None:
    pytest.importorskip("jiwer")
    texts = ["red green blue black", "cold water"]
    items = [Item("voice", 0, 0, None, transcript="Red, green blue black!"), Item("voice", 0, 1, None)]
    items += [Item("voice", 1, 0, None, transcript="cold water"), Item("voice", 1, 1, None, transcript="cold")]
    errors = scores.item_errors(texts, items)
    assert errors.corpus.mean == pytest.approx(5 / 12) and errors.corpus.n == 2
    assert errors.mean.mean == pytest.approx((0.5 + 0.25) / 2)
    assert errors.over_half == 1 and errors.missing == 1 and errors.outputs == 4
    assert scores.item_errors(texts, items, shift=1).corpus.mean > 0.9


def test_scores_are_means_over_sentences() -> None:
    items = [Item("voice", 0, s, None, scores={"x": v}) for s, v in enumerate([1.0, 3.0])]
    items += [Item("voice", 1, 0, None, scores={"x": 4.0}), Item("voice", 1, 1, None, scores={"x": None})]
    summary = scores.mean_score(items, "x")
    assert (summary.mean, summary.n, summary.n_failed) == (3.0, 2, 1)


def test_the_guard_costs_nothing_where_all_ends_well(folder: Path) -> None:
    voice = tiny_voice(folder.parent / "text")
    items = list(voice_items(voice, ["Hello world.", "How are you?"], 0, {}))
    assert [item.system for item in items] == ["voice, guard off", "voice"] * 2
    for off, on in zip(items[::2], items[1::2], strict=True):
        assert (off.wave is on.wave) == (off.finish_reason == "end")


def test_alignment_is_a_distribution_over_the_text(folder: Path) -> None:
    voice = tiny_voice(folder.parent / "text")
    speech = voice.speak("Hello world.")
    found = alignment(voice, speech)
    assert found is not None and found.shape[0] == speech.sentences[0].codes.shape[1]
    assert bool((found.sum(1) <= 1 + 1e-5).all())
    assert alignment(voice, voice.speak("Hello world.", levels=1)) is None


def test_bad_input_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n")
    out = ["-o", str(tmp_path / "report"), "--no-wer", "--no-quality"]
    for arguments, message in (
        ([str(folder), *out, "--seeds", "a"], "seeds"),
        ([str(folder), *out, "--limit", "0"], "limit"),
        (["absent/x/y", *out], "no voice"),
        ([str(folder), *out, "--texts", str(tmp_path / "none.txt")], "no such"),
        ([str(folder), *out, "--reference", str(tmp_path / "bad.jsonl")], "line 1"),
        ([str(folder), *out, "--reference", str(tmp_path / "none.jsonl")], "none.jsonl"),
        ([str(folder), *out, "--teacher", "nobody"], "unknown teacher"),
        ([str(folder), *out, "--sets", "short", "--texts", "a.txt"], "sets: stands for"),
        ([str(folder), *out, "--wer", "--takes", "2", "--choose-by", "tiny"], "'tiny' chooses the takes and judges"),
    ):
        with pytest.raises(SoundloomError, match=message):
            evaluate_tts.main(arguments)
    assert not (tmp_path / "report").exists()
