"""Results whose every text was written by somebody else: reports show it and do nothing with it."""

import dataclasses
import html.parser

import pytest

from ddefense import records
from ddefense.reporting import (
    comparison,
    comparison_report,
    evaluation,
    page,
    report,
    seeds_report,
    tables,
)
from ddefense.reporting.runs import Runs
from tests import html_of
from tests.hostile import HARMLESS, HOSTILE, changed


def changed_samples(samples, mark):
    return dataclasses.replace(
        samples,
        outcomes={(changed(n, mark), a): found for (n, a), found in samples.outcomes.items()},
    )


def evaluation_of(full):
    """The same records as an evaluation of a network that somebody brings."""
    network = dataclasses.replace(
        full.networks[1], name="mine", training=None, initial=None, defense="unknown"
    )
    return dataclasses.replace(
        full,
        networks=[network],
        comparisons=[],
        controls=[dataclasses.replace(full.controls[0], network="mine", passed=False)],
        environment={**full.environment, "warnings": ["it is doubtful", "very"]},
    )


def written(results, samples):
    """The texts of the report, the page and every table, by name."""
    write = evaluation.write if results.is_evaluation else report.write
    texts = {"report.md": write(results), "report.html": page.write(results, samples)}
    return texts | {made.name: made.markdown_with_files() for made in tables.of_run(results)}


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, but for what they are called."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = ("aria-label", "alt", "content")
        self.elements.append((tag, [(k, None if k in named else v) for k, v in attrs]))


def elements(name, text):
    found = Page(text).elements if name.endswith(".html") else html_of.parsed(text).elements
    return [each for each in found if each[0] != "br"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "evaluation"])
@pytest.mark.parametrize("payload", HOSTILE)
def test_no_text_of_results_becomes_an_element(full, samples, kind, payload):
    results = full if kind == "run" else evaluation_of(full)
    hostile, harmless = (
        written(changed(results, mark), changed_samples(samples, mark))
        for mark in (payload, HARMLESS)
    )
    assert hostile.keys() == harmless.keys()
    assert len(hostile) > 8
    for name in hostile:
        assert elements(name, hostile[name]) == elements(name, harmless[name]), name
    shown = html_of.parsed(hostile["report.md"]).text
    for value in (
        *results.environment.values(),
        results.networks[0].name,
        results.verdict.sentence,
    ):
        if isinstance(value, str):
            assert html_of.words(f"{payload}{value}{payload}") in shown


@pytest.mark.parametrize("payload", HOSTILE)
def test_nor_does_one_of_several_seeds(tmp_path, full, payload):
    texts = []
    for mark in (payload, HARMLESS):
        results = changed(full, mark)
        second = dataclasses.replace(results, config=dataclasses.replace(results.config, seed=1))
        texts.append(seeds_report.write(Runs({0: results, 1: second}), tmp_path))
    assert elements("report.md", texts[0]) == elements("report.md", texts[1])


@pytest.mark.parametrize("payload", HOSTILE)
def test_nor_does_one_of_runs_that_are_compared(tmp_path, full, payload):
    texts = []
    for mark in (payload, HARMLESS):
        label = mark.replace("/", "-").replace("\n", " ")
        for number in range(2):
            folder = tmp_path / mark[:1].encode().hex() / f"{number}{label}"
            folder.mkdir(parents=True)
            marked = changed(full, mark)
            config = dataclasses.replace(marked.config, samples=10 + number)
            records.dump(dataclasses.replace(marked, config=config), folder / "results.json")
        compared = comparison.load(sorted(folder.parent.iterdir()))
        comparison_report.save(compared, folder.parent / "out")
        found = sorted((folder.parent / "out").iterdir())
        texts.append({path.name: path.read_text() for path in found})
    hostile, harmless = texts
    for name in ("comparison.md", "comparison.html"):
        assert elements(name, hostile[name]) == elements(name, harmless[name]), name


def test_an_attack_of_another_name_is_shown_by_it(full, samples):
    payload = HOSTILE[0]
    networks = [
        dataclasses.replace(
            network,
            attacks={
                **network.attacks,
                payload: dataclasses.replace(network.attacks["cw_l2"], settings={payload: payload}),
            },
        )
        for network in full.networks
    ]
    texts = written(dataclasses.replace(full, networks=networks), samples)
    for name in ("report.md", "norm_attacks", "verdict"):
        found = html_of.parsed(texts[name])
        assert payload in found.text
        assert not {"script", "!--"} & set(found.tags)


def test_a_table_among_messages_is_markdown_too(full):
    networks = [
        dataclasses.replace(
            network,
            name=HOSTILE[0],
            training=None,
            attacks={HOSTILE[0]: network.attacks["cw_l2"]},
        )
        for network in full.networks[:1]
    ]
    hostile = dataclasses.replace(
        full, networks=networks, controls=[], environment={"warnings": [HOSTILE[1]]}
    )
    text = evaluation.table(hostile).markdown()
    assert set(html_of.parsed(text).tags) <= {
        *("table", "thead", "tbody", "tr", "th", "td", "p", "br")
    }
