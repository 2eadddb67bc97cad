"""Pictures on dark pages: the same SVG in the dark colours of the theme, made when the site is built."""

import re

from lossatlas.figures import dark_colours


_IMAGE = re.compile(r"^!\[(?P<words>[^\]]*)\]\((?P<path>[^)]+\.svg)\)$", re.MULTILINE)


def dark_path(path: str) -> str:
    """`pictures/x.svg` is `pictures/x-dark.svg` on dark pages."""
    return path.removesuffix(".svg") + "-dark.svg"


def darkened(svg: str) -> str:
    """An SVG with every colour of the theme replaced by its dark one."""
    dark = {
        f"rgb({', '.join(_parts(light))})": f"rgb({', '.join(_parts(new))})" for light, new in dark_colours().items()
    }
    return re.sub(r"rgb\(\d+, \d+, \d+\)", lambda match: dark.get(match[0], match[0]), svg)


def _parts(colour: str) -> list[str]:
    return [str(int(colour[i : i + 2], 16)) for i in (1, 3, 5)]


def in_both_colours(markdown: str) -> str:
    """A picture on a line of its own becomes two, of which the page shows the one of its colours."""
    return _IMAGE.sub(
        lambda match: (
            f"![{match['words']}]({match['path']}#only-light){{ loading=lazy }}\n"
            f"![{match['words']}]({dark_path(match['path'])}#only-dark){{ loading=lazy }}"
        ),
        markdown,
    )
