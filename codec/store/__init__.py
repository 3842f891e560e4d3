"""The token store: the codes of a corpus on disk."""

from codec.store.reader import Row, StoreReader, read_store_json, verify_store

__all__ = ["Row", "StoreReader", "read_store_json", "verify_store"]
