"""Judge a voice: what Whisper understands, how it ends, how fast it is, beside three anchors.

    python pipelines/evaluate_tts.py shipped -o report/
    python pipelines/evaluate_tts.py voices/mine -o report/ --limit 20 --seeds 0
    python pipelines/evaluate_tts.py voices/mine -o report/ --texts my-sentences.txt --teacher flite:slt
    python pipelines/evaluate_tts.py voices/mine -o report/ --reference corpora/heart/manifest.jsonl --split test
    python pipelines/evaluate_tts.py voices/mine -o report/ --dnsmos --speaker --threads 2
    python pipelines/evaluate_tts.py shipped -o report/ --as fenrir --limit 100 --teacher none --dnsmos
    python pipelines/evaluate_tts.py voices/mine -o report/ --prompts new-speakers/manifest.jsonl
    python pipelines/evaluate_tts.py voices/mine -o report/ --endings 1000 --endings-texts prompts.txt

VOICE is a folder, a hub name, or `shipped`. The sentences are 220 that were written for this
(pipelines/evaluation/sentences/), a file, or those of a manifest. Anchors: the reference speech (hibari's where it is
installed, another teacher's, or a manifest's recordings), the same through the voice's codec (the ceiling), and the
voice's speech against other sentences (the floor). Writes report.json, report.md and report.html, with players and
pictures of where the model looked.
Needs `pip install -e '.[eval]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from codec.errors import SoundloomError
from pipelines.command_line.progress import Bar, track
from pipelines.command_line.run import run
from pipelines.command_line.voice_options import SETTINGS, add_sampling_options
from pipelines.corpus.texts import read_texts
from pipelines.evaluation import tts_scores as scores
from pipelines.evaluation.anchors import numbers, opus_targets
from pipelines.evaluation.cloning import measure_cloning, read_speakers
from pipelines.evaluation.judges import Panel, add_judge_options, choose_judges
from pipelines.evaluation.packages import package_versions
from pipelines.evaluation.report import write_report
from pipelines.evaluation.similarity import SpeakerEncoder
from pipelines.evaluation.tts_report import Results, build_report, listenings
from pipelines.evaluation.tts_scores import Item, Reference
from pipelines.voice.voice import Voice, load_voice

SENTENCES = Path(__file__).parent / "evaluation" / "sentences" / "english.txt"


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
        results.items += scores.reference_items(results.reference, voice, settings["levels"], opus)
    with Bar(len(results.texts) * len(seeds), "sentence") as bar:
        for seed in seeds:
            for item in scores.voice_items(voice, results.texts, seed, settings, batch_size):
                results.items.append(item)
                bar.add(item.system == "voice")
    heard: dict[int, Item] = {}  # with the guard and without it, a sentence often is one and the same sound
    for item in track(results.items, "output", "judges"):
        same = heard.get(id(item.wave)) if item.wave is not None else None
        if same is not None:
            item.transcript, item.scores = same.transcript, same.scores
            continue
        reference = results.reference.waves[item.index] if results.reference else None
        scores.score(item, reference, results.sample_rate, panel)
        heard[id(item.wave)] = item


def cold_starts(name: str | None, text: str, count: int) -> list[float]:
    """Seconds from starting tts.py to its first byte of sound: a fresh process each time."""
    script = str(Path(__file__).with_name("tts.py"))
    command = [sys.executable, script, text, "--stream", *(["--voice", name] if name else [])]
    waits = []
    for _ in range(count):
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            first = process.stdout.read(1)
            waited = time.perf_counter() - began
            process.stdout.read()
        if not first:
            raise SoundloomError(f"tts.py gave no sound for {text!r} with the voice {name or 'shipped'}")
        waits.append(waited)
    return waits


def _reference(options: argparse.Namespace, sample_rate: int) -> tuple[list[str], Reference | None]:
    """The sentences, and who else speaks them."""
    if options.reference:
        texts, found = scores.manifest_reference(Path(options.reference), sample_rate, options.limit, options.split)
        return texts, found
    texts = read_texts(options.texts or SENTENCES)
    texts = texts[: options.limit]
    teacher = options.teacher
    if teacher is None:
        teacher = "hibari" if importlib.util.find_spec("hibari") else "none"
    return texts, None if teacher == "none" else scores.teacher_reference(teacher, texts, sample_rate)


def _shown(names: Iterator[str], count: int) -> Iterator[str]:
    yield from track(names, "speaker", total=count)


def _facts(options: argparse.Namespace, voice: Voice, results: Results) -> dict[str, str]:
    parameters = sum(parameter.numel() for parameter in voice.lm.model.parameters()) / 1e6
    facts = {
        "voice": f"{voice.name}, {type(voice.lm.model).__name__}, {parameters:.1f} M parameters, "
        f"{voice.num_levels} levels at {voice.frame_rate:g} frames/s, codec {voice.codec.fingerprint[:16]}",
        "speaker": options.speaker_name or "its own",
        "sentences": options.reference or options.texts or "pipelines/evaluation/sentences/english.txt",
        "reference": "none" if results.reference is None else f"{results.reference.name}: {results.reference.facts}",
        "guard": f"at most {voice.config.retries} tries more",
        "intervals": "95%, percentile bootstrap over sentences, 1,000 draws, seed 0",
        "machine": f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        "software": package_versions("soundloom", "torch", "transformers", "faster-whisper", "hibari-tts"),
    }
    return facts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="evaluate_tts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voice", help="a folder, a hub name, or `shipped`")
    parser.add_argument("-o", "--output", required=True, help="folder for the report")
    parser.add_argument("--texts", help="sentences to speak: a text file (default: 220 that come along)")
    parser.add_argument("--as", dest="speaker_name", help="one of the voice's other speakers speaks (tts.py --speaker)")
    parser.add_argument("--limit", type=int, help="the first n sentences only")
    parser.add_argument("--seeds", default="0", help="with commas between, such as 0,1,2 (default: 0)")
    parser.add_argument("--teacher", help="who reads the reference: hibari, flite:slt …, or none")
    parser.add_argument("--reference", help="manifest.jsonl with audio and text: sentences and reference at once")
    parser.add_argument("--split", help="rows of this split of the manifest only")
    parser.add_argument(
        "--opus", default="16", help="the reference through Opus, kbit/s; '' leaves it out (default: 16)"
    )
    parser.add_argument("--levels", type=int, help="decode the first n levels (default: the voice's own)")
    add_judge_options(parser, wer=True)
    parser.add_argument("--listen", type=int, default=6, help="sentences to hear in the page (default: 6)")
    parser.add_argument("--prompts", help="manifest.jsonl of new speakers: how like them after a prompt of 2 to 6 s")
    parser.add_argument("--prompt-sentences", type=int, default=4, help="sentences a new speaker (default: 4)")
    parser.add_argument(
        "--endings", type=int, default=0, help="requests more whose ends alone are counted (default: 0)"
    )
    parser.add_argument(
        "--endings-texts", help="their texts, read again with other seeds where too few (default: --texts)"
    )
    parser.add_argument(
        "--batch", type=int, default=8, help="sentences spoken side by side, but for timings (default: 8)"
    )
    parser.add_argument("--first-sound", type=int, default=20, help="warm requests to time, one by one (default: 20)")
    parser.add_argument("--cold", type=int, default=3, help="fresh processes to time (default: 3)")
    parser.add_argument("--threads", type=int, help="threads for the networks (default: torch's own)")
    add_sampling_options(parser)
    options = parser.parse_args(argv)
    if (options.limit is not None and options.limit < 1) or options.batch < 1:
        raise SoundloomError("--limit and --batch must be at least 1")
    if min(options.first_sound, options.cold, options.listen, options.endings, options.prompt_sentences - 1) < 0:
        raise SoundloomError("--listen, --first-sound, --cold and --endings must be at least 0, --prompt-sentences 1")
    seeds = numbers(options.seeds, "--seeds")
    opus = opus_targets(options.opus)
    if not seeds:
        raise SoundloomError("--seeds must name at least one, such as 0")
    if options.threads:
        torch.set_num_threads(options.threads)
    name = None if options.voice == "shipped" else options.voice
    voice = load_voice(name)
    settings = {key: getattr(options, key) for key in SETTINGS if getattr(options, key) is not None}
    settings |= {"levels": options.levels, "speaker": options.speaker_name}
    if options.speaker_name is not None:
        voice.check_speaker(options.speaker_name)
    panel = choose_judges(options, references=False)
    texts, reference = _reference(options, voice.sample_rate)
    speakers = read_speakers(Path(options.prompts), voice.sample_rate) if options.prompts else {}
    results = Results(texts, voice.sample_rate, reference)
    measure(voice, results, seeds, settings, panel, options.batch, opus)
    if options.endings:
        prompts = read_texts(options.endings_texts) if options.endings_texts else texts
        prompts = [prompts[i % len(prompts)] for i in range(options.endings)]
        results.many = scores.ends_of_many(voice, prompts, settings, options.batch, seed=max(seeds) + 1)
    if options.prompts:
        encoder = SpeakerEncoder()
        panel.facts["new speakers"] = f"{options.prompts}; {encoder.description}"
        prompted = settings | {"speaker": None}
        results.cloning = measure_cloning(
            voice, speakers, texts[: options.prompt_sentences], encoder, prompted, options.batch, _shown
        )
    if options.first_sound:
        results.factors = scores.real_time_factors(voice, texts, settings, options.first_sound)
        results.warm = scores.first_sound(voice, texts, settings, options.first_sound)
    results.cold = cold_starts(name, texts[0], options.cold)
    report = build_report(voice, results, seeds, _facts(options, voice, results) | panel.facts, list(panel.judges))
    report.listening = listenings(voice, results, seeds[0], settings, options.listen)
    for path in write_report(options.output, report):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
