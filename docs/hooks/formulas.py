"""Formulas as MathML when the site is built: browsers draw it themselves, without a script or a request."""

import html
import re

from latex2mathml.converter import convert


_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def drawn(page: str) -> str:
    """A page with MathML for what `pymdownx.arithmatex` marked."""
    return _FORMULA.sub(_mathml, page)


def _mathml(match: re.Match[str]) -> str:
    formula = html.unescape(match[2])
    if match[1] == "span":
        return convert(formula, display="inline")
    return f'<div class="formula">{convert(formula, display="block")}</div>'
