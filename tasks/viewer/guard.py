"""Who may see the pages, and what a browser may do with them.

Loopback needs no token; there a request must name a loopback host, so that a page elsewhere whose name is made to
point at this machine (DNS rebinding) can't read the data. Where the viewer listens to other machines a token is asked
for: once in the URL or in a form, from then on in a cookie that no script sees. Pages run no script and fetch nothing
but this server's stylesheet and icon.

Not covered: encryption. Between machines put it behind a proxy that speaks TLS, or use an SSH tunnel to loopback.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from urllib.parse import urlencode

from starlette.datastructures import URL, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "stillhouse_view"
SHORTEST_TOKEN = 16
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
                               "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, by its looks alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Stands before the pages: asks for the token, refuses other hosts' names, sets the headers."""

    def __init__(self, app: ASGIApp, token: str | None, sign_in: Callable[[Request, bool], Response]) -> None:
        """`sign_in` makes the page that asks for the token, from a request and whether a wrong one came."""
        self._app = app
        self._token = token
        self._sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        request = Request(scope, receive)
        answer = await self._answer(request)
        await (answer or self._app)(scope, receive, with_headers)
        return None

    async def _answer(self, request: Request) -> Response | None:
        """What to say instead of the page; None where the page may be seen."""
        if self._token is None:
            host = URL(f"http://{request.headers.get('host', '')}").hostname or ""
            if not is_loopback(host):
                return PlainTextResponse("refused: this viewer answers as localhost only", 421)
            return None
        if request.method == "POST" and request.url.path == "/token":
            form = QueryParams((await _short_body(request)).decode("latin-1"))
            return self._signed_in(request, form.get("token", ""), form.get("next", "/"))
        if "token" in request.query_params:
            return self._signed_in(request, request.query_params["token"], _without_token(request))
        if request.url.path.startswith("/static/") or self._fits(request.cookies.get(COOKIE, "")):
            return None
        return self._sign_in(request, False)

    def _signed_in(self, request: Request, token: str, target: str) -> Response:
        if not self._fits(token):
            return self._sign_in(request, True)
        if not target.startswith("/") or target.startswith(("//", "/\\")):  # never away from here
            target = "/"
        found = RedirectResponse(target, 303)
        found.set_cookie(COOKIE, token, httponly=True, samesite="lax")
        return found

    def _fits(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), (self._token or "").encode())


_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def _without_token(request: Request) -> str:
    rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    return request.url.path + (f"?{urlencode(rest)}" if rest else "")


async def _short_body(request: Request, most: int = 4096) -> bytes:
    """The beginning of a request's body."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) >= most:
            break
    return body[:most]
