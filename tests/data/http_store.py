"""A web server of one folder that answers ranges, and fails in chosen ways."""

import hashlib
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LATE_SECS = 5.0


class Store:
    """What a server has in `folder`, and how it answers.

    `refuse` makes it refuse everything so many times, or always (-1). `manner` is what it does when asked for a range:
    "half" gives the first half, "whole" all of the file, "hang up" ends the connection, "silent" keeps it and
    answers after `LATE_SECS`, "busy" refuses.
    """

    def __init__(self, folder: Path):
        self.folder, self.status, self.times = folder, 0, 0
        self.manner, self.ranges, self.requests = "", 0, 0
        self.stopped = threading.Event()

    def refuse(self, status: int, times: int) -> None:
        self.status, self.times = status, times

    def takes_refusal(self) -> bool:
        if not self.times:
            return False
        self.times -= 1
        return True


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            store.requests += 1
            path = store.folder / urllib.parse.unquote(self.path.partition("?")[0]).strip("/")
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if store.takes_refusal():
                return self._send(store.status, b"")
            if not path.is_file():
                return self._send(404, b"")
            content = path.read_bytes()
            tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            if not asked or not with_body or store.manner == "whole":
                return self._send(200, content, with_body, tag)
            store.ranges += 1
            first, last = int(asked[1]), int(asked[2])
            part = content[first : last + 1]
            if store.manner == "hang up":
                return self.connection.shutdown(socket.SHUT_RDWR)
            if store.manner == "busy":
                return self._send(503, b"")
            if store.manner == "silent":
                store.stopped.wait(LATE_SECS)
            part = part[: len(part) // 2] if store.manner == "half" else part
            return self._send(206, part, extra={**tag, "Content-Range": f"bytes {first}-{last}/{len(content)}"})

        def _send(self, status: int, body: bytes, with_body: bool = True, extra: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), "Accept-Ranges": "bytes", **(extra or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, Store]]:
    """Its address, and the store."""
    store = Store(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", store
    finally:
        store.stopped.set()
        server.shutdown()
        server.server_close()
