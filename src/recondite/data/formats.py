"""The formats of image files: which are read, which need another package, which are known and cannot be read."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from os.path import splitext
from pathlib import PurePath

from recondite.errors import InputError

IMAGE_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".mpo", ".webp", ".bmp", ".dib"),
        *(".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx"),
        *(".tga", ".npy"),
    }
)
"""Of files that are read, whatever is installed; a .npy holds one image."""
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000")
_TGA, _TGA_SUFFIX, _TGA_END = "TGA", ".tga", b"TRUEVISION-XFILE.\x00"
_PLUGINS = {"pillow_heif": ("HEIF", "pillow-heif"), "pillow_jxl": ("JXL", "pillow-jxl-plugin")}
"""Module -> the format that it adds to Pillow, and the package that it comes in."""
_BY_PLUGIN = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics", ".heifs"), "pillow_heif"),
    ".jxl": "pillow_jxl",
}
_RAW = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf"),
    *(".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
_UNREADABLE = {
    **dict.fromkeys(_RAW, "raw data of a camera"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra", ".afphoto"), "layers of a painting program"),
    **dict.fromkeys((".svg", ".svgz"), "a drawing, not pixels"),
    **dict.fromkeys((".exr", ".hdr", ".pfm"), "brightness without an upper end"),
    **dict.fromkeys((".dcm", ".dicom"), "a medical record"),
    **dict.fromkeys((".jxr", ".wdp", ".hdp", ".jpm", ".bpg", ".flif", ".ico", ".icns", ".dds"), ""),
}
_ADVICE = "convert it to PNG or TIFF"
_CONTAINERS = {
    **dict.fromkeys((".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"), "an archive: unpack it and give its folder"),
    **dict.fromkeys((".tar", ".tgz", ".parquet"), "read over a cluster (--cluster), or unpacked: then give its folder"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods"), "a workbook: save its sheet of paths as CSV UTF-8"),
    ".json": "no image: give a folder, a glob, a .txt of paths, a .csv with a column of them or a .jsonl",
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm"), "a film: save its frames and give their folder"),
    **dict.fromkeys((".pdf", ".doc", ".docx", ".pptx"), "a document: save its pages and give their folder"),
}
_HEADS = {
    **{b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"},
    **{b"\x00\x00\x00\x0cjP  ": ".jp2", b"\xff\x4f\xff\x51": ".j2k"},
    **{b"\x28\x00\x00\x00": ".dib", b"\xff\x0a": ".jxl", b"\x00\x00\x00\x0cJXL ": ".jxl", b"P": ".ppm"},
}
_BRANDS = {b"avif": ".avif", b"avis": ".avif", b"heic": ".heic", b"heix": ".heic", b"mif1": ".heic"}
_KEPT_BY_SYSTEMS = ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX")
_MOST_SUFFIXES = 8


def is_hidden(name: str) -> bool:
    """Return whether a file, named relative to its source, is hidden, or lies in a hidden folder.

    So are folders in which systems keep thumbnails or what was deleted.

    >>> is_hidden("a/.ipynb_checkpoints/b"), is_hidden("a/._b.png"), is_hidden("./../a/b.png"), is_hidden("@eaDir/b")
    (True, True, False, True)
    """
    parts = name.split("/")
    return any((part.startswith(".") and part not in (".", "..")) or part in _KEPT_BY_SYSTEMS for part in parts)


def is_image_name(name: str) -> bool:
    """Return whether a file, named relative to its source, is taken for an image, be it readable; hidden ones never."""
    suffix = _suffix(name)
    known = suffix in IMAGE_SUFFIXES or suffix in _BY_PLUGIN or suffix in _UNREADABLE
    return known and not is_hidden(name)


def why_unreadable(name: str) -> str | None:
    """Return why no file of this name can be read, by its suffix; None where it may be."""
    suffix = _suffix(name)
    if suffix in _UNREADABLE:
        what = f" ({_UNREADABLE[suffix]})" if _UNREADABLE[suffix] else ""
        return f"{suffix} files{what} cannot be read: {_ADVICE}"
    plugin = _BY_PLUGIN.get(suffix)
    if plugin is None or _PLUGINS[plugin][0] in pillow_formats():
        return None
    return f"{suffix} files need {_PLUGINS[plugin][1]}: pip install 'recondite[formats]', or {_ADVICE}"


def refuse_container(path: PurePath) -> None:
    """Raise InputError where one file, given as the images, holds images or names them, and is none; by its suffix."""
    what = _CONTAINERS.get(path.suffix.lower())
    if what is not None:
        raise InputError(f"{path} is {what}")


@cache
def pillow_formats() -> tuple[str, ...]:
    """Return the formats that Pillow may try on any bytes: its own that are safe, and those of plug-ins at hand."""
    return (*_FORMATS, *(_PLUGINS[module][0] for module in _PLUGINS if _registered(module)))


def formats_of(name: str = "", content: bytes | memoryview = b"") -> tuple[str, ...]:
    """Return the formats that a file may have.

    TGA has no signature, and nearly anything could pass for it: it is one of them only where the name says so, or the
    content ends as TGA files of version 2 do.

    Args:
        name: of the file, where it has one.
        content: or else its bytes.
    """
    tga = name.lower().endswith(_TGA_SUFFIX) or bytes(content[-len(_TGA_END) :]) == _TGA_END
    return (*pillow_formats(), _TGA) if tga else pillow_formats()


def suffix_of(content: bytes) -> str:
    """Return the usual ending of the name of an image file with these bytes: ".png" and so on."""
    if content[4:8] == b"ftyp" and content[8:12] in _BRANDS:
        return _BRANDS[content[8:12]]
    if content.endswith(_TGA_END):
        return _TGA_SUFFIX
    return next((suffix for head, suffix in _HEADS.items() if content.startswith(head)), ".tif")


def passed_over(names: Iterable[str]) -> str:
    """Say which files of these names were not taken for images; "" if there are none.

    >>> passed_over(["a.txt", "b.TXT", "notes"])
    '3 files were not taken for images (.txt 2, no suffix 1)'
    """
    counts: Counter[str] = Counter()
    for name in names:
        counts["hidden" if is_hidden(name) else _suffix(name) or "no suffix"] += 1
    if not counts:
        return ""
    listed = [f"{suffix} {count:,}" for suffix, count in counts.most_common(_MOST_SUFFIXES)]
    rest = counts.total() - sum(count for _, count in counts.most_common(_MOST_SUFFIXES))
    words = ", ".join(listed + ([f"others {rest:,}"] if rest else []))
    if counts.total() == 1:
        return f"1 file was not taken for an image ({words})"
    return f"{counts.total():,} files were not taken for images ({words})"


def _suffix(name: str) -> str:
    return splitext(name)[1].lower()  # noqa: PTH122  a path takes ten times as long, and folders have millions of names


def _registered(module: str) -> bool:
    """Let a plug-in of Pillow add its format, if it is installed and works."""
    if find_spec(module) is None:
        return False
    try:
        plugin = import_module(module)
        if hasattr(plugin, "register_heif_opener"):
            plugin.register_heif_opener()
    except (ImportError, OSError):
        return False
    return True
