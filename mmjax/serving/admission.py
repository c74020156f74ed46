"""ASGI middleware in front of the endpoints: reads bodies within bounds, counts and times every request."""

import asyncio
import time
from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmjax.serving.limits import Gate, Limits, Refused
from mmjax.serving.metrics import OTHER, Metrics

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Disconnected(Exception):
    """The client went away before its body was complete."""


class Admission:
    """Reads the whole body of a POST before the endpoint runs, and refuses it as soon as it is too much.

    Beside the size of one body (which FastAPI could bound) this bounds all bodies together, the time that one may take
    to arrive, and the number of values in a JSON body before it is parsed: two megabytes of "[[],[],..." become a
    hundred of Python objects.
    """

    def __init__(self, app: ASGIApp, limits: Limits, bodies: Gate):
        self._app, self._limits, self._bodies = app, limits, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = Body(self._limits, self._bodies)
        try:
            data = await body.read(scope, receive)
            await self._app(scope, replayed(data, receive), send)
        except Refused as refusal:
            # The rest of the body is not read: the connection cannot be used again.
            await refusal_response(refusal, {"connection": "close"})(scope, receive, send)
            scope["refused"] = refusal.reason
        except Disconnected:
            pass
        finally:
            self._bodies.leave(body.size)


class Body:
    """The bytes of one request; `size` of them hold places of the gate that all requests share."""

    def __init__(self, limits: Limits, bodies: Gate):
        self._limits, self._bodies = limits, bodies
        self.size = 0

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refused: it is too large (413), too slow (408), has too many values (413), or there is no room (503).
            Disconnected: the client left.
        """
        headers = dict(scope["headers"])
        self._check_size(int(headers.get(b"content-length", b"0")))
        try:
            async with asyncio.timeout(self._limits.body_secs):
                data = await self._chunks(receive)
        except TimeoutError as error:
            detail = f"the body took longer than {self._limits.body_secs:g} seconds"
            raise Refused(408, "slow_body", detail) from error
        types = [value for name, value in scope["headers"] if name == b"content-type"]
        # A second header of another type must not lead past this check.
        if not types or not all(value.startswith(b"multipart/form-data") for value in types):
            self._check_values(data)
        return data

    async def _chunks(self, receive: Receive) -> bytes:
        chunks, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            self._check_size(self.size + len(chunk))
            self._bodies.take(len(chunk))
            self.size += len(chunk)
            chunks.append(chunk)
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _check_size(self, size: int) -> None:
        limit = self._limits.body_bytes
        if size > limit:
            raise Refused(413, "large_body", f"the body is larger than {limit} bytes: send fewer or smaller images")

    def _check_values(self, data: bytes) -> None:
        if sum(map(data.count, (b",", b"[", b"{"))) > self._limits.json_values:
            raise Refused(413, "many_values", f"the body has more than {self._limits.json_values} values: send fewer")


def replayed(data: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, then what the connection says."""
    messages: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def refusal_response(refusal: Refused, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": refusal.detail}, refusal.status, {**refusal.headers, **(headers or {})})


class Watch:
    """Counts and times requests by endpoint and status, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 0, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *SECURITY_HEADERS]}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.answered(self._endpoint(scope), status, time.monotonic() - start)
            if "refused" in scope:
                self._metrics.refused(scope["refused"])

    def _endpoint(self, scope: Scope) -> str:
        """The path of the route: one of a fixed list, whatever a client asks for."""
        path = str(getattr(scope.get("route"), "path", scope["path"]))
        return path if path in self._paths else OTHER
