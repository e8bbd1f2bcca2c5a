"""Errors of the service, each with its HTTP status."""

from recondite.data.files import OF_WRITING
from recondite.errors import OutputError, ReconditeError, SourceError

_UNTIL_IT_IS_BACK = 30.0


class Refused(ReconditeError):  # noqa: N818
    """A request that gets no verdict, and says why.

    Args:
        message: for the client.
        retry_after: seconds after which to try again; None where trying again does not help.
    """

    status = 400
    code = "bad_request"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unauthorised(Refused):
    """There is no valid token, or the request comes from another site's page."""

    status = 401
    code = "unauthorised"


class ForeignOrigin(Refused):
    """A browser sends the request from another site's page."""

    status = 403
    code = "foreign_origin"


class Unknown(Refused):
    """There is no such screen, version or event."""

    status = 404
    code = "not_found"


class TooSlow(Refused):
    """The body did not arrive in time."""

    status = 408
    code = "body_too_slow"


class TooLarge(Refused):
    """The body, or the number of images in it, is over the limit."""

    status = 413
    code = "too_large"


class WrongType(Refused):
    """The body is of a type, or in an encoding, that is not accepted."""

    status = 415
    code = "unsupported_type"


class UnknownHost(Refused):
    """The request is for a host that this service is not."""

    status = 421
    code = "unknown_host"


class Unusable(Refused):
    """The request is well formed and asks for something that cannot be."""

    status = 422
    code = "unusable"


class Busy(Refused):
    """The queue is full."""

    status = 429
    code = "busy"


class Unavailable(Refused):
    """The verdict could not be given, or recorded, in time; or the service is going down."""

    status = 503
    code = "unavailable"


class Failed(Refused):
    """An error of the service's own."""

    status = 500
    code = "failed"


def unavailable(error: Exception) -> Unavailable | None:
    """Return the refusal where a disk or a store is at fault, without the path of the disk; None for other errors."""
    if isinstance(error, SourceError):
        return Unavailable(str(error), _UNTIL_IT_IS_BACK)
    cause = error.__cause__ if isinstance(error, OutputError) else error
    if isinstance(cause, OSError) and cause.errno in OF_WRITING:
        return Unavailable(f"the files of the service cannot be used: {cause.strerror}", _UNTIL_IT_IS_BACK)
    return None
