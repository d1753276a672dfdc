"""Payloads to BSON and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._bson_py import decode, encode, reply_cursor_id, reply_documents, split
else:
    from ._choose import choose

    _module = choose("bson")
    decode = _module.decode
    encode = _module.encode
    reply_cursor_id = _module.reply_cursor_id
    reply_documents = _module.reply_documents
    split = _module.split

__all__ = ["decode", "encode", "reply_cursor_id", "reply_documents", "split"]
