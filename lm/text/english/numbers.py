# ruff: noqa: RUF001, SIM905 - tables of symbols and words
"""Digits in English text as words: dates, times, money, units, ordinals, fractions, years, telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from num2words import num2words

from lm.text.english.abbreviations import CURRENCIES, MONTHS, SCALES, UNITS

_INTEGER = r"\d{1,3}(?:,\d{3})+|\d+"
_NUMBER = rf"(?:(?:{_INTEGER})(?:\.\d+)?|\.\d+)"


def any_of(words: Iterable[str]) -> str:
    """A regular expression for any of the words, longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=lambda w: (-len(w), w)))


_PHONE = re.compile(r"(?<![\w.,-])(?:\+?(\d{1,3})[ .-])?(?:\((\d{3})\) ?|(\d{3})[ .-])?(\d{3})-(\d{4})(?![\w-])")
_TIME = re.compile(r"(?<![\d:.])(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?:\s*([AaPp])\.?[Mm]\b(\.(?!\s*$))?)?(?![\d:])")
_HOUR = re.compile(r"(?<![\d:.,])(\d{1,2})\s*([AaPp])\.?[Mm]\b(\.(?!\s*$))?")
_HOURS = re.compile(r"(?<![\w:.,-])(\d{1,2}) ?[–-] ?(?=\d{1,2}(?::\d\d)? ?[AaPp]\.?[Mm]\b)")
_DATE_ISO = re.compile(r"(?<![\d-])(\d{4})-(\d{2})-(\d{2})(?![\d-])")
_DATE_US = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?![\d/])")
_MONTH = rf"({any_of(MONTHS)})\b\.?"
_MONTH_DAY = re.compile(rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?\b(?![:%.,]\d)(?:(,? )(\d{{4}})\b)?")
_DAY_MONTH = re.compile(rf"(?<![\d.,$])\b([Tt]he )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:(,? )(\d{{4}})\b)?")
_MONTH_YEAR = re.compile(rf"\b{_MONTH}(,? )(\d{{4}})\b")
_DECADE = re.compile(r"(?<![\w.])'?(\d{2}|\d{4})'?s\b")
_MONEY = re.compile(rf"(-?)([{any_of(CURRENCIES).replace('|', '')}])\s?({_NUMBER})(?:[ -]?({any_of(SCALES)})\b)?", re.I)
_CENTS = re.compile(rf"({_NUMBER})\s?¢")
_UNIT = re.compile(rf"(?<![\w.,])(-?)({_NUMBER})\s?({any_of(UNITS)})(?![\w'])\.?(?=(\s+[a-z]|[,;:?!)-])?)")
_DEGREES = re.compile(rf"(-?)({_NUMBER})\s?°\s?([CF])?\b")
_PERCENT = re.compile(rf"({_NUMBER})\s?%")
_ORDINAL = re.compile(rf"(?<![\w.])({_INTEGER})(?:st|nd|rd|th)\b", re.I)
_RANGE = re.compile(r"(?<![\w.,-])(\d{1,4})\s?[–-]\s?(\d{1,4})(?![\w-]|[.,]\d)")
_FRACTION = re.compile(
    r"(?<![\w./])(?:([1-9]\d*)[ -])?(\d{1,3})/(\d{1,3})(?![\w/]|\.\d)" rf"(?:\s?({any_of(UNITS)})(?![\w'])\.?)?"
)
_YEAR_CONTEXT = re.compile(
    r"(?i:\b(in|since|until|till|by|from|to|of|before|after|around|circa|early|late|year|and|between|through|during)) "
    r"(1\d{3}|20\d\d)\b(?![,.]\d|-)"
)
_ERA = re.compile(r"\b(\d{1,4}) (BC|BCE|AD|CE)\b")
_SCORE = re.compile(r"(?<![\d:])(\d{1,3}):(\d{1,3})(?![\d:])")
_NEGATIVE = re.compile(rf"(?<![\w)-])-(?={_NUMBER})")
_PLAIN = re.compile(_NUMBER)
_ROMAN = re.compile(
    r"\b(Chapter|Part|Book|Volume|Act|Scene|Section|Phase|Type|Class|War|Apollo|Appendix|Article|Bowl|Episode|Title|Stage|"
    r"Level|Mark|Grade|Table|Figure|(?:chapter|part|book|volume|act|scene|section|phase|type|class|article|title|stage)"
    r"(?= [IVXL]{2})) ([IVXL]+)\b"
)
_REGNAL = re.compile(
    r"\b(Henry|Edward|Elizabeth|George|Charles|James|William|Richard|Louis|Philip|Napoleon|Nicholas|Catherine|"
    r"Frederick|Alexander|Ivan|Peter|Pius|Paul|Benedict|Leo|Gregory|Innocent|Clement|Boniface|Robert|Mary) "
    r"([IVXL]+)\b(?!\.\S)"
)
# A numeral of two letters or more after a capitalised word, such as a title's part; these are rather initialisms.
_NO_NUMERALS = "CD DC MD MC CC DM MM ML CM DI LI MI MIX DIM DVI CIV MV CV LL DD IM ID IC"
_ROMAN_AFTER = re.compile(r"(?<=[A-Za-z]) ((?=[IVXLCDM]{2})(?:[IVX]+|[IVXLCDM]{3,}))\b(?!\.[A-Z]|')")
_ROMAN_YEAR = re.compile(r"\b(M[IVXLCDM]{4,})\b")
_ROMAN_CENTURY = re.compile(r"\b([IVX]{2,})(?:th|st|nd|rd)? (?=century|centuries|Century)")
_NUMBER_SIGN = re.compile(r"(?:\b[Nn]os?\.\s?|#\s?)(?=\d)")
_DIGITS = "zero one two three four five six seven eight nine".split()
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_HALVES = {2: "half", 3: "third", 4: "quarter"}


def _words(value: int | str, to: str = "cardinal") -> str:
    """num2words in the American way: no ``and``, no commas, no hyphens."""
    return re.sub(r",|-| and(?= )", lambda m: " " if m[0] == "-" else "", num2words(value, to=to))


def _cardinal(digits: str) -> str:
    """A number as written (``1,250``, ``.5``, ``007``) in words; digit by digit where it is no quantity."""
    whole, point, tail = digits.replace(",", "").partition(".")
    if len(whole) > 15 or (len(whole) > 1 and whole.startswith("0")) or digits == "911":
        spoken = _digits(whole)
    else:
        spoken = _words(int(whole)) if whole else ""
    return f"{spoken} point {_digits(tail)}".strip() if point else spoken


def _digits(digits: str) -> str:
    """``052`` as ``zero five two``."""
    return " ".join(_DIGITS[int(d)] for d in digits)


def _year(digits: str) -> str:
    """A year's words: ``1984`` in pairs, ``2005`` as a number."""
    value = int(digits)
    paired = 1010 <= value <= 2099 and not 2000 <= value <= 2009 and value % 1000 != 0
    return _words(value, "year") if paired else _cardinal(str(value))


def _number(digits: str) -> str:
    """A bare number: four digits that may be a year are read as one."""
    return _year(digits) if re.fullmatch(r"1[1-9]\d\d|20[1-9]\d", digits) else _cardinal(digits)


def _time(match: re.Match[str]) -> str:
    hour, minute, second, half = int(match[1]), int(match[2]), match[3], match[4]
    if hour > 24:
        return f"{_words(hour)} {_words(minute)}"
    words = [_words(hour)]
    if minute:
        words.append(("oh " if minute < 10 else "") + _words(minute))
    elif not half and not second:
        words.append("o'clock" if 0 < hour <= 12 else "hundred")
    if second and int(second):
        words.append(f"and {_words(int(second))} second" + ("" if int(second) == 1 else "s"))
    if half:
        words.append(half.upper() + " M")
    return " ".join(words)


def _date(day: int, month: int, year: str | None, article: bool = False) -> str | None:
    """Month and day in words (``the seventh of May`` with ``article``), None where there is no such day."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    name, spoken = list(dict.fromkeys(MONTHS.values()))[month - 1], _words(day, "ordinal")
    text = f"the {spoken} of {name}" if article else f"{name} {spoken}"
    return f"{text}, {_year(year)}" if year else text


def _us_date(match: re.Match[str]) -> str:
    first, second, year = int(match[1]), int(match[2]), match[3]
    if len(year) == 2:
        year = ("19" if int(year) > 40 else "20") + year
    month, day = (first, second) if first <= 12 else (second, first)
    return _date(day, month, year) or match[0]


def _month_number(name: str) -> int:
    return list(dict.fromkeys(MONTHS.values())).index(MONTHS[name]) + 1


def _month_day(match: re.Match[str]) -> str:
    return _date(int(match[2]), _month_number(match[1]), match[4]) or match[0]


def _day_month(match: re.Match[str]) -> str:
    spoken = _date(int(match[2]), _month_number(match[3]), match[5], article=True)
    if spoken is None:
        return match[0]
    ends = match[0].endswith(".") and match.end() == len(match.string)
    return (match[1] or "the ") + spoken.removeprefix("the ") + ("." if ends else "")


def _decade(match: re.Match[str]) -> str:
    digits = match[1]
    words = _year(digits) if len(digits) == 4 else _words(int(digits))
    return re.sub(r"y$", "ies", words) if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def _plural(digits: str, forms: tuple[str, str]) -> str:
    return forms[0] if digits.replace(",", "") in ("1", "1.0") else forms[1]


def _money(match: re.Match[str]) -> str:
    sign, symbol, digits, scale = match[1], match[2], match[3], match[4]
    one, many, cent = CURRENCIES[symbol]
    minus = "minus " if sign else ""
    if scale:
        return f"{minus}{_cardinal(digits)} {SCALES[scale.lower()]} {many}"
    whole, _, cents = digits.replace(",", "").partition(".")
    if len(cents) != 2 or not cent:
        return f"{minus}{_cardinal(digits)} {_plural(digits, (one, many))}"
    parts = [f"{_cardinal(whole)} {_plural(whole, (one, many))}"] if whole.strip("0") or cents == "00" else []
    if cents != "00":
        parts.append(f"{_words(int(cents))} {cent if int(cents) == 1 else _cents(cent)}")
    return minus + " and ".join(parts)


def _cents(cent: str) -> str:
    return "pence" if cent == "penny" else cent + "s"


def _unit(match: re.Match[str]) -> str:
    minus = "minus " if match[1] else ""
    # The dot of "5 ft." goes unless it also ends the sentence.
    ends = match[0].endswith(".") and match[4] is None
    return f"{minus}{_cardinal(match[2])} {_plural(match[2], UNITS[match[3]])}" + ("." if ends else "")


def _degrees(match: re.Match[str]) -> str:
    scale = {"C": " Celsius", "F": " Fahrenheit", None: ""}[match[3]]
    words = f"{_cardinal(match[2])} {_plural(match[2], ('degree', 'degrees'))}{scale}"
    return ("minus " if match[1] else "") + words


def _fraction(match: re.Match[str]) -> str:
    above, below = int(match[2]), int(match[3])
    if not 0 < above < below or below > 100:
        unit = " " + UNITS[match[4]][1] if match[4] else ""
        return f"{_cardinal(match[1]) + ' ' if match[1] else ''}{_words(above)} slash {_words(below)}{unit}"
    part = _HALVES.get(below) or _words(below, "ordinal")
    part += "" if above == 1 else "s"
    one, many = UNITS[match[4]] if match[4] else ("", "")
    if match[1]:
        words = f"{_cardinal(match[1])} and {'a' if above == 1 else _words(above)} {part} {many}"
    else:
        words = f"{_words(above)} {part} {one}"
    return words.rstrip()


def _roman(numeral: str) -> int | None:
    """Value of a Roman numeral; None where it is none."""
    if not re.fullmatch(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})", numeral):
        return None
    values = [_ROMAN_VALUES[c] for c in numeral]
    return sum(-v if v < max(values[i + 1 :], default=0) else v for i, v in enumerate(values)) or None


def _roman_cardinal(match: re.Match[str]) -> str:
    value = _roman(match[2])
    return f"{match[1]} {_words(value)}" if value else match[0]


def _regnal(match: re.Match[str]) -> str:
    value = _roman(match[2])
    return f"{match[1]} the {_words(value, 'ordinal')}" if value else match[0]


def _roman_after(match: re.Match[str]) -> str:
    """``Rocky II`` as ``Rocky two``: only after a capitalised word, and where the letters are no initialism."""
    before = match.string[: match.start()].rsplit(None, 1)
    value = _roman(match[1]) if match[1] not in _NO_NUMERALS.split() else None
    if value is None or not before or not before[-1][:1].isupper():
        return match[0]
    return " " + (_year(str(value)) if value > 1000 else _words(value))


def _roman_year(match: re.Match[str]) -> str:
    value = _roman(match[1])
    return _year(str(value)) if value else match[0]


def _phone(match: re.Match[str]) -> str:
    return ", ".join(_digits(group) for group in match.groups() if group)


def numbers(text: str) -> str:
    """Everything with a digit in words, most particular first; Roman numerals after what they usually count."""
    text = _ROMAN.sub(_roman_cardinal, text)
    text = _REGNAL.sub(_regnal, text)
    text = _ROMAN_CENTURY.sub(lambda m: f"{_words(_roman(m[1]) or 0, 'ordinal')} ", text)
    text = _ROMAN_AFTER.sub(_roman_after, text)
    text = _ROMAN_YEAR.sub(_roman_year, text)
    if not re.search(r"\d", text):
        return text
    text = _DATE_ISO.sub(lambda m: _date(int(m[3]), int(m[2]), m[1]) or m[0], text)
    text = _DATE_US.sub(_us_date, text)
    text = _PHONE.sub(_phone, text)
    text = _HOURS.sub(r"\1 to ", text)
    text = _TIME.sub(_time, text)
    text = _HOUR.sub(lambda m: f"{_words(int(m[1]))} {m[2].upper()} M", text)
    text = _SCORE.sub(lambda m: f"{_words(int(m[1]))} to {_words(int(m[2]))}", text)
    text = _MONTH_DAY.sub(_month_day, text)
    text = _DAY_MONTH.sub(_day_month, text)
    text = _MONTH_YEAR.sub(lambda m: f"{MONTHS[m[1]]}{m[2]}{_year(m[3])}", text)
    text = _DECADE.sub(_decade, text)
    text = _ERA.sub(lambda m: f"{_year(m[1])} {' '.join(m[2])}", text)
    text = _MONEY.sub(_money, text)
    text = _CENTS.sub(lambda m: f"{_cardinal(m[1])} {_plural(m[1], ('cent', 'cents'))}", text)
    text = _DEGREES.sub(_degrees, text)
    text = _PERCENT.sub(lambda m: f"{m[1]} percent", text)
    text = _FRACTION.sub(_fraction, text)
    text = _UNIT.sub(_unit, text)
    text = _ORDINAL.sub(lambda m: _words(int(m[1].replace(",", "")[:15]), "ordinal"), text)
    text = _NUMBER_SIGN.sub("number ", text)
    text = _RANGE.sub(lambda m: f"{m[1]} to {m[2]}", text)
    text = _YEAR_CONTEXT.sub(lambda m: f"{m[1]} {_year(m[2])}", text)
    text = re.sub(r"(?<=[A-Za-z])-(?=\.?\d)|(?<=\d)-(?=[A-Za-z])", " ", _NEGATIVE.sub("minus ", text))
    return _PLAIN.sub(lambda m: f" {_number(m[0])} ", text)
