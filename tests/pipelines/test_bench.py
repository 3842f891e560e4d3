"""The benchmark at tiny sizes: every entry is there, its figures follow from its times, and slower shows as slower."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from emulated_device import emulated

from codec.errors import SoundloomError
from pipelines import bench
from pipelines.benchmarks.cases import CASES
from pipelines.benchmarks.size import Size
from pipelines.benchmarks.timing import Entry, Machine, Work, measure_machine, take_turns
from pipelines.benchmarks.work_cases import tokenize_cases

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("bench")
    assert bench.main(["--quick", "--threads", "1", "--only", "codec", "lm", "train", "-o", str(folder)]) == 0
    assert (folder / "bench.png").stat().st_size > 1000
    text = (folder / "bench.md").read_text()
    result = json.loads((folder / "bench.json").read_text())
    assert all(f"| {entry['name']} |" in text for entry in result["entries"])
    return result


def test_every_entry_is_there(result: dict) -> None:
    names = [entry["name"] for entry in result["entries"]]
    wanted = [f"{codec} {do}, {how}" for codec in ("EnCodec", "shipped codec") for do in ("encode", "decode")
              for how in ("batch 1 of 0.4 s", "batch 2 of 0.4 s", "streaming")]  # fmt: skip
    wanted += [f"EnCodec {do}, batch 1 of 0.8 s" for do in ("encode", "decode")]
    wanted += [f"voice, batch {b} with guidance, {do}" for b in (1, 2) for do in ("prefill", "writing")]
    wanted += [f"EnCodec {do}, batch 1, bfloat16" for do in ("encode", "decode")]
    assert set(wanted) < set(names) and len(names) == len(wanted) + 2
    assert {entry["group"] for entry in result["entries"]} == {"codec", "lm", "train"}
    assert result["machine"]["threads"] == 1 and result["machine"]["bandwidth"] > 0 and result["machine"]["processor"]


def test_figures_follow_from_the_times(result: dict) -> None:
    for entry in result["entries"]:
        ours = sorted(entry["seconds"]["ours"])
        median = (ours[0] + ours[1]) / 2
        assert len(ours) == 2 and ours[0] > 0
        assert entry["rate"]["ours"] == pytest.approx(entry["amount"] / median)
        assert ("ratio" in entry) == bool(entry["peer"])
        if "ratio" in entry:
            ratios = [b / a for a, b in zip(entry["seconds"]["ours"], entry["seconds"]["peer"], strict=True)]
            assert entry["ratio"]["low"] == min(ratios) and entry["ratio"]["high"] == max(ratios)
        assert ("roofline" in entry) == (
            ("EnCodec" in entry["name"] and " of " in entry["name"]) or "writ" in entry["name"]
        )
        if "roofline" in entry:
            assert entry["roofline"]["share"] == pytest.approx(entry["roofline"]["bound_seconds"] / median)


def test_same_weights_gave_the_same_result(result: dict) -> None:
    checks = {entry["name"]: entry["checks"] for entry in result["entries"]}
    for size in ("1 of 0.4 s", "2 of 0.4 s", "1 of 0.8 s"):
        assert checks[f"EnCodec encode, batch {size}"]["codes equal"] is True
        assert checks[f"EnCodec decode, batch {size}"]["largest difference"] < 1e-4
    assert checks["EnCodec encode, batch 1, bfloat16"]["codes of level 0 equal"] > 0.5
    assert checks["EnCodec decode, batch 1, bfloat16"]["dB above the difference"] > 20


def test_a_slowed_function_shows_as_slower() -> None:
    times = take_turns({"ours": lambda: time.sleep(0.02), "peer": lambda: time.sleep(0.002)}, 3)
    record = Entry("lm", "slowed", "codes", 10, times, "quick").record(Machine(1e9, 1e9))
    assert record["ratio"]["high"] < 0.5 and record["rate"]["ours"] < record["rate"]["peer"]


def test_the_bound_is_the_scarcer_of_memory_and_arithmetic() -> None:
    machine = Machine(bandwidth=10.0, peak=100.0)
    assert machine.bound(Work(bytes=20, operations=10)) == 2.0 and machine.bound(Work(bytes=1, operations=500)) == 5.0
    record = Entry("lm", "x", "codes", 1, {"ours": [4.0, 8.0]}, work=Work(bytes=20)).record(machine)
    assert record["roofline"] == {"bound_seconds": 2.0, "share": pytest.approx(1 / 3), "share_best": 0.5}
    assert measure_machine(quick=True).bandwidth > 1e8


@pytest.mark.parametrize("group", ["lm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("codec", "train"))])
def test_ours_and_the_peers_run_on_a_device(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the emulated device's weights cannot change their type in place
    monkeypatch.setattr("pipelines.benchmarks.codec_cases._bfloat16_cases", lambda *_: iter(()))
    size = Size(0.1, (), 2, (1,), 1, dict(bench.QUICK.encodec).items(), device="emu")  # type: ignore[arg-type]
    with emulated() as counts, torch.random.fork_rng():
        entries = list(CASES[group](size))
        assert sum(counts.launches.values()) > 100
    assert entries and all(entry.seconds["ours"][0] > 0 for entry in entries)
    assert all(entry.checks.get("codes equal", True) is True for entry in entries)


@pytest.mark.slow
def test_recordings_are_tokenized_by_both_numbers_of_processes(tmp_path: Path) -> None:
    size = Size(repeats=1, corpus_minutes=0.05)
    (entry,) = tokenize_cases(size)
    assert entry.peer == "1 process" and len(entry.seconds["ours"]) == len(entry.seconds["peer"]) == 1
    assert entry.amount == pytest.approx(3.0)


@pytest.mark.parametrize("options", [["--threads", "0"], ["--repeats", "0"], ["--music", "2"], ["--music", "2,63,4"]])
def test_settings_out_of_range(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(SoundloomError):
        bench.main([*options, "-o", str(tmp_path)])
