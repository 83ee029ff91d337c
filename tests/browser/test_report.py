"""`report.html` as a reader meets it: in a browser, from disk, at two widths, light and dark."""

import base64
import dataclasses
import io
import pathlib
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from ddefense import records
from ddefense.reporting import page as pages

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
RUNS = ("digits", "mnist")


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    return _RESULTS / request.param


@pytest.fixture(scope="module")
def samples():
    return records.Samples.load(_RESULTS / "digits" / "samples.npz")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_loads_without_an_error_and_fits_the_screen(visit, screenshot, run, width, scheme):
    page = visit(run / "report.html", width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for plot in page.locator("[data-plot]").all():
        box = plot.locator("svg[role=img]").bounding_box()
        assert box["width"] <= width
        assert box["height"] > 200
    assert page.locator("#cards .card").count() == 12
    # The verdict comes first.
    first = page.locator("main h2").first
    assert first.inner_text() == "Verdict"
    assert page.locator("#verdict .answers").bounding_box()["y"] < 900
    screenshot(page, f"report_{run.name}_{width}_{scheme}")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_axe_finds_nothing_serious(visit, run, width, scheme):
    page = visit(run / "report.html", width=width, scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    found = Axe().run(page).response
    assert found["passes"]
    serious = [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []


def choose(page, network=None, **values):
    if network is not None:
        page.locator("#filters [name=network]").select_option(label=network)
    for name, value in values.items():
        page.locator(f"#filters [name={name}]").select_option(value)


def shown(page):
    """The three numbers of the line above the samples."""
    return [int(n) for n in re.findall(r"\d+", page.locator("#shown").inner_text())][:3]


def titles(page):
    return page.locator("#cards .card strong").all_inner_texts()


def test_filters_show_what_the_samples_hold(visit, samples):
    page = visit(_RESULTS / "digits" / "report.html")
    choose(page, network="T = 5", attack="jsma_z")
    outcome = samples.outcomes["distilled_t5", "jsma_z"]
    reached = int(outcome.success.sum())
    page.locator("#shown", has_text=f"of {len(outcome.success)} ").wait_for()
    assert shown(page) == [12, len(outcome.success), reached]
    choose(page, result="1")
    assert shown(page) == [12, reached, reached]
    assert set(page.locator("#cards .badge").all_inner_texts()) == {"reached"}
    choose(page, result="0")
    failed = len(outcome.success) - reached
    assert shown(page)[1:] == [failed, 0]
    choose(page, result="", source="3", target="8")
    sources = samples.labels[outcome.sample]
    expected = int(((sources == 3) & (outcome.target == 8)).sum())
    assert expected > 0
    assert shown(page)[1] == expected
    assert set(titles(page)) == {"3 → 8"}


def test_the_matrix_filters_by_click_and_by_keyboard(visit, samples):
    page = visit(_RESULTS / "digits" / "report.html")
    outcome = samples.outcomes["baseline", "jsma_f"]
    sources = samples.labels[outcome.sample]

    def expected(source, target):
        own = (sources == source) & (outcome.target == target)
        return f"{100 * outcome.success[own].mean():.0f}", int(own.sum())

    button = page.locator("#matrix button[data-source='8'][data-target='2']")
    assert button.inner_text() == expected(8, 2)[0]
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#filters [name=source]").input_value() == "8"
    assert shown(page)[1] == expected(8, 2)[1]
    assert set(titles(page)) == {"8 → 2"}
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert set(titles(page)) == {"8 → 3"}
    page.keyboard.press("Enter")  # a second time takes the choice back
    assert shown(page)[1] == len(outcome.success)
    # The tabulator key stops at one cell of all.
    assert page.locator("#matrix button[tabindex='0']").count() == 1


def test_every_sample_is_rebuilt_with_its_probabilities(visit, samples):
    page = visit(_RESULTS / "digits" / "report.html")
    choose(page, network="T = 20", attack="jsma_f_exact")
    outcome = samples.outcomes["distilled_t20", "jsma_f_exact"]
    page.locator("#shown", has_text=f"{outcome.success.sum()} of the").wait_for()
    while page.locator("#more").is_visible():
        page.locator("#more").click()
    cards = page.evaluate(
        """() => [...document.querySelectorAll("#cards .card")].map((card) => ({
            title: card.querySelector("strong").textContent,
            note: card.querySelector("small").textContent,
            images: [...card.querySelectorAll("img")].map((image) => image.src),
            best: [...card.querySelectorAll("ol")].map((list) => list.firstChild.innerText),
        }))"""
    )
    assert len(cards) == len(outcome.success)
    for pair, card in enumerate(cards):
        row = outcome.sample[pair]
        adversarial = samples.adversarial("distilled_t20", "jsma_f_exact", pair)
        assert card["title"] == f"{samples.labels[row]} → {outcome.target[pair]}"
        assert card["note"].startswith(f"{outcome.num_features[pair]} of 784 features, test image")
        for source, values in ((0, samples.images[row]), (2, adversarial)):
            picture = Image.open(io.BytesIO(base64.b64decode(card["images"][source].split(",")[1])))
            pixels = np.asarray(picture.convert("L"), int)
            np.testing.assert_array_equal(pixels, np.rint(255 * values[..., 0]))
        perturbation = Image.open(io.BytesIO(base64.b64decode(card["images"][1].split(",")[1])))
        grey = (np.asarray(perturbation.convert("RGB"), int) == 128).all(axis=2)
        changed = np.rint(255 * adversarial) != np.rint(255 * samples.images[row])
        np.testing.assert_array_equal(~grey, changed[..., 0])
        for which, probabilities in enumerate(
            (samples.probabilities["distilled_t20"][row], outcome.probabilities[pair])
        ):
            name, share, _ = card["best"][which].split()
            assert int(name) == probabilities.argmax()
            assert float(share) == pytest.approx(100 * probabilities.max(), abs=0.06)


def test_the_legend_shows_and_hides_attacks(visit):
    page = visit(_RESULTS / "digits" / "report.html")
    lines = page.locator("#plot-success g[stroke-width='1.8'] path")
    before = lines.count()
    assert before > 4
    page.get_by_role("checkbox", name="JSMA-F", exact=True).uncheck()
    assert lines.count() == before - 1
    page.get_by_role("checkbox", name="JSMA-Z").check()
    assert lines.count() == before


def test_a_pointer_is_told_the_numbers(visit):
    page = visit(_RESULTS / "digits" / "report.html")
    plot = page.locator("#plot-success svg[role=img]")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.88, "y": box["height"] - 40})
    text = plot.text_content()
    assert re.search(r"(JSMA-F|FGSM|PGD)\W+T = 100: 0\.0 % \[0\.0, 0\.0\] of (90|10)\b", text)


def test_other_epochs_are_shown_on_demand(visit):
    page = visit(_RESULTS / "digits" / "report.html")
    plot = page.locator("[data-plot=loss]")
    before = plot.inner_html()
    page.get_by_label("Show the").select_option("initial network")
    assert plot.inner_html() != before


def test_dark_and_light_can_change_while_it_is_open(visit):
    page = visit(_RESULTS / "digits" / "report.html")
    light = page.locator("#plot-success").inner_html()
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    assert page.locator("#plot-success").inner_html() != light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_it_prints_what_is_folded(visit):
    page = visit(_RESULTS / "digits" / "report.html")
    assert page.locator("details:not([open])").count() > 5
    pdf = page.pdf()
    assert page.locator("details:not([open])").count() == 0
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 3


def test_without_a_script_numbers_remain(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((_RESULTS / "digits" / "report.html").resolve().as_uri())
    assert page.locator("table.claims").is_visible()
    assert "The interactive plot needs JavaScript." in page.inner_text("#success")
    context.close()


def test_samples_without_probabilities_and_many_classes_are_shown_too(visit, screenshot, tmp_path):
    """What earlier versions left, and a dataset whose matrix would be too large."""
    results = records.load(records.Results, _RESULTS / "digits" / "results.json")
    own = records.Samples.load(_RESULTS / "digits" / "samples.npz")
    old = dataclasses.replace(
        own,
        outcomes={
            key: dataclasses.replace(outcome, probabilities=None)
            for key, outcome in own.outcomes.items()
        },
        probabilities={},
    )
    names = [f"class {number}" for number in range(40)]
    wide = dataclasses.replace(
        results, dataset=dataclasses.replace(results.dataset, class_names=names)
    )
    path = tmp_path / "report.html"
    path.write_text(pages.write(wide, old), encoding="utf-8")
    page = visit(path)
    assert page.locator("#cards .card").count() == 12
    assert page.locator("#cards ol").count() == 0
    assert page.locator("#matrix-region").is_hidden()
    assert titles(page)[0].startswith("class ")
