"""A local Hugging Face hub for the pinned `huggingface_hub`, whose repositories are folders.

No function of the package is replaced. It reads the hub's address when it is imported, so a test runs in its own
process (`Hub.run`), or sets the package's constants (`Hub.use`).
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The server and the log of its requests.

    Attributes:
        root: holds `models/ORG/NAME` and `datasets/ORG/NAME`.
        requests: method and path of every request.
        broken: HTTP status of all responses, or 0 for a working server.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.requests, self.broken = root, list[str](), 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """Environment variables of a process that uses this hub only."""
        own = {"HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
        return {**os.environ, **own, **more}

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Use this hub and this cache folder in the current process."""
        from huggingface_hub import constants

        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, self.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", self.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def files(self) -> list[str]:
        """Requested files, in order."""
        paths = [line.split(" /", 1)[1] for line in self.requests if line.startswith("HEAD")]
        return [path.replace("/resolve/main/", "/") for path in paths]

    def run(self, cache: Path, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments and capture its output."""
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, env=self.environment(cache, **more), capture_output=True, text=True, check=False)


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    """Run a hub for the duration of the context."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self._parts()
        if self.hub.broken:
            self._say(self.hub.broken, {"error": "out of order"})
        elif self.headers.get("Authorization") != "Bearer right":
            self._say(401, {"error": "who are you?"})
        elif parts == ["api", "repos", "create"]:
            name = json.loads(body)
            repo = f"{name['organization']}/{name['name']}" if name.get("organization") else f"me/{name['name']}"
            (self.hub.root / "models" / repo).mkdir(parents=True, exist_ok=True)
            self._say(200, {"url": f"{self.hub.address}/{repo}", "name": repo, "id": repo})
        elif "preupload" in parts:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self._say(200, {"files": files})
        elif "commit" in parts:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines() if line.strip()])
        else:
            self._say(200, {"errors": [], "warnings": []})

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "file":
                path = self.hub.root / "models" / repo / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        said = {"commitUrl": f"{self.hub.address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        self._say(200, said | {"pullRequestUrl": None})

    def _get(self) -> None:
        parts = self._parts()
        if self.hub.broken:
            return self._say(self.hub.broken, {"error": "out of order"})
        if parts[:1] == ["api"]:
            return self._api(parts[1:])
        kind = "datasets" if parts[0] == "datasets" else "models"
        names = parts[1:] if kind == "datasets" else parts  # ORG NAME resolve REVISION FILE...
        folder = self.hub.root / kind / names[0] / names[1]
        if not folder.is_dir():
            return self._say(401, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})
        file = folder.joinpath(*names[4:])
        if not file.is_file():
            commit = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return self._say(404, {"error": "Entry not found"}, **commit)
        data = file.read_bytes()
        return self._bytes(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **{"X-Repo-Commit": COMMIT})

    def _api(self, parts: list[str]) -> None:
        kind, *rest = parts
        if not rest:  # a list of an author's repositories
            asked = parse_qs(urlsplit(self.path).query)
            author = asked["author"][0]
            found = [path.name for path in (self.hub.root / kind / author).glob("*")]
            self._say(200, [{"id": f"{author}/{name}", "_id": name} for name in sorted(found)])
            return
        folder = self.hub.root / kind / rest[0] / rest[1]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if "tree" in rest:
            shown = [{"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                     for name, path in zip(names, files, strict=True)]  # fmt: skip
            self._say(200, shown)
        elif folder.is_dir():
            about = {"id": "/".join(rest[:2]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._say(200, about | {"_id": rest[1], "private": False, "tags": [], "downloads": 0, "likes": 0})
        else:
            self._say(401, {"error": "Repository not found"}, **{"X-Error-Code": "RepoNotFound"})

    def _parts(self) -> list[str]:
        self.hub.requests.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.split("/") if part]

    def _say(self, status: int, what: Any, **headers: str) -> None:
        self._bytes(status, json.dumps(what).encode(), **{"Content-Type": "application/json"}, **headers)

    def _bytes(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
