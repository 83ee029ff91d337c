"""`report.html` as a reader meets it: in a browser, from disk, at two widths, light and dark."""

import base64
import dataclasses
import io
import json
import pathlib
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from ddefense import records
from ddefense.reporting import page as pages

pytestmark = pytest.mark.slow

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"
RUNS = ("digits", "mnist")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Pages drawn by the code as it is, by the name of their run."""
    folder = tmp_path_factory.mktemp("pages")
    for run in RUNS:
        results = records.load(records.Results, _RESULTS / run / "results.json")
        own = records.Samples.load(_RESULTS / run / "samples.npz")
        (folder / f"{run}.html").write_text(pages.write(results, own), encoding="utf-8")
    return {run: folder / f"{run}.html" for run in RUNS}


@pytest.fixture(params=["digits", pytest.param("mnist", marks=pytest.mark.slow)])
def run(request, written):
    return written[request.param]


@pytest.fixture
def digits(written):
    return written["digits"]


@pytest.fixture(scope="module")
def samples():
    return records.Samples.load(_RESULTS / "digits" / "samples.npz")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (320, "light")])
def test_it_loads_without_an_error_and_fits_the_screen(visit, screenshot, run, width, scheme):
    page = visit(run, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for plot in page.locator("[data-plot]").all():
        assert plot.locator("svg[role=img]").bounding_box()["height"] > 200
    assert page.locator("#cards .card").count() == 12
    # The verdict comes first.
    first = page.locator("main h2").first
    assert first.inner_text() == "Verdict"
    assert page.locator("#verdict .answers").bounding_box()["y"] < 900
    screenshot(page, f"report_{run.stem}_{width}_{scheme}")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_axe_finds_nothing_serious(visit, run, width, scheme):
    page = visit(run, width=width, scheme=scheme)
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


def test_filters_show_what_the_samples_hold(visit, digits, samples):
    page = visit(digits)
    choose(page, network="T = 5", attack="jsma_f_temperature")
    outcome = samples.outcomes["distilled_t5", "jsma_f_temperature"]
    reached = int(outcome.success.sum())
    # What the page opens with has another number of them.
    assert reached != samples.outcomes["baseline", "jsma_f"].success.sum()
    page.locator("#shown", has_text=f" {reached} of the").wait_for()
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


# Answers the first call of all much later than the second.
_SLOW = """() => {
    const own = Response.prototype.arrayBuffer;
    let calls = 0;
    Response.prototype.arrayBuffer = async function () {
        const pause = calls++ === 0 ? 300 : 0;
        const buffer = await own.call(this);
        await new Promise((done) => setTimeout(done, pause));
        return buffer;
    };
}"""


def test_the_last_of_two_quick_choices_is_shown(visit, digits, samples):
    page = visit(digits)
    page.evaluate(_SLOW)
    for network in ("T = 100", "T = 5"):
        choose(page, network=network)
    reached = samples.outcomes["distilled_t5", "jsma_f"].success.sum()
    line = page.locator("#shown", has_text=f" {reached} of the")
    line.wait_for()
    page.wait_for_timeout(600)
    assert line.count() == 1


def test_who_sees_nothing_is_told(visit, digits, samples):
    page = visit(digits)
    assert page.locator("#shown").get_attribute("role") == "status"
    outcome = samples.outcomes["baseline", "jsma_f"]
    own = (samples.labels[outcome.sample] == 8) & (outcome.target == 2)
    name = f"8 to 2: {outcome.success[own].sum()} of {own.sum()} reached"
    button = page.get_by_role("button", name=name, exact=True)
    button.focus()
    page.keyboard.press("ArrowRight")
    ring = "getComputedStyle(document.activeElement).outlineWidth"
    assert page.evaluate(ring) == "3px"
    assert page.evaluate("document.activeElement.dataset.target") == "3"


def test_more_samples_are_read_on_from_the_first_of_them(visit, digits):
    page = visit(digits)
    more = page.locator("#more")
    while more.is_visible():
        before = page.locator("#cards .card").count()
        more.press("Enter")
        focused = "[...document.querySelectorAll('#cards .card')].indexOf(document.activeElement)"
        assert page.evaluate(focused) == before


def test_the_matrix_filters_by_click_and_by_keyboard(visit, digits, samples):
    page = visit(digits)
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


def test_every_sample_is_rebuilt_with_its_probabilities(visit, digits, samples):
    page = visit(digits)
    choose(page, network="T = 20", attack="jsma_f_exact")
    outcome = samples.outcomes["distilled_t20", "jsma_f_exact"]
    # As many as in what the page opens with, so the number says nothing.
    page.wait_for_timeout(500)
    while page.locator("#more").is_visible():
        page.locator("#more").click()
    assert page.locator("#filters [name=network] option:checked").inner_text() == "T = 20"
    cards = page.evaluate(
        """() => [...document.querySelectorAll("#cards .card")].map((card) => ({
            title: card.querySelector("strong").textContent,
            note: card.querySelector("small").textContent,
            images: [...card.querySelectorAll("img")].map((image) => image.src),
            best: [...card.querySelectorAll("ol")].map((list) => list.innerText),
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
        colors = np.asarray(perturbation.convert("RGB"), int)
        # Red where the value went up, blue where it went down.
        redder = np.sign(colors[..., 0] - colors[..., 2])
        change = np.rint(255 * adversarial) - np.rint(255 * samples.images[row])
        np.testing.assert_array_equal(redder, np.sign(change[..., 0]))
        for which, probabilities in enumerate(
            (samples.probabilities["distilled_t20"][row], outcome.probabilities[pair])
        ):
            said = re.findall(r"(\d+)\s+([\d.]+) %", card["best"][which])
            assert len(said) == 3
            for name, share in said:
                assert float(share) == pytest.approx(100 * probabilities[int(name)], abs=0.06)
            shares = [float(share) for _, share in said]
            assert shares == pytest.approx(np.sort(100 * probabilities)[:-4:-1], abs=0.06)


def test_the_legend_shows_and_hides_attacks(visit, digits):
    page = visit(digits)
    lines = page.locator("#plot-success g[stroke-width='1.8'] path")
    before = lines.count()
    assert before > 4
    page.get_by_role("checkbox", name="JSMA-F", exact=True).uncheck()
    assert lines.count() == before - 1
    page.get_by_role("checkbox", name="JSMA-Z").check()
    assert lines.count() == before


def test_a_pointer_is_told_the_numbers(visit, digits):
    page = visit(digits)
    plot = page.locator("#plot-success svg[role=img]")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] * 0.88, "y": box["height"] - 40})
    text = plot.text_content()
    assert re.search(r"(JSMA-F|FGSM|PGD)\W+T = 100: 0\.0 % \[0\.0, 0\.0\] of (90|10)\b", text)


def test_other_epochs_are_shown_on_demand(visit, digits):
    page = visit(digits)
    plots = [page.locator(f"[data-plot={name}]") for name in ("loss", "training_accuracy")]
    before = [plot.inner_html() for plot in plots]
    page.get_by_label("Show the").select_option("initial network")
    for plot, earlier, label in zip(plots, before, ("cross-entropy", "accuracy"), strict=True):
        assert plot.inner_html() != earlier
        assert label in plot.text_content()


def test_every_measurement_has_its_point(visit, digits):
    page = visit(digits)
    data = json.loads(page.locator("#data").text_content())
    for name in ("accuracy", "amplitude", "robustness", "confidence"):
        points = page.locator(f"[data-plot={name}] svg[role=img] path[d*=A]")
        assert points.count() == len(data[name]) > 3


def test_plots_follow_the_width_of_the_window(visit, digits):
    page = visit(digits)
    plot = page.locator("#plot-success svg[role=img]")
    assert int(plot.get_attribute("width")) > 1000
    page.set_viewport_size({"width": 700, "height": 900})
    page.locator("#plot-success svg[role=img][width^='6']").wait_for()


def test_dark_and_light_can_change_while_it_is_open(visit, digits):
    page = visit(digits)
    light = page.locator("#plot-success").inner_html()
    button = page.locator("#matrix button[data-source='8'][data-target='2']")
    button.click()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "light => document.querySelector('#plot-success').innerHTML !== light", arg=light
    )
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    # What was chosen stays so.
    assert button.get_attribute("aria-pressed") == "true"
    assert button.evaluate("element => element === document.activeElement")
    # The legend has the colours of the lines.
    swatches = page.locator("#legend-success label:has(:checked) .swatch").evaluate_all(
        "found => found.map((one) => getComputedStyle(one).borderTopColor)"
    )
    lines = page.locator("#plot-success g[stroke-width='1.8']").evaluate_all(
        "found => found.map((one) => getComputedStyle(one).stroke)"
    )
    assert sorted(map(rgb, swatches)) == sorted(map(rgb, lines))


def rgb(text):
    """A colour as the browser says it, in 0 to 255."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
    return [round(255 * n) for n in numbers[:3]] if "srgb" in text else [round(n) for n in numbers]


def test_the_matrix_is_coloured_by_success(visit, digits):
    page = visit(digits)
    button = page.locator("#matrix button")
    found = button.evaluate_all(
        "found => found.map((b) => [b.innerText, getComputedStyle(b).backgroundColor])"
    )
    colors = {share: rgb(color) for share, color in found}
    assert colors["0"] == [255, 255, 255]
    assert colors["100"] == [246, 178, 107]


def test_it_prints_what_is_folded_and_nothing_runs_over(visit, run):
    page = visit(run)
    folded = page.locator("details:not([open])")
    before = folded.count()
    assert before > 5
    page.evaluate(
        """() => addEventListener("beforeprint", () => {
            window.printed = document.querySelectorAll("details:not([open])").length;
        })"""
    )
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.printed") == 0
    assert folded.count() == before
    # A4 with the margins of a browser.
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    wide = page.locator("table").evaluate_all(
        """found => found.filter((table) => table.offsetWidth > table.parentElement.clientWidth)
                         .map((table) => table.innerText.slice(0, 80))"""
    )
    assert wide == []
    for needed in ("#legend-success", "#filters", "#cards"):
        assert page.locator(needed).is_visible()
    for useless in ("nav", "#more"):
        assert page.locator(useless).is_hidden()


def test_without_a_script_numbers_and_pictures_remain(browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((_RESULTS / "digits" / "report.html").resolve().as_uri())
    assert page.locator("table.claims").is_visible()
    assert "The interactive plot needs JavaScript." in page.inner_text("#success")
    pictures = page.locator("noscript img")
    assert pictures.count() >= 6
    for picture in pictures.all():
        assert picture.evaluate("image => image.naturalWidth") > 100
    accuracy = page.locator("#tables details", has_text="accuracy").first
    accuracy.locator("summary").click()
    assert "95.83" in accuracy.inner_text()
    for dead in ("#filters", "#matrix", "#more"):
        assert page.locator(dead).is_hidden()
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


INJECTED = """<script>window.ran = "script"</script>
<img src="data:," onerror="window.ran = 'handler'">
<script src="data:text/javascript,window.ran = 'source'"></script>
<a id="link" href="javascript:window.ran = 'link'">a link</a>
<form id="form" action="https://example.org/"><input name="name"></form>
<base href="https://example.org/">"""


def test_nothing_that_is_put_into_it_runs_or_is_sent(browser, digits, tmp_path):
    """The policy holds even where a value should ever come into the page as HTML."""
    path = tmp_path / "report.html"
    path.write_text(digits.read_text().replace('<main id="main">', f'<main id="main">{INJECTED}'))
    page = browser.new_context(offline=True).new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("html[data-ready]")
    page.evaluate("document.getElementById('link').click()")
    page.evaluate("document.getElementById('form').requestSubmit()")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.baseURI") == page.url == path.resolve().as_uri()
    for directive in ("script-src", "form-action", "base-uri"):
        assert any(directive in text for text in refused), refused
    page.context.close()
