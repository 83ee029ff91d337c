"""On the site a run's page takes the place of its report in Markdown, which repositories show."""

import pathlib
import re
from typing import Any

_LINK = re.compile(r"\((?P<path>[^()\s]*report)\.md(?:#[^()\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with the Markdown of each page."""
    folder = pathlib.Path(page.file.abs_src_path).parent

    def led(found: re.Match[str]) -> str:
        path = found["path"] + ".html"
        return f"({path})" if (folder / path).exists() else found[0]

    return _LINK.sub(led, markdown)
