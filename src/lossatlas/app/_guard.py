"""Who may talk to the application, and what its pages may do."""

import hmac
import http.cookies
import ipaddress
import re
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Pages load nothing from elsewhere, whatever is in them. Vue compiles templates in the browser, hence unsafe-eval.
# Not every browser takes 'self' for sockets too.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' ws://{host} wss://{host}; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class Guard:
    """Middleware (ASGI) in front of everything, web sockets included.

    Requests that a page of another site sends are refused: by their `Origin`, and, where there is no token, by a `Host`
    that is not this machine (a foreign name that was pointed here). With a token, so is whoever does not bring it, in
    the address once and in a cookie from then on.

    **Arguments:**
    - `app`: what is guarded.
    - `token`: None where only this machine reaches the application.
    - `port`: part of the cookie's name, since cookies do not tell ports apart.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], *, token: str | None, port: int):
        self._app, self._token, self._cookie = app, token, f"lossatlas-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        ours = _headers(host if re.fullmatch(r"[\w.:\[\]-]+", host) else "localhost")
        given = urllib.parse.parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not self._is_ours(host, headers.get("origin")):
            await _refuse(scope, send, 403, "This address belongs to LossAtlas; pages of other sites cannot use it.")
        elif self._token is None or self._fits(self._brought(headers)):
            await self._app(scope, receive, _with_headers(send, ours))
        elif scope["type"] == "http" and self._fits(given):
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
            # The token does not stay in the address, where it would be seen and bookmarked.
            place = "/" + urllib.parse.quote(scope["path"].lstrip("/"))
            more = [(b"location", place.encode()), (b"set-cookie", cookie.encode())]
            await _refuse(scope, send, 303, "", *more)
        else:
            await _refuse(scope, send, 401, "Open the address that `lossatlas app` printed; it holds the token.")

    def _is_ours(self, host: str, origin: str | None) -> bool:
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            return False
        return self._token is not None or is_loopback(urllib.parse.urlsplit(f"//{host}").hostname or "")

    def _brought(self, headers: MutableMapping[str, str]) -> str:
        try:
            cookie = http.cookies.SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except http.cookies.CookieError:
            return ""
        return "" if cookie is None else cookie.value

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _headers(host: str) -> list[tuple[bytes, bytes]]:
    policy = _POLICY.format(host=host).encode()
    kept = (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")
    return [(b"content-security-policy", policy), *kept]


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def add(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *headers]
        await send(message)

    return add


async def _refuse(scope: Scope, send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
