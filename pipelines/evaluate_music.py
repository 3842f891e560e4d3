"""Judge music: is it in the key, the tempo and the instruments that its caption asked for?

    python pipelines/evaluate_music.py -o report --corpus corpora/held-out --reference corpora/music
    python pipelines/evaluate_music.py -o report --corpus corpora/held-out --reference corpora/music --outputs made/

--corpus and --reference are corpora of make_music_corpus.py, of other seeds. The judges are first held against the
renderings of --corpus, whose key, tempo, notes and instruments are known: that row is their own accuracy. Then come the
codec's copies of them, which are a ceiling for a model that writes its codes, and shuffled captions, which are a floor.
--outputs is a folder with a model's sounds for the captions (the texts of the manifest), called as the clips' ids.

Notes are found by basic-pitch, the key by Krumhansl's profiles, the tempo by librosa, tags and embeddings by musicnn.
Instrument families are a linear layer on the embeddings, fitted to --reference. The kernel audio distance compares the
embeddings with those of --reference. Silence, clipping and loops are counted.

Writes report.html (players, spectrograms, piano rolls), report.md and report.json. What was found is kept in
OUTPUT/findings, so that a second start resumes. Extra: music, and pip install --no-deps basic-pitch==0.4.0
musicnn==0.1.0 (their pins bring TensorFlow, which is not used).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import SoundloomError
from pipelines.command_line.progress import track
from pipelines.command_line.run import A_LOT, add_threads_option, check_numbers, make_parser, run, set_threads

if TYPE_CHECKING:
    from pipelines.music_judge.judge import Asked

_PACKAGES = ("basic-pitch", "musicnn", "librosa", "onnxruntime")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = make_parser("evaluate_music.py", __doc__)
    add = p.add_argument
    add("-o", "--output", type=Path, required=True, help="folder for the report")
    add("--corpus", type=Path, required=True, help="music corpus whose clips are judged and asked for")
    add("--reference", type=Path, required=True, help="music corpus of other seeds, to compare with")
    add("--outputs", type=Path, help="folder with a model's sounds, called as the clips' ids")
    add("--split", default="all", help="clips of this split of --corpus only (default: all)")
    add("--limit", type=int, help="the first n clips only")
    add("--reference-limit", type=int, default=1000, help="the first n reference clips only (default: %(default)s)")
    add("--codec", help="folder or hub name; default: the shipped codec")
    add("--no-codec", action="store_true", help="leave the codec's copies out")
    add("--levels", default="4,8", help="numbers of levels of the codec's copies (default: %(default)s)")
    add("--listen", type=int, default=6, help="clips to listen to in the page (default: %(default)s)")
    add("--device", default="cpu", help="where the codec runs: auto, cpu, cuda or mps (default: cpu)")
    add_threads_option(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Judge a corpus, a codec and a model, and write the report."""
    options = parser().parse_args(argv)
    check_numbers(options, listen=(0, 100), reference_limit=(1, A_LOT))
    levels = _levels(options.levels)
    set_threads(options.threads)
    # Imported here: torch takes seconds, and --help must not.
    from codec.pretrained import choose_device, load_codec
    from pipelines.evaluation.packages import package_versions
    from pipelines.evaluation.report import headlines, write_report
    from pipelines.music_judge.families import fit_families
    from pipelines.music_judge.judge import SCORES, MusicJudges
    from pipelines.music_judge.report import SHUFFLED, build_report
    from pipelines.music_judge.systems import judge_clips, judge_outputs, read_asked, reference_embeddings

    clips = read_asked(options.corpus, options.split, options.limit)
    references = read_asked(options.reference, "all", options.reference_limit)
    asked = [one for one, _ in clips]
    _check_apart(asked, [one for one, _ in references])
    judges = MusicJudges(options.output / "findings")
    codec = None if options.no_codec else load_codec(options.codec).to(choose_device(options.device))
    keep = {one.id for one in asked[: options.listen]}
    embeddings, families = reference_embeddings(track(references, "reference"), judges)
    family_judge = fit_families(embeddings, families)
    systems = judge_clips(track(clips, "clip"), judges, codec, levels, keep)
    model = None
    if options.outputs is not None:
        systems.append(judge_outputs(options.outputs, track(asked, "output"), judges, keep))
        model = systems[-1].name
    report = build_report(systems, asked, family_judge, embeddings, model)
    report.facts = {
        "clips": f"{options.corpus.name}, split {options.split}: {len(asked)}",
        "reference": f"{options.reference.name}: {len(references)} clips",
        **judges.facts,
        "intervals": "95%, percentile bootstrap over clips, 1,000 draws, seed 0",
        "software": package_versions("soundloom", "torch", *_PACKAGES),
    }
    for path in write_report(options.output, report):
        print(path)
    names = [*(system.name for system in systems), SHUFFLED]
    print(*headlines(report, names, [*SCORES, "instrument families", "KAD"]), sep="\n")
    print(f"next: listen to {options.output / 'report.html'} in a browser")
    return 0


def _check_apart(asked: list[Asked], references: list[Asked]) -> None:
    """Refuse to judge by scores that the judges were fitted to."""
    shared = {one.attributes["score"] for one in asked} & {one.attributes["score"] for one in references}
    if shared:
        raise SoundloomError(
            f"--corpus and --reference share {len(shared)} scores, such as {min(shared)}; make one with another --seed"
        )


def _levels(text: str) -> list[int]:
    try:
        levels = sorted({int(part) for part in text.split(",")})
    except ValueError:
        levels = [0]
    if not 1 <= levels[0] <= levels[-1] <= 64:
        raise SoundloomError(f"--levels {text[:60]}: expected numbers from 1 to 64, such as 4,8")
    return levels


if __name__ == "__main__":
    raise SystemExit(run(main))
