"""The plain elements of the pages: headings, paragraphs, links, tables, fields with their help."""

import html
import inspect
from collections.abc import Callable
from typing import Any

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._form import Field, as_typed
from lossatlas.workbench import render_table


def heading(level: int, text: str) -> None:
    """A heading."""
    ui.html(html.escape(text), tag=f"h{level}", sanitize=False)


def paragraph(text: str, kind: str = "") -> ui.html:
    """A paragraph of plain text; `kind`: `"lead"`, `"remark"` or `"empty"`."""
    return ui.html(html.escape(text), tag="p", sanitize=False).classes(kind)


def link(text: str, target: str, kind: str = "") -> None:
    """A link; `kind`: `"action"` looks like a button. Reports open beside the application."""
    beside = ' target="_blank" rel="noopener"' if target.startswith("/files/") else ""
    content = f'<a class="{kind}" href="{html.escape(target)}"{beside}>{html.escape(text)}</a>'
    ui.html(content, tag="span", sanitize=False)


def table(content: Any, kind: str = "") -> None:
    """A table of the reports."""
    ui.html(render_table(content), sanitize=False).classes(kind)


def chip(status: str) -> None:
    """A status or verdict as a word with its colour."""
    ui.html(html.escape(status), tag="span", sanitize=False).classes(f"chip chip-{status}")


def field_input(field: Field) -> Any:
    """The element for a field of a form, with its documentation below; its `value` is what was typed."""
    with ui.element("div").classes("field"):
        value = as_typed(field.default)
        if field.is_switch:
            element = ui.switch(field.label, value=value)
        elif field.choices:
            element = ui.select(list(field.choices), label=field.label, value=value).props("outlined dense")
        else:
            element = ui.input(field.label, value=value).props("outlined dense stack-label")
            if field.is_number:
                element.props("inputmode=decimal")
        help_id = f"help-{element.id}"
        if field.help:
            paragraph(field.help, "remark").props(f"id={help_id}")
            element.props(f"aria-describedby={help_id}")
    return element


def button(text: str, action: Callable[[], Any], kind: str = "plain") -> ui.button:
    """A button; `kind`: `"action"` for the main one, `"plain"`, or `"danger"`. What the user can mend is said."""
    return (
        ui.button(text, on_click=_say_errors(action), color=None).props("unelevated no-caps").classes(f"button {kind}")
    )


def ask_first(title: str, words: str, action: Callable[[], Any]) -> Callable[[], Any]:
    """What a button does that removes something: a question, and `action` when it is confirmed."""
    with ui.dialog() as question, ui.card():
        heading(2, title)
        paragraph(words)
        with ui.element("div").classes("row actions"):
            button("Keep it", question.close)
            button("Remove it", lambda: (question.close(), action()), "danger")
    return question.open


def _say_errors(action: Callable[[], Any]) -> Callable[[], Any]:
    """Do it, and say in one line what the user can mend."""

    async def act() -> None:
        try:
            result = action()
            if inspect.iscoroutine(result):  # nicegui's elements can be waited for too, which is not meant
                await result
        except InputError as error:
            ui.notify(str(error), type="negative", multi_line=True, close_button="Close", timeout=0)

    return act
