"""An S3 server on this machine (moto) that fails now and then, as stores do."""

import random
import threading
from contextlib import contextmanager

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
INTERNAL = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>Try again.</Message></Error>"


class Faults:
    """Answers a share of the requests with an error: throttled, failed, or cut off in the middle."""

    def __init__(self, application):
        self.application, self.share, self.draws = application, 0.0, random.Random(0)
        self.injected, self.requests, self.lock = 0, 0, threading.Lock()

    def __call__(self, environ, start_response):
        with self.lock:
            self.requests += 1
            fails = environ["REQUEST_METHOD"] == "GET" and self.draws.random() < self.share
            self.injected += fails
            kind = self.draws.randrange(3)
        if not fails:
            return self.application(environ, start_response)
        if kind == 2:
            return self._cut_off(environ, start_response)
        body = (SLOW_DOWN, INTERNAL)[kind]
        status = ("503 Slow Down", "500 Internal Server Error")[kind]
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def _cut_off(self, environ, start_response):
        """Promise the whole body and end after half of it."""
        body = b"".join(self.application(environ, start_response))
        yield body[: len(body) // 2]


@contextmanager
def s3_server():
    """Yield (faults, environment variables for clients)."""
    import s3fs
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    s3fs.S3FileSystem.clear_instance_cache()  # one of an earlier server would be taken up, address and all
    faults = Faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield (
            faults,
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def upload(folder, bucket):
    """Put the files of a folder into a new bucket."""
    import s3fs

    system = s3fs.S3FileSystem()
    system.mkdir(bucket)
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe(f"{bucket}/{path.relative_to(folder).as_posix()}", path.read_bytes())
