"""BSON documents: payloads to bytes and back, over the driver's codec."""

from __future__ import annotations

from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion

from ..errors import InvalidDocumentError
from .codec import normalise, references_to_dicts
from .codec import whole_doubles_to_int as _whole

_OPTIONS = CodecOptions[dict[str, Any]](
    tz_aware=True, uuid_representation=4, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


def encode(document: Any, path: str = "") -> bytes:
    """Return `document` as BSON; errors name the place below `path`."""
    try:
        return bson.encode(normalise(document, path)[0], codec_options=_OPTIONS)
    except InvalidDocumentError as error:
        raise InvalidDocumentError(error.path.lstrip("."), str(error).partition(": ")[2]) from None


def decode(
    data: bytes,
    offset: int = 0,
    fields: frozenset[str] | None = None,
    doubles_to_int: bool = False,
) -> dict[str, Any]:
    """Return a BSON document as a dict, or only the named fields of it."""
    found: dict[str, Any] = references_to_dicts(bson.decode(data, _OPTIONS))
    if doubles_to_int:
        found = _whole(found)
    return {k: v for k, v in found.items() if k in fields} if fields else found
