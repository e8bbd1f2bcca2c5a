"""The loop in a process of benchmarks/defects.py: requests come in as lines of JSON, and answers go out likewise."""

import os
import sys

FOLDER, THREADS = sys.argv[1], int(sys.argv[2])
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print is no answer

import json  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
from statistics import median  # noqa: E402


def seconds(work):
    """Return the seconds that work took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_within(limit, work):
    """Return the seconds that work took, or None if it was not done within `limit` seconds and was cut off."""

    def stop(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return seconds(work)
    except TimeoutError:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def median_of(times, work):
    """Return the median of the seconds that work took, each time."""
    return median(seconds(work) for _ in range(times))


def answer_requests(subject, **facts):
    """Answer facts, then to each request what the subject's method of that name returns; to `memory` the peak in MB."""
    print(json.dumps(facts), file=ANSWERS)
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        if name == "memory":
            found = {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
        else:
            found = getattr(subject, name)(**request)
        print(json.dumps(found), file=ANSWERS)
