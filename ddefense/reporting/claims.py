"""The claims to reproduce, what is accepted as holding, and who said them first."""

import dataclasses

from ddefense import config as config_lib
from ddefense import evidence, markdown, records
from ddefense.attack_catalog import DECISIVE, EXACT, PAPER, TEMPERATURE, TRANSFER
from ddefense.reporting import lookup, published
from ddefense.reporting.verdicts import (
    Check,
    Verdict,
    adaptive,
    joined,
    masking,
    success,
    unless,
)

_BOTH = frozenset({"mnist", "cifar10"})
_MNIST = frozenset({"mnist"})
_CIFAR10 = frozenset({"cifar10"})
# Claims that mean the paper's budget and the dataset's frozen theta; claims that compare with the
# undistilled network.
_ATTACKED = frozenset({"C4", "C5", "C6", "C7", "C8", "C9", "C11", "C12", "C15", "C16"})
_AGAINST_BASELINE = frozenset({"C3", "C9", "C11", "C12", "C14", "C15", "C17"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim and the acceptance it is held against.

    Attributes:
        id: `C1` to `C19`.
        statement: what is claimed.
        paper: the published value as text.
        source: tag of where it was read, see `published.Source`.
        acceptance: what counts as holding, as text.
        quantity: what the value of a verdict is, with its unit.
        stated_for: datasets it was made on.
        numeric: true if its value belongs to the datasets it was stated for and is not compared
            with the other one; false if it can be looked at, for orientation, on any.
        check: the verdict on a run.
        attack: the attack without which a run has no answer, where that is one measured by a norm:
            a run that was not asked for it does not show the claim.
        protection: true if it reads a low success rate of an attack as protection. Where it holds
            on a network that lost much accuracy, the answer is `at a loss`.
        compares: the attack by whose success on the undistilled network it is judged: if that is
            too rare there, the claim cannot be told. Empty for none.
    """

    id: str
    statement: str
    paper: str
    source: str
    acceptance: str
    quantity: str
    stated_for: frozenset[str]
    numeric: bool
    check: Check
    attack: str = ""
    protection: bool = False
    compares: str = ""


CLAIMS = (
    Claim(
        id="C1",
        statement="Test accuracy, undistilled",
        paper="99.51 %",
        source="S1",
        acceptance="at least 99.2 %",
        quantity="accuracy, %",
        stated_for=_MNIST,
        numeric=True,
        check=success.baseline_accuracy(99.2, 100.0),
    ),
    Claim(
        id="C2",
        statement="Test accuracy, undistilled",
        paper="80.95 %",
        source="S1",
        acceptance="80.95 +- 2.5 %",
        quantity="accuracy, %",
        stated_for=_CIFAR10,
        numeric=True,
        check=success.baseline_accuracy(78.45, 83.45),
    ),
    Claim(
        id="C3",
        statement="Distillation changes accuracy little at every T",
        paper="less than 1.37 points",
        source="S1",
        acceptance="less than 1.37 points at every T (0.5 expected on MNIST)",
        quantity="largest change either way, points",
        stated_for=_BOTH,
        numeric=False,
        check=success.accuracy_change,
    ),
    Claim(
        id="C4",
        statement=f"Adversarial success rate ({PAPER}), undistilled",
        paper="95.89 %",
        source="S1, S2",
        acceptance="90 to 100 %",
        quantity="success rate, %",
        stated_for=_MNIST,
        numeric=True,
        check=success.baseline_success(90.0, 100.0),
    ),
    Claim(
        id="C5",
        statement=f"Adversarial success rate ({PAPER}), undistilled",
        paper="87.89 %",
        source="S1, S2",
        acceptance="80 to 96 %, theta stated",
        quantity="success rate, %",
        stated_for=_CIFAR10,
        numeric=True,
        check=success.baseline_success(80.0, 96.0),
    ),
    Claim(
        id="C6",
        statement=f"Adversarial success rate ({PAPER}) at T = 100",
        paper="0.45 %",
        source="S1, S2",
        acceptance="at most 3 %",
        quantity="success rate, %",
        stated_for=_MNIST,
        numeric=True,
        check=success.masked_success(3.0),
        protection=True,
        compares=PAPER,
    ),
    Claim(
        id="C7",
        statement=f"Adversarial success rate ({PAPER}) at T = 100",
        paper="5.11 %",
        source="S1, S2",
        acceptance="at most 12 %",
        quantity="success rate, %",
        stated_for=_CIFAR10,
        numeric=True,
        check=success.masked_success(12.0),
        protection=True,
        compares=PAPER,
    ),
    Claim(
        id="C8",
        statement=f"Success ({PAPER}) falls steeply between T = 2 and T = 20",
        paper="82.23 -> 1.34 % (MNIST), 87.67 -> 18.23 % (CIFAR10)",
        source="S2",
        acceptance="at T = 20 at most 1/4 of T = 2, and Spearman(T, rate) <= -0.8",
        quantity="rate at T = 20 over rate at T = 2",
        stated_for=_BOTH,
        numeric=False,
        check=success.shape,
        protection=True,
        compares=PAPER,
    ),
    Claim(
        id="C9",
        statement=f"Distillation at T = 1 is close to none ({PAPER})",
        paper="91 against 95.89 % (MNIST), 92.78 against 87.89 % (CIFAR10)",
        source="S2",
        acceptance="within 8 points",
        quantity="T = 1 minus undistilled, points",
        stated_for=_BOTH,
        numeric=False,
        check=success.no_op_at_one,
        compares=PAPER,
    ),
    Claim(
        id="C10",
        statement="Adversarial gradients shrink",
        paper="by factors of up to 1e30",
        source="S1",
        acceptance="median falls by 20 decades or more from T = 1 to T = 100 (log domain)",
        quantity="fall of the median, decades",
        stated_for=_BOTH,
        numeric=False,
        check=masking.amplitude,
    ),
    Claim(
        id="C11",
        statement=f"Robustness gain at the best T ({PAPER})",
        paper="+790 %",
        source="S1",
        acceptance="550 to 850 %",
        quantity="gain, %",
        stated_for=_MNIST,
        numeric=True,
        check=masking.robustness_gain(550.0, 850.0),
        protection=True,
        compares=PAPER,
    ),
    Claim(
        id="C12",
        statement=f"Robustness gain at the best T ({PAPER})",
        paper="+556 %",
        source="S1",
        acceptance="300 to 830 %",
        quantity="gain, %",
        stated_for=_CIFAR10,
        numeric=True,
        check=masking.robustness_gain(300.0, 830.0),
        protection=True,
        compares=PAPER,
    ),
    Claim(
        id="C13",
        statement="Confidence rises with T",
        paper="71.85 -> 80.77 % (CIFAR10; the values are unverified)",
        source="M, N",
        acceptance="never falls from one T to the next",
        quantity="rise from the lowest to the highest T, points",
        stated_for=_CIFAR10,
        numeric=False,
        check=masking.confidence_rises,
    ),
    Claim(
        id="C14",
        statement="Logits grow (Carlini and Wagner 2016)",
        paper="mean abs(z) 5.8 -> 482 at T = 100, x 83 (MNIST)",
        source="N",
        acceptance="x 30 to x 150 at T = 100",
        quantity="mean abs(z) over that of undistilled",
        stated_for=_MNIST,
        numeric=False,
        check=masking.logit_scale,
    ),
    Claim(
        id="C15",
        statement="Dividing the logits by T restores the attack (Carlini and Wagner 2016)",
        paper="96.4 % (MNIST)",
        source="N",
        acceptance=f"at the highest T at most 10 points below undistilled ({TEMPERATURE})",
        quantity="logits / T minus undistilled, points",
        stated_for=_MNIST,
        numeric=False,
        check=masking.logits_over_temperature,
        compares=PAPER,
    ),
    Claim(
        id="C16",
        statement="The protection is numerical: without underflow the attack works again",
        paper="not in the paper, a prediction",
        source="D",
        acceptance=f"{EXACT} at least 30 points above {PAPER} at the highest T",
        quantity="exact minus float32, points",
        stated_for=_BOTH,
        numeric=False,
        check=masking.masking_is_numerical,
        protection=True,
        compares=PAPER,
    ),
    Claim(
        id="C17",
        statement="C&W L2 reaches the distilled network too, at about the same distance "
        "(Carlini and Wagner 2017)",
        paper="100 %; best-case mean L2 1.36 -> 1.7 (MNIST), 0.17 -> 0.36 (CIFAR10)",
        source="N",
        acceptance="at the highest T at least 99 %, and 0.8 to 2.5 times the mean L2 of the "
        f"undistilled network ({DECISIVE}, one random target per image)",
        quantity="mean L2 over that of undistilled",
        stated_for=_BOTH,
        numeric=False,
        check=adaptive.carlini_wagner,
        attack=DECISIVE,
    ),
    Claim(
        id="C18",
        statement="The distance of C&W L2 does not grow with T (Carlini and Wagner 2017)",
        paper="rho = -0.05 over 9 temperatures (MNIST)",
        source="N",
        acceptance="abs(Pearson's rho of T with the mean L2) < 0.5, over 4 temperatures or more at "
        f"which {DECISIVE} reaches 99 % of the images",
        quantity="rho",
        stated_for=_MNIST,
        numeric=False,
        check=adaptive.distance_by_temperature,
        attack=DECISIVE,
    ),
    Claim(
        id="C19",
        statement="Samples made on an undistilled network transfer to the distilled one "
        "(Carlini and Wagner 2017)",
        paper="about 100 % at kappa = 40 (MNIST)",
        source="N",
        acceptance=f"at least 90 % misclassified at kappa = 40, at the highest T ({TRANSFER})",
        quantity="misclassified, %",
        stated_for=_MNIST,
        numeric=False,
        check=adaptive.transfer,
        attack=TRANSFER,
    ),
)

ORIENTATION = markdown.Markdown(
    "*Orientation*: the claim was made on other data than this run's, so the answer neither "
    "confirms nor refutes it."
)
"""What the word means beside a verdict."""

WORDS: dict[str, str] = {
    "yes": "holds",
    "at a loss": "holds at a loss of accuracy",
    "no": "does not hold",
    "cannot be told": "cannot be told",
}
"""How the answers are called where no heading asks the question."""

KINDS: dict[str, str] = {
    "yes": "good",
    "at a loss": "costly",
    "no": "bad",
    "cannot be told": "unknown",
    "differs": "unknown",
}
"""What gives the answers their colour; seeds may differ."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A claim and what a run says about it.

    Attributes:
        claim: the claim.
        verdict: the run's answer.
        orientation: true if the claim was made on other data, so the answer is no reproduction.
    """

    claim: Claim
    verdict: Verdict
    orientation: bool


def applies(claim: Claim, results: records.Results) -> bool:
    """Whether a claim is shown for a run.

    A dataset that the paper did not use is held against the MNIST claims, for orientation.
    """
    if claim.attack and claim.attack not in results.config.attacks:
        return False
    return not claim.numeric or published.reference(results.dataset.name) in claim.stated_for


def answers(results: records.Results) -> list[Answer]:
    """Every claim that applies to the run, with the verdict.

    Args:
        results: of the run.

    Returns:
        One answer per claim, in the order of the claims.
    """
    dataset = results.dataset.name
    return [
        Answer(claim, _verdict(claim, results), dataset not in claim.stated_for)
        for claim in CLAIMS
        if applies(claim, results)
    ]


def _verdict(claim: Claim, results: records.Results) -> Verdict:
    settings = results.config
    problem = _another_attack(settings) if claim.id in _ATTACKED else ""
    problem = problem or _too_rare(results, claim.compares)
    verdict = unless(problem, _with_loss(claim, claim.check(results)))
    if claim.id in _AGAINST_BASELINE and settings.warm_start_steps:
        note = joined(verdict.note, "the baseline took no warm start, so fewer steps")
        verdict = dataclasses.replace(verdict, note=note)
    return verdict


def _too_rare(results: records.Results, attack: str) -> str:
    """That an attack hardly works without the defence, so that it tells nothing, as a note."""
    rate = lookup.success_percent(results.baseline(), attack)
    if rate is None or rate >= 100 * evidence.TELLING_LIMIT:
        return ""
    return (
        f"{attack} reaches only {lookup.percent(rate)} undistilled, fewer than "
        f"{100 * evidence.TELLING_LIMIT:g} %: too few to tell"
    )


def _with_loss(claim: Claim, verdict: Verdict) -> Verdict:
    """The verdict with the loss of accuracy first, where it is more than the paper allows."""
    lost = verdict.lost
    if verdict.holds == "cannot be told" or lost is None:
        return verdict
    if 100 * lost <= published.ACCURACY_CHANGE.value:
        return verdict
    bought = claim.protection and verdict.holds == "yes" and evidence.costly(lost)
    return dataclasses.replace(
        verdict,
        holds="at a loss" if bought else verdict.holds,
        note=joined(f"at {evidence.loss_in_words(lost)}", verdict.note),
    )


def answer_in_words(verdict: Verdict) -> str:
    """An answer with the loss of accuracy, as `holds, at a loss of 12.4 points of accuracy`."""
    if verdict.holds != "at a loss":
        return WORDS[verdict.holds]
    return f"{WORDS['yes']}, at {evidence.loss_in_words(verdict.lost)}"


def _another_attack(settings: config_lib.Config) -> str:
    """How the attack differs from the paper's budget and the frozen theta, as a note."""
    theta = config_lib.frozen_theta(settings.dataset)
    differences = []
    if settings.max_features != published.MAX_FEATURES.value:
        differences.append(
            f"at most {settings.max_features} features instead of {published.MAX_FEATURES.value:g}"
        )
    if settings.theta != theta:
        differences.append(f"theta = {settings.theta:g} instead of the frozen {theta:g}")
    return f"another attack: {', '.join(differences)}" if differences else ""
