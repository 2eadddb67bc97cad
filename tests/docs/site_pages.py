"""The pages of the site as Markdown: those that were written, and the tutorials."""

import pathlib
import sys


ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "hooks"))

import tutorial_pages  # noqa: E402


def pages() -> dict[str, str]:
    """Text by path."""
    written = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
    return {**written, **tutorial_pages.pages()}
