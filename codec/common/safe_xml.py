"""XML from strangers: no entities of its own, nothing fetched."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from codec.errors import SoundloomError


def parse_xml(data: bytes, where: str, doctype: bool = True) -> ElementTree.Element:
    """Parse XML without any entity of its own, so that nothing can grow or be fetched.

    ``doctype``: whether it may declare a document type.

    Raises: SoundloomError.
    """

    def refuse_doctype(*_: Any) -> None:
        raise SoundloomError(f"{where}: declares a document type or entities, which is not allowed; leave it out")

    def refuse(*_: Any) -> None:
        raise SoundloomError(f"{where}: declares an entity, which is not allowed; it is not read")

    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    if not doctype:
        parser.StartDoctypeDeclHandler = refuse_doctype
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise SoundloomError(f"{where}: is not valid XML ({error})") from None
