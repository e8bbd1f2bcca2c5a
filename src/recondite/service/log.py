"""The service's log: JSON lines on standard error."""

import atexit
import json
import logging
import sys
import time
from logging.handlers import QueueHandler, QueueListener
from queue import Queue

LOG = logging.getLogger("recondite.service")
_MOST_WAITING = 10_000


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts)


class Later(QueueHandler):
    """Hands records to a thread that writes them; where nobody reads standard error, those beyond 10,000 are lost."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return the record as it is: it is written in this process."""
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Lose it."""


def log_to_stderr() -> None:
    """Write the service's log, and uvicorn's, to standard error as JSON lines; no request waits for that."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    waiting: Queue[logging.LogRecord] = Queue(_MOST_WAITING)
    listener = QueueListener(waiting, handler)
    listener.start()
    atexit.register(listener.stop)
    for name in ("recondite.service", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [Later(waiting)]
        logger.setLevel(logging.INFO)
        logger.propagate = False
