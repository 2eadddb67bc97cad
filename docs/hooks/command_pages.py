"""The pages of the commands: their usage and options as the command line itself has them."""

import re

import cyclopts

from lossatlas.cli._app import app


OPTIONS = "<!-- options -->"
_OWN = ("--help", "--version", "--install-completion")


def pages() -> dict[str, str]:
    """A page for every command. Those that somebody wrote stand in `docs/commands`, with a place for the options."""
    return {"commands/index.md": "", **{path_of(name): f"# lossatlas {name}\n\n{OPTIONS}\n" for name in names()}}


def names() -> list[str]:
    """The commands that the help shows, in its order."""
    return [name for name in app if name not in _OWN and not name.startswith("-") and app[name].show]


def path_of(name: str) -> str:
    """Of the page of a command."""
    return f"commands/{name}.md"


def with_options(markdown: str, path: str) -> str:
    """A page with the usage and the options of its command in their place."""
    match = re.fullmatch(r"commands/([\w-]+)\.md", path)
    if match is None or OPTIONS not in markdown:
        return markdown
    if match[1] == "index":
        return markdown.replace(OPTIONS, _overview())
    command, full = app[match[1]], f"lossatlas {match[1]}"
    parts = [name for name in command if name not in _OWN and not name.startswith("-")]
    if not parts:
        return markdown.replace(OPTIONS, _described(command, full, "Usage and options"))
    return markdown.replace(OPTIONS, "\n".join(_described(command[part], f"{full} {part}") for part in parts))


def _overview() -> str:
    rows = [f"| [`lossatlas {name}`]({name}.md) | {_first_line(app[name].help)} |" for name in names()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]


def _described(command: cyclopts.App, full: str, heading: str | None = None) -> str:
    """Usage, words and options of a command under a heading of ours, by default its full name."""
    _, _, text = command.generate_docs(recursive=False, usage_name=full).partition("\n")
    return f"## {heading or full}\n{text}"
