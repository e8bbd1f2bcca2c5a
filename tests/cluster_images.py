"""Images that misbehave where they are decoded, importable by the workers of a cluster."""

import os
import signal
import time
from dataclasses import dataclass

from recondite.data.items import Deferred


@dataclass(frozen=True)
class Poison(Deferred):
    """Kills the process that decodes it, as a fault in a decoder would."""

    def fetch(self):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Slow(Deferred):
    """Takes its time."""

    content: bytes
    seconds: float

    def fetch(self):
        time.sleep(self.seconds)
        return self.content
