"""What a file is that is no picture, in words."""

from recondite.data.formats import suffix_of, why_unreadable
from recondite.data.images import picture_size
from recondite.errors import InputError

_UNKNOWN = suffix_of(b"")
_NO_PICTURES = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive, or a document packed as one",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x1a\x45\xdf\xa3": "a film",
    b"ID3": "a sound",
    b"OggS": "a sound or a film",
    b"SQLite format 3": "a database",
    b"<svg": "a drawing (SVG)",
    b"<?xml": "an XML document",
    b"<!DOCTYPE html": "a web page",
    b"{\\rtf": "a document",
}


def not_a_picture(name: str, content: bytes) -> str | None:
    """Say what a file is that is no picture; None where it is one by its head, though it may be damaged."""
    for head, what in _NO_PICTURES.items():
        if content.startswith(head):
            return f"{name} is {what}, not a picture."
    if not content:
        return f"{name} is empty."
    try:
        picture_size(content)
    except InputError:
        if suffix_of(content) != _UNKNOWN:
            return None  # damaged: it is judged, and invalid
        return why_unreadable(name) or f"{name} is {_kind(content)}, not a picture."
    return None


def _kind(content: bytes) -> str:
    try:
        text = content[:4096].decode()
    except UnicodeDecodeError as error:
        text = content[: error.start].decode() if error.start > len(content[:4096]) - 4 else ""
    return "a text" if text and "\0" not in text else "a file of a kind that is not known"
