"""Write what the judges of music found as tables, pictures and things to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codec.audio import encode_audio
from codec.metrics import summarize
from pipelines.evaluation import plots
from pipelines.evaluation.report import Cell, Listening, Picture, Report, Sound, Table
from pipelines.music_judge.distance import kernel_distance
from pipelines.music_judge.families import FamilyJudge
from pipelines.music_judge.judge import NOTE_SCORES, SCORES, Asked, Finding, score_row, shuffled
from pipelines.music_judge.systems import RENDERINGS, SAMPLE_RATE, System
from pipelines.music_judge.tempo import same_tempo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHUFFLED = "shuffled captions"
_COLOURS = ("#9a9a9a", "#d1495b")


def caption_table(systems: Sequence[System], asked: list[Asked], judge: FamilyJudge, model: str | None) -> Table:
    """Return how often each system is what was asked for. The renderings show the judges' own accuracy."""
    rows = [score_row(one.name, one.findings, asked, judge, named_only=one.name == model) for one in systems]
    rows.append(score_row(SHUFFLED, systems[0].findings, shuffled(asked), judge, named_only=False))
    return Table(
        "What was asked for",
        ["system", *SCORES, "instrument families"],
        rows,
        "Shares of clips. Renderings: how well the judges read music whose key, tempo and instruments are known, so "
        "the most that a model can reach. Shuffled captions: renderings held against other clips' captions, so what a "
        "model reaches that ignores them. Weighted key: MIREX's, 0.5 for a fifth. Tempo: within 8%; or of a multiple. "
        "Families: of the n that play, the share among the n likeliest. A model's clip counts where its caption names "
        "the attribute.",
    )


def note_table(systems: Sequence[System], asked: list[Asked]) -> Table:
    """Return how well the notes of the renderings and their copies are found."""
    rows: list[list[Cell]] = []
    for system in systems:
        pairs = [(system.findings[one.id], one) for one in asked if one.id in system.findings]
        scores = [summarize([score(f, a) for f, a in pairs]) for score in NOTE_SCORES.values()]
        rows.append([system.name, *scores, summarize(list(system.mel)) if system.mel else None])
    return Table(
        "Notes",
        ["system", *NOTE_SCORES, "mel distance"],
        rows,
        "F1 of note onsets within 50 ms; cosine of the pitch classes that sound with those that are played.",
    )


def kept_table(systems: Sequence[System]) -> Table:
    """Return how often the judges say the same of a copy as of its rendering."""
    rows: list[list[Cell]] = []
    first = systems[0].findings
    for system in systems[1:]:
        pairs = [(first[name], finding) for name, finding in system.findings.items() if name in first]
        same = [float(a.key == b.key) for a, b in pairs], [float(_same_tempo(a, b)) for a, b in pairs]
        close = [_cosine(a.embedding, b.embedding) for a, b in pairs]
        rows.append([system.name, *map(summarize, same), summarize(close)])
    return Table(
        "What the codec keeps",
        ["system", "same key", "same tempo", "likeness of embeddings"],
        rows,
        "The judges' answers for a copy, compared with those for its rendering, right or wrong.",
    )


def _same_tempo(a: Finding, b: Finding) -> bool:
    return same_tempo(b.tempo, a.tempo) if a.tempo else b.tempo == 0


def _cosine(a: list[float], b: list[float]) -> float:
    return float(torch.nn.functional.cosine_similarity(torch.tensor(a), torch.tensor(b), dim=0))


def distance_table(systems: Sequence[System], reference: Tensor) -> Table:
    """Return the kernel audio distance of each system, and of noise, to the reference renderings."""
    rows: list[list[Cell]] = []
    for system in systems:
        embeddings = torch.tensor([finding.embedding for finding in system.findings.values()])
        rows.append([system.name, kernel_distance(embeddings, reference), len(embeddings)])
    half = len(reference) // 2
    rows.append(["reference, one half to the other", kernel_distance(reference[:half], reference[half:]), half])
    return Table(
        "Kernel audio distance",
        ["system", "KAD", "n"],
        rows,
        f"On musicnn's embeddings, to {len(reference)} other renderings; times 1,000. The captions do not enter it. A "
        "model is to come near its codec's copies.",
    )


def fault_table(systems: Sequence[System]) -> Table:
    """Return the shares of silent, clipped and looping clips."""
    rows: list[list[Cell]] = []
    for system in systems:
        faults = [finding.faults for finding in system.findings.values()]
        shares = [[fault.is_silent for fault in faults], [fault.clipped for fault in faults]]
        shares.append([fault.is_loop for fault in faults])
        rows.append([system.name, *(sum(share) / len(share) for share in shares), len(faults)])
    return Table(
        "Faults",
        ["system", "silent", "clipped", "loops", "n"],
        rows,
        "Shares of clips. Loops: four seconds that repeat a second or less of themselves; patterns of a drum machine "
        "do, so compare with the renderings' share.",
    )


def listening(systems: Sequence[System], one: Asked) -> Listening:
    """Return a clip of all systems, with spectrograms and piano rolls."""
    having = [system for system in systems if one.id in system.sounds]
    sounds = [
        Sound(system.name, encode_audio(system.sounds[one.id][None], SAMPLE_RATE, ".flac"), _note(system, one))
        for system in having
    ]
    picture = Picture("Spectrograms and piano rolls", plots.figure_png(clip_figure(having, one)))
    return Listening(one.id, [], sounds, one.text, picture)


def _note(system: System, one: Asked) -> str:
    finding = system.findings[one.id]
    return f"found: tonic {finding.tonic} {finding.third}, {finding.tempo:.0f} beats a minute"


def clip_figure(systems: Sequence[System], one: Asked) -> Figure:
    """Draw spectrograms over piano rolls, a column for each system: grey is played, red is found."""
    figure = plots.new_figure(4.2 * len(systems), 5)
    grid = figure.subplots(2, len(systems), sharex=True, squeeze=False)
    top: float | None = None
    for column, system in enumerate(systems):
        top = plots.draw_spectrogram(grid[0, column], system.sounds[one.id], SAMPLE_RATE, "mel", top)
        grid[0, column].set_title(system.name, fontsize="small")
        draw_piano_roll(grid[1, column], system.findings[one.id], one)
    figure.supxlabel("seconds", fontsize="small")
    return figure


def draw_piano_roll(axes: Axes, finding: Finding, one: Asked) -> None:
    """Draw the notes that were asked for as bars, and those that were found as thin ones over them."""
    for notes, height, colour in ((one.notes, 0.9, _COLOURS[0]), (finding.found_notes, 0.35, _COLOURS[1])):
        if notes:
            axes.barh(
                [note.pitch for note in notes],
                [note.end - note.start for note in notes],
                height,
                [note.start for note in notes],
                color=colour,
                linewidth=0,
            )
    axes.set_ylabel("pitch (60: middle C)", fontsize="small")


def build_report(
    systems: Sequence[System], asked: list[Asked], judge: FamilyJudge, reference: Tensor, model: str | None
) -> Report:
    """Return the report of all systems; ``model`` is the one among them that made its sounds from captions."""
    rendered = [system for system in systems if system.name != model]
    tables = [
        caption_table(systems, asked, judge, model),
        note_table(rendered, asked),
        distance_table(systems, reference),
        fault_table(systems),
    ]
    if len(rendered) > 1:
        tables.insert(2, kept_table(rendered))
    kept = [one for one in asked if one.id in systems[0].sounds]
    return Report(
        "Music",
        f"{len(asked)} held-out clips. All judges are proxies: they compare our own runs. Read the row of the "
        f"{RENDERINGS} first.",
        tables=tables,
        listening=[listening(systems, one) for one in kept],
    )
