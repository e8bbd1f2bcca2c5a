"""Screens on the Hugging Face hub: addresses, and fetching one without trusting what is there."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from recondite.data.addresses import without_secrets
from recondite.data.artifacts import LARGEST_FILE, LARGEST_MANIFEST, MANIFEST, read_folder, read_manifest
from recondite.data.catalog import cache_folder
from recondite.data.files import atomic_folder
from recondite.errors import ArtifactError, InputError, ReconditeError, SourceError

SCHEME = "hf://"
MOST_FILES = 64
LARGEST_SCREEN = LARGEST_FILE
"""Files and bytes that a screen on the hub may have; more is not fetched."""
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_address(path: object) -> bool:
    """Return whether this names a screen on the hub. (A `Path` has lost one of the slashes.)"""
    return str(path).startswith((SCHEME, "hf:/"))


def parse_address(address: str) -> tuple[str, str | None]:
    """Return the repository and the revision (a branch, tag or commit; None where none is named).

    Raises:
        InputError: it is not "hf://ORG/NAME" or "hf://ORG/NAME@REVISION", or has ".." or "--" in it.

    >>> parse_address("hf://lab/tiles@v2")
    ('lab/tiles', 'v2')
    """
    whole = address if address.startswith(SCHEME) else address.replace("hf:/", SCHEME, 1)
    match = _ADDRESS.fullmatch(whole)
    if match is None or ".." in whole or "--" in whole:
        raise InputError(f"expected hf://ORG/NAME or hf://ORG/NAME@REVISION; got {without_secrets(address)!r}")
    return match[1], match[2]


def fetch(address: str, schema: int, kind: str) -> Path:
    """Return a folder with the files that a screen's manifest on the hub names, all of them checked.

    A revision is turned into the commit that it stands for now; each commit is fetched once. A full commit that is in
    the cache needs no network, and is the only revision that can never come to mean something else.

    Args:
        address: see `parse_address`; without a revision, "main".
        schema, kind: as in `artifacts.read_folder`.

    Raises:
        InputError: a malformed address, or no such repository or revision.
        SourceError: the hub cannot be reached.
        ArtifactError: what is there is missing, altered, too large or no screen.
    """
    repository, revision = parse_address(address)
    if revision is not None and _COMMIT.fullmatch(revision) and _is_whole(_cached(repository, revision), schema, kind):
        return _cached(repository, revision)
    with errors_of(address) as library:
        info = client(library).model_info(repository, revision=revision, files_metadata=True)
        sizes = {file.rfilename: None if file.size is None else int(file.size) for file in info.siblings or ()}
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise ArtifactError(f"{address}: expected a commit of 40 hexadecimal digits; got {commit!r}")
    folder = _cached(repository, commit)
    if _is_whole(folder, schema, kind):
        return folder
    with atomic_folder(folder) as temporary:
        _fetch_file(address, repository, commit, MANIFEST, sizes, LARGEST_MANIFEST, temporary)
        manifest = read_manifest(temporary, schema, kind)
        _check_sizes(address, manifest["files"], sizes)
        for name, facts in manifest["files"].items():
            _fetch_file(address, repository, commit, name, sizes, facts["bytes"], temporary)
        read_folder(temporary, schema, kind)
    return folder


@contextmanager
def errors_of(address: str) -> Iterator[ModuleType]:
    """Yield huggingface-hub; what it raises becomes an InputError or SourceError that names the address.

    Raises:
        InputError: it is not installed.
    """
    try:
        import httpx2
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise InputError('screens on the hub need huggingface-hub: pip install "recondite[hub]"') from error
    try:
        yield huggingface_hub
    except ReconditeError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise InputError(f"{address}: no such repository or revision, or no right to read it") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, httpx2.HTTPError, OSError, RuntimeError) as error:
        words = str(error).strip() or type(error).__name__
        raise SourceError(f"{address}: the hub failed: {words.splitlines()[0]}") from error
    except (ValueError, TypeError, LookupError) as error:  # of an answer that the library takes apart unchecked
        where = without_secrets(_endpoint() or "the hub")
        raise SourceError(
            f"{address}: the answer of {where} is not that of a hub: is a proxy or a sign-in page in between?"
        ) from error


def client(library: ModuleType) -> Any:
    """Return the hub's client, for the endpoint in HF_ENDPOINT as it is now."""
    return library.HfApi(endpoint=_endpoint())


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _cached(repository: str, commit: str) -> Path:
    return cache_folder() / "hub" / repository.replace("/", "--") / commit


def _is_whole(folder: Path, schema: int, kind: str) -> bool:
    """Return whether the cache has a folder that is still as it was fetched."""
    try:
        read_folder(folder, schema, kind)
    except ArtifactError:
        return False
    return True


def _check_sizes(address: str, files: dict[str, Any], sizes: dict[str, int | None]) -> None:
    """Raise ArtifactError unless the hub has just what the manifest says, within the limits; nothing is fetched."""
    total = sum(facts["bytes"] for facts in files.values())
    if len(files) > MOST_FILES or total > LARGEST_SCREEN or min((f["bytes"] for f in files.values()), default=0) < 0:
        raise ArtifactError(
            f"{address} has {len(files)} files of {total:,} bytes; the limits are {MOST_FILES} and {LARGEST_SCREEN:,}"
        )
    for name, facts in files.items():
        if not _FILE.fullmatch(name):
            raise ArtifactError(f"{address} names a file that no screen has: {name!r}")
        if name not in sizes:
            raise ArtifactError(f"{address}: {name} is missing")
        if sizes[name] != facts["bytes"]:
            raise ArtifactError(f"{address}: {name} has {sizes[name]} bytes; the manifest says {facts['bytes']:,}")


def _fetch_file(
    address: str, repository: str, commit: str, name: str, sizes: dict[str, int | None], limit: int, folder: Path
) -> None:
    """Fetch one file of a commit into a folder; more bytes than the limit are not taken."""
    size = sizes.get(name)
    if size is None:
        raise ArtifactError(f"{address}: {name} is missing")
    if size > limit:
        raise ArtifactError(f"{address}: {name} has {size:,} bytes; the limit is {limit:,}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".recondite-") as aside, errors_of(address) as library:
        taken = library.hf_hub_download(
            repository,
            name,
            revision=commit,
            local_dir=aside,
            endpoint=_endpoint(),
            tqdm_class=_counter(address, name, limit),
        )
        shutil.move(taken, folder / name)


def _counter(address: str, name: str, limit: int) -> type:
    """Return a silent progress bar that stops a download at a number of bytes."""
    from tqdm import tqdm

    class Counter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})
            self.taken = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.taken += int(n or 0)
            if self.taken > limit:
                raise ArtifactError(f"{address}: {name} sends more than its {limit:,} bytes")
            return bool(super().update(n))

    return Counter
