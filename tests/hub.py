"""A stand-in for the Hugging Face hub: its HTTP interface as far as uploading a model goes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Takes repositories, large files (git LFS) and commits; keeps what was committed."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict]  # name to {"private": bool, "files": {path: bytes}}
    blobs: dict[str, bytes]

    def do_POST(self) -> None:
        """Answer one request of the interface."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if wanted["organization"] == "forbidden":
                return self.answer({"error": "You don't have the rights"}, 403)
            private = wanted.get("private", wanted.get("visibility") == "private")
            self.repositories.setdefault(name, {"private": private, "files": {}})
            return self.answer({"url": f"{self.home}/{name}"})
        if path == "/api/validate-yaml":
            assert "license" in json.loads(body)["content"]
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.home}/blobs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        assert "/commit/" in path, path
        name = "/".join(path.split("/")[3:5])
        files = self.repositories[name]["files"]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        url = f"{self.home}/{name}/commit/{COMMIT}"
        return self.answer({"commitUrl": url, "commitOid": COMMIT})

    def do_PUT(self) -> None:
        """Take a large file."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.blobs[oid] = content
        self.answer({})

    @property
    def home(self) -> str:
        """The address of this hub."""
        return "http://{}:{}".format(*self.server.server_address[:2])

    def answer(self, content: dict, status: int = 200) -> None:
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def local_hub() -> Iterator[tuple[str, dict[str, dict]]]:
    """Serve on a free port: its address and its repositories."""
    repositories: dict[str, dict] = {}
    handler = type("ThisHub", (Hub,), {"repositories": repositories, "blobs": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "http://{}:{}".format(*server.server_address[:2]), repositories
    finally:
        server.shutdown()
        server.server_close()
