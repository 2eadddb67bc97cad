"""The table of the studies, as they are registered."""

import inspect
import re

from lossatlas import citation
from lossatlas.studies import StudyKind, study_kinds


PLACE = "<!-- studies -->"


def with_studies(markdown: str) -> str:
    """A page with the table in its place."""
    return markdown.replace(PLACE, _table()) if PLACE in markdown else markdown


def _table() -> str:
    rows = [f"| `{kind.name}` | {_question(kind)} | {_papers(kind)} |" for kind in study_kinds().values()]
    return "\n".join(["| study | question | paper |", "|---|---|---|", *rows])


def _question(kind: StudyKind) -> str:
    return (inspect.getdoc(kind.config) or kind.title).partition("\n")[0]


def _papers(kind: StudyKind) -> str:
    """ArXiv numbers, where there are, else the DOI."""
    entries = str(citation(*kind.papers)).split("\n\n")[1:]
    found = []
    for entry in entries:
        number = re.search(r"eprint\s*=\s*\{(.+?)\}", entry)
        doi = re.search(r"doi\s*=\s*\{(.+?)\}", entry)
        found.append(f"arXiv {number[1]}" if number else f"doi {doi[1]}" if doi else "")
    return ", ".join(filter(None, found))
