import asyncio
import base64
import json
import struct
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from mmjax.serving.app import make_app
from mmjax.serving.lanes import BatchConfig
from mmjax.serving.limits import MEBI, Limits
from mmjax.serving.model import Embedder
from mmjax.serving.service import Service
from tests.serving.folders import encoded, picture

IMAGES, TEXTS, CLASSIFY, SEARCH = "/v1/embed/images", "/v1/embed/texts", "/v1/classify", "/v1/search"
JSON = {"content-type": "application/json"}


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


GOOD = base64_of(encoded(picture(0)))


def png(width: int, height: int) -> bytes:
    """A file of a few bytes that says it holds so many pixels, and has them, all zero, as far as it goes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.fixture(autouse=True)
def lives_on(client: TestClient) -> Iterator[None]:
    """Whatever was sent, the service works as before, and holds nothing."""
    yield
    answer = client.post(IMAGES, json={"images": [GOOD]})
    assert answer.status_code == 200, answer.text
    page = client.get("/metrics").text
    for what in ("images", "texts", "bytes"):
        assert f'mmjax_inside{{what="{what}"}} 0.0' in page


BAD_IMAGES = {
    "text": (b"not an image at all", 415),
    "html": (b"<html><script>alert(1)</script></html>", 415),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', 415),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", 415),
    "cut off": (encoded(picture(0, (400, 300)), "JPEG")[:900], 422),
    "header alone": (encoded(picture(0))[:40], 415),
    "large bomb": (png(60_000, 60_000), 413),
    "bomb under Pillow's limit": (png(9_000, 9_000), 413),
    "thin": (png(1, 30_000), 422),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images(client: TestClient, name: str) -> None:
    data, status = BAD_IMAGES[name]
    bodies: list[tuple[str, dict[str, Any]]] = [
        (IMAGES, {"images": [GOOD, base64_of(data)]}),
        (CLASSIFY, {"image": base64_of(data), "labels": ["a"]}),
        (SEARCH, {"image": base64_of(data)}),
    ]
    for path, body in bodies:
        answer = client.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert isinstance(answer.json()["detail"], str)
    assert client.post(IMAGES, files=[("images", data)]).status_code == status


BAD_BODIES: list[tuple[str, Any]] = [
    (TEXTS, {"texts": [""]}),
    (TEXTS, {"texts": [" \n\t"]}),
    (TEXTS, {"texts": []}),
    (TEXTS, {"texts": "a"}),
    (TEXTS, {"texts": [1]}),
    (TEXTS, {"texts": [None]}),
    (TEXTS, {"texts": {"0": "a"}}),
    (TEXTS, {"texts": ["a"], "model": "other"}),
    (TEXTS, {"text": ["a"]}),
    (TEXTS, {"texts": ["a" * 2_001]}),
    (TEXTS, {"texts": ["a"] * 257}),
    (TEXTS, ["a"]),
    (TEXTS, None),
    (TEXTS, "a"),
    (IMAGES, {"images": []}),
    (IMAGES, {"images": [GOOD] * 65}),
    (IMAGES, {"images": ["not base64!"]}),
    (IMAGES, {"images": ["äöü"]}),
    (IMAGES, {"images": [5]}),
    (IMAGES, {"images": ["/etc/passwd"]}),
    (IMAGES, {"images": ["../../etc/passwd"]}),
    (IMAGES, {"images": ["file:///etc/passwd"]}),
    (IMAGES, {"images": ["http://localhost/x.png"]}),
    (IMAGES, {"images": [GOOD], "path": "/etc/passwd"}),
    (CLASSIFY, {"image": GOOD, "labels": [f"label {number}" for number in range(1_001)]}),
    (
        CLASSIFY,
        {"image": GOOD, "labels": [str(number) for number in range(1_000)], "templates": ["{}", "a {}", "the {}"]},
    ),
    (CLASSIFY, {"image": GOOD, "labels": []}),
    (CLASSIFY, {"image": GOOD, "labels": [""]}),
    (CLASSIFY, {"image": GOOD, "labels": ["a"], "templates": []}),
    (CLASSIFY, {"image": GOOD, "labels": ["a"], "templates": ["no place"]}),
    (CLASSIFY, {"image": GOOD, "labels": ["a"], "templates": ["{} and {}"]}),
    (CLASSIFY, {"image": GOOD, "labels": ["a"], "templates": ["{0.__class__}"]}),
    (CLASSIFY, {"labels": ["a"]}),
    (SEARCH, {}),
    (SEARCH, {"text": "a", "image": GOOD}),
    (SEARCH, {"text": "a", "count": 0}),
    (SEARCH, {"text": "a", "count": 101}),
    (SEARCH, {"text": "a", "count": "5"}),
    (SEARCH, {"text": "a", "count": 1.5}),
    (SEARCH, {"text": "a", "count": True}),
    (SEARCH, {"text": "a", "target": "files"}),
    (SEARCH, {"text": "a", "index": "../other"}),
    (SEARCH, {"text": ""}),
]


@pytest.mark.parametrize(("path", "body"), BAD_BODIES, ids=lambda value: str(value)[:40])
def test_bad_fields(client: TestClient, path: str, body: Any) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (415, 422), answer.text
    assert len(answer.content) < 2_000


@pytest.mark.parametrize("path", [TEXTS, IMAGES, CLASSIFY, SEARCH])
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"nonsense", b'{"texts": ["\\ud800"]}', b"NaN", b'{"texts": [' + b"9" * 6_000 + b"]}"],
)
def test_bodies_that_are_no_json(client: TestClient, path: str, data: bytes) -> None:
    assert client.post(path, content=data, headers=JSON).status_code in (400, 422)


def test_a_lone_surrogate_is_refused(client: TestClient) -> None:
    answer = client.post(SEARCH, content=b'{"text": "a \\ud800 b"}', headers=JSON)
    assert answer.status_code == 422


def test_100_000_labels(client: TestClient) -> None:
    body = {"image": GOOD, "labels": [f"label {number}" for number in range(100_000)]}
    answer = client.post(CLASSIFY, json=body)
    assert answer.status_code == 413
    assert len(answer.content) < 1_000


def test_values_are_counted_before_they_become_objects(client: TestClient) -> None:
    data = b'{"texts": [' + b"[]," * 3_000_000 + b"[]]}"
    tracemalloc.start()
    try:
        assert client.post(TEXTS, content=data, headers=JSON).status_code == 413
        assert tracemalloc.get_traced_memory()[1] < 6 * len(data)  # Parsed, they would be twenty times as large.
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("types", [["multipart/mixed"], ["application/json", "multipart/form-data; boundary=x"], []])
def test_no_content_type_leads_past_the_count(client: TestClient, types: list[str]) -> None:
    headers = [("content-type", value) for value in types]
    for path in (TEXTS, IMAGES):
        assert client.post(path, content=b"[]," * 30_000, headers=headers).status_code == 413


def test_deeply_nested_json(client: TestClient) -> None:
    data = b'{"texts": ' + b"[" * 9_000 + b"]" * 9_000 + b"}"
    assert client.post(TEXTS, content=data, headers=JSON).status_code in (400, 422)


def test_bad_forms(client: TestClient) -> None:
    data = encoded(picture(0))
    assert client.post(IMAGES, files=[("file", data)]).status_code == 422
    assert client.post(IMAGES, data={"images": "/etc/passwd"}, files=[("images", data)]).status_code == 422
    assert client.post(IMAGES, files=[("images", data)] * 65).status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for content in (b"", b"--x", b"--x\r\nnonsense", b"--y--"):
        assert client.post(IMAGES, content=content, headers=headers).status_code in (400, 422)
    assert client.post(IMAGES, content=data, headers={"content-type": "multipart/form-data"}).status_code in (400, 422)


def test_a_large_body_is_refused_before_it_is_read(client: TestClient) -> None:
    """By its length where it is told, and else as soon as it is too long."""
    headers = {**JSON, "content-length": str(50 * MEBI)}
    assert client.post(IMAGES, content=b"", headers=headers).status_code == 413
    sent = asyncio.run(send_chunks(client.app, 50))
    assert sent["status"] == 413
    assert sent["chunks"] == 17  # Of a mebibyte each: the limit is 16.


async def send_chunks(app: Any, count: int) -> dict[str, int]:
    """Status of the answer to so many chunks of a mebibyte, and the number of them that were taken."""
    sent = {"status": 0, "chunks": 0}

    async def receive() -> dict[str, Any]:
        sent["chunks"] += 1
        return {"type": "http.request", "body": b"0" * MEBI, "more_body": sent["chunks"] < count}

    async def send(message: Any) -> None:
        sent["status"] = message.get("status", sent["status"])

    scope = {"type": "http", "method": "POST", "path": IMAGES, "raw_path": IMAGES.encode(), "query_string": b""}
    await app({**scope, "headers": [(b"content-type", b"application/json")], "app": app}, receive, send)
    return sent


def test_all_bodies_together_are_bounded(embedder: Embedder) -> None:
    service = Service(embedder, limits=Limits(all_bodies_bytes=3 * MEBI))

    async def ask() -> list[int]:
        app = make_app(service)
        release = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"0" * 2 * MEBI
            await release.wait()

        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
            first = asyncio.create_task(client.post(TEXTS, content=slow(), headers=JSON))
            while service.bodies.inside < 2 * MEBI:
                await asyncio.sleep(0.001)
            second = await client.post(TEXTS, content=b"0" * 2 * MEBI, headers=JSON)
            release.set()
            return [(await first).status_code, second.status_code, int(second.headers["retry-after"])]

    first, second, retry_after = asyncio.run(ask())
    service.close()
    assert first in (400, 422)  # It was read to its end.
    assert second == 503
    assert retry_after >= 1
    assert service.bodies.inside == 0


def test_a_slow_body_is_given_up(embedder: Embedder) -> None:
    service = Service(embedder, limits=Limits(body_secs=0.05))

    async def ask() -> int:
        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(60)

        transport = httpx2.ASGITransport(make_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.post(TEXTS, content=never(), headers=JSON)).status_code

    assert asyncio.run(ask()) == 408
    service.close()


class Held:
    """An embedder whose image tower stands still until it is let go."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder
        self.free = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def encode_images(self, rows: Any) -> np.ndarray:
        self.free.wait(30)
        return self._embedder.encode_images(rows)


def test_overload_is_503_and_passes(embedder: Embedder) -> None:
    held = Held(embedder)
    limits = Limits(queued_images=8)
    service = Service(held, limits=limits, batching=BatchConfig(max_batch=4))  # type: ignore[arg-type]

    async def ask() -> tuple[list[httpx2.Response], httpx2.Response]:
        transport = httpx2.ASGITransport(make_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            tasks = [asyncio.create_task(client.post(IMAGES, json={"images": [GOOD] * 2})) for _ in range(20)]
            while sum(task.done() for task in tasks) < 16:
                await asyncio.sleep(0.001)
            assert (await client.get("/health")).status_code == 200
            assert (await client.post(TEXTS, json={"texts": ["a"] * 5_000})).status_code in (413, 422)
            held.free.set()
            return await asyncio.gather(*tasks), await client.post(IMAGES, json={"images": [GOOD] * 8})

    answers, after = asyncio.run(ask())
    service.close()
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 16
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 503)
    assert after.status_code == 200


def test_an_answer_that_takes_too_long_is_503(embedder: Embedder) -> None:
    held = Held(embedder)
    service = Service(held, limits=Limits(answer_secs=0.05))  # type: ignore[arg-type]
    with TestClient(make_app(service)) as client:
        assert client.post(IMAGES, json={"images": [GOOD]}).status_code == 503
        held.free.set()
    assert service._gates["image"].inside == 0


def test_a_bug_is_500_and_tells_nothing(embedder: Embedder) -> None:
    class Broken(Held):
        def encode_images(self, rows: Any) -> np.ndarray:
            raise RuntimeError("secret")

    with TestClient(make_app(Service(Broken(embedder))), raise_server_exceptions=False) as client:  # type: ignore[arg-type]
        answer = client.post(IMAGES, json={"images": [GOOD]})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert client.post(TEXTS, json={"texts": ["a"]}).status_code == 200


PATHS = [
    "/../../etc/passwd",
    "/page.css/../../app.py",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/page/index.html",
    "/static-offline-docs/../__init__.py",
    "/static-offline-docs/..%2f__init__.py",
    "/static-offline-docs/%2e%2e/core.py",
    "/static-offline-docs//etc/passwd",
    "/v1/index/thumbnails/../../index.json",
    "/v1/index/thumbnails/..%2findex.json",
    "/v1/index/thumbnails/index.json",
    "/v1/index/thumbnails/-1",
    "/v1/index/thumbnails/1e3",
    "/v1/index/thumbnails/12",
    "/v1/index/thumbnails/99999999999999999999999999",
    "/v1/index/thumbnails/%2fetc%2fpasswd",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    request = httpx2.Request("GET", "http://testserver/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = client.send(request)
    assert answer.status_code in (404, 422), answer.text
    assert "root:" not in answer.text
    assert json.loads(answer.text)["detail"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods(client: TestClient, method: str) -> None:
    assert client.request(method, TEXTS, json={"texts": ["a"]}).status_code == 405
