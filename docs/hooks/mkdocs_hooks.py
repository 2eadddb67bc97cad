"""What MkDocs calls: pages that are generated, pictures for dark pages, options of commands, formulas."""

from collections.abc import Callable
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import command_pages
import dark_pictures
import formulas
import reference_pages
import study_table
import tutorial_pages


# `name/*` in the nav stands for all pages of a generator, in its order: path and text.
_GENERATORS: dict[str, Callable[[], dict[str, str]]] = {
    "commands/*": command_pages.pages,
    "reference/*": reference_pages.pages,
    "tutorials/*": tutorial_pages.pages,
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Expand the nav."""
    config.nav = _expanded(config.nav)
    return config


def _expanded(item: Any) -> Any:
    if isinstance(item, dict):
        return {title: _expanded(inner) for title, inner in item.items()}
    if isinstance(item, list):
        return [new for inner in item for new in _entries(inner)]
    return item


def _entries(item: Any) -> list[Any]:
    if isinstance(item, str) and item in _GENERATORS:
        return list(_GENERATORS[item]())
    return [_expanded(item)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that nobody wrote, and the pictures in dark colours."""
    for make in _GENERATORS.values():
        for path, text in make().items():
            if files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, content=text))
    for picture in [file for file in files if file.src_uri.endswith(".svg")]:
        path = dark_pictures.dark_path(picture.src_uri)
        files.append(File.generated(config, path, content=dark_pictures.darkened(picture.content_string)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put in the options of a command, the table of studies, and both colours of each picture."""
    markdown = command_pages.with_options(markdown, page.file.src_uri)
    return dark_pictures.in_both_colours(study_table.with_studies(markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Draw the formulas."""
    return formulas.drawn(html)
