"""Checks for masked gradients, in the spirit of AutoAttack's flags and of Athalye et al. (2018).

Each is a function (numbers of one network) -> record. A check that fails says that attacks by
gradient tell nothing about the network, not that the network is robust.
"""

from ddefense.attack_catalog import ITERATIVE, ONE_STEP, PAPER
from ddefense.records import ControlRecord, GradientsRecord

ZERO_GRADIENTS_LIMIT = 0.01
"""Most test images whose whole float32 Jacobian may be 0, as a share."""
SCALED_LOGITS_MARGIN = 0.10
"""By how much the success rate may fall when logits are multiplied, as a share."""
UNBOUNDED_LIMIT = 1.0
"""Share of images that an attack without a bound must reach: it may paint another image."""
RESTARTS_LIMIT = 0.05
"""Most success that further random starts may add, as a share."""

# Differences of rates, such as 0.9 - 0.1, are exact up to here.
_ROUNDING = 1e-9


def zero_gradients(network: str, gradients: GradientsRecord) -> ControlRecord:
    """Few test images may have a Jacobian that float32 sees as 0 everywhere.

    Args:
        network: its name.
        gradients: its measured gradient amplitude; the deployed one (T = 1) is looked at.
    """
    deployed = gradients.deployed
    return zero_share(network, deployed.float32_zero_samples, deployed.samples)


def zero_share(network: str, share: float, samples: int) -> ControlRecord:
    """The same for a network whose amplitude was not measured.

    Args:
        network: its name.
        share: of the test images with a Jacobian of nothing but zeros; see `zero_jacobians`.
        samples: test images measured.

    Raises:
        ValueError: if the share is none.
    """
    _expect_shares(share=share)
    return ControlRecord(
        name="zero_gradients",
        network=network,
        passed=share <= ZERO_GRADIENTS_LIMIT + _ROUNDING,
        value=share,
        limit=ZERO_GRADIENTS_LIMIT,
        samples=samples,
        explanation=f"{percent(share)} of {counted(samples, 'test image')} have an "
        f"all-zero float32 gradient; at most {percent(ZERO_GRADIENTS_LIMIT)} may.",
    )


def scaled_logits(
    network: str, temperature: float, undistilled_rate: float, scaled_rate: float, samples: int
) -> ControlRecord:
    """Multiplying the undistilled network's logits by T must not look like a defence.

    It changes no prediction and moves no boundary; what it takes from an attack is numerical.

    Args:
        network: name of the distilled network whose temperature is tried.
        temperature: T, the factor.
        undistilled_rate: success rate of `jsma_f` on the undistilled network, a share.
        scaled_rate: the same after its logits were multiplied by T.
        samples: images attacked.

    Raises:
        ValueError: if a rate is no share.
    """
    _expect_shares(undistilled_rate=undistilled_rate, scaled_rate=scaled_rate)
    limit = max(0.0, undistilled_rate - SCALED_LOGITS_MARGIN)
    return ControlRecord(
        name="scaled_logits",
        network=network,
        passed=scaled_rate >= limit - _ROUNDING,
        value=scaled_rate,
        limit=limit,
        samples=samples,
        explanation=f"With the undistilled network's logits multiplied by {temperature:g}, {PAPER} "
        f"succeeds in {percent(scaled_rate)} of its attempts on {counted(samples, 'image')} "
        f"against {percent(undistilled_rate)} without; at least {percent(limit)} is expected.",
    )


def iterative_beats_one_step(
    network: str, fgsm_rate: float, pgd_rate: float, samples: int
) -> ControlRecord:
    """An iterative attack must reach at least what one step reaches.

    Args:
        network: its name.
        fgsm_rate: success rate of `fgsm`, a share.
        pgd_rate: success rate of `pgd_linf` with the same epsilon and loss, a share.
        samples: images attacked.

    Raises:
        ValueError: if a rate is no share.
    """
    _expect_shares(fgsm_rate=fgsm_rate, pgd_rate=pgd_rate)
    return ControlRecord(
        name="iterative_beats_one_step",
        network=network,
        passed=pgd_rate >= fgsm_rate - _ROUNDING,
        value=pgd_rate,
        limit=fgsm_rate,
        samples=samples,
        explanation=f"{ITERATIVE} reaches {percent(pgd_rate)} of {counted(samples, 'image')}; at "
        f"least the {percent(fgsm_rate)} of {ONE_STEP}, one step to epsilon, is expected.",
    )


def unbounded_reaches_all(network: str, rate: float, samples: int) -> ControlRecord:
    """An attack that may change every feature to any value must reach every image.

    Args:
        network: its name.
        rate: success rate of PGD through the softmax with epsilon the whole range, a share.
        samples: images attacked.

    Raises:
        ValueError: if the rate is no share.
    """
    _expect_shares(rate=rate)
    return ControlRecord(
        name="unbounded_reaches_all",
        network=network,
        passed=rate >= UNBOUNDED_LIMIT - _ROUNDING,
        value=rate,
        limit=UNBOUNDED_LIMIT,
        samples=samples,
        explanation=f"{ITERATIVE} without a bound reaches {percent(rate)} of "
        f"{counted(samples, 'image')}; {percent(UNBOUNDED_LIMIT)} is expected.",
    )


def random_restarts(
    network: str, one_rate: float, many_rate: float, restarts: int, samples: int
) -> ControlRecord:
    """More random starts must not matter, or the number from one understates the attack.

    Args:
        network: its name.
        one_rate: success rate of `pgd_linf` from one random start, a share.
        many_rate: the same from `restarts` random starts.
        restarts: how many.
        samples: images attacked.

    Raises:
        ValueError: if a rate is no share.
    """
    _expect_shares(one_rate=one_rate, many_rate=many_rate)
    value = many_rate - one_rate
    return ControlRecord(
        name="random_restarts",
        network=network,
        passed=value <= RESTARTS_LIMIT + _ROUNDING,
        value=value,
        limit=RESTARTS_LIMIT,
        samples=samples,
        explanation=f"{ITERATIVE} reaches {percent(many_rate)} of {counted(samples, 'image')} from "
        f"{counted(restarts, 'random start')} and {percent(one_rate)} from one; at most "
        f"{percent(RESTARTS_LIMIT)} more is expected.",
    )


def percent(share: float) -> str:
    """A share as `98.9 %`; only what is all or nothing is called 100.0 or 0.0."""
    text = f"{100 * share:.1f}"
    if text in ("0.0", "-0.0", "100.0") and share not in (0, 1):
        text = f"{100 * share:.6g}"
    return f"{text} %"


def counted(number: int, noun: str) -> str:
    """A number of things, as `1 image` or `10,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _expect_shares(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate <= 1:  # false for NaN too
            raise ValueError(f"{name}: expected a share in [0, 1], received {rate!r}.")
