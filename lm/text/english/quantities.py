# ruff: noqa: RUF001 - tables of symbols
"""Quantities in the forms that are not plain English prose: powers, ranges, foreign money, spaced thousands, versions.

Each rule rewrites one form into another that `lm.text.english.numbers` reads, so the words are made in one place.
"""

from __future__ import annotations

import re

from lm.text.english.abbreviations import CURRENCIES, CURRENCY_CODES, MONTHS, SCALES, UNITS
from lm.text.english.numbers import any_of

_SIGNS = "".join(CURRENCIES)
_AMOUNT = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_SCALE = rf"(?:\s?(?:{'|'.join(sorted(SCALES, key=len, reverse=True))})\b)?"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_RAISED = re.compile(r"(?<=[\w)])[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_SQUARE = re.compile(r"(?<=\d)\s?(mm|cm|km|m|ft|in|mi|yd)([²³])(?!\w)")
_POWERS = {"2": "squared", "3": "cubed"}

_THIN_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:[\u00a0\u202f\u2009]\d{3})+(?!\d)")
_SPACED = re.compile(r"(?<![\d.,])(\d{1,3}(?: \d{3}){2,}|\d{1,3} 000)(?!\d)")
_DOTTED = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3}){2,})(?:,(\d+))?(?!\d|\.\d)")
_COMMA_MONEY = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})*|\d+),(\d{2})(?=\s?€|\s?EUR\b)")
_DATE_DOTS = re.compile(r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.(\d{4})(?![\d.]\d)")
_MONTH_YEAR = re.compile(r"(?<![\d/])(\d{1,2})/(\d{4})(?![\d/])")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::(\d\d)(?:\.\d+)?)?(Z|[+-]\d\d:?\d\d)?(?![\d:])")

_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?![\w.])")
_TIMES_POWER = re.compile(r"(?<=\d)\s*[×x*·]\s*(?=10\s?\^)")
_POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|[A-Za-z])\s?\^\s?[{(]?([+-]?(?:\d+|[a-z]))[)}]?")
_ROOT = re.compile(r"√\s?(?=[\w(])")

_MONEY_CODE = re.compile(rf"\b({'|'.join(CURRENCY_CODES)})\s?({_AMOUNT}{_SCALE})(?![\w])")
_MONEY_AFTER = re.compile(rf"(?<![\w.,{re.escape(_SIGNS)}])({_AMOUNT}{_SCALE})\s?([{re.escape(_SIGNS)}])(?!\s?\d)")
_CODE_AFTER = re.compile(rf"(?<![\w.,{re.escape(_SIGNS)}])({_AMOUNT}{_SCALE})\s({'|'.join(CURRENCY_CODES)})\b")
_DOLLARS_OF = {"US": "US dollars", "A": "Australian dollars", "AU": "Australian dollars", "C": "Canadian dollars",
               "CA": "Canadian dollars", "NZ": "New Zealand dollars", "HK": "Hong Kong dollars",
               "S": "Singapore dollars", "R": "Brazilian reals", "MX": "Mexican pesos"}  # fmt: skip
_DOLLAR_OF = re.compile(rf"\b({'|'.join(_DOLLARS_OF)})\$\s?({_AMOUNT}{_SCALE})(?!\w)")
_MONEY_RANGE = re.compile(
    rf"([{re.escape(_SIGNS)}])\s?({_AMOUNT})({_SCALE})\s?[-–—]\s?(?:\1\s?)?({_AMOUNT})({_SCALE})(?![\w-])"
)
_RANGE_BEFORE_UNIT = re.compile(
    rf"(?<![\w.,-])({_AMOUNT})\s?[-–]\s?({_AMOUNT})(?=\s?(?:%|°|(?:{any_of(UNITS)})(?![\w'])))"
)
_HOUR_RANGE = re.compile(r"(?<=\d)(\s?[AaPp]\.?[Mm]\.?)\s?[-–—]\s?(?=\d{1,2}(?::\d\d)?\s?[AaPp]\.?[Mm])")
_CLOCK_RANGE = re.compile(r"(?<![\d:])(\d{1,2}:\d\d)\s?[-–—]\s?(?=\d{1,2}:\d\d)")
_DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday",
         "Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"}  # fmt: skip
_DAY_RANGE = re.compile(rf"\b({'|'.join(_DAYS)})\.?\s?[-–—]\s?({'|'.join(_DAYS)})\b")

_EQUATION = re.compile(r"(?<=\d)\s+-\s+(?=\d[\d.,]*(?:\s*[-+*/×÷]\s*\d[\d.,]*)*\s*=)|(?<=[A-Za-z]) - (?=[A-Za-z\d] ?=)")
_TIMES = re.compile(r"(?<=\d)\s?[*·]\s?(?=\d)|(?<=\b[a-z]) ?\* ?(?=[a-z]\b)")
_DIVIDED = re.compile(r"(?<=\d) ?/ ?(?=\d+(?:\.\d+)? ?=)|(?<=\d) / (?=\d)")
_UNEQUAL = re.compile(r"\s?(?:!=|=/=|≠)\s?")
_BY = re.compile(r"(?<=\d)(?:[x×]| x )(?=\d)")
_FOLD = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)x(?!\w)")
_ABOUT = re.compile(r"(?<!\w)~\s?(?=[$£€]?\d)")
_FEET = re.compile(r"(?<![\w.'])(\d{1,2})'\s?(\d{1,2})(?:\"|'')(?!\w)")
_INCHES = re.compile(r"(?<![\w.\"])(\d+(?:\.\d+)?)\"(?:(\s+(?!and|or|by|x)[a-z]+)|(?=\s*$|[,.;)]|\s))(?![^\"]*\")")
_IP = re.compile(r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")
_VERSION = re.compile(r"(?<![\w.])([vV](?:ersion )?)?(\d+(?:\.\d+){2,})(?![\w]|\.\d)")
_SHORT_VERSION = re.compile(r"(?<!\w)v(?=\d+(?:\.\d+)?\b)")
_FIXED = {"9/11": "nine eleven", "24/7": "twenty four seven", "50/50": "fifty fifty", "20/20": "twenty twenty"}
_FIXED_FORM = re.compile(r"(?<![\d/])(9/11|24/7|50/50|20/20)(?![\d/]| ?=)")
_AT_LEAST = re.compile(r"\s?(>=|=>|<=|=<)\s?(?=-?\d)")
_MINUS_DOWN = re.compile(r"(?<![\w.,-])(\d+(?:\.\d+)?) - (\d+(?:\.\d+)?)(?![\w.,-])")
_PERCENTS = re.compile(rf"({_AMOUNT})\s?%\s?[-–—]\s?(?={_AMOUNT}\s?%)")
_LINES = re.compile(r"(?<![\w.])(\d{3,4})([pi])(?!\w)")
_PENCE = re.compile(r"(?<![\w.])(\d{1,2})p(?!\w)")
_BOOK_NUMBER = re.compile(r"\b(ISBN|ISSN|IBAN|SSN)(?:-1[03])?:?\s([\dX][\dX -]{6,})(?!\w)")
_DAY_SPAN = re.compile(
    rf"\b({any_of(set(MONTHS.values()))}) "
    r"(\d{1,2})\s?[-–]\s?(\d{1,2})(?![\w:-])"
)
_SHORT = {"Fig": "figure", "Figs": "figures", "fig": "figure", "p": "page", "pp": "pages", "Vol": "volume",
          "vol": "volume", "Ch": "chapter", "ch": "chapter", "Sec": "section", "sec": "section", "Eq": "equation",
          "eq": "equation", "Tab": "table", "Art": "article", "art": "article", "App": "appendix"}  # fmt: skip
_SHORT_FORM = re.compile(rf"(?<![\w.])({'|'.join(sorted(_SHORT, key=len, reverse=True))})\.\s?(?=\d)")
_FILE = re.compile(
    r"(?<![\w.@/])([\w-]*)\.((?:tar\.)?(?:txt|pdf|png|jpe?g|gif|svg|csv|tsv|html?|css|js|ts|json|ya?ml|toml|xml|md|py|sh|c|h|cpp|rs|go|"
    r"java|exe|zip|tar|gz|mp3|mp4|wav|flac|ogg|docx?|xlsx?|pptx?|epub|log|ini|NET))\b(?!\.\w)"
)
_ENDING_WORDS = ("zip", "log", "tar", "java", "go", "exe")
_ORDINAL_RANGE = re.compile(r"(?<=\d)(st|nd|rd|th)\s?[-–]\s?(?=\d+(?:st|nd|rd|th)\b)")
_NOON = re.compile(r"\b(noon|midnight)\s?[-–]\s?(?=\d)", re.I)
_DAY_NAME = re.compile(r"\b(Mon|Tue|Tues|Wed|Thu|Thur|Thurs|Fri|Sat|Sun)(?=\.?,? (?:\d|[JFMASOND][a-z]{2}))\.?")
_OR = re.compile(r"\b(he/she|she/he|his/her|him/her|himself/herself)\b", re.I)
_SHARP = re.compile(r"(?<!\w)([CF])#(?!\w)")
_NO_SENTENCE = re.compile(r"(?<=\bno)\.(?= \d+ (?:people|men|women|children|[a-z]+[^aisu\W]s)\b)")
_PHONE = re.compile(
    r"(?<![\w.])(\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}|0\d{2,4}[ -]\d{3,4}[ -]\d{3,4}|\d{3}\.\d{3}\.\d{4})(?![\w-])"
)


def quantities(text: str) -> str:
    """Rewrite foreign and technical forms of quantities; text without digits is returned as it is, bar symbols."""
    text = _UNEQUAL.sub(" is not equal to ", text)
    text = _OR.sub(lambda m: m[0].replace("/", " or "), text)
    text = _SHARP.sub(r"\1 sharp", _FILE.sub(_file, text))
    text = _ROOT.sub("the square root of ", text)
    text = _DAY_RANGE.sub(lambda m: f"{_DAYS[m[1]]} to {_DAYS[m[2]]}", text)
    if not re.search(r"\d", text):
        return _POWER.sub(_power, text)
    text = _dates_and_codes(text)
    text = _powers(text)
    text = _money(text)
    text = _ranges(text)
    return _signs(text)


def raise_superscripts(text: str) -> str:
    """Write ``10⁶`` as ``10^6``, ``5 m²`` as ``5 sq m``, and thousands without thin spaces, before folding."""
    text = text.replace("≠", " != ")  # which would be folded to an equals sign
    text = _THIN_SPACED.sub(lambda m: re.sub(r"\s", "", m[0]), text)
    text = _SQUARE.sub(lambda m: f" {'sq' if m[2] == '²' else 'cu'} {m[1]}", text)
    return _RAISED.sub(lambda m: m[0] if m[0] in "²³" else "^" + m[0].translate(_SUPERSCRIPTS), text)


def _dates_and_codes(text: str) -> str:
    text = _STAMP.sub(_stamp, text)
    text = _BOOK_NUMBER.sub(lambda m: f"{m[1]} {' '.join(c for c in m[2] if c.isalnum())}", text)
    text = _SHORT_FORM.sub(lambda m: f"{_SHORT[m[1]]} ", text)
    text = _PHONE.sub(_phone, text)
    text = _IP.sub(r"\1 dot \2 dot \3 dot \4", text)
    text = _DATE_DOTS.sub(lambda m: f"{m[3]}-{int(m[2]):02}-{int(m[1]):02}" if int(m[2]) <= 12 else m[0], text)
    text = _DOTTED.sub(lambda m: m[1].replace(".", "") + (f".{m[2]}" if m[2] else ""), text)
    text = _VERSION.sub(lambda m: ("version " if m[1] else "") + m[2].replace(".", " point "), text)
    text = _SHORT_VERSION.sub("version ", text)
    text = _FIXED_FORM.sub(lambda m: _FIXED[m[1]], text)
    text = _MONTH_YEAR.sub(_month_year, text)
    text = _SPACED.sub(lambda m: re.sub(r"\s", "", m[0]), text)
    return _NO_SENTENCE.sub("! ", text)


def _stamp(match: re.Match[str]) -> str:
    zone = match[4]
    seconds = f" and {int(match[3])} seconds" if match[3] and int(match[3]) else ""
    if zone == "Z":
        said = " U T C"
    elif zone:
        said = f" U T C {'plus' if zone[0] == '+' else 'minus'} {int(zone[1:3])}"
    else:
        said = ""
    return f"{match[1]}, {match[2]}{seconds}{said}"


def _phone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match[1])
    if sum(map(len, groups)) < 8:
        return match[0]
    return ("plus " if match[1][0] == "+" else "") + ", ".join(" ".join(group) for group in groups)


def _month_year(match: re.Match[str]) -> str:
    months = list(dict.fromkeys(MONTHS.values()))
    return f"{months[int(match[1]) - 1]} {match[2]}" if 1 <= int(match[1]) <= 12 else match[0]


def _powers(text: str) -> str:
    text = _TIMES_POWER.sub(" times ", text)
    text = _SCIENTIFIC.sub(lambda m: f"{m[1]} times 10^{int(m[2])}", text)
    return _POWER.sub(_power, text)


def _power(match: re.Match[str]) -> str:
    exponent = match[2].removeprefix("+")
    if exponent in _POWERS:
        return f"{match[1]} {_POWERS[exponent]}"
    sign = "minus " if exponent.startswith("-") else ""
    return f"{match[1]} to the power of {sign}{exponent.removeprefix('-')}"


def _money(text: str) -> str:
    text = _COMMA_MONEY.sub(lambda m: f"{m[1].replace('.', '')}.{m[2]}", text)
    text = _DOLLAR_OF.sub(lambda m: f"{m[2]} {_DOLLARS_OF[m[1]]}", text)
    text = _MONEY_RANGE.sub(_money_range, text)
    text = _MONEY_CODE.sub(lambda m: f"{m[2]} {CURRENCY_CODES[m[1]]}", text)
    text = _CODE_AFTER.sub(lambda m: f"{m[1]} {CURRENCY_CODES[m[2]]}", text)
    return _MONEY_AFTER.sub(r"\2\1", text)


def _money_range(match: re.Match[str]) -> str:
    sign, low, low_scale, high, high_scale = match.groups()
    name = CURRENCIES[sign][1]
    scales = [SCALES[scale.strip().lower()] if scale.strip() else "" for scale in (low_scale, high_scale)]
    first = f"{low} {scales[0]}".strip() if scales[0] != scales[1] else low
    return f"{first} to {high} {scales[1]} {name}".replace("  ", " ")


def _ranges(text: str) -> str:
    text = _DAY_NAME.sub(lambda m: _DAYS[m[1]], _NOON.sub(r"\1 to ", text))
    text = _ORDINAL_RANGE.sub(r"\1 to ", text)
    text = _DAY_SPAN.sub(lambda m: f"{m[1]} {_ordinal(m[2])} to {_ordinal(m[3])}", text)
    text = _PERCENTS.sub(r"\1 to ", text)
    text = _HOUR_RANGE.sub(r"\1 to ", text)
    text = _CLOCK_RANGE.sub(r"\1 to ", text)
    return _RANGE_BEFORE_UNIT.sub(r"\1 to \2", text)


def _ordinal(day: str) -> str:
    ending = "th" if day[-2:-1] == "1" else {"1": "st", "2": "nd", "3": "rd"}.get(day[-1], "th")
    return day + ending


def _file(match: re.Match[str]) -> str:
    """``notes.txt`` as ``notes dot TXT``, whose letters are read by name."""
    endings = [one if one in _ENDING_WORDS else one.upper() for one in match[2].split(".")]
    return f"{match[1].replace('_', ' ')} dot {' dot '.join(endings)}".replace(" NET", " net")


def _signs(text: str) -> str:
    text = _AT_LEAST.sub(lambda m: " at least " if ">" in m[1] else " at most ", text)
    text = _MINUS_DOWN.sub(_minus_down, text)
    text = _LINES.sub(lambda m: f"{_pairs(m[1])} {m[2]}", text)
    text = _PENCE.sub(r"\1 pence", text)
    text = _EQUATION.sub(" minus ", text)
    text = _DIVIDED.sub(" divided by ", text)
    text = _TIMES.sub(" times ", text)
    text = _BY.sub(" by ", text)
    text = _FOLD.sub(r"\1 times", text)
    text = _FEET.sub(r"\1 feet \2 inches", text)
    text = _INCHES.sub(lambda m: f"{m[1]} inch" + ("" if m[1] == "1" or m[2] else "es") + (m[2] or ""), text)
    return _ABOUT.sub("about ", text)


def _minus_down(match: re.Match[str]) -> str:
    """A spaced dash between falling numbers is a minus; between rising ones a range."""
    return f"{match[1]} minus {match[2]}" if float(match[1]) > float(match[2]) else match[0]


def _pairs(digits: str) -> str:
    """``1080`` as ``10 80``, as screens' lines are read."""
    head, tail = digits[:-2], digits[-2:]
    return f"{head} {int(tail)}" if tail != "00" else digits
