"""Text on its way into a language model: a spoken form, its pronunciation, its ids. A folder below is a language."""

from lm.text.tokenizer import TextTokenizer, normalize

__all__ = ["TextTokenizer", "normalize"]
