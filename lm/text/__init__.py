"""Text on its way into a language model: a spoken form, its pronunciation, its ids."""

from lm.text.tokenizer import TextTokenizer, normalize

__all__ = ["TextTokenizer", "normalize"]
