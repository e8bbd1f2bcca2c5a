"""What can go wrong before a service starts, each told in one sentence; without the service itself, nor torch."""

import errno
import socket
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from recondite.errors import InputError
from recondite.service.engine.folders import check_folders, folders_of_screens, is_collection
from recondite.service.engine.image_store import KeptImages
from recondite.service.engine.store import Store
from recondite.service.log import log_to_stderr
from recondite.service.settings import Settings

LONGEST_DRAIN = 60
"""Seconds for which requests that were accepted are waited for in the end."""
_LOCAL = ("127.0.0.1", "::1", "localhost")
_HIGHEST_PORT = 65535
NEW_SCREENS = Path("new-screens")
"""The folder in which screens are made where none is given."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def begin(
    settings: Settings, host: str, port: int, everybody: bool = False, drain_seconds: float = 0.0
) -> list[socket.socket]:
    """Check what a service needs, and return the sockets of its address, which do not listen yet.

    Args:
        settings, host, port, everybody, drain_seconds: as of `recondite.service.server.serve`.

    Raises:
        InputError: likewise.
    """
    check_address(settings, host, port, everybody)
    if drain_seconds < 0:
        raise InputError(f"expected drain_seconds >= 0; got {drain_seconds!r}")
    check_settings(settings)
    sockets = taken_port(host, port)
    log_to_stderr()
    return sockets


def check_address(settings: Settings, host: str, port: int, everybody: bool) -> None:
    """Check where a service is to listen.

    Args:
        settings: of the service.
        host, port: where to listen; port 0 is any that is free.
        everybody: whether everybody may come in, though no token is asked for.

    Raises:
        InputError: there is no such port; or it is open to other machines, and neither a token nor `everybody` was
            given.
    """
    if not 0 <= port <= _HIGHEST_PORT:
        raise InputError(f"expected a port from 0 to {_HIGHEST_PORT}; got {port}")
    if host not in _LOCAL and not settings.tokens and not everybody:
        raise InputError(f"{host} is open to other machines: give a --token, or --allow-public to let everybody in")


def hosts_of(host: str, tokens: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that requests may give for the service; none where all are allowed.

    The page of another site can make a browser ask a service of its own machine, under the site's name (DNS
    rebinding). Where a token is needed, or other machines may ask in any case, that gains nothing.

    Args:
        host: where it listens.
        tokens: that let a client in.
        names: by which it is reached besides.
    """
    return (*_LOCAL, host, *names) if names or (host in _LOCAL and not tokens) else ()


def screens_of(folders: Sequence[str], new_screens: bool) -> tuple[list[str], Path | None]:
    """Tell the folders of screens from the one that is a collection of them, and return both.

    Args:
        folders: FOLDER or NAME=FOLDER each.
        new_screens: whether screens may be made: an empty folder is a collection then, and `NEW_SCREENS` where none is.

    Raises:
        InputError: several are collections.
    """
    found = [one for one in folders if "=" not in one and is_collection(Path(one))]
    if not new_screens:
        found = [one for one in found if folders_of_screens(Path(one))]
    if len(found) > 1:
        raise InputError(f"expected at most one folder whose sub-folders are screens; got {', '.join(found)}")
    collection = Path(found[0]) if found else NEW_SCREENS if new_screens else None
    return [one for one in folders if one not in found], None if collection is None else collection.resolve()


def is_local(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    return host in _LOCAL


def check_settings(settings: Settings) -> None:
    """Check what a service needs.

    Raises:
        InputError: a screen is missing, or its name unusable or there twice; or the store cannot be opened; or images
            cannot be kept; or there is no such audit; or nothing can be written into the folder of jobs.
    """
    check_folders(settings.screens)
    if settings.audits:
        from recondite.audits.decided import check_audits

        check_audits(settings.audits)
    Store(settings.store).close()
    if settings.jobs is not None:
        _check_writable(settings.jobs)
    if settings.keep != "none":
        trouble = KeptImages(settings.images, settings.keep_bytes).trouble()
        if trouble is not None:
            raise InputError(trouble)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"nothing can be written into {folder}: {error.strerror}") from error


def taken_port(host: str, port: int) -> list[socket.socket]:
    """Return sockets of an address, which do not listen yet.

    Raises:
        InputError: there is no such address here, or another process has the port.
    """
    found: list[socket.socket] = []
    try:
        kinds = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(kinds):
            with suppress(_Elsewhere):
                found.append(_bound(family, kind, protocol, address))
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, "it is not an address of this machine")
    except OSError as error:
        for one in found:
            one.close()
        reason = "another process has it" if error.errno == errno.EADDRINUSE else error.strerror or error
        raise InputError(f"port {port} of {host} cannot be taken: {reason}") from error
    return found


class _Elsewhere(Exception):  # noqa: N818
    """An address is not of this machine; another of the same name may be."""


def _bound(family: int, kind: int, protocol: int, address: object) -> socket.socket:
    try:
        one = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _Elsewhere from error
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        one.close()
        if error.errno in _NOT_HERE:
            raise _Elsewhere from error
        raise
    return one
