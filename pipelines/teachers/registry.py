"""List the teachers. To add one: a subclass of `base.Teacher` in a file of its own, and a row in `TEACHERS`."""

from __future__ import annotations

from codec.errors import SoundloomError
from pipelines.teachers.base import Teacher
from pipelines.teachers.hibari import Hibari
from pipelines.teachers.kokoro import Kokoro
from pipelines.teachers.programs import Espeak, Flite

TEACHERS: dict[str, type[Teacher]] = {
    "hibari": Hibari,
    "flite": Flite,
    "espeak-ng": Espeak,
    "kokoro": Kokoro,
}


def open_teacher(name: str, voice: str = "", **options: str) -> Teacher:
    """Open a teacher by name, with its default voice where ``voice`` is empty; ``options``: those of the teacher.

    Raises: SoundloomError where it is unknown or not installed, or has no such voice or option.
    """
    if name not in TEACHERS:
        raise SoundloomError(f"unknown teacher {name!r}; expected one of {', '.join(TEACHERS)}")
    for option in options:
        if option not in TEACHERS[name].options:
            owners = [other for other, teacher in TEACHERS.items() if option in teacher.options]
            raise SoundloomError(f"{option} is an option of {', '.join(owners) or 'no teacher'}, not of {name}")
    return TEACHERS[name](voice, **options)


def teacher_options() -> dict[str, str]:
    """Return the options of all teachers with their help texts, for a command line."""
    helps: dict[str, str] = {}
    for name, teacher in TEACHERS.items():
        for option, text in teacher.options.items():
            helps[option] = f"{helps[option]}; " if option in helps else ""
            helps[option] += f"{name}: {text}"
    return helps
