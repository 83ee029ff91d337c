"""`comparison.html` in a browser."""

import pathlib
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

from ddefense.reporting import comparison, comparison_report

pytestmark = pytest.mark.slow

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
RUNS = ("mnist", "digits", "cifar10")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    comparison_report.save(comparison.load([_RESULTS / run for run in RUNS]), folder)
    return folder / "comparison.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_loads_fits_and_can_be_used_by_all(visit, screenshot, path, width, scheme):
    page = visit(path, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = Axe().run(page).response
    assert found["passes"]
    serious = [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == []
    screenshot(page, f"comparison_{width}_{scheme}")


def test_every_quantity_can_be_shown(visit, path):
    page = visit(path)
    choice = page.locator("#choice select")
    labels = choice.locator("option").all_inner_texts()
    assert labels[0] == "accuracy %"
    assert len(labels) == len(set(labels)) > 10
    choice.select_option("accuracy %")
    drawing = page.locator("#drawing")
    for run in RUNS:
        assert run in drawing.text_content()
    svg = drawing.locator("svg[role=img]")
    dots = svg.locator("g[fill^='#'] path").count()
    everything = comparison.load([_RESULTS / run for run in RUNS])
    accuracy = [m for m in comparison.measures(everything) if m.name == "accuracy"]
    assert dots == sum(found is not None for m in accuracy for found in m.values)


def test_a_pointer_is_told_the_numbers_of_a_run(visit, path):
    page = visit(path)
    page.locator("#choice select").select_option("accuracy %")
    svg = page.locator("#drawing svg[role=img]")
    box = svg.bounding_box()
    svg.hover(position={"x": box["width"] * 0.12, "y": 40})
    assert re.search(r"(mnist|digits|cifar10), undistilled\W*\d\d\.\d\d", svg.text_content())


def test_verdicts_come_first_and_answers_have_their_colour(visit, path):
    page = visit(path)
    headings = page.locator("main h2").all_inner_texts()
    assert headings[0] == "Verdicts"
    links = page.locator("nav a").evaluate_all("found => found.map((a) => a.getAttribute('href'))")
    assert len(links) == len(headings) == 5
    assert all(page.locator(link).count() == 1 for link in links)
    badges = page.locator("table.claims .badge")
    assert set(badges.all_inner_texts()) >= {"holds", "does not hold"}
    colors = {"holds": "good", "does not hold": "bad", "inconclusive": "unknown"}
    for badge in badges.all():
        answer, _, loss = badge.inner_text().partition(", at a loss of ")
        color = "costly" if loss else colors[answer]
        assert badge.get_attribute("class") == f"badge {color}"


def test_the_plot_follows_the_scheme_and_the_width(visit, path):
    page = visit(path)
    plot = page.locator("#drawing")
    light = plot.inner_html()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert plot.inner_html() != light
    page.set_viewport_size({"width": 700, "height": 900})
    page.locator("#drawing svg[role=img][width^='6']").wait_for()


def test_no_two_of_many_runs_have_the_same_colour(visit, tmp_path):
    many = sorted((_RESULTS / "extended").glob("*/results.json"))
    assert len(many) > 8
    comparison_report.save(comparison.load(many), tmp_path)
    page = visit(tmp_path / "comparison.html")
    page.locator("#choice select").select_option("accuracy %")
    dots = page.locator(
        "#drawing svg[role=img] g[fill^='#'], #drawing svg[role=img] g[fill^='rgb']"
    )
    fills = dots.evaluate_all("found => found.map((one) => one.getAttribute('fill'))")
    assert len(set(fills)) == len(many)
