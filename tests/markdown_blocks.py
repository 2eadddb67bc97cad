"""Fenced blocks of Markdown pages, and what the tests need to know of them."""

import re
from typing import NamedTuple


class Block(NamedTuple):
    """A fenced block.

    `slow`: `<!-- test: slow -->` stands above it. `printed`: the text block right below a block of Python, which is
    what it prints.
    """

    language: str
    code: str
    slow: bool
    line: int
    printed: str | None


_FENCE = re.compile(
    r"^(<!-- test: slow -->\n)?```(\w+)[^\n]*\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE
)


def blocks(text: str, language: str) -> list[Block]:
    """The blocks of a language, in order."""
    found = []
    for match in _FENCE.finditer(text):
        if match[2] == language:
            line = text.count("\n", 0, match.start(3)) + 1
            found.append(Block(match[2], match[3], bool(match[1]), line, match[4]))
    return found


def commands(text: str) -> list[str]:
    """The lines of shell blocks that call `lossatlas`."""
    lines = [line for block in blocks(text, "sh") for line in block.code.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("lossatlas ")]
