"""English: numbers, abbreviations and symbols as words."""
