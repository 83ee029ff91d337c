"""The page of a run: self-contained, true to the records, and safe whatever names they hold."""

import configparser
import dataclasses
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import pytest

from ddefense import records, reporting
from ddefense.reporting import claims, outcomes, page, tables
from ddefense.reporting.page import content

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(reporting.__file__).parents[2]


class Parser(html.parser.HTMLParser):
    """Gathers elements with their attributes, and checks that all are closed."""

    EMPTY = frozenset({"meta", "link", "input", "img", "br", "hr"})

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.data, self.words = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == ("script", "data"):
            self.data += data
        elif not self.open or self.open[-1][0] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def data_of(text):
    return json.loads(Parser(text).data)


def test_it_needs_nothing_but_the_files_of_the_run(tmp_path, full, samples):
    records.dump(full, tmp_path / "results.json")
    samples.save(tmp_path / "samples.npz")
    written = {path.relative_to(tmp_path).as_posix() for path in reporting.render(tmp_path)}
    parser = Parser((tmp_path / "report.html").read_text())
    ids = {attributes["id"] for _, attributes in parser.found if "id" in attributes}
    links = [
        value
        for _, attributes in parser.found
        for name, value in attributes.items()
        if name in ("href", "src", "action", "data", "poster", "srcset")
    ]
    assert len(links) > 20
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert link in written | {"results.json"}
    policy = next(a["content"] for t, a in parser.found if "http-equiv" in a)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split(";"))
    for name in ("default-src", "base-uri", "form-action"):
        assert rules[name] == "'none'"
    assert "unsafe" not in rules["script-src"]
    assert "http" not in policy


def test_the_same_records_give_the_same_page(full, samples):
    assert page.write(full, samples) == page.write(full, samples)


def test_no_part_of_it_imports_tensorflow():
    code = (
        "import pathlib, sys\n"
        "from ddefense import records, reporting\n"
        "from ddefense.reporting import page\n"
        "folder = pathlib.Path('docs/results/digits')\n"
        "results = records.load(records.Results, folder / 'results.json')\n"
        "page.write(results, records.Samples.load(folder / 'samples.npz'))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True)


@pytest.mark.parametrize("run", ["digits", "mnist"])
def test_the_committed_pages_are_what_their_results_give(run):
    folder = _ROOT / "docs/results" / run
    results = records.load(records.Results, folder / "results.json")
    samples = records.Samples.load(folder / "samples.npz")
    assert page.write(results, samples) == (folder / "report.html").read_text(encoding="utf-8")


def test_its_parts_are_installed_with_the_package():
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["ddefense.reporting.page"].split()
    folder = _ROOT / "ddefense/reporting/page"
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    parts = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert parts - installed == set(folder.glob("*.py"))


def test_verdict_and_claims_come_in_words(full, samples):
    parser = Parser(page.write(full, samples))
    assert full.verdict.sentence in parser.text
    assert "Does it stop an attacker who knows it? no" in parser.text
    words = {"yes": "holds", "no": "does not hold", "inconclusive": "inconclusive"}
    answers = claims.answers(full)
    badges = [a["class"] for t, a in parser.found if "badge" in a.get("class", "")]
    kinds = {"yes": "good", "no": "bad", "inconclusive": "unknown"}
    assert badges == [f"badge {kinds[answer.answer.holds]}" for answer in answers]
    for answer in answers:
        word = words[answer.answer.holds]
        if answer.orientation and answer.answer.holds != "inconclusive":
            word += " (orientation)"
        row = f"{answer.claim.id} {answer.claim.statement} {word} {answer.claim.paper}"
        assert row in parser.text


def test_every_table_of_the_run_is_in_it(full, samples):
    parser = Parser(page.write(full, samples))
    # The claims have a form of their own.
    for table in (table for table in tables.of_run(full) if table.name != "claims"):
        for part in table.parts():
            for row in part.rows:
                for cell in row:
                    assert " ".join(cell.split()) in parser.text, table.name


def test_the_plots_show_the_numbers_of_the_records(full, samples):
    data = data_of(page.write(full, samples))
    names = [network["name"] for network in data["networks"]]
    assert sorted(names) == sorted(network.name for network in full.networks)
    by_name = {network.name: network for network in full.networks}
    measured = {
        (name, attack): outcomes.outcome(by_name[name], attack)
        for name in names
        for attack in outcomes.attacks_in(full.networks)
    }
    shown = {(names[row["network"]], row["attack"]): row for row in data["success"]}
    assert shown.keys() == {key for key, found in measured.items() if found is not None}
    for key, row in shown.items():
        found = measured[key]
        assert row["percent"] == found.percent
        assert (row["low"], row["high"]) == (found.low, found.high)
        assert row["distance"] == found.distance
    for row in data["accuracy"]:
        network = by_name[names[row["network"]]]
        own = {"deployed at T = 1": network.test_accuracy}
        if network.initial is not None:
            own["initial network, at T"] = network.initial.test_accuracy
        assert row["percent"] == 100 * own[row["which"]]
    for row in data["robustness"]:
        record = by_name[names[row["network"]]].robustness[row["attack"]]
        assert row["percent"] == 100 * record.capped
    medians = {
        names[row["network"]]: row["median"]
        for row in data["amplitude"]
        if row["which"] == "deployed at T = 1"
    }
    assert medians == {n.name: n.gradients.deployed.median_log10 for n in full.networks}
    curves = {(names[row["network"]], row["which"]): row["loss"] for row in data["training"]}
    for network in full.networks:
        which = "distilled network" if network.defense == "distillation" else "network"
        assert curves[network.name, which] == network.training.loss
        if network.initial is not None:
            assert curves[network.name, "initial network"] == network.initial.training.loss


def test_every_epoch_stands_in_a_table_too(full, samples):
    text = Parser(page.write(full, samples)).text
    trainings = [n.training for n in full.networks]
    trainings += [n.initial.training for n in full.networks if n.initial is not None]
    for training in trainings:
        for loss, accuracy in zip(training.loss, training.accuracy, strict=True):
            assert f" {loss:.4f} " in text
            assert f" {100 * accuracy:.2f} " in text


def test_naive_and_adaptive_attacks_are_told_apart(full, samples):
    data = data_of(page.write(full, samples))
    kinds = {attack["name"]: attack["softmax"] for attack in data["attacks"]}
    assert kinds["jsma_f"]
    assert kinds["pgd_linf"]
    assert not kinds["jsma_f_exact"]
    assert not kinds["pgd_linf_temperature"]
    assert not kinds["cw_l2"]


HOSTILE = "</script><script>alert(1)</script><!--\u2028&amp;"


def test_names_from_elsewhere_stay_text(full, samples):
    names = [HOSTILE, *full.dataset.class_names[1:]]
    strange = dataclasses.replace(
        full,
        dataset=dataclasses.replace(full.dataset, class_names=names),
        environment={**full.environment, "command": HOSTILE, "warnings": [HOSTILE]},
    )
    text = page.write(strange, samples)
    parser = Parser(text)
    assert data_of(text)["classes"][0] == HOSTILE
    assert "alert(1)" in parser.text
    plain = Parser(page.write(full, samples))
    scripts = [sum(tag == "script" for tag, _ in found.found) for found in (parser, plain)]
    assert scripts[0] == scripts[1] == 5


def test_a_network_that_did_not_learn_is_said_to(results_of, network, samples):
    rates = {"jsma_f": 0.5}
    run = results_of([network(None, rates), network(20.0, rates, stalled=True)])
    text = page.write(run, samples)
    assert [n["learnt"] for n in data_of(text)["networks"]] == [True, False]
    assert "did not learn" in Parser(text).text


def test_nothing_is_compared_with_a_network_that_did_not_learn(full, samples):
    assert "undistilled 9" in Parser(page.write(full, samples)).text.partition("Success of")[0]
    baseline = full.baseline()
    lost = dataclasses.replace(baseline, test_accuracy=0.1)
    networks = [lost if n.name == lost.name else n for n in full.networks]
    made = content.tiles(dataclasses.replace(full, networks=networks))
    assert made
    assert [tile.beside for tile in made] == [""] * len(made)


def test_a_loss_of_accuracy_comes_first_and_colours_what_holds_at_it(results_of, network, samples):
    networks = [network(None, {"jsma_f": 0.9}, accuracy=0.8)]
    networks.append(network(100.0, {"jsma_f": 0.01, "jsma_f_exact": 0.9}, accuracy=0.676))
    verdict = records.VerdictRecord(
        masks_gradients=None, stops_adaptive_attacker=True, sentence="Yes.", accuracy_lost=0.124
    )
    run = dataclasses.replace(results_of(networks), verdict=verdict)
    text = page.write(run, samples)
    answers = text[text.index('<dl class="answers">') :].split("</div>")
    assert "What does it cost?</dt><dd>a loss of 12.4 points of accuracy</dd>" in answers[0]
    first = content.tiles(run)[0]
    assert first.heading == "Accuracy, T = 100"
    assert first.beside == "undistilled 80.0 %, at a loss of 12.4 points of accuracy"
    assert '<span class="badge costly">holds, at a loss of 12.4 points of accuracy</span>' in text
    assert '<div class="unknown"><dt>Does it stop an attacker who knows it?</dt>' in text
    assert "<dd>yes, at a loss of 12.4 points of accuracy</dd>" in text


def test_an_evaluation_names_a_network_that_did_not_learn_at_its_head(results_of, network, samples):
    mine = dataclasses.replace(
        network(None, {"jsma_f": 0.9}, accuracy=0.1), name="mine", defense="unknown", training=None
    )
    text = Parser(page.write(results_of([mine]), samples)).text.partition("Success of attacks")[0]
    assert "mine (test accuracy 10.00 %)" in text


def test_results_without_a_verdict_say_so(results, samples):
    run = dataclasses.replace(results, verdict=None)
    assert "measured too little for a verdict" in Parser(page.write(run, samples)).text


def test_licences_of_what_is_inside_go_with_it(full, samples):
    text = page.write(full, samples)
    assert len(re.findall("Permission to use, copy, modify, and/or distribute", text)) == 2
    assert "Mike Bostock" in text
    assert "Observable, Inc." in text
