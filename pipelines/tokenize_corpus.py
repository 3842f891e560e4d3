"""Turn a corpus into a token store: every utterance's codes on disk, ready for training a language model.

The work is cut into shards that any number of processes do in any order; killed at any moment, the same command
resumes where it stopped. A corpus that changed since is an error; --refresh makes the store again,
and encodes only the audio that changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.run import A_LOT, MOST_BATCH, MOST_WORKERS, check_numbers, run
from pipelines.corpus.early_workers import EarlyWorkers

if TYPE_CHECKING:
    from codec.store.plan import Plan
    from pipelines.corpus.launcher import Share

#: options that determine, with the corpus, which rows come out
_CHOICES = (
    "split",
    "limit",
    "max_seconds",
    "min_seconds",
    "text_column",
    "audio_column",
    "language",
    "speaker",
    "id_prefix",
)
EXAMPLES = """
examples:
  python pipelines/tokenize_corpus.py ~/audio/LJSpeech-1.1 stores/lj                  a folder, shipped codec
  python pipelines/tokenize_corpus.py corpus/manifest.jsonl stores/dev --split dev --workers 4
  python pipelines/tokenize_corpus.py hf:mythicinfinity/libritts_r:clean stores/r --split train.clean.100
  python pipelines/tokenize_corpus.py stream:mythicinfinity/libritts_r:clean stores/r --split train.clean.100
  accelerate launch --num_processes 8 pipelines/tokenize_corpus.py CORPUS STORE       a share for each process
  python pipelines/tokenize_corpus.py CORPUS STORE --engine slurm --tasks 200 --engine-option partition=cpu \\
      --engine-option time=20:00:00                                                   by datatrove (extra: cluster)
  python pipelines/tokenize_corpus.py CORPUS STORE --part 3/10                        every tenth shard, from the fourth
  python pipelines/tokenize_corpus.py MORE STORE --append --id-prefix more-           add another corpus
  python pipelines/tokenize_corpus.py verify STORE                                    check every byte
  python pipelines/tokenize_corpus.py export STORE OUT.parquet [--levels 4]

A corpus is a folder of audio (text in .txt or .lab next to each file), a .jsonl, .csv or .tsv manifest with the fields
audio, text, speaker, language, split, id (and start, end or segments for parts of long files), LJSpeech's folder, a
data set saved by the library datasets, hf:NAME[:CONFIG], or stream:NAME[:CONFIG]: the same without keeping it here (it
is read twice, to plan and to tokenize; about as many --shards as it has files cost the least reading).
Exit codes: 0 done; 1 too many rejects, or verify found damage; 2 bad input.
"""


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line of the main command."""
    parser = argparse.ArgumentParser(
        prog="tokenize_corpus.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("corpus", help="what to read (see below)")
    add("store", type=Path, help="folder to write; an unfinished one is resumed")
    add("--codec", help="folder or hub name; default: the shipped codec")
    add("--levels", type=int, help="keep only the first n levels (default: all)")
    add("--split", default="", help="rows of this split only")
    add("--limit", type=int, default=0, help="the first n utterances only")
    add("--max-seconds", type=float, default=30.0, help="longer files are cut on silence (default %(default)s)")
    add("--min-seconds", type=float, default=0.1, help="shorter ones are rejected (default %(default)s)")
    add("--audio-column", default="", help="field of a manifest or data set that holds the audio")
    add("--text-column", default="", help="field that holds the text")
    add("--language", default="", help="language of rows that name none, such as en")
    add("--speaker", default="", help="speaker of rows that name none")
    add("--id-prefix", default="", help="put before each id, where a corpus has ids that the store has already")
    add("--workers", type=int, default=1, help="processes, one thread each (default %(default)s)")
    add("--device", default="cpu", help="auto, cpu, cuda, cuda:1 … or mps (default %(default)s)")
    add("--batch", type=int, help="pieces encoded together, by length (default: 1 on a CPU, 16 elsewhere)")
    add("--shards", type=int, help="number of shards (default: one for each quarter of an hour)")
    add("--shard-range", metavar="A:B", help="do only shards A to B-1, for job arrays")
    add("--part", metavar="I/N", help="do only part I (from 0) of N, for job arrays; under srun each task has a share")
    add("--engine", choices=["local", "slurm", "ray"], help="let datatrove run the shards (extra: cluster)")
    add("--tasks", type=int, default=1, help="with --engine: number of tasks (default %(default)s)")
    add("--engine-option", action="append", default=[], metavar="KEY=VALUE", help="for datatrove's executor")
    add("--plan-only", action="store_true", help="write the plan and the forecast, tokenize nothing")
    add("--append", action="store_true", help="add the utterances that the store does not have yet")
    add(
        "--refresh",
        action="store_true",
        help="where the corpus changed, make the store again; only changed audio is encoded",
    )
    add("--max-reject-rate", type=float, default=0.01, help="more rejects end with code 1 (default %(default)s)")
    return parser


def main(argv: list[str] | None = None, load_codec: Callable[[str | None], Any] | None = None) -> int:
    """Run the program; ``load_codec`` takes the place of `codec.pretrained.load_codec` in tests."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["verify"]:
        return _verify(argv[1:])
    if argv[:1] == ["export"]:
        return _export(argv[1:])
    arguments = make_parser().parse_args(argv)
    _check(arguments)
    return _tokenize(arguments, load_codec)


def _check(arguments: argparse.Namespace) -> None:
    counts: dict[str, tuple[float, float]] = {"limit": (0, A_LOT), "tasks": (1, A_LOT), "shards": (1, A_LOT)}
    counts |= {"workers": (1, MOST_WORKERS), "batch": (1, MOST_BATCH)}
    check_numbers(arguments, min_seconds=(0, 150), max_reject_rate=(0, 1), **counts)
    if not max(1.0, 4 * arguments.min_seconds) <= arguments.max_seconds <= 600:
        raise SoundloomError(
            f"--max-seconds {arguments.max_seconds}: expected 1 to 600, and four times --min-seconds or more"
        )


def _tokenize(arguments: argparse.Namespace, load_codec: Callable[[str | None], Any] | None) -> int:
    count = 0 if arguments.workers == 1 or arguments.engine or arguments.plan_only else arguments.workers
    with EarlyWorkers(count) as workers:  # before anything else: they take as long to begin as this process
        return _tokenize_with(workers if count else None, arguments, load_codec)


def _tokenize_with(
    workers: EarlyWorkers | None, arguments: argparse.Namespace, load_codec: Callable[[str | None], Any] | None
) -> int:
    # Imported here: torch takes seconds, and --help must not.
    from codec.pretrained import choose_device
    from codec.store.plan import Settings
    from codec.store.reader import StoreFacts
    from codec.store.upkeep import collect_leftovers
    from pipelines.corpus.launcher import find_share
    from pipelines.corpus.read import open_corpus
    from pipelines.corpus.tokenize_shards import (
        HoursBar,
        Job,
        default_batch,
        do_shards,
        free_bytes,
        make_forecast,
        prepare_codec,
    )

    if load_codec is None:
        from codec.pretrained import load_codec as load_any_codec

        load_codec = load_any_codec
    settings = Settings(root="", corpus=arguments.corpus, **{name: getattr(arguments, name) for name in _CHOICES})
    share = find_share(arguments.part)
    device = choose_device("auto").type if arguments.device == "auto" else arguments.device
    arguments.device = share.device(device)
    arguments.batch = arguments.batch or default_batch(arguments.device)
    corpus = open_corpus(settings)
    codec = prepare_codec(load_codec, arguments.codec, arguments.device)
    facts = StoreFacts.of(codec, arguments.levels)
    collect_leftovers(arguments.store)
    plan = _plan(arguments, corpus, facts, share)
    wanted = share.of(_shard_range(arguments.shard_range, plan))
    shards = [index for index in wanted if not plan.is_done(index)]
    if shards:
        forecast = make_forecast(plan, shards, codec, corpus)
        _say(*forecast.lines(arguments.workers, free_bytes(plan)))
    if arguments.plan_only:
        _say(f"{plan.store / plan.file}: {plan.num_utterances} utterances in {plan.num_shards} shards")
        return 0
    _mend_earlier_plans(arguments, corpus, plan, load_codec, share)
    if shards:
        del codec  # the workers load their own
        if arguments.engine:
            from pipelines.corpus.tokenize_cluster import ShardTask, run_engine

            place = (plan.store.resolve(), tuple(shards), corpus.settings)
            task = ShardTask(*place, arguments.codec, arguments.device, load_codec, arguments.batch)
            run_engine(arguments.engine, task, arguments.tasks, arguments.engine_option)
            return _finish(plan, arguments.max_reject_rate)
        job = Job(plan, corpus.settings, arguments.codec, arguments.device, load_codec, arguments.batch)
        with HoursBar(forecast.audio_seconds) as bar:
            if workers is None:
                do_shards(job, shards, bar.add)
            else:
                workers.run(job, shards, bar.add)
    return _finish(plan, arguments.max_reject_rate)


def _mend_earlier_plans(arguments: argparse.Namespace, corpus: Any, plan: Plan, load_codec: Any, share: Share) -> None:
    """Make shards again that earlier plans of this corpus had finished and that were lost since."""
    from pipelines.corpus.tokenize_shards import Job, do_shards

    if arguments.shard_range or arguments.engine:
        return
    for earlier in _find_plans(plan.store, corpus):
        lost = share.of(earlier.missing()) if earlier.number != plan.number else []
        if lost:
            _say(f"{plan.store}: {len(lost)} shards of {earlier.file} are lost and made again")
            job = Job(earlier, corpus.settings, arguments.codec, arguments.device, load_codec, arguments.batch)
            do_shards(job, lost, lambda seconds, reason: None)


def _finish(plan: Plan, max_reject_rate: float) -> int:
    from codec.store.writer import finalize

    content = finalize(plan.store)
    if content is None:
        _say(f"{plan.store}: {len(plan.missing())} of {plan.num_shards} shards are left to other runs")
        return 0
    return _report(plan, content, max_reject_rate)


def _plan(arguments: argparse.Namespace, corpus: Any, facts: Any, share: Share) -> Plan:
    """Make the plan, or where the work is shared let the first process make it and the others wait for it."""
    from codec.store.plan import make_plan

    rank = share.rank
    if share.size > 1 and arguments.append:
        raise SoundloomError(
            "--append under a launcher or with --part: plan first (--append --plan-only), then run without --append"
        )
    if rank == 0:
        _check_fresh(arguments, corpus)
    began = time.time()
    while rank > 0 and not _find_plans(arguments.store, corpus):
        # Listing takes minutes for a large corpus. A first process that dies takes the others with it, by its launcher.
        if time.time() - began > 24 * 3600:
            raise SoundloomError(f"{arguments.store}: no plan after a day; is the first process alive?")
        time.sleep(0.5)
    return make_plan(
        arguments.store,
        corpus.utterances,
        facts,
        corpus.settings,
        arguments.shards,
        corpus.fetch,
        append=arguments.append,
    )


def _find_plans(store: Path, corpus: Any) -> list[Plan]:
    """Return the plans that were made of this corpus: one, and one for each time that it was appended again."""
    from codec.store.plan import load_plans

    return [plan for plan in load_plans(store) if plan.settings == corpus.settings]


def _check_fresh(arguments: argparse.Namespace, corpus: Any) -> None:
    """Compare a store that is there with its corpus; a corpus that changed is an error, or the store is set aside.

    A stream would have to be read whole for it, and a job of an array leaves it to whoever finishes the store.
    """
    from codec.store.changes import corpus_changes
    from codec.store.plan import Planned, load_plans
    from codec.store.previous import set_aside
    from codec.store.same_audio import SameAudio
    from codec.store.upkeep import has_shards, remove_store

    store = arguments.store
    if arguments.refresh and not (store / "plan.json").exists() and has_shards(store):
        remove_store(store)
    plans = [] if corpus.settings.corpus.startswith("stream:") else _find_plans(store, corpus)
    if not plans or arguments.append or (arguments.shard_range and not arguments.refresh):
        return
    root, finished = corpus.settings.root, not any(plan.missing() for plan in plans)
    audio = SameAudio(plans, root) if finished else None
    changes = corpus_changes(Planned(plans), corpus.utterances(), root, audio)
    if not changes:
        return
    if not arguments.refresh:
        raise SoundloomError(
            f"{store}: the corpus changed since: {'; '.join(changes)}; --refresh makes the whole store again"
            f"{', --append adds what is new' if 'new' in changes[0] else ''}"
        )
    if len(load_plans(store)) > len(plans):
        raise SoundloomError(f"{store}: holds several corpora, which --refresh cannot make again; write a new store")
    set_aside(store)


def _shard_range(text: str | None, plan: Plan) -> list[int]:
    """Parse ``A:B``, counted from the plan's first shard; ends may be left out."""
    if text is None:
        return list(plan.shards)
    first, colon, last = text.partition(":")
    try:
        bounds = int(first or 0), int(last or plan.num_shards)
    except ValueError:
        bounds = (-1, -1)
    if not colon or not 0 <= bounds[0] <= bounds[1]:
        raise SoundloomError(f"--shard-range {text!r}: expected A:B with 0 <= A <= B, the plan has {plan.num_shards}")
    return list(plan.shards[bounds[0] : bounds[1]])


def _report(plan: Plan, content: dict[str, Any], max_reject_rate: float) -> int:
    """Print what the finished store holds; return 1 where more was rejected than is allowed."""
    records = [content["shards"][index] for index in plan.shards]
    rejects = sum(record["rejects"] for record in records)
    rate = rejects / max(1, plan.num_utterances)
    hours = content["num_samples"] / plan.facts.sample_rate / 3600
    size = sum(record["bytes"] for record in content["shards"])
    _say(
        f"{plan.store}: {content['num_rows']} rows, {hours:.2f} hours, {size} bytes in {len(content['shards'])} shards"
    )
    if rejects:
        _say(f"{rejects} of {plan.num_utterances} utterances rejected ({rate:.2%}); rejects-*.jsonl say why")
    if rate > max_reject_rate:
        print(f"error: more than {max_reject_rate:.2%} rejected (--max-reject-rate)", file=sys.stderr)
        return 1
    return 0


def _verify(argv: list[str]) -> int:
    from codec.store.reader import verify_store

    parser = argparse.ArgumentParser(prog="tokenize_corpus.py verify", description="Check every byte of a store.")
    parser.add_argument("store", type=Path)
    store = parser.parse_args(argv).store
    problems = verify_store(store)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{store}: every file is as it was written")
    return 1 if problems else 0


def _export(argv: list[str]) -> int:
    from codec.store.writer import export_parquet

    parser = argparse.ArgumentParser(prog="tokenize_corpus.py export", description="Write a store as one Parquet file.")
    parser.add_argument("store", type=Path)
    parser.add_argument("parquet", type=Path)
    parser.add_argument("--levels", type=int, help="only the first n levels")
    arguments = parser.parse_args(argv)
    rows = export_parquet(arguments.store, arguments.parquet, arguments.levels)
    print(f"{arguments.parquet}: {rows} rows")
    return 0


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(run(main))
