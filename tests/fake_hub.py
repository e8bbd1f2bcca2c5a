"""A hub on this machine: as much of its protocol as the client speaks to put a repository there and to fetch it."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Repositories as commit -> file -> bytes.

    Attributes:
        served: (method, path) of every request.
        broken: file -> how it is served: "cut" drops the connection in the middle, every time; "cut once" the first
            time; "long" sends more than was announced.
        instead: repository -> what is answered in place of its information.
    """

    def __init__(self):
        self.commits, self.heads, self.tags = {}, {}, {}
        self.objects, self.served, self.broken, self.private, self.instead = {}, [], {}, {}, {}
        self.endpoint = ""

    def commit(self, repository, files):
        """Add a commit on main that holds just these files, and return its name."""
        content = "".join(f"{name}{hashlib.sha256(data).hexdigest()}" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{repository}{len(self.commits)}{content}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.heads[repository] = commit
        return commit

    def find(self, repository, revision):
        known = {**self.commits, **({"main": self.commits.get(self.heads.get(repository))})}
        known |= {tag: self.commits[commit] for tag, commit in self.tags.items()}
        return known.get(revision)

    def name_of(self, repository, revision):
        return {"main": self.heads.get(repository), **self.tags}.get(revision, revision)

    def fetched(self):
        return [path.rpartition("/")[2] for method, path in self.served if method == "GET" and "/resolve/" in path]


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def reply(self, body, status=200, headers=None, length=None):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def missing(self, code):
            self.reply({"error": code}, 404, {"X-Error-Code": code})

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            hub.served.append((self.command, path))
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
                files = hub.find("/".join(parts[2:4]), "/".join(parts[5:])) or {}
                self.reply([{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in files.items()])
            elif parts[:2] == ["api", "models"]:
                revision = "/".join(parts[5:]) or "main"
                self.information("/".join(parts[2:4]), revision)
            elif "resolve" in parts:
                self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self.missing("RepoNotFound")

        def information(self, repository, revision):
            if repository not in hub.heads:
                return self.missing("RepoNotFound")
            if repository in hub.instead:
                return self.reply(hub.instead[repository])
            files = hub.find(repository, revision)
            if files is None:
                return self.missing("RevisionNotFound")
            siblings = [{"rfilename": name, "size": len(data), "blobId": "0" * 40} for name, data in files.items()]
            return self.reply({"id": repository, "sha": hub.name_of(repository, revision), "siblings": siblings})

        def file(self, repository, revision, name):
            data = (hub.find(repository, revision) or {}).get(name)
            if data is None:
                return self.missing("EntryNotFound")
            headers = {
                "X-Repo-Commit": hub.name_of(repository, revision),
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "Accept-Ranges": "bytes",
                "Content-Type": "application/octet-stream",
            }
            how = hub.broken.get(name)
            if self.command == "HEAD" or how is None:
                return self.part(data, headers)
            if how == "long":
                self.send_response(200)
                for key, value in {**headers, "Transfer-Encoding": "chunked"}.items():
                    self.send_header(key, value)
                self.end_headers()
                for _ in range(4):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")
                return None
            if how == "cut once":
                del hub.broken[name]
            self.reply(data[: len(data) // 2] if not self.headers.get("Range") else b"", 200, headers, len(data))
            self.close_connection = True
            return None

        def part(self, data, headers):
            span = self.headers.get("Range")
            if span is None or self.command == "HEAD":
                return self.reply(data, 200, headers)
            start = int(span.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.reply(data[start:], 206, headers)

        def do_PUT(self):
            hub.served.append(("PUT", self.path))
            hub.objects[self.path.rpartition("/")[2]] = self.body()
            self.reply({})

        def do_POST(self):
            path = unquote(urlsplit(self.path).path)
            hub.served.append(("POST", path))
            body = self.body()
            if path == "/api/repos/create":
                asked = json.loads(body)
                repository = f"{asked['organization']}/{asked['name']}"
                hub.private[repository] = asked.get("private") or asked.get("visibility") == "private"
                if repository not in hub.heads:
                    hub.commit(repository, {})
                self.reply({"url": f"{hub.endpoint}/{repository}", "id": repository})
            elif path == "/api/validate-yaml":
                assert "---" in json.loads(body)["content"]
                self.reply({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = json.loads(body)["files"]
                large = [{"path": f["path"], "shouldIgnore": False, "uploadMode": _mode(f["path"])} for f in files]
                self.reply({"files": large})
            elif path.endswith("/info/lfs/objects/batch"):
                self.reply(self.objects(json.loads(body)), headers={"Content-Type": "application/vnd.git-lfs+json"})
            elif "/commit/" in path:
                self.take(path, body)
            else:
                self.missing("RepoNotFound")

        def objects(self, asked):
            def one(thing):
                address = f"{hub.endpoint}/objects/{thing['oid']}"
                return {**thing, "actions": {"upload": {"href": address, "header": {}}}}

            return {"transfer": "basic", "objects": [one(thing) for thing in asked["objects"]]}

        def take(self, path, body):
            repository = "/".join(path.split("/")[3:5])
            if parse_qs(urlsplit(self.path).query).get("create_pr"):
                return self.missing("RepoNotFound")
            files = dict(hub.find(repository, "main"))
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    data = hub.objects[value["oid"]]
                    assert hashlib.sha256(data).hexdigest() == value["oid"]
                    files[value["path"]] = data
            commit = hub.commit(repository, files)
            url = f"{hub.endpoint}/{repository}/commit/{commit}"
            return self.reply({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    return Handler


def _mode(name):
    return "lfs" if name.endswith((".safetensors", ".png")) else "regular"


@contextmanager
def running_hub():
    """Serve an empty hub on a free port of this machine while the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
