"""A model card as Markdown, for a person who finds it beside a SavedModel."""

import math
from collections.abc import Iterable, Sequence

from ddefense import evidence, records
from ddefense import markdown as md
from ddefense.attack_catalog import ATTACKS, DECISIVE

_NOT_KNOWN, _NOT_MEASURED = "not known", "Not measured."
_NOTHING_MEASURED = (
    "No attack on this network was measured, and no verdict on it can be given. Unless it was "
    "measured elsewhere, expect that small perturbations of an image change its class."
)
_NOTHING_COMPARED = (
    "There is no verdict: the attacks were measured on this network alone, with no undistilled one "
    "beside it."
)
_NORMS = {"l0": "L0", "l2": "L2", "linf": "Linf"}
_DEFENSES: dict[records.Defense, str] = {
    "none": "none",
    "distillation": "defensive distillation (broken)",
    "adversarial_training": "adversarial training",
    "unknown": _NOT_KNOWN,
}
_CHECK_WEIGHTS = """\
import hashlib, tensorflow as tf

checkpoint = tf.train.load_checkpoint("variables/variables")
number = len(checkpoint.get_variable_to_dtype_map()) - 1
names = [f"_weights/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in range(number)]
arrays = [checkpoint.get_tensor(name) for name in names]
floats = [array.astype("<f4") for array in arrays if array.dtype.kind in "fV"]
print(hashlib.sha256(b"".join(array.tobytes() for array in floats)).hexdigest())
"""


def markdown(card: records.ModelCard) -> str:
    """The card as GitHub-flavoured Markdown; nothing in it is not in the card."""
    parts = [
        f"# {md.text(card.name)}: model card",
        f"> **{md.text(card.warning)}**",
        md.text(card.description),
        _pairs(
            {
                "defence": _DEFENSES[card.defense],
                "temperature, trained": _number(card.temperature),
                "temperature, deployed": _number(card.deployed_temperature),
                "logits exposed": "yes" if card.logits_exposed else "no",
            }
        ),
        *_inputs_and_outputs(card),
        *_accuracy(card),
        *_attacks(card),
        *_verdict(card),
        *_training(card),
        *_weights(card),
        *_extra_files(card),
        *_made_with(card),
        *_limits(card),
    ]
    return md.join(parts)


def _inputs_and_outputs(card: records.ModelCard) -> list[str]:
    rows = []
    for name, signature in card.signatures.items():
        for way, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            for tensor_name, tensor in tensors.items():
                sizes = ("N" if size is None else str(size) for size in tensor.shape)
                kind = f"{tensor.dtype} [{', '.join(sizes)}]"
                rows.append([md.code(name), way, md.code(tensor_name), kind, tensor.content])
    low, high = card.value_range
    scaled = (
        ""
        if (low, high) == (0.0, 1.0)
        else f" The network was trained on features in [{low:g}, {high:g}]; the graph brings what "
        "clients send to that range."
    )
    exposed = (
        " `logits` is exposed: gradients of logits do not vanish, so who has them needs no trick "
        "to attack the network."
        if card.logits_exposed
        else ""
    )
    return [
        "## What it takes and gives",
        _table(["signature", "", "name", "type and shape", "values"], rows),
        "N is any number of images from 1 on. What is out of range, not finite, of another shape "
        f"or no image is refused with INVALID_ARGUMENT.{scaled}{exposed}",
        f"Classes, in order: {', '.join(map(md.text, card.class_names))}.",
    ]


def _accuracy(card: records.ModelCard) -> list[str]:
    if card.measured is None:
        return ["## Accuracy", _NOT_MEASURED]
    of = ""
    if card.dataset is not None:
        of = f" of the {card.dataset.num_test:,} test images of {md.text(card.dataset.name)}"
    own, beside, loss = card.measured.test_accuracy, "", ""
    if card.undistilled is not None:
        before = card.undistilled.test_accuracy
        beside = f" The undistilled network of its run: {_percent(before)}."
        loss = evidence.loss_in_words(before - own)
    first = f"{loss.capitalize()}: " if loss else ""
    return ["## Accuracy", f"{first}{_percent(own)}{of}.{beside}"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _attacks(card: records.ModelCard) -> list[str]:
    heading, measured = "## Attacks", card.measured
    if measured is None:
        return [heading, _NOT_MEASURED]
    found = _attacked(measured)
    if not found:
        return [heading, _NOT_MEASURED]
    beside = card.undistilled
    headings = ["attack", "targets", "attempts", "success %", "mean distance"]
    if beside is not None:
        headings += ["undistilled: attempts", "success %", "mean distance"]
    rows = [
        [
            md.code(attack),
            *_counts(measured, attack),
            *_outcome(measured, attack),
            *([] if beside is None else _beside(beside, attack)),
        ]
        for attack in found
    ]
    what = [f"- {md.code(attack)}: {_what(measured, attack)}" for attack in found]
    return [
        heading,
        _table(headings, rows),
        "In brackets 95 % bootstrap intervals; one of no width is no certainty. Success is the "
        "target class (`all`: every wrong class of an image is a target, `random`: one), or any "
        "wrong class (`untargeted`). Attempts that start there, because the network errs on the "
        "unchanged image, are left out of every number. Distances are means over the successes, in "
        "features changed (L0) or in units of the images (L2, Linf).",
        "\n".join(what),
        *_transfer(measured),
        *_controls(card.controls),
    ]


def _attacked(measured: records.MeasuredRecord) -> list[str]:
    """Attacks that were run, in the order of the catalogue."""
    known = [name for name in ATTACKS if name in measured.attacks]
    return known + sorted(set(measured.attacks) - set(known))


def _counts(measured: records.MeasuredRecord, attack: str) -> list[str]:
    found = measured.attacks[attack]
    started = f" + {found.started:,} started there" if found.started else ""
    return [found.targets, f"{found.attempts:,}{started}"]


def _outcome(measured: records.MeasuredRecord, attack: str) -> list[str]:
    """Success and mean distance of an attack, with intervals."""
    found = measured.attacks[attack]
    distance = _distance(found.mean_distance, found.distance_interval, _NORMS[found.norm])
    return [_interval(found.success_rate, found.success_interval), distance]


def _beside(undistilled: records.MeasuredRecord, attack: str) -> list[str]:
    """The same attack on the undistilled network, which may have had other targets."""
    if attack not in _attacked(undistilled):
        return ["-", "-", "-"]
    targets, attempts = _counts(undistilled, attack)
    return [f"{attempts} ({targets})", *_outcome(undistilled, attack)]


def _interval(share: float | None, interval: tuple[float, float] | None) -> str:
    if share is None or interval is None:
        return "-"
    low, high = interval
    return f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _distance(mean: float | None, interval: tuple[float, float] | None, norm: str) -> str:
    if mean is None:
        return "-"
    around = ""
    if interval is not None:
        around = f" [{_significant(interval[0])}, {_significant(interval[1])}]"
    return f"{_significant(mean)}{around} {norm}"


def _significant(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _what(measured: records.MeasuredRecord, attack: str) -> str:
    """What an attack does, and the settings it was run with."""
    words = ATTACKS[attack].brief if attack in ATTACKS else ""
    found = measured.attacks[attack]
    if found.max_features is not None:
        settings = f"theta = {found.settings['theta']:g}, at most {found.max_features} features"
    else:
        settings = ", ".join(
            f"{name} = {_setting(value)}" for name, value in found.settings.items()
        )
    return f"{words} ({md.text(settings)})" if settings else words


def _setting(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _transfer(measured: records.MeasuredRecord) -> list[str]:
    if not measured.transfer:
        return []
    rows = [
        [
            f"{record.kappa:g}",
            str(record.samples),
            f"{100 * record.crafted:.1f}",
            _interval(record.misclassified, record.misclassified_interval),
            "-" if record.reached is None else f"{100 * record.reached:.1f}",
            _distance(record.mean_distance, None, "L2"),
        ]
        for record in measured.transfer
    ]
    headings = ["kappa", "images", "fool the substitute %", "misclassified %"]
    return [
        f"Samples of `{DECISIVE}` made on an undistilled substitute, by the confidence kappa:",
        _table([*headings, "target reached %", "mean distance"], rows),
    ]


def _controls(controls: Sequence[records.ControlRecord]) -> list[str]:
    if not controls:
        return []
    rows = [
        [
            md.code(check.name),
            "pass" if check.passed else md.Markdown("**FAIL**"),
            check.explanation,
        ]
        for check in controls
    ]
    return [
        "Checks for masked gradients. A FAIL is no strength of the network: it says that attacks "
        "by gradients through its softmax tell nothing.",
        _table(["check", "result", "explanation"], rows),
    ]


def _verdict(card: records.ModelCard) -> list[str]:
    if card.verdict is None:
        attacked = card.measured is not None and _attacked(card.measured)
        return ["## Verdict", _NOTHING_COMPARED if attacked else _NOTHING_MEASURED]
    about = "" if card.about == card.name else f"It is about {md.text(card.about or '')}."
    return ["## Verdict", md.text(card.verdict.sentence), about]


def _training(card: records.ModelCard) -> list[str]:
    training = card.training
    dataset = None if training is None else card.dataset
    rows = {"data": _NOT_KNOWN if dataset is None else dataset.name}
    if dataset is not None:
        low, high = dataset.value_range
        rows["training images"] = f"{dataset.num_train:,}"
        rows["test images"] = f"{dataset.num_test:,}"
        rows["features"] = f"in [{low:g}, {high:g}]"
        if dataset.standardized_range is not None:
            low, high = dataset.standardized_range
            rows["standardised in the network"] = f"to [{low:.4g}, {high:.4g}]"
    rows["temperature"] = _number(card.temperature)
    if training is not None:
        rows["epochs"] = str(training.epochs)
        rows["optimizer steps"] = f"{training.steps:,}"
        rows["steps at T = 1 before"] = f"{training.warm_start_steps:,}"
        if training.loss:
            rows["loss of the last epoch, nats"] = f"{training.loss[-1]:.4g}"
        rows["training stalled"] = "yes" if training.stalled else "no"
    rows["seed"] = _NOT_KNOWN if card.seed is None else str(card.seed)
    return ["## Training", _pairs(rows)]


def _weights(card: records.ModelCard) -> list[str]:
    parameters = sum(math.prod(weight.shape) for weight in card.weights)
    keras_file = ""
    if card.keras_sha256 is not None:
        keras_file = f"Exported from a `.keras` file with SHA-256 {md.code(card.keras_sha256)}."
    return [
        "## Weights",
        f"{len(card.weights)} variables, {parameters:,} numbers. SHA-256 of their values as "
        "little-endian float32 in C order, one variable after the other (`model_card.json` has "
        f"each one's):\n\n    {' '.join(card.weights_sha256.split())}",
        f"To compute it again from the version directory:\n\n```python\n{_CHECK_WEIGHTS}```",
        keras_file,
        "The files themselves are checked by `sha256sum -c assets.extra/SHA256SUMS`.",
    ]


def _extra_files(card: records.ModelCard) -> list[str]:
    if not card.extra_files:
        return []
    rows = [
        [
            md.code(file.name),
            file.content,
            f"{file.size_bytes:,}",
            "not measured" if file.test_accuracy is None else _percent(file.test_accuracy),
            md.code(file.sha256),
        ]
        for file in card.extra_files
    ]
    headings = ["file", "content", "bytes", "test accuracy", "SHA-256"]
    return ["## Other files", _table(headings, rows)]


def _made_with(card: records.ModelCard) -> list[str]:
    made = {"exported": card.versions}
    if card.measured_with is not None:
        made["measured"] = card.measured_with
    names = ("ddefense", "tensorflow", "keras", "numpy", "python", "device")
    rows = [[name, *(getattr(v, name) or _NOT_KNOWN for v in made.values())] for name in names]
    return ["## Versions", _table(["", *made], rows)]


def _limits(card: records.ModelCard) -> list[str]:
    limits: list[str] = [md.text(caveat) for caveat in card.caveats]
    ran = [] if card.measured is None else _attacked(card.measured)
    if not ran:
        what = ["its accuracy"] if card.measured is None else []
        what += ["any attack"]
        what += [] if card.controls else ["any check for masked gradients"]
        limits.append(f"Not measured: {', '.join(what)}.")
    elif missing := [f"`{name}`" for name in ATTACKS if name not in ran]:
        limits.append(f"Attacks that were not run: {', '.join(missing)}.")
    if ran:
        limits.append(
            "Attacks were run on a sample of test images, with the settings above: a stronger "
            "attack may succeed more often or nearer."
        )
    if card.measured is not None:
        tried = "test images and small perturbations of them" if ran else "test images"
        limits.append(
            f"One training{', of one seed' if card.training else ''}. Only {tried} were tried: no "
            "other noise, no physical attack, no image of another kind. The network gives a class "
            "to any image, be it of a class or not."
        )
        limits.append("Everything was measured on the Keras network, before it was exported.")
    limits.append(
        "When it was written, the SavedModel gave the Keras network's probabilities on a few "
        "images within 1e-6, or within half of 1e-6 of its largest logit where that is more."
    )
    return ["## Limits", "\n".join(f"- {limit}" for limit in limits)]


def _number(value: float | None) -> str:
    return _NOT_KNOWN if value is None else f"{value:g}"


def _pairs(rows: dict[str, str]) -> str:
    return md.pairs("", "", rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return md.table(headings, rows, [True] * len(headings))
