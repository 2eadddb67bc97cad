"""What every page of the application has: its head, the ways to the others, light or dark, how many jobs run."""

import contextlib
from collections.abc import Iterator

from nicegui import ui

from lossatlas.app._elements import heading
from lossatlas.workbench import Jobs


WAYS = {
    "Surveys": "/surveys",
    "Diagnose": "/diagnose",
    "Studies": "/studies",
    "Sweeps": "/sweeps",
    "Claims": "/claims",
    "Store": "/store",
}
_NEXT = {None: True, True: False, False: None}
_WORDS = {
    None: ("brightness_auto", "as the system"),
    True: ("dark_mode", "dark"),
    False: ("light_mode", "light"),
}
_REMEMBERED = {"dark": True, "light": False}


@contextlib.contextmanager
def frame(jobs: Jobs, title: str, *, way: str = "") -> Iterator[None]:
    """A page; what is made inside is its content.

    **Arguments:**
    - `jobs`: of the folder of runs. `title`: of the page. `way`: which of the ways it is below.
    """
    ui.page_title(f"{title} – LossAtlas")
    ui.add_head_html('<link rel="stylesheet" href="/assets/style.css">')
    ui.html('<a class="skip" href="#content">Skip to the content</a>', sanitize=False)
    with ui.element("header").classes("top"):
        ui.html('<a class="brand" href="/"><img src="/assets/icon.svg" alt="">LossAtlas</a>', sanitize=False)
        items = "".join(
            f'<a href="{path}"{" aria-current=page" if path == way else ""}>{name}</a>' for name, path in WAYS.items()
        )
        ui.html(items, tag="nav", sanitize=False).props('aria-label="Pages"')
        with ui.element("div").classes("tools"):
            _job_count(jobs)
            _theme()
    with ui.element("main").props("id=content"):
        heading(1, title)
        yield


def _job_count(jobs: Jobs) -> None:
    shown = ui.html("", tag="span", sanitize=False)

    def count() -> None:
        found = [job.status for job in jobs.list()]
        running, waiting = sum(status in ("running", "stopping") for status in found), found.count("waiting")
        words = f"{running} running" + (f", {waiting} waiting" if waiting else "") if running or waiting else "Jobs"
        busy = ' class="busy"' if running else ""
        text = f'<a href="/jobs"{busy}>{words}</a>'
        if shown.content != text:
            shown.content = text

    count()
    ui.timer(2.0, count)


def _theme() -> None:
    """A button that goes from the system's setting to dark to light; the browser remembers it in a cookie."""
    request = ui.context.client.request
    dark = ui.dark_mode(_REMEMBERED.get(request.cookies.get("lossatlas-theme", "")))
    button = ui.button(on_click=lambda: change(), color=None).props("flat round dense")

    def name() -> None:
        icon, words = _WORDS[dark.value]
        button.props(f'icon={icon} aria-label="Colours: {words}" title="Colours: {words}"')

    def change() -> None:
        dark.value = _NEXT[dark.value]
        name()
        word = {True: "dark", False: "light", None: "auto"}[dark.value]
        ui.run_javascript(f'document.cookie = "lossatlas-theme={word}; path=/; max-age=31536000; samesite=lax"')

    name()
