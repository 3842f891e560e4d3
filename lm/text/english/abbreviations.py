# ruff: noqa: RUF001, SIM905 - tables of symbols and words
"""Tables of the English normaliser: what short forms and symbols are called."""

from __future__ import annotations

TITLES = {
    "Dr": "Doctor", "Mr": "Mister", "Mrs": "Missus", "Ms": "Miss", "Prof": "Professor", "Gen": "General",
    "Capt": "Captain", "Sgt": "Sergeant", "Lt": "Lieutenant", "Col": "Colonel", "Maj": "Major", "Sen": "Senator",
    "Rep": "Representative", "Gov": "Governor", "Pres": "President", "Rev": "Reverend", "Hon": "Honorable",
}  # fmt: skip

# The trailing dot is optional in text; short forms that are also words stand in `normalize` with their own rules.
ABBREVIATIONS = {
    "etc": "et cetera", "vs": "versus", "e.g": "for example", "eg": "for example", "i.e": "that is", "ie": "that is",
    "cf": "compare", "approx": "approximately", "dept": "department", "Dept": "Department", "govt": "government",
    "Jr": "Junior", "Sr": "Senior", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "Co": "Company",
    "Bros": "Brothers", "St": "Street", "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Mt": "Mount",
    "Ft": "Fort", "Assn": "Association", "Univ": "University", "a.k.a": "also known as", "et al": "and others",
    "Ph.D": "P H D", "w/o": "without", "ca": "circa", "ext": "extension", "Tues": "Tuesday", "Thurs": "Thursday",
    "Jan": "January", "Feb": "February", "Aug": "August", "Sept": "September", "Oct": "October", "Nov": "November",
    "Dec": "December", "Apr": "April",
}  # fmt: skip

_MONTH_NAMES = "January February March April May June July August September October November December".split()
MONTHS = {name: name for name in _MONTH_NAMES} | {name[:3]: name for name in _MONTH_NAMES} | {"Sept": "September"}

CURRENCIES = {
    "$": ("dollar", "dollars", "cent"),
    "£": ("pound", "pounds", "penny"),
    "€": ("euro", "euros", "cent"),
    "¥": ("yen", "yen", ""),
    "₹": ("rupee", "rupees", ""),
    "₩": ("won", "won", ""),
    "₽": ("ruble", "rubles", ""),
}
SCALES = {
    "hundred": "hundred", "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
    "k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion",
}  # fmt: skip

UNITS = {
    "km": ("kilometer", "kilometers"), "m": ("meter", "meters"), "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"), "kg": ("kilogram", "kilograms"), "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"),
    "oz": ("ounce", "ounces"), "ft": ("foot", "feet"), "yd": ("yard", "yards"), "mi": ("mile", "miles"),
    "mph": ("mile per hour", "miles per hour"), "km/h": ("kilometer per hour", "kilometers per hour"),
    "km²": ("square kilometer", "square kilometers"), "ml": ("milliliter", "milliliters"),
    "l": ("liter", "liters"), "L": ("liter", "liters"), "s": ("second", "seconds"), "sec": ("second", "seconds"),
    "ms": ("millisecond", "milliseconds"), "min": ("minute", "minutes"), "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"),
    "V": ("volt", "volts"), "dB": ("decibel", "decibels"), "kbit/s": ("kilobit per second", "kilobits per second"),
    "rpm": ("revolution per minute", "revolutions per minute"), "ha": ("hectare", "hectares"),
}  # fmt: skip

SYMBOL_WORDS = {
    "&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "#": "hash", "°": "degrees", "<": "less than",
    ">": "greater than", "×": "times", "÷": "divided by", "±": "plus or minus", "§": "section", "$": "dollars",
    "£": "pounds", "€": "euros", "¥": "yen", "¢": "cents", "©": "copyright", "®": "registered", "π": "pi",
    "µ": "micro", "μ": "micro", "≈": "about", "≤": "at most", "≥": "at least", "≠": "is not",
}  # fmt: skip

# Letters that Unicode does not decompose.
LETTERS_LIKE = str.maketrans({
    "ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "ħ": "h", "Ħ": "H", "ŋ": "ng",
})  # fmt: skip

# Capitals that are read by name although the letters also make a word.
INITIALISMS = frozenset(
    "US IT UK EU UN TV PC ID AI AM PM AC DC DJ MA BA PA CD ER IQ VIP ATM LED AD GI POW SEC OD".split()
)
# Capitals that are read as a word although the word list may not hold them.
ACRONYMS = frozenset(
    "NASA NATO AIDS UNESCO UNICEF OPEC RADAR LASER SCUBA RAM ROM ASCII BASIC PIN SIM GIF COVID".split()
)
# Words that begin with an apostrophe of their own.
ELISIONS = frozenset("em tis twas til cause bout round twere twill neath".split())
