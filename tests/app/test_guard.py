"""Who is let in, request by request."""

import asyncio

import pytest

from lossatlas.app._guard import Guard


def answer(guard, *, kind="http", path="/", query="", **headers):
    """What a request gets: its status and headers; 200 where it was let through."""
    sent = []
    names = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": list(names.items())}

    async def send(message):
        sent.append(message)

    async def receive():
        return {}

    asyncio.run(guard(scope, receive, send))
    start = sent[0]
    return start.get("status", start["type"]), {name.decode(): value.decode() for name, value in start["headers"]}


async def _inside(scope, receive, send):
    del receive
    kind = "http.response.start" if scope["type"] == "http" else "websocket.accept"
    await send({"type": kind, "headers": []} | ({"status": 200} if scope["type"] == "http" else {}))


@pytest.fixture
def local():
    return Guard(_inside, token=None, port=8787)


@pytest.fixture
def opened():
    return Guard(_inside, token="secret", port=8787)


def refused_socket(guard, **headers):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "query_string": b"token=secret"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(guard(scope, None, send))
    return sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("host", ["localhost:8787", "127.0.0.1:8787", "[::1]:8787", "127.0.0.2"])
def test_this_machine_is_let_in_with_a_policy_that_keeps_requests_here(local, host):
    status, headers = answer(local, host=host)
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert "*" not in policy
    assert f" ws://{host} " in policy


@pytest.mark.parametrize("host", ["elsewhere.example:8787", "localhost.example", "127.elsewhere.example", ""])
def test_a_foreign_name_for_this_machine_is_refused(local, host):
    assert answer(local, host=host)[0] == 403


def test_a_page_of_another_site_is_refused_its_sockets_too(local):
    assert answer(local, host="localhost:8787", origin="http://localhost:8787")[0] == 200
    assert answer(local, host="localhost:8787", origin="http://localhost:9999")[0] == 403
    assert answer(local, host="localhost:8787", origin="null")[0] == 403
    assert refused_socket(local, host="localhost:8787", origin="http://elsewhere.example")
    assert not refused_socket(local, host="localhost:8787", origin="http://localhost:8787")


def test_the_token_of_the_address_becomes_a_cookie_and_leaves_the_address(opened):
    status, headers = answer(opened, path="//store", query="token=secret", host="machine:8787")
    assert (status, headers["location"]) == (303, "/store")
    assert headers["set-cookie"] == "lossatlas-8787=secret; Path=/; HttpOnly; SameSite=Lax"
    assert answer(opened, host="machine:8787", cookie="a=b; lossatlas-8787=secret")[0] == 200


@pytest.mark.parametrize("cookie", ["", "lossatlas-8787=guess", "lossatlas-8788=secret", "lossatlas-8787=", ';;="x'])
def test_without_the_token_nobody_is_let_in(opened, cookie):
    assert answer(opened, host="machine:8787", cookie=cookie)[0] == 401
    assert answer(opened, host="machine:8787", query="token=guess", cookie=cookie)[0] == 401
    assert refused_socket(opened, host="machine:8787", cookie=cookie)


def test_what_is_no_request_passes(local):
    asyncio.run(local({"type": "lifespan"}, None, _passed))


async def _passed(message):
    del message
