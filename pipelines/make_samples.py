"""Write the sounds and pictures of the page to listen to, from the shipped codec and voices.

    python pipelines/make_samples.py docs
    python pipelines/make_samples.py docs --clone me.wav --clone-text "What I say in it."
    python pipelines/make_samples.py site --format .opus --seconds 6

Writes OUT/listen.md and OUT/samples/: originals, each through the codec at 1, 2, 4 … levels, each voice and speaker,
a cloned voice, a continuation, spectrograms, and (without --voice) music. The originals are the recordings of the
voice's speakers and, where hibari-tts is installed, a sentence by it. If the codec has a decoder "without-gan", it is
there for comparison.
Needs matplotlib: pip install -e '.[plot]'. Exit code: 0; 2 for bad input.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec.errors import SoundloomError
from pipelines.command_line.run import A_LOT, check_numbers, run

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.voice.voice import Voice

SENTENCE = "The old lighthouse keeper counted the ships that passed before dawn."
NEW_SENTENCE = "Please leave the key under the mat, and do not forget to close the window."
CAPTIONS = (
    "slow solo piano in A minor",
    "A fast, happy rock track for electric guitar, electric bass and drums in D major",
    "techno, synth lead, synth pad, synth bass and drums, C minor, 128 beats per minute",
    "folk, flute and harp, G major, slow",
)
HEAD = """# Listen

`soundloom-make-samples docs` writes this page and every file on it from the shipped codec and voices.
The originals are synthetic speech (Kokoro and hibari, Apache-2.0). Click a name to play the file.
"""


@dataclass
class Page:
    """The page under construction: its folder, and its lines of Markdown."""

    folder: Path
    suffix: str
    sample_rate: int
    lines: list[str] = field(default_factory=lambda: [HEAD])

    def sound(self, name: str, wave: Tensor) -> str:
        """Write wave [C, N] and return a link to it."""
        from codec.audio.files import write_audio

        path = self.folder / "samples" / f"{name}{self.suffix}"
        write_audio(path, wave, self.sample_rate)
        return f"[play](samples/{path.name})"

    def picture(self, name: str, waves: dict[str, Tensor], title: str) -> None:
        """Write the spectrograms of waves [C, N] under each other, and show them."""
        from codec.common.files import write_bytes
        from pipelines.evaluation.plots import figure_png, spectrogram_figure

        figure = spectrogram_figure({label: wave.mean(0) for label, wave in waves.items()}, self.sample_rate)
        write_bytes(self.folder / "samples" / f"{name}.png", few_colours(figure_png(figure, 80)))
        self.lines += [f"![{title}](samples/{name}.png)", ""]

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        """Add a table."""
        lines = [head, ["---"] * len(head), *rows]
        self.lines += ["| " + " | ".join(cells) + " |" for cells in lines] + [""]

    def write(self) -> None:
        """Write listen.md."""
        from codec.common.files import write_bytes

        write_bytes(self.folder / "listen.md", ("\n".join(self.lines).rstrip() + "\n").encode())


def few_colours(png: bytes) -> bytes:
    """Return the picture with 64 colours, a third of the bytes. Pillow comes with matplotlib."""
    from PIL import Image

    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(small, format="PNG", optimize=True)
    return small.getvalue()


def originals(voice: Voice, seconds: float, most: int) -> dict[str, Tensor]:
    """Return up to ``most`` recordings [1, N] at the codec's rate: hibari's if installed, then the speakers'."""
    from codec.audio.files import read_audio

    rate = voice.sample_rate
    found = {name: read_audio(prompt.audio, rate, 1) for name, prompt in voice.speakers.items()}
    spoken = teacher_sentence(rate)
    if spoken is not None:
        found = {"heart": spoken} | found
    if not found:
        raise SoundloomError(f"voice {voice.name}: no speakers and no hibari-tts, so there is no original to decode")
    return {name: wave[:, : round(seconds * rate)] for name, wave in list(found.items())[:most]}


def teacher_sentence(sample_rate: int) -> Tensor | None:
    """SENTENCE read by hibari, [1, N]; None where it is not installed."""
    import torch

    from codec.audio import resample
    from pipelines.teachers.registry import open_teacher

    try:
        teacher = open_teacher("hibari")
    except SoundloomError:
        return None
    return resample(torch.from_numpy(teacher.speak(SENTENCE, 0))[None], teacher.sample_rate, sample_rate)


def plain_decoder(codec: Any) -> Any:
    """The codec with the decoder from before adversarial training; None where it has none."""
    return codec.other_decoder("without-gan") if "without-gan" in getattr(codec, "decoders", ()) else None


def levels_to_show(num_levels: int) -> Iterator[int]:
    """1, 2, 4 … and all."""
    level = 1
    while level < num_levels:
        yield level
        level *= 2
    yield num_levels


def codec_section(page: Page, codec: Any, recordings: dict[str, Tensor]) -> None:
    """Each recording as it is and at each number of levels."""
    levels, plain = list(levels_to_show(codec.num_levels)), plain_decoder(codec)
    rows = [["original"], *([f"{n} level{'s' * (n > 1)}, {codec.bitrate(n) / 1000:.1f} kbit/s"] for n in levels)]
    rows += [["all levels, without adversarial training"]] if plain is not None else []
    files = ["original", *(f"{n}-levels" for n in levels), "without-gan"]
    for name, wave in recordings.items():
        codes = codec.encode(wave[None])
        waves = [wave, *(codec.decode(codes[:, :n])[0, :, : wave.shape[-1]] for n in levels)]
        waves += [plain.decode(codes)[0, :, : wave.shape[-1]]] if plain is not None else []
        for row, file, one in zip(rows, files, waves, strict=False):
            row.append(page.sound(f"{name}-{file}", one))
        if len(rows[0]) == 2:
            page.lines += ["## The codec", ""]
            numbers = ", ".join(map(str, levels))
            names = ["original", *(f"{n} level{'s' * (n > 1)}" for n in levels), f"{levels[-1]} levels, without GAN"]
            title = f"One sentence: original, and through the codec at {numbers} levels"
            title += f"; last, {levels[-1]} levels without adversarial training" if plain is not None else ""
            page.picture("levels", dict(zip(names, waves, strict=False)), title)
    page.table(["", *recordings], rows)


def voice_section(page: Page, voices: dict[str, Voice], seed: int) -> None:
    """Each voice and each of its speakers."""
    rows = []
    for name, voice in voices.items():
        for speaker in (None, *voice.speakers):
            speech = voice.speak(NEW_SENTENCE, seed=seed, speaker=speaker)
            rows.append([name, speaker or "its own", page.sound(f"{name}-{speaker or 'own'}-speaks", speech.waveform)])
    page.lines += ["## The voices", "", f'They say: "{NEW_SENTENCE}"', ""]
    page.table(["voice", "speaker", "sound"], rows)


def clone_section(page: Page, voice: Voice, clone: tuple[Path, str], seed: int) -> None:
    """The voice after a prompt, and the prompt continued."""
    from codec.audio.files import read_audio

    audio, text = clone
    prompt = read_audio(audio, voice.sample_rate, 1)
    spoken = voice.speak(NEW_SENTENCE, seed=seed, prompt=str(audio), prompt_text=text).waveform
    free = voice.continue_audio(str(audio), 4.0, seed=seed).waveform
    told = voice.continue_audio(str(audio), 8.0, text=NEW_SENTENCE, prompt_text=text, seed=seed).waveform
    page.lines += ["## A cloned voice and a continuation", "", f'The prompt says: "{text}"', ""]
    sounds = {"prompt": prompt, "clone": spoken, "continued-freely": free, "continued-with-text": told}
    page.table(["what", "sound"], [[name.replace("-", " "), page.sound(name, wave)] for name, wave in sounds.items()])


def music_section(page: Page, seed: int) -> None:
    """Pieces of the shipped music model."""
    from pipelines.music_model.model import load_music

    model = load_music()
    rows = []
    for number, caption in enumerate(CAPTIONS, 1):
        piece = model.write(caption, 10.0, seed=seed)
        rows.append([caption, page.sound(f"music-{number}", piece.waveform)])
    page.lines += ["## Music", ""]
    page.lines += [f"Written by the shipped music model, seed {seed}, with `soundloom-music CAPTION --seconds 10`.", ""]
    page.table(["caption", "sound"], rows)


def clone_source(options: argparse.Namespace, voice: Voice) -> tuple[Path, str] | None:
    """Return the recording to clone and its text: what was given, else the voice's last speaker."""
    if (options.clone is None) != (options.clone_text is None):
        raise SoundloomError("--clone and --clone-text: give both, or neither")
    if options.clone is not None:
        return Path(options.clone), options.clone_text
    prompts = list(voice.speakers.values())
    return (prompts[-1].audio, prompts[-1].text) if prompts else None


def shipped_voices(name: str | None) -> dict[str, Voice]:
    """The named voice, or all that are shipped, the default one first."""
    from pipelines.voice.folder import DEFAULT_VOICE, SHIPPED_VOICES
    from pipelines.voice.voice import load_voice

    if name is not None:
        return {Path(name).name: load_voice(name)}
    folders = sorted(path.parent.name for path in SHIPPED_VOICES.glob("*/voice.json"))
    return {one: load_voice(one) for one in sorted(folders, key=lambda one: one != DEFAULT_VOICE)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make_samples.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for listen.md and samples/")
    parser.add_argument(
        "--voice", help="a folder, a shipped voice's name, or a hub name (default: all shipped voices, and music)"
    )
    parser.add_argument("--clone", help="recording of a speaker to clone (default: the voice's last speaker)")
    parser.add_argument("--clone-text", help="what that recording says")
    parser.add_argument("--format", default=".mp3", choices=[".mp3", ".opus", ".flac"], help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each original, at most (default: %(default)s)")
    parser.add_argument("--originals", type=int, default=3, help="how many originals (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the speech (default: %(default)s)")
    options = parser.parse_args(argv)
    check_numbers(options, seconds=(0.5, 60), originals=(1, A_LOT))
    voices = shipped_voices(options.voice)
    first = next(iter(voices.values()))
    clone = clone_source(options, first)
    page = Page(options.output, options.format, first.sample_rate)
    codec_section(page, first.codec, originals(first, options.seconds, options.originals))
    voice_section(page, voices, options.seed)
    if clone is not None:
        clone_section(page, first, clone, options.seed)
    if options.voice is None:
        music_section(page, options.seed)
    page.write()
    print(f"{options.output / 'listen.md'}: {len(list((options.output / 'samples').iterdir()))} files in samples/")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
