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
    "Ph.D": "P H D", "PhD": "P H D", "PhDs": "P H D's",
    "B.Sc": "B S C", "M.Sc": "M S C", "w/o": "without", "ca": "circa", "ext": "extension",
    "Tues": "Tuesday", "Thurs": "Thursday",
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
    "₺": ("lira", "lira", ""),
    "₿": ("bitcoin", "bitcoins", ""),
    "₦": ("naira", "naira", ""),
    "₫": ("dong", "dong", ""),
    "₪": ("shekel", "shekels", ""),
    "₱": ("peso", "pesos", ""),
    "₴": ("hryvnia", "hryvnias", ""),
    "₸": ("tenge", "tenge", ""),
    "฿": ("baht", "baht", ""),
}
# ISO 4217 codes that stand before or after an amount.
CURRENCY_CODES = {
    "USD": "US dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CHF": "Swiss francs",
    "CAD": "Canadian dollars",
    "AUD": "Australian dollars", "NZD": "New Zealand dollars", "CNY": "yuan", "INR": "rupees", "SEK": "Swedish kronor",
    "NOK": "Norwegian kroner", "DKK": "Danish kroner", "PLN": "zloty", "BRL": "Brazilian reals", "MXN": "Mexican pesos",
    "KRW": "won", "ZAR": "rand", "TRY": "lira", "ILS": "shekels", "BTC": "bitcoins",
}  # fmt: skip
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
    "°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "m/s": ("meter per second", "meters per second"), "kph": ("kilometer per hour", "kilometers per hour"),
    "kWh": ("kilowatt hour", "kilowatt hours"), "Wh": ("watt hour", "watt hours"), "MW": ("megawatt", "megawatts"),
    "MWh": ("megawatt hour", "megawatt hours"), "GW": ("gigawatt", "gigawatts"), "mW": ("milliwatt", "milliwatts"),
    "mAh": ("milliamp hour", "milliamp hours"), "mA": ("milliamp", "milliamps"), "A": ("amp", "amps"),
    "kV": ("kilovolt", "kilovolts"), "mV": ("millivolt", "millivolts"), "Ω": ("ohm", "ohms"),
    "kΩ": ("kilohm", "kilohms"), "MΩ": ("megohm", "megohms"), "μF": ("microfarad", "microfarads"),
    "mg/mL": ("milligram per milliliter", "milligrams per milliliter"), "mL": ("milliliter", "milliliters"),
    "mg/kg": ("milligram per kilogram", "milligrams per kilogram"), "g/L": ("gram per liter", "grams per liter"),
    "mg/dL": ("milligram per deciliter", "milligrams per deciliter"), "h": ("hour", "hours"),
    "mg/L": ("milligram per liter", "milligrams per liter"), "g/cm": ("gram per centimeter", "grams per centimeter"),
    "μg": ("microgram", "micrograms"), "μs": ("microsecond", "microseconds"), "μm": ("micrometer", "micrometers"),
    "ns": ("nanosecond", "nanoseconds"), "nm": ("nanometer", "nanometers"), "cl": ("centiliter", "centiliters"),
    "dl": ("deciliter", "deciliters"), "J": ("joule", "joules"), "kJ": ("kilojoule", "kilojoules"),
    "kcal": ("kilocalorie", "kilocalories"), "cal": ("calorie", "calories"), "N": ("newton", "newtons"),
    "Pa": ("pascal", "pascals"), "kPa": ("kilopascal", "kilopascals"), "hPa": ("hectopascal", "hectopascals"),
    "MPa": ("megapascal", "megapascals"), "psi": ("pound per square inch", "pounds per square inch"),
    "mol": ("mole", "moles"), "lm": ("lumen", "lumens"), "lx": ("lux", "lux"), "THz": ("terahertz", "terahertz"),
    "bit/s": ("bit per second", "bits per second"), "Mbit/s": ("megabit per second", "megabits per second"),
    "Gbit/s": ("gigabit per second", "gigabits per second"), "kbps": ("kilobit per second", "kilobits per second"),
    "Mbps": ("megabit per second", "megabits per second"), "Gbps": ("gigabit per second", "gigabits per second"),
    "MB/s": ("megabyte per second", "megabytes per second"), "GB/s": ("gigabyte per second", "gigabytes per second"),
    "fps": ("frame per second", "frames per second"), "px": ("pixel", "pixels"),
    "dpi": ("dot per inch", "dots per inch"),
    "ppm": ("part per million", "parts per million"), "ppb": ("part per billion", "parts per billion"),
    "gal": ("gallon", "gallons"), "pt": ("pint", "pints"), "qt": ("quart", "quarts"), "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"), "mpg": ("mile per gallon", "miles per gallon"), "t": ("ton", "tons"),
    "wk": ("week", "weeks"), "yr": ("year", "years"), "yrs": ("years", "years"), "mins": ("minutes", "minutes"),
    "secs": ("seconds", "seconds"), "kn": ("knot", "knots"), "acre": ("acre", "acres"), "in": ("inch", "inches"),
    "rpm": ("revolution per minute", "revolutions per minute"), "ha": ("hectare", "hectares"),
}  # fmt: skip
for _short in ("mm", "cm", "m", "km", "in", "ft", "yd", "mi"):
    for _power, _word in (("sq", "square"), ("cu", "cubic")):
        UNITS[f"{_power} {_short}"] = (f"{_word} {UNITS[_short][0]}", f"{_word} {UNITS[_short][1]}")

SYMBOL_WORDS = {
    "&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "#": "hash", "°": "degrees", "<": "less than",
    ">": "greater than", "×": "times", "÷": "divided by", "±": "plus or minus", "§": "section", "$": "dollars",
    "£": "pounds", "€": "euros", "¥": "yen", "¢": "cents", "©": "copyright", "®": "registered", "π": "pi",
    "µ": "micro", "μ": "micro", "≈": "about", "≤": "at most", "≥": "at least", "≠": "is not",
    "∞": "infinity", "∑": "sum", "→": "to", "√": "root", "‰": "per mille", "Ω": "ohms", "∆": "delta",
    "α": "alpha", "β": "beta", "γ": "gamma", "λ": "lambda", "σ": "sigma", "θ": "theta", "™": "", "†": "", "|": ",",
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
