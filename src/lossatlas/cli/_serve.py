"""`lossatlas app`: the application in the browser."""

import pathlib
from typing import Annotated

from cyclopts import Parameter

from lossatlas._errors import InputError


def serve(
    *,
    out: pathlib.Path | None = None,
    port: int = 8642,
    host: str = "127.0.0.1",
    jobs: int | None = None,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
) -> None:
    """Open the application in the browser.

    Parameters
    ----------
    out
        Folder of runs; by default LOSSATLAS_STORE, or ./lossatlas.
    port
        Where it listens; 0 takes a port that is free.
    host
        The address where it listens. On others than 127.0.0.1, the printed address holds a token, and nobody is let in
        without it.
    jobs
        How many jobs run at once; by default one for two processors.
    browser
        Open the browser.
    """
    try:
        from lossatlas.app import serve as serve_app
    except ModuleNotFoundError as error:
        if error.name != "nicegui":
            raise
        msg = "The application needs nicegui; install it with: pip install 'lossatlas[app]'"
        raise InputError(msg) from None
    serve_app(out, host=host, port=port, at_most=jobs, open_browser=browser)
