"""Every attack that a run can measure, one entry each; standard library only.

To add an attack, write its module and add its entry to `_SPECS`. Everything else that has to know
of attacks (flags, presets, plans, tables, figures, reports, model cards, the verdict) reads this.
"""

import dataclasses
from typing import Literal

Norm = Literal["l0", "l2", "linf"]
Targets = Literal["untargeted", "random", "all"]
Needs = Literal["logits", "probabilities", "labels"]
Gradient = Literal["softmax", "logits / T", "logits"]
Role = Literal["paper", "one_step", "iterative", "decisive", "adaptive", "supporting", "transfer"]
Figure = Literal["adaptive", "robustness"]
Default = Literal["every run", "other theta", "outlier class", "never"]

_JSMA = "ddefense.attacks.jsma:jsma"
_FGSM = "ddefense.attacks.fgsm:fgsm"
_PGD = "ddefense.attacks.pgd_linf:pgd_linf"
_TARGETED = (
    "As the attack of the same name, towards every wrong class. A success is the target class "
    "alone."
)
OTHER_STYLE = ("#7A5C2E", "X", "-")
"""Of attacks without one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """The facts about one attack.

    Attributes:
        name: in flags and results.
        label: in tables and figures.
        brief: a phrase, for model cards.
        text: one or two sentences, for reports.
        code: module and function, `module:function`; not imported before the attack runs.
        norm: in which its perturbations are measured.
        bound: the setting that bounds its perturbations; None if it has no bound.
        targets: every wrong class is a success (`untargeted`), or only the target: one `random`
            wrong class, or `all` of them in turn.
        needs: the least output of the network with which it works.
        gradient: of which output it takes gradients; None if it takes none. `softmax` is the
            softmax output at T = 1, whose float32 gradients distillation masks; with `logits / T`
            it needs the temperature that the network was trained at.
        role: in the verdict; None if it has none. Where gradients are masked, the success of
            `paper` falls, and `iterative` reaches less than `one_step`. A `decisive` or `adaptive`
            attack that reaches the network refutes the defence, and without the `decisive` one
            nothing confirms it; `supporting` ones and the `transfer` of a substitute network's
            samples are named beside them. Of the other roles but `adaptive` there is one attack
            each.
        default: the runs for which presets choose it: `every run`, those of datasets whose theta is
            not 1 (`other theta`), those of networks with an `outlier class`, or none (`never`).
        slow: whether it takes longer than all other attacks together; presets for quick runs leave
            it out.
        samples: the setting that says how many of the samples it attacks.
        settings: the other settings that it takes. Attacks with `pgd_restarts` have controls.
        steps: settings whose product is the most steps of one attempt; none for a single step.
        backward_passes: of one step, if it takes gradients.
        attacker: what an attacker who uses it does, after "an attacker who"; a `decisive` or
            `adaptive` attack must have it.
        missed_as: how reports name it where it was not run; empty if it is not missed.
        unmasked: how it repeats the paper's attack without masked gradients, before "it reaches";
            empty if it does not.
        figures: in which it is drawn, of those that show a choice of the attacks.
        style: colour, marker and line style in figures.
    """

    name: str
    label: str
    brief: str
    text: str
    code: str
    norm: Norm
    bound: str | None = None
    targets: Targets
    needs: Needs = "logits"
    gradient: Gradient | None
    role: Role | None = None
    default: Default = "every run"
    slow: bool = False
    samples: Literal["samples", "cw_samples", "costly_samples"] = "samples"
    settings: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    backward_passes: int = 1
    attacker: str = ""
    missed_as: str = ""
    unmasked: str = ""
    figures: tuple[Figure, ...] = ()
    style: tuple[str, str, str] = OTHER_STYLE

    @property
    def minimises(self) -> bool:
        """Whether it looks for the smallest perturbation, so that its distance tells something."""
        return self.bound is None and self.role != "transfer"

    def takes(self, setting: str) -> bool:
        """Whether the attack, or its control, depends on a setting."""
        return setting in (self.samples, self.bound, *self.settings)


# Colours are Okabe and Ito's palette, distinct in common colour blindness; blue and pink see
# float32 gradients at T = 1, the others get round the masking.
_SPECS = (
    AttackSpec(
        name="jsma_f",
        label="JSMA-F",
        brief="JSMA, the paper's attack: few features, by gradients of the softmax at T = 1",
        text="The forward derivative of the softmax output F_t of the target class at T = 1, in "
        "float32; the two largest entries are changed if their sum is above 0. No product is "
        "formed, so it underflows only where the derivative itself does.",
        code=_JSMA,
        norm="l0",
        bound="max_features",
        targets="all",
        needs="probabilities",
        gradient="softmax",
        role="paper",
        settings=("theta",),
        steps=("max_features",),
        figures=("adaptive", "robustness"),
        style=("#0072B2", "o", "-"),
    ),
    AttackSpec(
        name="jsma_f_theta_1",
        label="JSMA-F, theta = 1",
        brief="JSMA by gradients of the softmax at T = 1, changing features by 1",
        text="As jsma_f, with theta = 1 where another theta was frozen for the dataset: a feature "
        "goes to its bound in one step. The unit of the paper's theta is unknown where the input "
        "is standardised, so both are shown.",
        code=_JSMA,
        norm="l0",
        bound="max_features",
        targets="all",
        needs="probabilities",
        gradient="softmax",
        default="other theta",
        steps=("max_features",),
        figures=("robustness",),
        style=("#CC79A7", "P", "-"),
    ),
    AttackSpec(
        name="jsma_f_literal",
        label="JSMA-F, literal product",
        brief="JSMA by the float32 Jacobian of the softmax at T = 1",
        text="The equations taken literally: alpha and beta are summed from the float32 Jacobian "
        "of F, and the pair with the largest -alpha * beta is searched exactly. The product "
        "underflows long before the derivative does, so this reading fails first.",
        code=_JSMA,
        norm="l0",
        bound="max_features",
        targets="all",
        gradient="softmax",
        settings=("theta",),
        steps=("max_features",),
        backward_passes=2,
        style=("#56B4E9", "s", "-"),
    ),
    AttackSpec(
        name="jsma_f_exact",
        label="JSMA-F, exact (log domain)",
        brief="JSMA by gradients of the softmax in the log domain, where none underflows",
        text="The same quantity computed in the log domain, where nothing underflows. Its distance "
        "to the other two is what the defence owes to floating-point arithmetic.",
        code=_JSMA,
        norm="l0",
        bound="max_features",
        targets="all",
        gradient="logits",
        role="adaptive",
        settings=("theta",),
        steps=("max_features",),
        attacker="computes the paper's attack in the log domain",
        unmasked="computed in the log domain, where nothing underflows,",
        figures=("adaptive", "robustness"),
        style=("#D55E00", "^", "-"),
    ),
    AttackSpec(
        name="jsma_f_temperature",
        label="JSMA-F, logits / T",
        brief="JSMA by gradients of the softmax of logits / T",
        text="F with the logits divided by the training temperature, after Carlini and Wagner "
        "(2016), whose attack also changes single pixels in either direction. It undoes the "
        "scaling that distillation left in the logits.",
        code=_JSMA,
        norm="l0",
        bound="max_features",
        targets="all",
        gradient="logits / T",
        role="adaptive",
        settings=("theta",),
        steps=("max_features",),
        attacker="divides the logits by T",
        unmasked="with the logits divided by T",
        figures=("adaptive",),
        style=("#E69F00", "D", "-"),
    ),
    AttackSpec(
        name="jsma_z",
        label="JSMA-Z",
        brief="JSMA by gradients of the logits",
        text="Feature pairs are chosen on the logits instead of the softmax output. It needs no "
        "softmax, but weighs all other classes alike, so large logits of irrelevant classes can "
        "veto a pair.",
        code=_JSMA,
        norm="l0",
        bound="max_features",
        targets="all",
        gradient="logits",
        settings=("theta",),
        steps=("max_features",),
        backward_passes=2,
        unmasked="on the logits",
        style=("#009E73", "v", "-"),
    ),
    AttackSpec(
        name="fgsm",
        label="FGSM",
        brief="one step by the sign of the gradient of the loss at T = 1",
        text="One step of size epsilon by the sign of the gradient of the loss through the softmax "
        "at T = 1 (Goodfellow et al. 2015), away from the label. Where float32 saturates that "
        "gradient is exactly 0 and the image does not move.",
        code=_FGSM,
        norm="linf",
        bound="epsilon",
        targets="untargeted",
        needs="probabilities",
        gradient="softmax",
        role="one_step",
        settings=("pgd_restarts",),
        figures=("adaptive",),
        style=("#7F7F7F", "s", "--"),
    ),
    AttackSpec(
        name="fgsm_temperature",
        label="FGSM, logits / T",
        brief="one step by the sign of the gradient of the loss of logits / T",
        text="As fgsm, with the loss of the logits divided by the training temperature. That "
        "undoes the scaling that distillation left in the logits.",
        code=_FGSM,
        norm="linf",
        bound="epsilon",
        targets="untargeted",
        gradient="logits / T",
        settings=("pgd_restarts",),
    ),
    AttackSpec(
        name="fgsm_targeted",
        label="FGSM, targeted",
        brief="as `fgsm`, towards a class",
        text=_TARGETED,
        code=_FGSM,
        norm="linf",
        bound="epsilon",
        targets="all",
        needs="probabilities",
        gradient="softmax",
        default="never",
        settings=("pgd_restarts",),
    ),
    AttackSpec(
        name="fgsm_temperature_targeted",
        label="FGSM, logits / T, targeted",
        brief="as `fgsm_temperature`, towards a class",
        text=_TARGETED,
        code=_FGSM,
        norm="linf",
        bound="epsilon",
        targets="all",
        gradient="logits / T",
        default="never",
        settings=("pgd_restarts",),
    ),
    AttackSpec(
        name="pgd_linf",
        label="PGD",
        brief="PGD: many steps by the gradient of the loss at T = 1, within epsilon",
        text="As fgsm, in many small steps from a random start within epsilon (Madry et al. 2018). "
        "It sees the same gradients, and is blinded in the same way.",
        code=_PGD,
        norm="linf",
        bound="epsilon",
        targets="untargeted",
        needs="probabilities",
        gradient="softmax",
        settings=("pgd_steps", "pgd_restarts"),
        steps=("pgd_steps",),
        role="iterative",
        figures=("adaptive",),
        style=("#4B5F7A", "v", "--"),
    ),
    AttackSpec(
        name="pgd_linf_temperature",
        label="PGD, logits / T",
        brief="PGD by the gradient of the loss of logits / T",
        text="As pgd_linf, with the loss of the logits divided by the training temperature. That "
        "undoes the scaling that distillation left in the logits.",
        code=_PGD,
        norm="linf",
        bound="epsilon",
        targets="untargeted",
        gradient="logits / T",
        role="adaptive",
        settings=("pgd_steps", "pgd_restarts"),
        steps=("pgd_steps",),
        attacker="takes the gradient of the loss of logits / T",
        missed_as="PGD on the logits / T",
        figures=("adaptive",),
        style=("#C9B000", "P", "-"),
    ),
    AttackSpec(
        name="pgd_linf_targeted",
        label="PGD, targeted",
        brief="as `pgd_linf`, towards a class",
        text=_TARGETED,
        code=_PGD,
        norm="linf",
        bound="epsilon",
        targets="all",
        needs="probabilities",
        gradient="softmax",
        # The untargeted attack may end in the outlier class, where its image is refused.
        default="outlier class",
        settings=("pgd_steps", "pgd_restarts"),
        steps=("pgd_steps",),
    ),
    AttackSpec(
        name="pgd_linf_temperature_targeted",
        label="PGD, logits / T, targeted",
        brief="as `pgd_linf_temperature`, towards a class",
        text=_TARGETED,
        code=_PGD,
        norm="linf",
        bound="epsilon",
        targets="all",
        gradient="logits / T",
        default="never",
        settings=("pgd_steps", "pgd_restarts"),
        steps=("pgd_steps",),
    ),
    AttackSpec(
        name="cw_l2",
        label="C&W L2",
        brief="Carlini and Wagner: smallest L2 distance, by gradients of the logits",
        text="Optimisation for the smallest L2 distance at which the target's logit exceeds all "
        "others (Carlini and Wagner 2017). No softmax is in it, so nothing can saturate.",
        code="ddefense.attacks.cw_l2:cw_l2",
        norm="l2",
        targets="random",
        gradient="logits",
        role="decisive",
        samples="cw_samples",
        settings=(
            "cw_all_targets_at",
            "cw_steps",
            "cw_search_steps",
            "cw_learning_rate",
            "cw_initial_c",
        ),
        steps=("cw_search_steps", "cw_steps"),
        attacker="uses the logits",
        missed_as="Carlini and Wagner's L2 attack",
        figures=("adaptive",),
        style=("#8B1A1A", "o", "-"),
    ),
    AttackSpec(
        name="cw_l0",
        label="C&W L0",
        brief="Carlini and Wagner: fewest features, by gradients of the logits",
        text="The same for the number of changed features. Those that matter least are put back, a "
        "few at a time, until the attack fails.",
        code="ddefense.attacks.cw_l0:cw_l0",
        norm="l0",
        targets="random",
        gradient="logits",
        role="supporting",
        slow=True,
        samples="costly_samples",
        settings=("cw_steps", "cw_learning_rate", "cw_initial_c"),
        # How often it starts over depends on the network: it was found to take as long as C&W L2.
        steps=("cw_search_steps", "cw_steps"),
    ),
    AttackSpec(
        name="cw_linf",
        label="C&W Linf",
        brief="Carlini and Wagner: smallest change of any feature, by gradients of the logits",
        text="The same for the largest change of a feature. What is allowed shrinks until the "
        "attack fails.",
        code="ddefense.attacks.cw_linf:cw_linf",
        norm="linf",
        targets="random",
        gradient="logits",
        role="supporting",
        slow=True,
        samples="costly_samples",
        settings=("cw_steps",),
        # As above.
        steps=("cw_search_steps", "cw_steps"),
    ),
    AttackSpec(
        name="transfer_cw_l2",
        label="transfer of C&W L2",
        brief="Carlini and Wagner's L2 on an undistilled substitute; sees nothing of this network",
        text="Samples that cw_l2 made, with confidence kappa, on an undistilled substitute of "
        "another seed. The attacked network is shown them and nothing else, so it has no gradient "
        "to mask.",
        code="ddefense.attacks.cw_l2:cw_l2",
        norm="l2",
        targets="random",
        needs="labels",
        gradient=None,
        role="transfer",
        samples="cw_samples",
        settings=("cw_steps", "cw_search_steps", "cw_learning_rate", "cw_initial_c", "kappas"),
        steps=("kappas",),
        missed_as="transfer between networks",
        figures=("adaptive",),
        style=("#CC6699", "X", "-"),
    ),
    AttackSpec(
        name="labels_only",
        label="labels only",
        brief="HopSkipJump: sees predicted classes alone",
        text="A search along the decision boundary that is shown predicted classes alone "
        "(HopSkipJump, Chen et al. 2020). It uses no gradient, so none can be masked.",
        code="ddefense.attacks.labels_only:labels_only",
        norm="l2",
        targets="untargeted",
        needs="labels",
        gradient=None,
        role="supporting",
        samples="costly_samples",
        settings=("labels_only_queries",),
        steps=("labels_only_queries",),
        missed_as="an attack that sees labels alone",
        figures=("adaptive",),
        style=("#7A4B14", "*", "-"),
    ),
)
ATTACKS = {spec.name: spec for spec in _SPECS}
"""The specifications by name, in the order in which attacks are listed everywhere."""


def by_role(*roles: Role) -> tuple[str, ...]:
    """Names of the attacks that have one of the roles: those of the first role come first."""
    return tuple(name for role in roles for name, spec in ATTACKS.items() if spec.role == role)


def taking(setting: str) -> tuple[str, ...]:
    """Names of the attacks that depend on a setting."""
    return tuple(name for name, spec in ATTACKS.items() if spec.takes(setting))


PAPER = by_role("paper")[0]
ONE_STEP = by_role("one_step")[0]
ITERATIVE = by_role("iterative")[0]
DECISIVE = by_role("decisive")[0]
TRANSFER = by_role("transfer")[0]
EXACT, TEMPERATURE = "jsma_f_exact", "jsma_f_temperature"
"""The paper's attack without underflow, and on logits / T, about which there are claims."""
JSMA_ATTACKS = taking("max_features")
"""The readings of JSMA; `ddefense.attacks.forward_derivative` says what each one is."""
SIGN_ATTACKS = taking("pgd_restarts")
"""Attacks by the sign of a gradient within epsilon, which have controls."""
PROBABILITY_ATTACKS = tuple(name for name, spec in ATTACKS.items() if spec.needs != "logits")
"""Attacks that can do with probabilities; the others take logits."""
GRADIENT_FREE_ATTACKS = tuple(name for name, spec in ATTACKS.items() if spec.gradient is None)
"""Attacks that take no gradient of the network."""
