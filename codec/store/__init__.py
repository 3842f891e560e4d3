"""The token store: the codes of a corpus on disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.store.reader import Row, StoreReader, read_store_json, verify_store

__all__ = ["Row", "StoreReader", "read_store_json", "verify_store"]


def __getattr__(name: str) -> Any:
    # A voice needs `codec.store.facts` only; importing the reader would take its start 0.1 s longer (pyarrow).
    if name in __all__:
        from codec.store import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
