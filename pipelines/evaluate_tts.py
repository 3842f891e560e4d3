"""Judge a voice: how it sounds, what a recogniser understands, how it ends, how fast it is, next to anchors.

    python pipelines/evaluate_tts.py shipped -o report/
    python pipelines/evaluate_tts.py voices/mine -o report/ --limit 20 --seeds 0
    python pipelines/evaluate_tts.py voices/mine -o report/ --texts my-sentences.txt --teacher flite:slt
    python pipelines/evaluate_tts.py voices/mine -o report/ --reference corpora/heart/manifest.jsonl --split test
    python pipelines/evaluate_tts.py voices/mine -o report/ --recogniser base --dnsmos --speaker --threads 2
    python pipelines/evaluate_tts.py shipped -o report/ --as fenrir --limit 100 --teacher none
    python pipelines/evaluate_tts.py voices/mine -o report/ --prompts new-speakers/manifest.jsonl
    python pipelines/evaluate_tts.py shipped -o report/ --sets all --recogniser base
    python pipelines/evaluate_tts.py shipped -o report/ --recogniser base --takes 4 --choose-by tiny
    python pipelines/evaluate_tts.py voices/mine -o report/ --endings 1000 --endings-texts prompts.txt

VOICE is a folder, a hub name, or `shipped`. The sentences are 220 that were written for this
(pipelines/evaluation/sentences/), a file, those of a manifest, or named sets of hard inputs, each with its own figures:
one- and two-word utterances, letters, questions, lists, long sentences, and no final punctuation. Anchors: the
reference speech (hibari's where it is installed, another teacher's, or a manifest's recordings), the same through the
voice's codec at all, a half and a quarter of its levels and through Opus, and, for word errors, the voice's speech
against other sentences. Writes report.json, report.md and report.html, with players and pictures of where the model
looked.
Needs `pip install -e '.[eval]'`.
"""

from __future__ import annotations

import pipelines.command_line.interrupts  # noqa: F401 - Ctrl-C while torch is imported ends in one line

# isort: split
import argparse
import importlib.util
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch

from codec.errors import SoundloomError
from codec.pretrained import choose_device
from pipelines.command_line.progress import Bar, track
from pipelines.command_line.run import A_LOT, MOST_BATCH, check_numbers, run
from pipelines.command_line.voice_options import (
    SAMPLING_RANGES,
    SETTINGS,
    add_sampling_options,
    add_takes_options,
    check_takes,
    takes_settings,
)
from pipelines.corpus.texts import read_texts
from pipelines.evaluation import tts_outputs as outputs
from pipelines.evaluation import tts_scores as scores
from pipelines.evaluation import tts_speed as speed
from pipelines.evaluation.anchors import numbers, opus_targets
from pipelines.evaluation.cloning import measure_cloning, read_speakers
from pipelines.evaluation.judges import Panel, add_judge_options, choose_judges
from pipelines.evaluation.packages import package_versions
from pipelines.evaluation.report import headlines, write_report
from pipelines.evaluation.sentence_sets import PLAIN, SETS, chosen_sets, read_set
from pipelines.evaluation.similarity import SpeakerEncoder
from pipelines.evaluation.tts_report import Results, build_report, listenings
from pipelines.voice.voice import Voice, load_voice

HEADLINES = ("DistillMOS", "WER, corpus", "excess over the reference", "DNSMOS", "speaker")


def measure(
    voice: Voice,
    results: Results,
    seeds: list[int],
    settings: dict[str, Any],
    panel: Panel,
    batch_size: int,
    opus: Sequence[int] = (),
) -> None:
    """Speak everything, then judge it."""
    if results.reference is not None:
        results.items += outputs.reference_items(results.reference, voice, settings["levels"], opus)
    with Bar(len(results.texts) * len(seeds), "sentence") as bar:
        for seed in seeds:
            for item in outputs.voice_items(voice, results.texts, seed, settings, batch_size):
                results.items.append(item)
                bar.add(item.system == "voice")
    judged: dict[int, outputs.Item] = {}  # with the guard and without it, a sentence often is one and the same sound
    for item in track(results.items, "output", "judges"):
        same = judged.get(id(item.wave)) if item.wave is not None else None
        if same is not None:
            item.transcript, item.scores = same.transcript, same.scores
            continue
        reference = results.reference.waves[item.index] if results.reference else None
        scores.score(item, reference, results.sample_rate, panel)
        judged[id(item.wave)] = item


def measure_more(
    voice: Voice, results: Results, seeds: list[int], settings: dict[str, Any], options: argparse.Namespace
) -> None:
    """Count the ends of further requests, compare new speakers, and time the voice, as the options ask."""
    texts = results.texts
    if options.endings:
        prompts = read_texts(options.endings_texts) if options.endings_texts else texts
        prompts = [prompts[i % len(prompts)] for i in range(options.endings)]
        results.many = outputs.ends_of_many(voice, prompts, settings, options.batch, seed=max(seeds) + 1)
    if results.speakers:
        results.cloning = measure_cloning(
            voice, results.speakers, texts[: options.prompt_sentences], SpeakerEncoder(),
            settings | {"speaker": None}, options.batch, _shown,
        )  # fmt: skip
    if options.first_sound:
        results.factors = speed.real_time_factors(voice, texts, settings, options.first_sound)
        results.warm = speed.first_sound(voice, texts, settings, options.first_sound)
    results.cold = speed.cold_starts(_voice_name(options), texts[0], options.cold)


def _voice_name(options: argparse.Namespace) -> str | None:
    return None if options.voice == "shipped" else str(options.voice)


def _set_places(sets: dict[str, list[str]]) -> dict[str, range]:
    ends = list(accumulate(map(len, sets.values())))
    return {name: range(end - len(texts), end) for (name, texts), end in zip(sets.items(), ends, strict=True)}


def _reference(
    options: argparse.Namespace, sample_rate: int, sets: dict[str, list[str]]
) -> tuple[list[str], outputs.Reference | None]:
    """Return the sentences, and who else speaks them."""
    if options.reference:
        texts, found = outputs.manifest_reference(Path(options.reference), sample_rate, options.limit, options.split)
        return texts, found
    texts = list(chain.from_iterable(sets.values()))
    if not texts:
        texts = (read_texts(options.texts) if options.texts else read_set(PLAIN))[: options.limit]
    teacher = options.teacher
    if teacher is None:
        teacher = "hibari" if importlib.util.find_spec("hibari") else "none"
    return texts, None if teacher == "none" else outputs.teacher_reference(teacher, texts, sample_rate)


def _shown(names: Iterator[str], count: int) -> Iterator[str]:
    yield from track(names, "speaker", total=count)


def _facts(options: argparse.Namespace, voice: Voice, results: Results) -> dict[str, str]:
    parameters = sum(parameter.numel() for parameter in voice.lm.model.parameters()) / 1e6
    facts = {
        "voice": f"{voice.name}, {type(voice.lm.model).__name__}, {parameters:.1f} M parameters, "
        f"{voice.num_levels} levels at {voice.frame_rate:g} frames/s, codec {voice.codec.fingerprint[:16]}",
        "speaker": options.speaker_name or "its own",
        "sentences": options.reference or options.texts or f"pipelines/evaluation/sentences: {options.sets or PLAIN}",
        "reference": "none" if results.reference is None else f"{results.reference.name}: {results.reference.facts}",
        "guard": f"at most {voice.config.retries} further attempts",
        "takes": f"{options.takes}, chosen by {options.choose_by}" if options.takes > 1 else "1",
        "intervals": "95%, percentile bootstrap over sentences, 1,000 draws, seed 0",
        "machine": f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "software": package_versions("soundloom", "torch", "transformers", "faster-whisper", "hibari-tts"),
    }
    return facts


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(
        prog="evaluate_tts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("voice", help="a folder, a hub name, or `shipped`")
    p.add_argument("-o", "--output", required=True, help="folder for the report")
    p.add_argument("--texts", help="sentences to speak: a text file (default: 220 that come with the project)")
    p.add_argument("--sets", help=f"named sets instead, with commas between: {', '.join(SETS)}, or all")
    p.add_argument("--as", dest="speaker_name", help="speak as one of the voice's other speakers (tts.py --speaker)")
    p.add_argument("--limit", type=int, help="the first n sentences only, of each set")
    p.add_argument("--seeds", default="0", help="with commas between, such as 0,1,2 (default: 0)")
    p.add_argument("--levels", type=int, help="decode the first n levels (default: the voice's own)")
    p.add_argument("--batch", type=int, default=8, help="sentences spoken together, except for timings (default: 8)")
    p.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    group = p.add_argument_group("anchors")
    group.add_argument("--teacher", help="who reads the reference: hibari, flite:slt …, or none (default: hibari)")
    group.add_argument("--reference", help="manifest.jsonl with audio and text: sentences and reference at once")
    group.add_argument("--split", help="rows of this split of the manifest only")
    group.add_argument("--opus", default="16", help="kbit/s of the reference through Opus; '' for none (default: 16)")
    add_judge_options(p, wer=True)
    _add_measures(p.add_argument_group("further measures"))
    add_takes_options(p)
    add_sampling_options(p)
    return p


def _add_measures(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--listen", type=int, default=6, help="sentences to hear in the page (default: 6)")
    group.add_argument("--prompts", help="manifest.jsonl of new speakers: similarity after a prompt of 2 to 6 s")
    group.add_argument("--prompt-sentences", type=int, default=4, help="sentences per new speaker (default: 4)")
    group.add_argument("--endings", type=int, default=0, help="further requests, to count how they end (default: 0)")
    group.add_argument("--endings-texts", help="their texts, read again with other seeds if too few (default: --texts)")
    group.add_argument("--first-sound", type=int, default=20, help="warm requests to time (default: 20)")
    group.add_argument("--cold", type=int, default=3, help="new processes to time (default: 3)")


def _check(options: argparse.Namespace) -> None:
    counts: dict[str, tuple[float, float]] = {name: (0, A_LOT) for name in ("listen", "first_sound", "cold", "endings")}
    if options.sets and (options.texts or options.reference):
        raise SoundloomError("--sets: stands for --texts and --reference; give one of the three")
    check_numbers(options, batch=(1, MOST_BATCH), prompt_sentences=(1, A_LOT), **counts, **SAMPLING_RANGES)
    check_takes(options, judge=options.recogniser if options.wer else None)


def main(argv: list[str] | None = None) -> int:
    """Judge a voice and write the report."""
    options = parser().parse_args(argv)
    _check(options)
    seeds, opus = numbers(options.seeds, "--seeds") or [0], opus_targets(options.opus)
    if options.threads:
        torch.set_num_threads(options.threads)
    voice = load_voice(_voice_name(options), device=choose_device(options.device))
    settings = {key: getattr(options, key) for key in SETTINGS if getattr(options, key) is not None}
    settings |= {"levels": options.levels, "speaker": options.speaker_name}
    chosen = takes_settings(options)
    if options.speaker_name is not None:
        voice.check_speaker(options.speaker_name)
    panel = choose_judges(options, references=False)
    sets = chosen_sets(options.sets, options.limit) if options.sets else {}
    texts, reference = _reference(options, voice.sample_rate, sets)
    results = Results(texts, voice.sample_rate, reference, sets=_set_places(sets))
    if options.prompts:
        results.speakers = read_speakers(Path(options.prompts), voice.sample_rate)
        panel.facts["new speakers"] = f"{options.prompts}; {SpeakerEncoder().description}"
    measure(voice, results, seeds, settings | chosen, panel, options.batch, opus)
    measure_more(voice, results, seeds, settings, options)
    report = build_report(voice, results, seeds, _facts(options, voice, results) | panel.facts, list(panel.judges))
    report.listening = listenings(voice, results, seeds[0], settings, options.listen)
    for path in write_report(options.output, report):
        print(path)
    systems = ["voice", *(name for name in results.systems if name.startswith("reference"))]
    systems += [f"{name}: voice" for name in sets]
    print(*headlines(report, systems, HEADLINES), sep="\n")
    print(f"next: listen to {Path(options.output) / 'report.html'} in a browser")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
