"""Checked JSON and settings: one short printable line says what is wrong, whatever the file holds."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from codec.common.checked import field, from_dict, parse_json, read_json
from codec.common.read_ahead import read_ahead
from codec.errors import SoundloomError, one_line, quoted


@dataclass(frozen=True)
class Shape:
    """A shape with one field of each kind."""

    rate: float
    levels: int = 8
    name: str = ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 10**400}, r"rate: .* is too large"),
        ({"rate": 1, "levles": 3}, "'levles' for Shape; did you mean 'levels'"),
        ({"rate": 1, "x" * 10_000_000: 3}, "unknown field 'xxx"),
        ({"rate": True}, "is not float"),
        ({"rate": "y" * 10_000_000}, "is not float"),
        ({"rate": [[1] * 1000] * 1000}, "is not float"),
        ({"rate": 1, "name": 7}, "7 is not str"),
        ({}, "'rate' of Shape is missing"),
    ],
)
def test_what_does_not_fit_is_one_short_line(values: dict, message: str) -> None:
    with pytest.raises(SoundloomError, match=message) as caught:
        from_dict(Shape, values, "config.json")
    assert len(str(caught.value)) < 200


def test_nested_and_endless_json_is_refused(tmp_path: Path) -> None:
    for text in ("[" * 100_000, '{"a":' * 50_000, "1" * 5000, "NaN", '"\\ud800"', "1e999"):
        with pytest.raises(SoundloomError, match=r"x\.json"):
            parse_json(text, "x.json")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(SoundloomError, match="expected a JSON object, found list"):
        read_json(tmp_path / "x.json")
    with pytest.raises(SoundloomError, match="at most 2"):
        read_json(tmp_path / "x.json", limit=2)
    with pytest.raises(SoundloomError, match="expected float"):
        field({"a": 10**400}, "a", float, "x.json")


def test_errors_are_one_printable_line() -> None:
    error = SoundloomError("a\nb\x1b[31m\u202e\udcff" + "c" * 1_000_000)
    assert str(error).isprintable() and str(error).startswith(r"a\nb\x1b[31m") and len(str(error)) < 2500
    assert one_line("größe … ok") == "größe … ok"
    assert quoted("x" * 100) == "'" + "x" * 58 + "…" and quoted("it's\n") == '"it\'s\\n"'
    assert len(quoted(10**9999)) <= 60 and len(quoted({"k": ["v" * 99] * 99})) <= 60


def test_read_ahead_keeps_order_and_errors_their_place() -> None:
    made = []

    def make(key: int) -> int:
        made.append(key)
        if key == 3:
            raise ValueError("three")
        return 10 * key

    for threads in (0, 1, 2):
        results = read_ahead(make, range(6), threads)
        assert [next(results) for _ in range(3)] == [0, 10, 20]
        with pytest.raises(ValueError, match="three"):
            next(results)
    made.clear()
    results = read_ahead(make, iter(range(1000)), ahead=2)
    next(results)
    results.close()
    assert len(made) <= 3  # what was not asked for is not made
