"""The server of the application: where it listens, who may use it, and what it serves."""

import contextlib
import os
import pathlib
import secrets
import socket
import sys
import urllib.parse

from nicegui import app, ui

from lossatlas._errors import InputError
from lossatlas.app import _files, _pages
from lossatlas.app._guard import Guard, is_loopback
from lossatlas.workbench import Jobs


def serve(
    root: str | os.PathLike[str] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    at_most: int | None = None,
    open_browser: bool = True,
) -> None:
    """Serve the application until the process is interrupted.

    It prints its address. On a loopback address everyone on this machine may use it. On any other it holds a token:
    whoever has not opened the printed address once is refused.

    **Arguments:**
    - `root`: the folder of runs; default the environment variable LOSSATLAS_STORE, else `lossatlas` here.
    - `host`, `port`: where it listens; port 0 takes one that is free.
    - `at_most`: how many jobs run at once; default one for two processors.
    - `open_browser`: open the address here.

    **Raises:** `InputError` for a folder that is none, and an address that cannot be used.
    """
    jobs = Jobs(root, at_most=at_most)
    if jobs.root.exists() and not jobs.root.is_dir():
        msg = f"{str(jobs.root)!r} is not a folder; give the folder of runs with --out."
        raise InputError(msg)
    port = _free_port(host, port)
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    app.add_middleware(Guard, token=token, port=port)
    _files.add_routes(jobs.root)
    _pages.add_pages(jobs)
    path = "/" if token is None else f"/?{urllib.parse.urlencode({'token': token})}"
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}{path}"
    app.on_startup(lambda: _say(address, jobs.root))
    app.timer(5.0, jobs.start_waiting)
    with contextlib.suppress(KeyboardInterrupt):  # that is how one ends it
        ui.run(
            host=host,
            port=port,
            title="LossAtlas",
            favicon=pathlib.Path(__file__).parent / "assets" / "icon.svg",
            dark=None,
            language="en-US",
            tailwind=False,
            reload=False,
            show=path if open_browser else False,
            show_welcome_message=False,
        )


def _free_port(host: str, port: int) -> int:
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # else a port that was used a minute ago counts as taken
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"Cannot listen on {host}, port {port} ({reason}); choose another with --port or --host."
        raise InputError(msg) from None


def _say(address: str, root: pathlib.Path) -> None:
    sys.stdout.write(f"LossAtlas: {address}\nruns: {root.absolute()}\nCtrl-C ends the application; jobs go on.\n")
    sys.stdout.flush()
