"""The Open Inference Protocol, version 2, that model servers and their clients speak; tensors as JSON or binary.

Source: https://github.com/kserve/open-inference-protocol; the binary tensor data extension as documented for the Triton
server.
"""

import asyncio
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

import recondite
from recondite.errors import InputError, not_among
from recondite.service.engine.decoding import Sent
from recondite.service.engine.guarding import rows_of_guard
from recondite.service.engine.judging import Judged, Wish
from recondite.service.engine.registry import Served
from recondite.service.routes.bodies import body_of, bytes_of_base64
from recondite.service.routes.pixels import rows_of_pixels
from recondite.service.routes.state import departure_of, note, request_id_of, service_of
from recondite.service.routes.strict import strict_query
from recondite.service.schemas import EXAMPLE_PNG, V2Problem

_NUMBERS = {
    **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "enum": ["images", "pixels"]},
        "datatype": {"type": "string", "enum": ["BYTES", *_NUMBERS]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array", "items": {}, "description": "flat or nested; for BYTES, files in base64"},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}
_EXAMPLE = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}]}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _REQUEST, "example": _EXAMPLE}},
    }
}
_STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
v2 = APIRouter(
    prefix="/v2",
    dependencies=[Depends(strict_query)],
    tags=["Open Inference Protocol"],
    responses={status: {"model": V2Problem} for status in _STATUSES},
)

_TYPES = {"BOOL": "?", **_NUMBERS}
_INPUTS = ("images", "pixels")
_ALWAYS = {"instance_score": "FP64", "p_value": "FP64", "is_outlier": "BOOL", "verdict": "BYTES", "threshold": "FP64"}
_ON_REQUEST = {"error": "BYTES", "event": "BYTES", "feature_score": "FP32", "reconstruction": "FP32"}
_OF_GUARDS = {"label": "BYTES", "reason": "BYTES", "abstention": "BYTES", "confidence": "FP64"}
_OUTPUTS = {**_ALWAYS, **_OF_GUARDS, **_ON_REQUEST}
_BY_DEFAULT = ("label", "reason")
_MAPS = ("feature_score", "reconstruction")
_QUICK = 1 << 16
_MOST_AXES, _MOST_DIGITS = 8, 18
_HEADER = "inference-header-content-length"


@dataclass(frozen=True)
class _Tensor:
    """What a request sends under one name."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any]


@dataclass(frozen=True)
class _Wanted:
    """An output that a request asks for."""

    name: str
    binary: bool


@v2.get("", summary="The server")
async def server() -> dict[str, Any]:
    """Its name, version and extensions."""
    return {"name": "recondite", "version": recondite.__version__, "extensions": ["binary_tensor_data"]}


@v2.head("/health/live", include_in_schema=False)
@v2.get("/health/live", summary="Is it alive?")
async def live() -> dict[str, bool]:
    """It answers, so it is."""
    return {"live": True}


@v2.head("/health/ready", include_in_schema=False)
@v2.get("/health/ready", summary="Can it serve?", responses={503: {"description": "not now"}})
async def ready(request: Request) -> Response:
    """As /readyz."""
    trouble = await service_of(request).trouble()
    return JSONResponse({"ready": not trouble}, 503 if trouble else 200)


@v2.post("/repository/index", summary="All models and versions")
async def index(request: Request) -> list[dict[str, str]]:
    """Each version of each screen."""
    return [
        {"name": served.name, "version": served.version, "state": "READY", "reason": ""}
        for served in service_of(request).shelf.all()
    ]


@v2.get("/models/{name}", summary="The inputs and outputs of a model")
@v2.get("/models/{name}/versions/{version}", summary="The inputs and outputs of one version of a model")
async def metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Send either `images`, encoded files, or `pixels`, of any type of number; grey ones may leave out the channel."""
    shelf = service_of(request).shelf
    served = shelf.get(name, version)
    shape = list(served.screen.detector.shape)
    inputs: list[dict[str, Any]] = [{"name": "pixels", "datatype": "FP32", "shape": [-1, *shape]}]
    if served.screen.detector.preprocessing.is_image:
        inputs.insert(0, {"name": "images", "datatype": "BYTES", "shape": [-1]})
    kinds = {**_ALWAYS, **(_OF_GUARDS if served.guard.speaks else {}), **_ON_REQUEST}
    one_each = [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in kinds.items()]
    outputs = [{**one, "shape": [-1, *shape]} if one["name"] in _MAPS else one for one in one_each]
    return {
        "name": name,
        "versions": shelf.versions(name),
        "platform": f"recondite_{served.screen.detector.name}",
        "inputs": inputs,
        "outputs": outputs,
    }


@v2.get("/models/{name}/ready", summary="Can this model serve?")
@v2.get("/models/{name}/versions/{version}/ready", summary="Can this version of a model serve?")
async def model_ready(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """It is loaded, so it can."""
    served = service_of(request).shelf.get(name, version)
    return {"name": served.name, "ready": True}


@v2.post("/models/{name}/infer", summary="Judge images", openapi_extra=_BODY)
@v2.post(
    "/models/{name}/versions/{version}/infer", summary="Judge images with one version of a model", openapi_extra=_BODY
)
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Return scores, p-values, verdicts and, of a guard, labels; parameters alpha, group and seconds as in /v1."""
    return await answer_infer(request, name, version, ())


async def answer_infer(request: Request, name: str, version: str | None, options: tuple[()]) -> Response:  # noqa: ARG001
    """Answer an inference request; there are no options beside those in its body."""
    service = service_of(request)
    served = service.shelf.get(name, version)
    async with body_of(request, service.settings.limits, service.bodies) as body:
        always = [*_ALWAYS, *(_BY_DEFAULT if served.guard.speaks else ())]
        header = request.headers.get(_HEADER)
        size = len(body) if header is None else _number(header) or 0
        # Texts take time to read; what is binary takes none.
        parsed = (
            _parse(body, header, always) if size <= _QUICK else await asyncio.to_thread(_parse, body, header, always)
        )
        head, tensors, wanted = parsed
        sent = _sent(tensors, served)
        wish = _wish(head, any(one.name in _MAPS for one in wanted))
        judged = await service.judge.judge(served, sent, wish, request_id_of(request), departure_of(request))
    note(request, screen=served.name, version=served.version, **judged.counts())
    if judged.decisions is not None:
        service.counters.guarded(served.name, served.version, judged.decisions)
    if not wish.maps:
        return _answer(head, judged, wanted)
    return await asyncio.to_thread(_answer, head, judged, wanted)


def _parse(
    body: bytes, header: str | None, always: Sequence[str]
) -> tuple[dict[str, Any], list[_Tensor], list[_Wanted]]:
    size = len(body)
    if header is not None:
        length = _number(header)
        if length is None or length > len(body):
            raise InputError(f"expected {_HEADER} of at most {len(body)}; got {header[:20]!r}")
        size = length
    try:
        head = json.loads(body[:size])
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected an inference request in JSON: {error}") from error
    if not isinstance(head, dict) or not isinstance(head.get("inputs"), list):
        raise InputError("expected an inference request with a list of inputs")
    rest, tensors = memoryview(body)[size:], []
    for one in head["inputs"]:
        tensor, used = _tensor(one, rest)
        tensors.append(tensor)
        rest = rest[used:]
    if len(rest):
        raise InputError(f"{len(rest)} bytes follow the last tensor")
    return head, tensors, _wanted(head, always)


def _number(header: str) -> int | None:
    """Return the number in a header; None where it is none, or has more digits than any length."""
    return int(header) if header.isdecimal() and len(header) <= _MOST_DIGITS else None


def _tensor(facts: Any, rest: memoryview) -> tuple[_Tensor, int]:
    """Return an input, and how many of the binary bytes it took."""
    facts = facts if isinstance(facts, dict) else {}
    name, datatype, shape = facts.get("name"), facts.get("datatype"), facts.get("shape")
    whole = isinstance(shape, list) and all(type(side) is int and 0 <= side < 2**31 for side in shape)
    if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list) or not whole:
        raise InputError("expected each input to have a name, a datatype and a shape of whole numbers")
    if len(shape) > _MOST_AXES:
        raise InputError(f"input {name!r}: expected a shape of at most {_MOST_AXES} axes; got {len(shape):,}")
    if 0 in shape:
        raise InputError(f"input {name!r}: expected at least one value; got shape {tuple(shape)}")
    if datatype != "BYTES" and datatype not in _TYPES:
        raise InputError(f"expected a datatype among BYTES, {', '.join(_TYPES)}; got {datatype[:20]!r}")
    count = math.prod(shape)
    binary = _parameters(facts).get("binary_data_size")
    if binary is not None:
        if type(binary) is not int or not 0 <= binary <= len(rest):
            raise InputError(f"input {name!r}: expected binary_data_size of at most {len(rest)}; got {binary!r}")
        values = _of_bytes(name, datatype, count, rest[:binary])
        return _Tensor(name, datatype, tuple(shape), values.reshape(shape)), binary
    values = _of_json(name, datatype, facts.get("data"))
    if values.size != count:
        raise InputError(f"input {name!r}: expected {count} values for shape {shape}; got {values.size}")
    return _Tensor(name, datatype, tuple(shape), values.reshape(shape)), 0


def _of_bytes(name: str, datatype: str, count: int, content: memoryview) -> NDArray[Any]:
    if datatype != "BYTES":
        kind = np.dtype(_TYPES[datatype])
        if len(content) != count * kind.itemsize:
            raise InputError(f"input {name!r}: expected {count * kind.itemsize} bytes; got {len(content)}")
        return np.frombuffer(content, dtype=kind)
    found = []
    while len(content):
        size = struct.unpack_from("<I", content)[0] if len(content) >= 4 else len(content)
        if 4 + size > len(content):
            raise InputError(f"input {name!r}: an element is longer than what is left")
        found.append(bytes(content[4 : 4 + size]))
        content = content[4 + size :]
    if len(found) != count:
        raise InputError(f"input {name!r}: expected {count} elements; got {len(found)}")
    return _objects(found)


def _of_json(name: str, datatype: str, data: Any) -> NDArray[Any]:
    if datatype == "BYTES":
        flat = list(_flat(data))
        if not all(isinstance(one, str) for one in flat):
            raise InputError(f"input {name!r}: expected a list of base64 texts")
        return _objects([bytes_of_base64(one, f"input {name!r}") for one in flat])
    try:
        values = np.array(data)
        whole = "INT" in datatype
        if values.dtype.kind not in ("iu" if whole else "iuf") and not (datatype == "BOOL" and values.dtype == bool):
            raise ValueError(f"got {values.dtype}")
        if whole and values.size:
            limits = np.iinfo(_TYPES[datatype])
            if int(values.min()) < limits.min or int(values.max()) > limits.max:
                raise ValueError("a value is out of range")
        with np.errstate(over="ignore"):  # infinite pixels are refused where they are read
            return values.astype(_TYPES[datatype])
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"input {name!r}: expected numbers of type {datatype}: {error}") from error


def _flat(data: Any) -> Sequence[Any]:
    if not isinstance(data, list):
        return [data]
    return [item for part in data for item in (part if isinstance(part, list) else [part])]


def _objects(found: list[bytes]) -> NDArray[Any]:
    values = np.empty(len(found), dtype=object)
    values[:] = found
    return values


def _parameters(facts: dict[str, Any]) -> dict[str, Any]:
    found = facts.get("parameters") or {}
    if not isinstance(found, dict):
        raise InputError("expected parameters to be an object")
    return found


def _wanted(head: dict[str, Any], always: Sequence[str]) -> list[_Wanted]:
    default = _parameters(head).get("binary_data_output") is True
    asked = head.get("outputs")
    if not asked:
        return [_Wanted(name, default) for name in always]
    found = []
    for one in asked if isinstance(asked, list) else [asked]:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in _OUTPUTS:
            raise not_among("outputs", _OUTPUTS, str(name)[:50])
        found.append(_Wanted(name, _parameters(one).get("binary_data", default) is True))
    return found


def _sent(tensors: list[_Tensor], served: Served) -> list[Sent]:
    if len(tensors) != 1 or tensors[0].name not in _INPUTS:
        raise InputError("expected one input: images, encoded files, or pixels")
    tensor, detector = tensors[0], served.screen.detector
    values = tensor.values
    if tensor.name == "images":
        if tensor.datatype != "BYTES" or not detector.preprocessing.is_image:
            raise InputError("expected images of datatype BYTES, for a screen of images")
        if values.ndim != 1:
            raise InputError(f"expected images of shape (N,); got {tensor.shape}")
        return [Sent(str(place), content) for place, content in enumerate(values.tolist())]
    rows = rows_of_pixels(values, detector.preprocessing)
    return [Sent(str(place), row) for place, row in enumerate(rows)]


def _wish(head: dict[str, Any], maps: bool) -> Wish:
    found = _parameters(head)
    numbers: dict[str, float | None] = {}
    for name in ("alpha", "seconds"):
        value = found.get(name)
        if value is not None and (type(value) not in (int, float) or not value > 0):
            raise InputError(f"expected parameter {name} to be a positive number; got {str(value)[:50]!r}")
        numbers[name] = value
    return Wish(
        alpha=numbers["alpha"], seconds=numbers["seconds"], group=str(found.get("group") or "")[:200], maps=maps
    )


def _answer(head: dict[str, Any], judged: Judged, wanted: list[_Wanted]) -> Response:
    verdicts = judged.verdicts
    columns: dict[str, Any] = {
        "instance_score": verdicts.instance_score,
        "p_value": verdicts.p_value,
        "is_outlier": verdicts.is_outlier,
        "verdict": verdicts.words,
        "threshold": np.full(len(verdicts), verdicts.threshold),
        "error": [error or "" for error in verdicts.errors],
        "event": [event.id for event in judged.events],
        "feature_score": verdicts.feature_score,
        "reconstruction": verdicts.reconstruction,
        **dict.fromkeys(_OF_GUARDS),
    }
    if judged.decisions is not None:
        rows = list(rows_of_guard(judged.decisions))
        columns |= {name: [row[name] or "" for row in rows] for name in ("label", "reason", "abstention")}
        columns["confidence"] = judged.decisions.confidence
    outputs, blobs = [], []
    for one in wanted:
        values = columns[one.name]
        if values is None:
            raise InputError(f"this screen has no {one.name}, or none of these images could be read")
        datatype = _OUTPUTS[one.name]
        shape = list(values.shape) if isinstance(values, np.ndarray) else [len(values)]
        output: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": shape}
        if one.binary:
            blob = _to_bytes(values, datatype)
            output["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            output["data"] = _to_json(values)
        outputs.append(output)
    facts: dict[str, Any] = {
        "model_name": judged.served.name,
        "model_version": judged.served.version,
        "outputs": outputs,
    }
    reasons = {f"error.{place}": error for place, error in enumerate(verdicts.errors) if error is not None}
    if reasons:
        facts["parameters"] = reasons
    if isinstance(head.get("id"), str):
        facts["id"] = head["id"]
    content = json.dumps(facts, allow_nan=False).encode()
    if not blobs:
        return Response(content, media_type="application/json")
    return Response(
        b"".join([content, *blobs]),
        media_type="application/octet-stream",
        headers={"Inference-Header-Content-Length": str(len(content))},
    )


def _to_bytes(values: Any, datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)
    return np.ascontiguousarray(values, dtype=_TYPES[datatype]).tobytes()


def _to_json(values: Any) -> list[Any]:
    """Return a flat list; what is not finite, of an invalid image, becomes null."""
    if not isinstance(values, np.ndarray):
        return list(values)
    flat = values.reshape(-1).tolist()
    return flat if values.dtype == bool else [value if math.isfinite(value) else None for value in flat]
