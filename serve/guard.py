"""What every request must pass before it is looked at: host, key, and the body's kind, size and pace."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from warmeng.serve.errors import ApiError
from warmeng.serve.limits import Limits
from warmeng.serve.replies import JsonReply
from warmeng.serve.stream import ClientGone

# Anybody may ask these.
OPEN_PATHS = ("/health",)


class Guard:
    """ASGI middleware: refuses hosts that are not expected and clients without the key."""

    def __init__(self, app: ASGIApp, key: str | None, hosts: Collection[str] | None) -> None:
        """``hosts``: names that may stand in the Host header, None for any.

        On loopback only its own names may: else a web page whose name leads here could read answers in a browser.
        """
        self._app, self._hosts = app, hosts
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await JsonReply(refusal.body(), refusal.status, refusal.headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            return ApiError(403, f"the Host header is none of {', '.join(sorted(self._hosts))}: use one of them")
        if self._key is None or scope["path"] in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key):
            return None
        return ApiError(
            401, "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'", code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _host(header: str) -> str:
    """Return the name in a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return a request's body. Raises ApiError where it is of another kind, too large or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the content type must be application/json")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise ApiError(415, "the body is encoded: send it as it is, without a Content-Encoding")
    too_large = ApiError(413, f"the body has more than {limits.max_body} bytes: send less", code="body_too_large")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > limits.max_body:
        raise too_large
    found = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                found += part
                if len(found) > limits.max_body:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(found)
