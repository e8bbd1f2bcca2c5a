"""Artifact folders: manifest.json beside safetensors, validated on loading, never pickle."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recondite.data.files import atomic_file, atomic_folder, existing_folder, fitting, sha256_of_file
from recondite.errors import ArtifactError, OutputError

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 32 << 20
LARGEST_FILE = 8 << 30
_SHOWN = 60

Tensors = dict[str, NDArray[Any]]


def write_folder(
    path: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Tensors], others: Mapping[str, str | bytes]
) -> None:
    """Write a folder of one manifest, safetensors and other files; a crash leaves the old folder whole.

    Args:
        path: the folder, replaced if it holds a manifest.
        manifest: JSON values; "files" (SHA-256 and bytes of each file) and "digest" (SHA-256 of the rest) are added.
        tensors: file name -> name -> array.
        others: file name -> text or bytes; checked on reading, but not read.

    Raises:
        ArtifactError: `path` is something that is not such a folder.
    """
    with written_together(path) as folder:
        for name, arrays in tensors.items():
            _save(folder / name, arrays, path)
        for name, content in others.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        files = {
            file.name: {"sha256": sha256_of_file(file), "bytes": file.stat().st_size}
            for file in sorted(folder.iterdir())
        }
        whole = {**manifest, "files": files}
        whole["digest"] = digest_of(whole)
        text = json.dumps(whole, indent=1, allow_nan=False)
        (folder / MANIFEST).write_text(text, encoding="utf-8")


@contextmanager
def written_together(path: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `path` once all that belongs into it is written.

    Raises:
        ArtifactError: `path` is something that is not such a folder.
        OutputError: no room, or no right.
    """
    check_target(path)
    with atomic_folder(path) as folder:
        yield folder


def check_target(path: Path) -> None:
    """Raise ArtifactError if writing here would destroy something that is not a screen."""
    if path.exists() and not (path / MANIFEST).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise ArtifactError(f"{path} exists and is not a screen; it is left alone")


def holds_manifest(path: Path) -> bool:
    """Return whether a folder, or what a crash left of it, has a manifest."""
    return (existing_folder(path) / MANIFEST).is_file()


def read_manifest(path: Path, schema: int, *kinds: str) -> dict[str, Any]:
    """Read the manifest in a folder and check it; its files are not looked at.

    Raises:
        ArtifactError: missing, altered, of another kind or schema, absurdly large, or naming files outside the folder.
    """
    manifest = _read_manifest(path / MANIFEST)
    if manifest.get("kind") not in kinds:
        raise ArtifactError(f"{path} holds {manifest.get('kind')!r}; expected {' or '.join(map(repr, kinds))}")
    if manifest.get("schema") != schema:
        raise ArtifactError(f"{path} has schema {manifest.get('schema')!r}; this version reads {schema}")
    if manifest.get("digest") != digest_of(manifest):
        raise ArtifactError(f"{path / MANIFEST} was altered after it was written: its digest does not match")
    for name in manifest["files"]:
        if name != Path(name).name or name in (".", "..", MANIFEST) or "\\" in name:
            raise ArtifactError(f"{path / MANIFEST} names a file outside its folder: {name!r}")
        if fitting(name) != name or "\0" in name:
            raise ArtifactError(f"{path / MANIFEST} names a file that no disk can hold: {name[:_SHOWN]!r} ...")
    return manifest


def read_folder(path: Path, schema: int, *kinds: str) -> tuple[dict[str, Any], dict[str, Tensors]]:
    """Read and check what `write_folder` wrote.

    Returns:
        The manifest, and file name -> name -> array for its safetensors.

    Raises:
        ArtifactError: missing, truncated, altered, of another kind or schema, absurdly large, naming files outside, or
            with numbers that are not finite.
    """
    path = existing_folder(path)
    manifest = read_manifest(path, schema, *kinds)
    tensors = {}
    for name, facts in manifest["files"].items():
        file = path / name
        if file.is_symlink():
            raise ArtifactError(f"{path / MANIFEST} names a file outside its folder: {name!r}")
        if not file.is_file():
            raise ArtifactError(f"{file} is missing")
        if file.stat().st_size != facts["bytes"] or file.stat().st_size > LARGEST_FILE:
            raise ArtifactError(f"{file} has {file.stat().st_size:,} bytes; the manifest says {facts['bytes']:,}")
        if sha256_of_file(file) != facts["sha256"]:
            raise ArtifactError(f"{file} was altered or damaged: its SHA-256 does not match the manifest")
        if file.suffix == ".safetensors":
            tensors[name] = read_tensors(file)[0]
            check_finite(tensors[name], file)
    return manifest, tensors


def write_tensors(path: Path, tensors: Tensors, facts: Mapping[str, Any]) -> None:
    """Write one safetensors file with JSON facts in its header, atomically."""
    with atomic_file(path) as temporary:
        _save(temporary, tensors, path, {"facts": json.dumps(facts, allow_nan=False)})


def _save(file: Path, tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that becomes `path` or a part of it."""
    try:
        save_file({key: np.asarray(array, order="C") for key, array in tensors.items()}, file, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read a safetensors file and the facts in its header ({} where there are none).

    Raises:
        ArtifactError: it is missing, truncated or malformed.
    """
    return _read_safetensors(path, lambda file, name: file.get_tensor(name))


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Read name -> shape of the tensors in a safetensors file, and the facts in its header; no tensor is read.

    Raises:
        ArtifactError: as `read_tensors`.
    """
    return _read_safetensors(path, lambda file, name: tuple(file.get_slice(name).get_shape()))


def _read_safetensors(path: Path, read: Callable[[Any, str], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return {name: read(file, name) for name in file.keys()}, finite_json(metadata.get("facts", "{}"))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is not a readable safetensors file: {error}") from error


def check_finite(tensors: Tensors, path: Path) -> None:
    """Raise ArtifactError where a tensor of a file has a NaN or an infinity."""
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ArtifactError(f"{path} is damaged: tensor {name!r} has numbers that are not finite")


def tensor_of(tensors: Mapping[str, NDArray[Any]], name: str, dtype: DTypeLike, *sides: int | None) -> NDArray[Any]:
    """Return a tensor of a file, of the type and the shape that it was written in.

    Args:
        tensors: name -> array.
        name: of the tensor.
        dtype: its type.
        sides: its shape; None for any side but 0.

    Raises:
        KeyError: it is missing.
        ValueError: it is of another type or shape.
    """
    found = tensors[name]
    fits = len(sides) == found.ndim and all(
        size > 0 if side is None else size == side for side, size in zip(sides, found.shape, strict=True)
    )
    if not fits or found.dtype != dtype:
        wanted = ", ".join("any" if side is None else str(side) for side in sides)
        raise ValueError(f"{name} of shape {found.shape}, {found.dtype}; expected ({wanted}), {np.dtype(dtype)}")
    return found


def finite_json(text: str) -> Any:
    """Return the values of a JSON text, whose numbers are finite, as JSON has no others.

    Raises:
        ValueError: it is no JSON, or a number is NaN, infinite or larger than any float64.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=lambda digits: _finite(digits, int))


def _finite(text: str, kind: type[float] = float) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"expected finite numbers; got {text[:_SHOWN]}")
    return kind(text)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST_MANIFEST:
            raise ArtifactError(f"{path} has {size:,} bytes; a manifest has at most {LARGEST_MANIFEST:,}")
        manifest = finite_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is not there, so {path.parent} holds nothing that was saved") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a readable manifest: {error}") from error
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(facts, dict) and isinstance(facts.get("sha256"), str) and isinstance(facts.get("bytes"), int)
        for facts in files.values()
    ):
        raise ArtifactError(f"{path} is not a manifest: expected an object that lists its files")
    assert isinstance(manifest, dict)
    return manifest


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its own digest."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
