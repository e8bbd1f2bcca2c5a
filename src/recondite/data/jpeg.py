"""Small JPEG files of the plain kind, of which most cost is what Pillow does in Python before it decodes.

simplejpeg decodes by libjpeg-turbo, as Pillow does, so the values are the same. Whatever is not plain, or not whole,
is left to Pillow, which says what is wrong with it.

Source: ITU-T T.81 (1992), annex B; ITU-T T.871 (2011).
"""

import struct
from typing import BinaryIO

from simplejpeg import decode_jpeg

from recondite.data.scaling import Pixels

HEAD = b"\xff\xd8\xff\xe0"
"""The start of a file, and of JFIF's segment, without which colours may mean something else."""
_LARGEST_FILE = 1 << 16
_LARGEST_SIDE = 512
_FRAME, _SCAN = 0xC0, 0xDA
_PLAIN = (0xDB, 0xC4, 0xDD, 0xFE)
"""Tables for quantisation, of Huffman's codes, the restart interval, a comment: none changes what is seen."""
_COLOURS = {1: "GRAY", 3: "RGB"}


def read(stream: BinaryIO) -> Pixels | None:
    """Return the pixels of a JPEG file, uint8 (1, H, W) or (3, H, W).

    Args:
        stream: of the file, at its start.

    Returns:
        None where Pillow has to be asked: it is large, damaged, or not a baseline JFIF file without metadata.
    """
    content = stream.read(_LARGEST_FILE + 1)
    colours = _colours(content) if len(content) <= _LARGEST_FILE else None
    if colours is None:
        return None
    try:
        return Pixels(decode_jpeg(content, colours).transpose(2, 0, 1), None, 255.0)
    except ValueError:
        return None


def _colours(content: bytes) -> str | None:
    """Return which colours a plain and small file has; None for any other."""
    if not content.startswith(HEAD) or content[6:11] != b"JFIF\0":
        return None
    place, colours = 4 + int.from_bytes(content[4:6]), None
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, end = content[place + 1], place + 2 + int.from_bytes(content[place + 2 : place + 4])
        if marker == _SCAN:
            return colours
        if marker == _FRAME and colours is None and place + 10 <= end <= len(content):
            bits, height, width, count = struct.unpack_from(">BHHB", content, place + 4)
            if bits != 8 or not 0 < height <= _LARGEST_SIDE or not 0 < width <= _LARGEST_SIDE:
                return None
            colours = _COLOURS.get(count)
        elif marker not in _PLAIN:
            return None
        place = end
    return None
