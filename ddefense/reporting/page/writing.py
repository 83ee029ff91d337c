"""One file of HTML that needs nothing beside it, not even a network."""

import dataclasses
from typing import Any

from ddefense import evidence, records
from ddefense.reporting import (
    claims,
    description,
    evaluation,
    figures,
    lookup,
    outcomes,
    passages,
    report,
    tables,
)
from ddefense.reporting.page import content, gallery, templating

_PLOTS = {
    "success": ("Adversarial success rate", ("adaptive", "success_rate", "attack_rates")),
    "accuracy": ("Test accuracy", ("accuracy",)),
    "amplitude": ("Amplitude of adversarial gradients", ("gradients",)),
    "robustness": ("Robustness under JSMA", ("robustness",)),
    "confidence": ("Confidence", ("confidence",)),
}
"""By name in the page's script: heading, and figures that say the same on paper."""


def write(results: records.Results, samples: records.Samples) -> str:
    """The page of a run, or of an evaluation.

    Args:
        results: of the run.
        samples: of the run.

    Returns:
        HTML with its style, script and data inside; links lead to the figures beside it.
    """
    plots = content.plots(results)
    shown = gallery.of_samples(
        samples, [network["name"] for network in plots["networks"]], results.dataset.value_range
    )
    made = tables.of_run(results)
    return templating.rendered(
        "report.html.jinja",
        title=_title(results),
        subtitle=_subtitle(results),
        results=results,
        warning=templating.html(passages.warning(results))
        if results.distilled() or not results.is_evaluation
        else "",
        doubts=results.environment.get("warnings", []),
        answers=_answers(results),
        tiles=content.tiles(results),
        bounds=passages.lower_bounds(results),
        claims=[] if results.is_evaluation else _claims(results),
        claim_notes=[note for table in made if table.name == "claims" for note in table.notes],
        lost="" if lookup.all_usable(results) else templating.html(passages.learnt(results)),
        learnt=templating.html(passages.learnt(results)),
        readings=templating.html(passages.described_readings(lookup.attacks_in(results))),
        norm_attacks=templating.html(passages.norm_attacks(results.networks)),
        tables=[table for table in made if table.name != "claims"],
        plots=_plots(results),
        curves=[] if results.is_evaluation else content.curves(results),
        gallery=shown,
        settings=evaluation.settings(results)
        if results.is_evaluation
        else description.rows(results),
        departures=""
        if results.is_evaluation
        else templating.html(description.departures(results.config)),
        surroundings=report.surroundings(results),
        times=report.times(results),
        data=templating.data({**plots, "gallery": shown.content}),
        attack_labels={a: outcomes.label(results.networks, a) for a in shown.left_out},
    )


def _plots(results: records.Results) -> dict[str, tuple[str, list[str]]]:
    """The plots with those of their figures that are beside the page."""
    drawn = figures.names(results)
    return {
        name: (heading, [figure for figure in said if figure in drawn])
        for name, (heading, said) in _PLOTS.items()
    }


def _title(results: records.Results) -> str:
    if results.is_evaluation:
        return evaluation.title(results)
    reduced = " (reduced)" if results.config.reduced else ""
    return f"Defensive distillation on {results.config.dataset}: {results.config.preset}{reduced}"


def _subtitle(results: records.Results) -> str:
    """What every number of the page hangs on."""
    samples, seed = len(results.sample_indices), results.config.seed
    return (
        f"{len(results.networks)} networks, {samples} attacked images, seed {seed}, "
        f"ddefense {results.environment.get('ddefense', '')}".rstrip()
    )


@dataclasses.dataclass(frozen=True)
class Answer:
    """One of the questions that a verdict answers: the price of the defence if it is high, and two.

    Attributes:
        question: in words.
        answer: `yes`, `no` or `inconclusive`, with the loss of accuracy where that is high.
        good: whether that speaks for the defence; None if nothing can be told, or it was bought
            with accuracy.
    """

    question: str
    answer: str
    good: bool | None


def _answers(results: records.Results) -> list[Answer]:
    verdict = results.verdict
    if verdict is None:
        return []
    masks, stops = verdict.masks_gradients, verdict.stops_adaptive_attacker
    lost = verdict.accuracy_lost
    loss = Answer("What does it cost?", evidence.loss_in_words(lost), good=False)
    return [
        *([loss] if evidence.costly(lost) else []),
        Answer(
            "Does it stop an attacker who knows it?",
            lookup.stops(verdict),
            None if lookup.bought(verdict) else stops,
        ),
        Answer("Does it mask gradients?", lookup.told(masks), None if masks is None else not masks),
    ]


def _claims(results: records.Results) -> list[dict[str, Any]]:
    """Rows of the comparison with the paper, with a word for their colour."""
    return [
        {
            "answer": answer,
            "kind": claims.KINDS[answer.answer.holds],
            "word": claims.answer_in_words(answer.answer),
        }
        for answer in claims.answers(results)
    ]
