"""Comparisons of networks whose records were made by hand, with no attempt that started there."""

from ddefense import records


def comparisons_of(networks):
    """What a run would have recorded: each against the undistilled one, distilled ones too."""
    undistilled = [n for n in networks if n.defense == "none"][:1]
    distilled = [n for n in networks if n.defense == "distillation"]
    pairs = [(n, u) for u in undistilled for n in networks if n is not u]
    pairs += [(n, m) for n in distilled for m in distilled if m.temperature < n.temperature]
    return [
        compared
        for network, reference in pairs
        for attack in network.attacks
        if (compared := comparison(attack, network, reference)) is not None
    ]


def comparison(attack, network, reference):
    """One attack on two networks; None unless both have targets, or neither."""
    ours, theirs = (n.attacks.get(attack) for n in (network, reference))
    if ours is None or theirs is None:
        return None
    untargeted = [getattr(record, "targets", "all") == "untargeted" for record in (ours, theirs)]
    if untargeted[0] != untargeted[1]:
        return None
    cases = [getattr(record, "average", None) or record for record in (ours, theirs)]
    rates = (ours, theirs) if ours.attempts == theirs.attempts else cases
    robustness = [n.robustness.get(attack) for n in (network, reference)]
    return records.ComparisonRecord(
        attack=attack,
        network=network.name,
        reference=reference.name,
        targets="untargeted" if untargeted[0] else "targeted",
        samples=min(ours.samples, theirs.samples),
        attempts=min(ours.attempts, theirs.attempts),
        success_rate=rates[0].success_rate,
        reference_success_rate=rates[1].success_rate,
        mean_distance=getattr(cases[0], "mean_distance", None),
        reference_mean_distance=getattr(cases[1], "mean_distance", None),
        robustness=robustness[0] and robustness[0].capped,
        reference_robustness=robustness[1] and robustness[1].capped,
    )
