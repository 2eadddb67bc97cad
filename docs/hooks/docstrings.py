"""Our docstrings as Markdown knows them: lists and sections stand apart, and examples are blocks of code."""

import re
from typing import Any

import griffe


_SECTION = re.compile(r"^(\*\*(?:Arguments|Returns|Raises):\*\*) *", re.MULTILINE)
_ITEM = re.compile(r"[-*] |\d+\. ")
_SESSION = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)


def with_empty_lines(text: str) -> str:
    """A docstring whose sections and lists are paragraphs of their own.

    Python-Markdown starts a list after an empty line only, and ours stand right below their sentence.
    """
    lines, fenced = [], False
    for line in _SECTION.sub(r"\1\n\n", text).splitlines():
        fenced ^= line.lstrip().startswith("```")
        previous = lines[-1] if lines else ""
        in_list = _ITEM.match(previous) or previous.startswith(" ")
        starts = _SECTION.match(line) or (_ITEM.match(line) and not in_list)
        if previous and starts and not fenced:
            lines.append("")
        if line or previous:
            lines.append(line)
    return "\n".join(lines)


def with_sessions(text: str) -> str:
    """A docstring whose interactive sessions are fenced: to Markdown `>>>` is a quotation in a quotation."""

    def fenced(match: re.Match[str]) -> str:
        code = re.sub(r" *# doctest: .*$", "", match[0], flags=re.MULTILINE)
        return f"{match['indent']}```pycon\n{code}\n{match['indent']}```"

    return _SESSION.sub(fenced, text)


class MarkdownDocstrings(griffe.Extension):
    """Mends every docstring when it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = with_empty_lines(with_sessions(obj.docstring.value))
