"""What a model card says of a network, followed from records made by hand."""

import dataclasses
import hashlib
import json

import keras
import numpy as np
import pytest

from ddefense import attack_catalog, config, networks, records
from ddefense.exporting import (
    Findings,
    card_of,
    export_for_serving,
    findings_in,
    findings_of,
    notes,
    weights_of,
)
from tests.comparing import comparisons_of

NAMES = ["cat", "dog", "bird|s"]
ENVIRONMENT = {
    "ddefense": "0.1.0",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "numpy": "2.4.6",
    "python": "3.11.9",
    "cpu": "Some CPU",
    "gpus": [],
    "commit": "0123456789ab",
    "started": "2016-05-23T12:00:00+00:00",
    "command": "bin/reproduce --workdir=/home/me/run",
}


def make_training(temperature):
    return records.TrainingRecord(
        temperature=temperature,
        epochs=12,
        steps=1234,
        warm_start_steps=77,
        loss=[1.0, 0.03125],
        accuracy=[0.5, 0.99],
        stalled=False,
    )


def make_jsma(successes, features, interval):
    return records.AttackRecord(
        norm="l0",
        targets="all",
        settings={"theta": 0.25, "max_features": 6},
        samples=9,
        attempts=18,
        successes=successes,
        success_rate=successes / 18,
        success_interval=interval,
        started=0,
        success_rate_over_all=successes / 18,
        mean_distance=features,
        distance_interval=(features - 0.5, features + 0.5),
        median_distance=None,
        details={"steps": 100, "no_admissible_pair": 0, "zero_maps": 0},
    )


def make_norm(distance, targets, attempts, norm="l2", **settings):
    return records.AttackRecord(
        norm=norm,
        settings=settings,
        targets=targets,
        samples=9,
        attempts=attempts,
        successes=attempts,
        success_rate=1.0,
        success_interval=(1.0, 1.0),
        started=0,
        success_rate_over_all=1.0,
        mean_distance=distance,
        distance_interval=(distance / 2, 2 * distance),
        median_distance=distance,
        average=None
        if targets == "untargeted"
        else records.CaseRecord(success_rate=1.0, mean_distance=distance, distance_interval=None),
    )


def make_network(name, defense, temperature, accuracy, **measured):
    gradient = records.GradientRecord(
        temperature=1.0,
        samples=9,
        median_log10=-3.0,
        quantiles_log10=[-3.0],
        histogram_edges_log10=[-3.0],
        histogram=[0.5, 0.5],
        float32_median_log10=-3.0,
        float32_zero_samples=0.0,
        float32_zero_entries=0.0,
    )
    return records.NetworkRecord(
        name=name,
        defense=defense,
        temperature=temperature,
        seed=4,
        test_accuracy=accuracy,
        confidence=0.9,
        training=make_training(temperature),
        logits=records.LogitRecord(mean_abs=1.0, std_abs=1.0, median_top_two_gap=1.0),
        gradients=records.GradientsRecord(deployed=gradient, training=gradient),
        **measured,
    )


def make_control(network, passed):
    return records.ControlRecord(
        name="zero_gradients",
        network=network,
        passed=passed,
        value=0.75,
        limit=0.01,
        samples=9,
        explanation=f"{network} was checked.",
    )


@pytest.fixture
def results():
    transfer = records.TransferRecord(
        kappa=40.0,
        samples=9,
        started=0,
        crafted=0.875,
        misclassified=0.625,
        misclassified_interval=(0.375, 0.75),
        reached=0.5,
        mean_distance=3.25,
    )
    found = records.Results(
        dataset=records.DatasetRecord(
            name="pets",
            image_shape=(4, 4, 1),
            class_names=NAMES,
            num_train=12345,
            num_test=6789,
            value_range=(-1.0, 1.0),
            standardized_range=(-2.5, 3.125),
        ),
        config=config.preset("smoke", "digits"),
        environment=ENVIRONMENT,
        timings={},
        architecture=[],
        sample_indices=[0],
        networks=[
            make_network(
                "baseline",
                "none",
                1.0,
                0.96,
                attacks={
                    "jsma_f": make_jsma(16, 3.5, (0.75, 1.0)),
                    "cw_l2": make_norm(1.5, "all", 18, kappa=0.0),
                },
            ),
            make_network(
                "distilled_t20",
                "distillation",
                20.0,
                0.95125,
                attacks={
                    "jsma_f": make_jsma(1, 2.25, (0.0, 0.125)),
                    "labels_only": make_norm(0.0625, "untargeted", 9, queries=1000, seed=0),
                    "cw_l2": make_norm(1.875, "random", 9, kappa=0.0),
                },
                transfer=[transfer],
            ),
            make_network("adversarially_trained", "adversarial_training", 1.0, 0.94, attacks={}),
        ],
        comparisons=[],
        exports=[],
        controls=[make_control("baseline", True), make_control("distilled_t20", False)],
    )
    return dataclasses.replace(found, comparisons=comparisons_of(found.networks))


@pytest.fixture
def network(make_tiny_network):
    return make_tiny_network()


@pytest.fixture
def card(network, results):
    return card_of(
        network,
        name="distilled_t20",
        environment=ENVIRONMENT,
        findings=findings_in(results, "distilled_t20"),
    )


@pytest.fixture
def text(card):
    return notes(card)["MODEL_CARD.md"]


def section(text, heading):
    (found,) = [part for part in text.split("\n## ") if part.startswith(heading + "\n")]
    return found.removeprefix(heading + "\n").strip()


def test_a_card_has_what_the_run_found(card, results):
    baseline, distilled, _ = results.networks
    assert card.name == "distilled_t20"
    assert (card.defense, card.temperature, card.deployed_temperature) == ("distillation", 20, 1)
    assert card.dataset == results.dataset
    assert (card.training, card.seed) == (distilled.training, 4)
    assert card.measured.test_accuracy == 0.95125
    assert card.measured.attacks == distilled.attacks
    assert card.measured.attacks == distilled.attacks
    assert card.measured.transfer == distilled.transfer
    assert card.undistilled.attacks == baseline.attacks
    assert card.controls == [results.controls[1]]
    assert card.about == "distilled_t20"
    assert card.verdict.masks_gradients is True
    assert card.verdict.stops_adaptive_attacker is False
    assert "broken since 2016" in card.warning
    assert card.class_names == NAMES
    assert card.value_range == (-1.0, 1.0)
    assert not card.logits_exposed
    assert (card.versions.keras, card.versions.device) == ("3.15.1", "Some CPU")
    assert card.measured_with == card.versions
    assert card.extra_files == []


def test_a_verdict_is_about_the_distilled_network_of_the_card(network, results):
    """One of T = 100 that was attacked by nothing does not take the word from it."""
    other = dataclasses.replace(results.networks[1], name="distilled_t100", temperature=100.0)
    more = dataclasses.replace(results, networks=[*results.networks, other])
    for name, start in (("distilled_t20", "At T = 20,"), ("distilled_t100", "At T = 100,")):
        assert findings_in(more, name).verdict.sentence.startswith(start)
        assert findings_in(more, name).about == name


@pytest.mark.parametrize("name", ["baseline", "adversarially_trained"])
def test_a_network_that_was_not_distilled_says_so(network, results, name):
    card = card_of(network, name=name, environment=ENVIRONMENT, findings=findings_in(results, name))
    assert card.about == "the distilled networks of its run, not this one"
    assert card.verdict == findings_in(results, "distilled_t20").verdict
    found = section(notes(card)["MODEL_CARD.md"], "Verdict")
    assert found.endswith(f"\n\nIt is about {card.about}.")
    assert (card.undistilled is None) == (name == "baseline")


def test_the_text_begins_with_the_warning_and_what_it_is(text):
    assert text.startswith(
        "# distilled_t20: model card\n\n> **Defensive distillation has been broken since 2016: "
    )
    assert (
        "\n\nAn image classifier for pets, from images of 4 x 4 x 1 to 3 classes; trained by "
        "defensive distillation at T = 20; deployed at T = 1.\n\n"
    ) in text
    assert "| temperature, trained | 20 |\n| temperature, deployed | 1 |\n" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        f"## {heading}"
        for heading in (
            *("What it takes and gives", "Accuracy", "Attacks", "Verdict", "Training"),
            *("Weights", "Versions", "Limits"),
        )
    ]


def test_the_text_has_every_number(text, card):
    assert section(text, "Accuracy") == (
        "A loss of 0.9 points of accuracy: 95.12 % of the 6,789 test images of pets. The "
        "undistilled network of its run: 96.00 %."
    )
    rows = [line for line in section(text, "Attacks").splitlines() if line.startswith("| ")]
    assert rows == [
        "| attack | targets | attempts | success % | mean distance "
        "| undistilled: attempts | success % | mean distance |",
        "| :-- | :-- | :-- | :-- | :-- | :-- | :-- | :-- |",
        "| `jsma_f` | all | 18 | 5.6 [0.0, 12.5] | 2.25 [1.75, 2.75] L0 "
        "| 18 (all) | 88.9 [75.0, 100.0] | 3.50 [3.00, 4.00] L0 |",
        "| `cw_l2` | random | 9 | 100.0 [100.0, 100.0] | 1.88 [0.938, 3.75] L2 "
        "| 18 (all) | 100.0 [100.0, 100.0] | 1.50 [0.750, 3.00] L2 |",
        "| `labels_only` | untargeted | 9 | 100.0 [100.0, 100.0] | 0.0625 [0.0312, 0.125] L2 "
        "| - | - | - |",
        "| kappa | images | fool the substitute % | misclassified % | target reached % "
        "| mean distance |",
        "| :-- | :-- | :-- | :-- | :-- | :-- |",
        "| 40 | 9 | 87.5 | 62.5 [37.5, 75.0] | 50.0 | 3.25 L2 |",
        "| check | result | explanation |",
        "| :-- | :-- | :-- |",
        "| `zero_gradients` | **FAIL** | distilled_t20 was checked. |",
    ]
    assert "\n- `jsma_f`: JSMA, the paper's attack: " in text
    assert " (theta = 0.25, at most 6 features)\n" in text
    assert ": HopSkipJump: sees predicted classes alone (queries = 1000, seed = 0)\n" in text
    assert section(text, "Verdict") == card.verdict.sentence
    assert section(text, "Training").splitlines()[2:] == [
        "| data | pets |",
        "| training images | 12,345 |",
        "| test images | 6,789 |",
        "| features | in [-1, 1] |",
        "| standardised in the network | to [-2.5, 3.125] |",
        "| temperature | 20 |",
        "| epochs | 12 |",
        "| optimizer steps | 1,234 |",
        "| steps at T = 1 before | 77 |",
        "| loss of the last epoch, nats | 0.03125 |",
        "| training stalled | no |",
        "| seed | 4 |",
    ]
    assert "| keras | 3.15.1 | 3.15.1 |\n" in section(text, "Versions")
    assert "| device | Some CPU | Some CPU |" in section(text, "Versions")


def test_the_text_says_what_it_takes_and_what_was_not_run(text):
    takes = section(text, "What it takes and gives")
    assert (
        "| `serving_default` | in | `images` | float32 [N, 4, 4, 1] | features in [0, 1] |" in takes
    )
    assert "| `serving_labels` | out | `labels` | string [N] | " in takes
    assert "trained on features in [-1, 1]" in takes
    assert "Classes, in order: cat, dog, bird|s." in takes
    limits = section(text, "Limits")
    (missing,) = [line for line in limits.splitlines() if line.startswith("- Attacks that were")]
    assert {name for name in attack_catalog.ATTACKS if f"`{name}`" in missing} == (
        set(attack_catalog.ATTACKS) - {"jsma_f", "cw_l2", "labels_only"}
    )


def test_bars_stay_in_their_cells(network, results):
    control = dataclasses.replace(make_control("baseline", True), explanation="a | b\nc")
    findings = findings_in(dataclasses.replace(results, controls=[control]), "baseline")
    card = card_of(network, name="baseline", environment={}, findings=findings)
    assert "| `zero_gradients` | pass | a \\| b<br>c |\n" in notes(card)["MODEL_CARD.md"]


def test_nothing_known_is_said_plainly(network):
    card = card_of(network, name="mine", environment={}, expose_logits=True)
    assert (card.defense, card.temperature, card.dataset) == ("unknown", None, None)
    assert card.measured is card.verdict is card.about is card.measured_with is None
    assert card.class_names == ["0", "1", "2"]
    assert card.value_range == (0.0, 1.0)
    text = notes(card)["MODEL_CARD.md"]
    assert section(text, "Accuracy") == section(text, "Attacks") == "Not measured."
    assert section(text, "Verdict").startswith("No attack on this network was measured, and no ")
    assert "- Not measured: its accuracy, any attack, any check" in section(text, "Limits")
    assert "how it was trained is not known; deployed at T = 1." in text
    assert "| temperature, trained | not known |" in text
    assert "| data | not known |" in section(text, "Training")
    assert "`logits` is exposed" in section(text, "What it takes and gives")
    assert "> **Whether anything defends this network is not known. " in text
    assert "broken" not in text
    assert "| keras | not known |" in section(text, "Versions")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("baseline", "Nothing defends this network: small perturbations of an image"),
        ("distilled_t20", "Defensive distillation has been broken since 2016"),
        ("adversarially_trained", "Adversarial training resists the perturbations that it was "),
    ],
)
def test_the_warning_fits_the_defence(network, results, name, start):
    card = card_of(network, name=name, environment={}, findings=findings_in(results, name))
    assert card.warning.startswith(start)
    assert notes(card)["MODEL_CARD.md"].startswith(f"# {name}: model card\n\n> **{card.warning}**")


def test_accuracy_alone_may_be_measured(network, results):
    """On a dataset of which nobody says that the network was trained on it."""
    measured = records.MeasuredRecord(test_accuracy=0.875, attacks={}, transfer=[])
    findings = Findings(dataset=results.dataset, measured=measured, caveats=["Doubtful."])
    card = card_of(network, name="mine", environment={}, findings=findings)
    assert (card.measured, card.caveats) == (measured, ["Doubtful."])
    assert card.description.startswith("An image classifier, from images")
    text = notes(card)["MODEL_CARD.md"]
    assert section(text, "Accuracy") == "87.50 % of the 6,789 test images of pets."
    assert section(text, "Attacks") == "Not measured."
    assert section(text, "Verdict").startswith("No attack on this network was measured")
    training = section(text, "Training")
    assert "| data | not known |" in training
    assert "pets" not in training
    assert "12,345" not in training
    limits = section(text, "Limits").splitlines()
    assert limits[:2] == [
        "- Doubtful.",
        "- Not measured: any attack, any check for masked gradients.",
    ]
    assert not [line for line in limits if "Attacks" in line or "of one seed" in line]
    assert "Only test images were tried" in limits[2]


def test_attacks_without_an_undistilled_network_give_no_verdict(network, results):
    _, distilled, _ = results.networks
    measured = records.MeasuredRecord(
        test_accuracy=0.875,
        attacks=distilled.attacks,
        transfer=[],
    )
    findings = Findings(dataset=results.dataset, measured=measured, temperature=20.0)
    text = notes(card_of(network, name="mine", environment={}, findings=findings))["MODEL_CARD.md"]
    assert section(text, "Verdict").startswith("There is no verdict: the attacks were measured on ")
    assert "| `cw_l2` | random | 9 |" in section(text, "Attacks")
    assert "small perturbations of them" in section(text, "Limits")


def test_a_temperature_alone_may_be_known(network):
    findings = Findings(defense="distillation", temperature=20.0)
    card = card_of(network, name="mine", environment={}, findings=findings)
    assert "trained by defensive distillation at T = 20" in card.description
    assert "| temperature | 20 |" in section(notes(card)["MODEL_CARD.md"], "Training")


def test_a_run_that_attacked_nothing(network, results):
    untouched = dataclasses.replace(results.networks[2], attacks={})
    findings = findings_of(
        untouched.name,
        dataset=results.dataset,
        networks=[untouched],
        comparisons=[],
        controls=[],
        environment=ENVIRONMENT,
    )
    card = card_of(network, name=untouched.name, environment={}, findings=findings)
    text = notes(card)["MODEL_CARD.md"]
    assert section(text, "Accuracy") == "94.00 % of the 6,789 test images of pets."
    assert section(text, "Attacks") == "Not measured."
    assert section(text, "Verdict").startswith("There is no verdict: ")


def test_the_same_gives_the_same_without_date_path_or_commit(network, results, card):
    again = card_of(
        network,
        name="distilled_t20",
        environment=json.loads(json.dumps(ENVIRONMENT)),
        findings=findings_in(results, "distilled_t20"),
    )
    assert notes(again) == notes(card)
    for content in notes(card).values():
        for secret in (ENVIRONMENT["started"][:10], "/home", ENVIRONMENT["commit"]):
            assert secret not in content
    assert records.ModelCard(**json.loads(notes(card)["model_card.json"])).name == card.name


def test_the_weights_hash_is_of_float32_bytes_in_order(network, card):
    kernel, bias = (np.asarray(w) for w in network.get_layer("logits").weights)
    first, second = (np.asarray(w) for w in network.get_layer("dense").weights)
    parts = [np.ascontiguousarray(a).astype("<f4").tobytes() for a in (first, second, kernel, bias)]
    assert [(w.name, w.shape) for w in card.weights] == [
        ("dense/kernel", [16, 8]),
        ("dense/bias", [8]),
        ("logits/kernel", [8, 3]),
        ("logits/bias", [3]),
    ]
    assert [w.sha256 for w in card.weights] == [hashlib.sha256(part).hexdigest() for part in parts]
    assert card.weights_sha256 == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_weights_hash_tells_weights_apart_and_nothing_else(make_tiny_network):
    def digest(network):
        weights, together = weights_of(network)
        card = card_of(network, name="a", environment={})
        assert (card.weights, card.weights_sha256) == (weights, together)
        return together

    # Dropout brings the state of a random generator, which no hash may depend on.
    digests = [digest(make_tiny_network(dropout=rate)) for rate in (0.0, 0.25, 0.5)]
    assert len(set(digests)) == 1
    changed = make_tiny_network()
    bias = changed.get_layer("logits").weights[1]
    bias.assign(np.nextafter(np.asarray(bias), np.float32(1)))
    assert digest(changed) != digests[0]


def test_the_keras_file_is_named_by_its_hash(network, tmp_path):
    path = tmp_path / "network.keras"
    network.save(path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    card = card_of(network, name="a", environment={}, keras_file=path)
    assert card.keras_sha256 == expected
    content = notes(card)["MODEL_CARD.md"]
    assert f"`{expected}`" in section(content, "Weights")
    assert "network.keras" not in content


def test_other_files_are_listed_with_what_was_measured_on_them(card):
    files = [
        records.ExtraFileRecord(
            name=f"{name}.tflite",
            content="int8",
            size_bytes=81234,
            sha256="ab",
            test_accuracy=share,
        )
        for name, share in (("a", 0.5), ("b", None))
    ]
    text = notes(dataclasses.replace(card, extra_files=files))["MODEL_CARD.md"]
    assert section(text, "Other files").splitlines()[2:] == [
        "| `a.tflite` | int8 | 81,234 | 50.00 % | `ab` |",
        "| `b.tflite` | int8 | 81,234 | not measured | `ab` |",
    ]


def test_a_gpu_goes_before_the_processor(network):
    environment = ENVIRONMENT | {"gpus": ["Some GPU"]}
    assert card_of(network, name="a", environment=environment).versions.device == "Some GPU"


def test_results_of_another_network_are_refused(network, results):
    with pytest.raises(ValueError, match=r"one of \['baseline', .*received 'distilled_t5'"):
        findings_in(results, "distilled_t5")
    other = dataclasses.replace(results.dataset, image_shape=(28, 28, 1))
    findings = findings_in(dataclasses.replace(results, dataset=other), "baseline")
    with pytest.raises(ValueError, match=r"shape \(4, 4, 1\).*pets.*shape \(28, 28, 1\)"):
        card_of(network, name="a", environment={}, findings=findings)
    with pytest.raises(ValueError, match=r"each of the network's 3 classes; received 2: \['a'"):
        card_of(network, name="a", environment={}, class_names=["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("expose_logits", [False, True])
def test_signatures_are_those_of_the_export(
    make_photo_network, open_export, channels, expose_logits
):
    network = make_photo_network(channels=channels)
    card = card_of(network, name="a", environment={}, expose_logits=expose_logits)
    model = open_export(network, expose_logits=expose_logits)
    types = {1: "float32", 4: "uint8", 7: "string", 9: "int64"}

    def described(tensors):
        return {
            name: (types[t.dtype], [None if d.size < 0 else d.size for d in t.tensor_shape.dim])
            for name, t in tensors.items()
        }

    def claimed(tensors):
        return {name: (t.dtype, t.shape) for name, t in tensors.items()}

    assert {
        n: (described(s.inputs), described(s.outputs)) for n, s in model.signatures.items()
    } == {n: (claimed(s.inputs), claimed(s.outputs)) for n, s in card.signatures.items()}
    assert card.logits_exposed == expose_logits


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_who_finds_the_export_can_check_its_weights(
    make_tiny_network, tmp_path, monkeypatch, capsys, dtype
):
    """The code in the text, run as it stands in the version directory."""
    network = make_tiny_network(dropout=0.5, dtype=dtype)
    card = card_of(network, name="a", environment={})
    made = export_for_serving(network, tmp_path / "a", notes=notes(card))
    found = (made.path / "assets.extra" / "MODEL_CARD.md").read_text()
    code = found.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(made.path)
    exec(compile(code, "MODEL_CARD.md", "exec"), {})
    assert capsys.readouterr().out.strip() == card.weights_sha256
    loaded = records.load(records.ModelCard, made.path / "assets.extra" / "model_card.json")
    assert loaded == card


def test_a_deployed_network_has_the_weights_of_the_trained_one(make_tiny_network, tmp_path):
    trained = make_tiny_network(20.0)
    trained.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    digests = {
        card_of(n, name="a", environment={}).weights_sha256
        for n in (trained, networks.with_temperature(trained, 1.0), loaded)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("accuracy", "start"),
    [
        (0.1, "This network did not learn: "),
        (0.46, "This network did not learn: "),  # of 6,789 images up to 47.2 %, and half is 48 %
        (0.836, "A loss of 12.4 points of accuracy against the undistilled network. Defensive "),
        (0.95, "Defensive distillation has been broken "),
    ],
)
def test_a_card_first_says_whether_its_network_learnt_and_what_it_lost(
    network, results, accuracy, start
):
    baseline, distilled, _ = results.networks
    networks = [baseline, dataclasses.replace(distilled, test_accuracy=accuracy)]
    findings = findings_in(dataclasses.replace(results, networks=networks), "distilled_t20")
    card = card_of(network, name="distilled_t20", environment=ENVIRONMENT, findings=findings)
    assert card.warning.startswith(start)
    assert "Do not rely on it." in card.warning
    text = notes(card)["MODEL_CARD.md"]
    assert f"> **{start}" in text
    lost = 100 * (0.96 - accuracy)
    assert section(text, "Accuracy").startswith(f"A loss of {lost:.1f} points of accuracy: ")
    if "did not learn" in start:
        assert section(text, "Verdict").startswith("There is no verdict: no distilled network")


def test_a_card_knows_that_the_initial_network_did_not_learn(network, results):
    baseline, distilled, _ = results.networks
    initial = records.InitialRecord(
        temperature=20.0,
        test_accuracy=0.34,
        agreement=0.5,
        training=distilled.training,
        logits=distilled.logits,
        soft_labels=records.SoftLabelRecord(
            mean_entropy=1.0, mean_largest=0.4, agreement_with_hard=0.4
        ),
    )
    networks = [baseline, dataclasses.replace(distilled, initial=initial)]
    findings = findings_in(dataclasses.replace(results, networks=networks), "distilled_t20")
    card = card_of(network, name="distilled_t20", environment=ENVIRONMENT, findings=findings)
    assert card.warning.startswith("This network did not learn: ")


def test_without_an_undistilled_network_a_card_knows_guessing_alone(network, results):
    measured = dataclasses.replace(findings_in(results, "baseline").measured, test_accuracy=0.34)
    findings = Findings(dataset=results.dataset, measured=measured)
    card = card_of(network, name="mine", environment=ENVIRONMENT, findings=findings)
    assert card.warning.startswith("This network did not learn: ")  # from 32.9 %, of 3 classes
    better = Findings(
        dataset=results.dataset, measured=dataclasses.replace(measured, test_accuracy=0.36)
    )
    card = card_of(network, name="mine", environment=ENVIRONMENT, findings=better)
    assert card.warning.startswith("Whether anything defends")
