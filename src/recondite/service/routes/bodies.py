"""Request bodies: read within limits of size and time, and parsed into images."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from recondite.errors import InputError
from recondite.service.engine.admission import InFlightLimit
from recondite.service.engine.decoding import Sent, name_in_form
from recondite.service.errors import Refused, TooLarge, TooSlow, WrongType
from recondite.service.schemas import ImagesIn
from recondite.service.settings import Limits

_QUICK = 1 << 20
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_OF_URLS = str.maketrans("-_", "+/")


def bytes_of_base64(text: str, name: str) -> bytes:
    """Return the bytes that a text stands for, as tools write them: broken into lines, as a data URI, or fit for URLs.

    Args:
        text: base64.
        name: what it is called in the request.

    Raises:
        InputError: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass  # nearly all is plain, and going over the text takes time
    head = _DATA_URI.match(text)
    letters = "".join(text[head.end() if head else 0 :].split()).translate(_OF_URLS).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"expected base64 in {name}: {error}") from error


@asynccontextmanager
async def body_of(request: Request, limits: Limits, budget: InFlightLimit) -> AsyncIterator[bytes]:
    """Read a request's body, and count its bytes among those being served while the block runs.

    Raises:
        TooLarge: it has more bytes than one request may have.
        TooSlow: it did not arrive in time.
        Busy: all requests together have too many bytes.
        WrongType: it is compressed.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongType("compressed bodies are not accepted: send the image file as it is")
    most = min(limits.body_bytes, budget.limit)
    too_large = TooLarge(f"expected a body of at most {most:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    with budget.take(int(declared) if declared.isdigit() else most):
        content = bytearray()
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    if len(content) + len(chunk) > most:
                        raise too_large
                    content += chunk
        except TimeoutError:
            raise TooSlow(f"the body did not arrive within {limits.body_seconds:g} seconds") from None
        except ClientDisconnect:
            raise Refused("the client went away before its body had arrived") from None
        yield bytes(content)


async def images_in(request: Request, body: bytes, limits: Limits) -> list[Sent]:
    """Return the images of a body: one as it is, several as a form, or JSON with base64.

    Raises:
        WrongType: it is something else.
        TooLarge: there are too many images.
        InputError: it is not what it says it is, or there are no images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _of_form(request, body, limits)
    if kind == "application/json":
        return _of_json(body) if len(body) < _QUICK else await asyncio.to_thread(_of_json, body)
    if kind == "application/octet-stream" or kind.startswith("image/"):
        if not body:
            raise InputError("expected the bytes of an image file; got none")
        return [Sent("0", body)]
    raise WrongType(
        "expected a content type of image/*, application/octet-stream, multipart/form-data or application/json; "
        f"got {kind[:100]!r}"
    )


async def _of_form(request: Request, body: bytes, limits: Limits) -> list[Sent]:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body

    if not _is_whole(request, body):
        raise InputError("expected a form with images: it ends before its closing boundary, so its last part is lost")
    parser = MultiPartParser(request.headers, chunks(), max_files=limits.images, max_fields=limits.images)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooLarge(f"expected at most {limits.images} images a request") from error
        raise InputError(f"expected a form with images: {error.message}") from error
    except (KeyError, ValueError) as error:
        raise InputError("expected a form with images: its boundary cannot be read") from error
    try:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        said = [name for name, part in form.multi_items() if not isinstance(part, UploadFile)]
        if said:
            raise InputError(
                f"expected a form of image files alone; got a field {said[0][:100]!r}: say it in the address"
            )
        if not files:
            raise InputError("expected a form with image files; got none")
        return [Sent(name_in_form(part.filename or str(place)), await part.read()) for place, part in enumerate(files)]
    finally:
        await form.close()


def _is_whole(request: Request, body: bytes) -> bool:
    """Return whether a form has its closing boundary; the parser leaves out a last part that is cut off."""
    header = Message()
    header["content-type"] = request.headers["content-type"]
    boundary = header.get_param("boundary")
    return not boundary or f"--{boundary}--".encode("latin-1", "replace") in body


def _of_json(body: bytes) -> list[Sent]:
    try:
        parsed = ImagesIn.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"expected JSON as documented: {where or 'the body'}: {first['msg']}") from error
    sent = []
    for place, image in enumerate(parsed.images):
        content = bytes_of_base64(image.data, f"images.{place}.data")
        sent.append(Sent(image.id or str(place), content, image.label, image.confidence))
    return sent
