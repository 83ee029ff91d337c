"""What was trained: the architecture (Table I) and the training parameters (Table II)."""

from ddefense import records
from ddefense.reporting import description, lookup, published
from ddefense.reporting.tables.table import Cell, Column, Table


def architecture(results: records.Results) -> Table | None:
    """The network's layers, one row each, and the total; None of a SavedModel."""
    if not results.architecture:
        return None
    rows: list[list[Cell]] = [
        [
            layer.name,
            layer.kind,
            layer.detail,
            " x ".join(str(size) for size in layer.output_shape),
            layer.parameters,
        ]
        for layer in results.architecture
    ]
    rows.append(["total", "", "", "", sum(layer.parameters for layer in results.architecture)])
    title, notes = f"Architecture of {results.networks[-1].name}", list[str]()
    if not results.is_evaluation:
        title = "Architecture of the initial, distilled and undistilled networks (Table I)"
        notes = [_published_architecture(results.dataset.name)]
    return Table(
        name="architecture",
        title=title,
        columns=(
            Column("layer", "layer", text=True),
            Column("kind", "kind", text=True),
            Column("detail", "detail", text=True),
            Column("output_shape", "output shape"),
            Column("parameters", "parameters"),
        ),
        rows=rows,
        notes=notes,
    )


def _published_architecture(dataset: str) -> str:
    return (
        f"{_capital(published.label(dataset))}: "
        f"{published.ARCHITECTURE[published.reference(dataset)]} (S1); kernels of 3 x 3 and pools "
        "of 2 x 2 are unverified, and the padding is not stated."
    )


def training_parameters(results: records.Results) -> Table | None:
    """What the paper trained with, beside this run; None where the run trained nothing."""
    settings = results.config
    paper = published.TRAINING[published.reference(results.dataset.name)]
    undistilled = lookup.undistilled(results)
    baseline = None if undistilled is None else undistilled.training
    if baseline is None:
        return None
    ours: dict[str, str] = {
        "learning rate": f"{settings.learning_rate:g}",
        "learning rate decay": description.decay(settings, settings.learning_rate_decay),
        "momentum": f"{settings.momentum:g}",
        "momentum decay": description.decay(settings, settings.momentum_decay),
        "dropout": f"{settings.dropout:g}",
        "batch size": f"{settings.batch_size}",
        "epochs": f"{settings.epochs}",
        "optimizer steps per network": f"{baseline.steps}",
        "warm start (steps at T = 1 on hard labels)": _warm_start(results),
        "precision": description.precision(settings),
        "compiled with XLA": description.compiled(settings),
        "CPU threads per operation": description.threads(settings),
        "devices per training": description.devices(settings),
        "temperatures T": ", ".join(f"{t:g}" for t in sorted(settings.temperatures)),
        "training images": f"{results.dataset.num_train}",
        "attacked images": f"{len(results.sample_indices)}",
        "most features changed": f"{settings.max_features}",
        "theta (change of a feature per step)": f"{settings.theta:g}",
        "seed": f"{settings.seed}",
    } | _adversarial_training(results)
    theirs = {name: str(setting) for name, setting in paper.items()} | {
        "warm start (steps at T = 1 on hard labels)": "none stated",
        "temperatures T": "1, 2, 5, 10, 20, 30, 40, 50, 100 (S2)",
        "attacked images": "100 (unverified; 900 targets, S1)",
        "most features changed": f"{published.MAX_FEATURES.value:g} (S1)",
    }
    label = published.label(results.dataset.name)
    return Table(
        name="training_parameters",
        title="Training parameters (Table II)",
        columns=(
            Column("parameter", "parameter", text=True),
            Column("paper", label, text=True),
            Column("ours", "ours", text=True),
        ),
        rows=[[name, theirs.get(name), value] for name, value in ours.items() if value],
        notes=published.TRAINING_NOTES[published.reference(results.dataset.name)],
    )


def _adversarial_training(results: records.Results) -> dict[str, str]:
    """How the adversarially trained network was, if the run has one; the paper has none."""
    network, settings = results.yardstick(), results.config
    if network is None or network.training is None:
        return {}
    return {
        "adversarial training: epochs": f"{network.training.epochs}",
        "adversarial training: PGD steps": f"{settings.adversarial_steps}",
        "adversarial training: epsilon (L-infinity)": f"{settings.epsilon:.6g}",
    }


def _warm_start(results: records.Results) -> str:
    """The steps that were set and, where it differs, those that the networks really took."""
    taken = {
        training.warm_start_steps
        for network in results.distilled()
        for training in (network.training, network.initial.training if network.initial else None)
        if training is not None
    }
    setting = results.config.warm_start_steps
    text = f"{setting}" if setting else "none"
    if taken - {setting}:
        text += f" (taken: {', '.join(str(steps) for steps in sorted(taken))})"
    return text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
