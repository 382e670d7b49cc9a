"""The charsets of answers."""

import codecs
from codecs import CodecInfo
from collections.abc import Buffer, Callable
from functools import partial
from typing import override

import httpx

# Codecs of Python that no API uses for texts: they take the square of the length, fail, or give no text.
_NO_CHARSETS = {"base64", "bz2", "hex", "idna", "punycode", "quopri", "rot-13", "undefined", "uu", "zlib"}

type _Decode = Callable[[Buffer, str, bool], tuple[str, int]]

_WITH_MARK: dict[str, tuple[bytes, _Decode, _Decode]] = {
    "utf-16": (codecs.BOM_UTF16_BE, codecs.utf_16_be_decode, codecs.utf_16_le_decode),
    "utf-32": (codecs.BOM_UTF32_BE, codecs.utf_32_be_decode, codecs.utf_32_le_decode),
}
"""Codecs of Python that fail in a stream without a byte order mark → the big-endian mark, and the decoders."""

_PREFIX = "datasync_"
_LONGEST = 1000  # characters of a media type with its parameters


def charset(response: httpx.Response) -> str:
    """Return the codec for a text: of the charset that the answer or its user names, UTF-8 if that is not for texts.

    It is UTF-8 too if the media type with its parameters has more than 1,000 characters.

    UTF-16 and UTF-32 without a byte order mark are little-endian, as in browsers:
    https://encoding.spec.whatwg.org/#utf-16le
    """
    if len(response.headers.get("Content-Type", "")) > _LONGEST:  # httpx takes the square of its length to read it
        return "utf-8"
    try:
        name = response.encoding or "utf-8"
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):  # ValueError: RFC 2231 can put a NUL into the name
        return "utf-8"
    if codec in _WITH_MARK:
        return _PREFIX + codec.replace("-", "_")
    return "utf-8" if codec in _NO_CHARSETS else name


class _Decoder(codecs.BufferedIncrementalDecoder):
    """Decodes UTF-16 or UTF-32, with a byte order mark or without one."""

    def __init__(self, errors: str = "strict", *, name: str) -> None:
        super().__init__(errors)
        self._mark, self._big, self._little = _WITH_MARK[name]
        self._chosen: _Decode | None = None

    @override
    def _buffer_decode(self, input: Buffer, errors: str, final: bool) -> tuple[str, int]:
        if self._chosen:
            return self._chosen(input, errors, final)
        start = bytes(input)
        if len(start) < len(self._mark) and not final:
            return "", 0
        self._chosen = self._big if start.startswith(self._mark) else self._little
        text, length = self._chosen(input, errors, final)
        return text.removeprefix("\ufeff"), length


def _find(name: str) -> CodecInfo | None:
    own = name.removeprefix(_PREFIX).replace("_", "-")
    if not name.startswith(_PREFIX) or own not in _WITH_MARK:
        return None
    known = codecs.lookup(own)
    return CodecInfo(known.encode, known.decode, incrementaldecoder=partial(_Decoder, name=own), name=own)


codecs.register(_find)
