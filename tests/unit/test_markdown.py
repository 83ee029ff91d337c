"""Values in Markdown, as a renderer of CommonMark with tables shows them."""

import hypothesis
import pytest
from hypothesis import strategies

from ddefense import markdown
from tests import html_of

# Whatever means something to a renderer, in any order.
_PIECES = strategies.sampled_from(
    [
        *("`", "``", "<b>", "<!--", "|", "\\", "*", "_", "~~", "[", "]", "(", ")", ":", "!", "#"),
        *(">", "&lt;", "&", "-", "+", "=", "1.", "x", "é", "http:"),
        *(" ", "\n", "\r", "\t", "\x00", "\x1b", "\u202e", "\u2028"),
    ]
)
values = strategies.lists(_PIECES, max_size=12).map("".join)

PLACES = {
    "sentence": ("It is {} here.", markdown.text),
    "start": ("{}", markdown.text),
    "heading": ("# On {}", markdown.text),
    "item": ("- {}", markdown.text),
    "strong": ("**{}** follows", markdown.text),
    "code": ("A path, {}, follows `too`.", markdown.code),
}


@pytest.mark.parametrize("place", PLACES)
@hypothesis.given(value=values)
def test_a_value_changes_no_element_and_is_shown_as_it_is(place, value):
    template, escape = PLACES[place]
    shown, plain = (html_of.parsed(template.format(escape(each))) for each in (f"a{value}z", "az"))
    assert shown.elements == plain.elements
    assert shown.text == plain.text.replace("az", html_of.words(f"a{value}z"))


@pytest.mark.parametrize("place", ["sentence", "start", "heading", "item"])
@hypothesis.given(value=values)
def test_nor_does_one_that_begins_and_ends_with_marks(place, value):
    template, escape = PLACES[place]
    shown = html_of.parsed(template.format(escape(value)))
    assert html_of.words(value) in shown.text
    assert set(shown.tags) <= {"p", "h1", "ul", "li"}


@hypothesis.given(value=values)
def test_a_table_keeps_its_rows_and_cells(value):
    made = markdown.table(
        [f"h{value}"], [[f"a{value}"], [markdown.code(value)], [value]], left=[True]
    )
    found = html_of.parsed(f"{made}\nend")
    assert [tag for tag in found.tags if tag != "br"] == [
        *("table", "thead", "tr", "th", "tbody"),
        *("tr", "td", "tr", "td", "code", "tr", "td", "p"),
    ]
    assert html_of.words(f"a{value}") in found.text


def test_markdown_of_ours_stays_and_common_names_are_not_marked_up():
    assert markdown.text(markdown.Markdown("**bold**")) == "**bold**"
    for name in ("jsma_f", "C&W L2", "88.4 [86.0, 90.8]: a", "-12.5", "+1.20 points", "< 1 %"):
        assert markdown.text(name) == name
    assert markdown.table(["a"], [["-"]], [True]).endswith("| - |\n")
