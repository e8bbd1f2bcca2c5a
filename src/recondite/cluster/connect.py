"""Connecting to Ray: a cluster started here, one running on this machine, or a remote address."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from recondite.errors import InputError, ReconditeError
from recondite.progress import say

_ATTEMPTS = {"Starting Ray client server failed": 3, "ZombieProcess": 3, "timed out during startup": 2}
"""Words of errors that may pass -> how often Ray is started in all; it gives itself 30 s to start."""
OBJECT_STORE_BYTES = 200 << 20
"""Memory for objects between processes of a cluster that is started here."""
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def connect(address: str, *, cpus: int | None = None) -> Iterator[Any]:
    """Connect this process to a cluster and yield the module `ray`; on leaving, what was begun here ends.

    A cluster that is started here asks for a token, made for it; it has no dashboard, sends no usage statistics and
    keeps at most 200 MB of objects. A process that is connected already stays as it is.

    Args:
        address: "local" starts a cluster of this machine alone, "auto" joins the one that runs here (or that
            RAY_ADDRESS names), "HOST:PORT" joins another one as a member, "ray://HOST:PORT" by way of a Ray Client
            server.
        cpus: with "local", how many logical CPUs it has; by default those of the machine.

    Raises:
        InputError: Ray is not installed, an address of another kind, or Ray was imported before it could be told to ask
            for a token.
        ReconditeError: there is no cluster at that address, or it refuses the token.
    """
    if address not in ("local", "auto") and ":" not in address:
        raise InputError(f"expected a cluster local, auto, HOST:PORT or ray://HOST:PORT; got {address!r}")
    set_environment(address)
    try:
        import ray
    except ImportError as error:
        raise InputError("clusters need Ray: pip install 'recondite[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    for attempt in count(1):
        try:
            ray.init(**options)
            break
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own types alike
            # Now and then the process that a client gets at the head of a cluster dies as it starts.
            if attempt >= max((most for words, most in _ATTEMPTS.items() if words in str(error)), default=1):
                raise ReconditeError(f"cannot reach the cluster {address!r}: {error}") from error
            say(f"the cluster {address!r} did not start, and is tried once more: {error}")
            ray.shutdown()
    try:
        yield ray
    finally:
        ray.shutdown()


def set_environment(address: str) -> None:
    """Set the variables that Ray reads when it is imported; what the user has set stays.

    Args:
        address: as in `connect`.

    Raises:
        InputError: Ray was imported before, without the tokens that it would need.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    has_token = any(os.environ.get(name) for name in _TOKENS) or (Path.home() / ".ray" / "auth_token").is_file()
    if address == "local" and not has_token:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        has_token = True
    if has_token and mode is None:
        loaded = sys.modules.get("ray")
        if loaded is not None and not loaded.is_initialized():
            raise InputError("Ray was imported without a token mode: set RAY_AUTH_MODE=token before, or connect first")
        os.environ["RAY_AUTH_MODE"] = "token"
