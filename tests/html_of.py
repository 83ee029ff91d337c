"""Markdown as a reader sees it: rendered as CommonMark with tables, raw HTML let through."""

import html.parser

import markdown_it

from ddefense.escaping import escape

_RENDERER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Parsed(html.parser.HTMLParser):
    """What the HTML of a text is made of.

    Attributes:
        elements: tag and attributes of each, in order, comments as `!--`.
        text: everything that is shown, with single spaces.
    """

    def __init__(self, source):
        super().__init__()
        self.elements, self._words = [], []
        self.feed(source)
        self.close()

    @property
    def tags(self):
        return [tag for tag, _ in self.elements]

    @property
    def text(self):
        return words("".join(self._words))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, attrs))
        if tag == "br":
            self._words.append(" ")

    def handle_comment(self, data):
        self.elements.append(("!--", []))

    handle_decl = handle_pi = unknown_decl = handle_comment

    def handle_data(self, data):
        self._words.append(data)


def parsed(text):
    return Parsed(_RENDERER.render(text))


def words(text):
    """A text as HTML shows it: without line breaks, and with control characters escaped."""
    return escape(" ".join(text.split()))
