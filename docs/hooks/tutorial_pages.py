"""The pages of the tutorials: percent-cell Python files as Markdown."""

import pathlib
import re


FOLDER = pathlib.Path(__file__).parents[2] / "tutorials"
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\]| slow)?\n", re.MULTILINE)


def pages() -> dict[str, str]:
    """A page for every file, in the order of their names."""
    return {f"tutorials/{path.stem}.md": as_markdown(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.py"))}


def as_markdown(source: str) -> str:
    """Cells of comments as text, the others as blocks of code, those that take long marked for the tests."""
    starts = list(_CELL.finditer(source))
    ends = [match.start() for match in starts[1:]] + [len(source)]
    cells = []
    for match, end in zip(starts, ends, strict=True):
        body = source[match.end() : end].strip("\n")
        if not body:
            continue
        if match["kind"] == " [markdown]":
            cells.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE))
        else:
            mark = "<!-- test: slow -->\n" if match["kind"] else ""
            cells.append(f"{mark}```python\n{body}\n```")
    return "\n\n".join(cells) + "\n"
