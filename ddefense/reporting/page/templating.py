"""Filling in the templates of pages: everything that ends up in HTML goes through here."""

import base64
import functools
import hashlib
import importlib.resources
import json
from typing import Any

import jinja2
import markdown_it
import markupsafe

from ddefense import markdown

_STATIC = importlib.resources.files(__package__) / "static"


def rendered(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: its name in `templates/`.
        values: what it shows; tags in text stay text.

    Returns:
        HTML.
    """
    return _environment().get_template(template).render(**values)


def html(text: str) -> markupsafe.Markup:
    """Markdown of ours as HTML; tags in it stay text."""
    found = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return markupsafe.Markup(found)


def data(value: Any) -> markupsafe.Markup:
    """JSON that may stand in a script element whatever it holds."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)


def _static(name: str) -> markupsafe.Markup:
    """A file of ours, to stand in the page as it is."""
    return markupsafe.Markup((_STATIC / name).read_text(encoding="utf-8"))


def _digest(name: str) -> str:
    """The hash by which the page's policy lets a script of ours run."""
    return base64.b64encode(hashlib.sha256(_static(name).encode()).digest()).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals |= {"static": _static, "digest": _digest}
    found.filters["markdown"] = lambda note: html(markdown.text(note))
    return found
