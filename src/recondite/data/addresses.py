"""Addresses: as they may be shown in messages, tables, journals and reports; and those that are posted to."""

import re
from urllib.parse import urlsplit

from recondite.errors import InputError

_SCHEME = re.compile(r"[\w+.-]*(?:://|:/|//)")
_POSTED = re.compile(r"[!-~]+")
_SECRET = re.compile(r"([?&_-](?:pass|password|passwd|pwd|token|secret|sig|signature|key)=)[^&#/\s]+", re.IGNORECASE)


def without_secrets(address: object) -> str:
    """Return an address without user and password, and without the values of parameters such as password=.

    It may be misspelt: rather too much is left out than a password shown. Paths stay as they are.

    >>> without_secrets("rtsp://me:secret@camera/1"), without_secrets("postgres//me:secret@host/name")
    ('rtsp://camera/1', 'postgres//host/name')
    >>> without_secrets("rtsp://camera/?user=me&password=secret&channel=1"), without_secrets("s3://parts/a@2.png")
    ('rtsp://camera/?user=me&password=...&channel=1', 's3://parts/a@2.png')
    """
    text = str(address)
    found = _SCHEME.match(text)
    scheme = found[0] if found else ""
    user, _, place = text[len(scheme) :].rpartition("@")
    if ":" in user or (scheme and not set(user) & set("/?#")):
        text = scheme + place
    return _SECRET.sub(r"\1...", text) if scheme else text


def check_webhook(url: str) -> None:
    """Raise InputError unless messages can be posted to an address, as far as it says so itself."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port == 0 or parts.scheme not in ("http", "https") or not _POSTED.fullmatch(url):
        raise InputError(f"expected a webhook such as https://HOST:PORT/PATH, in ASCII; got {without_secrets(url)!r}")
    if "@" in parts.netloc:
        raise InputError("expected a webhook without user and password, which are not sent; put a token into its path")
