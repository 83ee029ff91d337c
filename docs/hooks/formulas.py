"""Turns the formulas of a page into MathML, which browsers show without a script."""

import html
import re
from typing import Any

from latex2mathml import converter

# What pymdownx.arithmatex makes of $...$ and of $$...$$.
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page; a formula that is none ends the build."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "inline" if found["tag"] == "span" else "block"
    return str(converter.convert(html.unescape(found["tex"]), display=display))
