"""A picture as PNG, made without a browser, with its title and caption as texts inside the file."""

from __future__ import annotations

import zlib

from lineament.errors import InputError, require_package
from lineament.report.series import Picture
from lineament.report.svg.standalone import FONT, MAKER, standalone

ZOOM = 2  # pixels of a PNG over those of its SVG, so that it is sharp in print
HEADER_END = 33  # of a PNG: its signature and its first chunk, which tells its size
PROBE = f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20" font-family="{FONT}">%s</svg>'


def png(picture: Picture) -> bytes:
    """Return a picture as the content of a file.

    Raises:
        InputError: resvg_py is not installed, or there is no font here.
    """
    require_png()
    return _described(_rasterised(standalone(picture), ZOOM), picture)


def require_png() -> None:
    """Raise `InputError` unless pictures can be made as PNG here."""
    require_package("resvg_py", "figures", "a PNG of a picture (SVG needs nothing)")
    if _rasterised(PROBE % "") == _rasterised(PROBE % '<text y="15">x</text>'):
        raise InputError(
            "PNG pictures would have no words: no font was found here. Install one (Debian: apt install "
            "fonts-dejavu-core), or write SVG, which needs none."
        )


def _rasterised(svg: str, zoom: int = 1) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom, background="#ffffff"))


def _described(content: bytes, picture: Picture) -> bytes:
    texts = {"Software": MAKER, "Title": picture.title, "Description": picture.caption}
    chunks = b"".join(_text_chunk(key, text) for key, text in texts.items())
    return content[:HEADER_END] + chunks + content[HEADER_END:]


def _text_chunk(key: str, text: str) -> bytes:
    """Return a chunk iTXt: a word of Latin letters, four empty fields, and a text in UTF-8."""
    body = b"iTXt" + key.encode() + b"\0\0\0\0\0" + text.encode()
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
