r"""Counts the successes of committed runs again, as decision 0015 says.

    python docs/results/recount.py ad3e36b docs/results/mnist
    python docs/results/recount.py ad3e36b docs/results/digits \
        exported_models/digits_distilled_t100/1

The run is read as it stood at a commit before that decision, with the results of schema 1, and is
written to the same folder with those of schema 2. JSMA is counted from `samples.npz`. Other attacks
kept no attempts: where a network gets every attacked image right, none of them starts where it aims
at, and nothing changes; where it does not, they are run again on the committed network, and so are
their checks for masked gradients. What changed is printed as Markdown. Of a SavedModel of the run,
the card alone is written again.
"""

import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pydantic

from ddefense import attacks, datasets, exporting, measurements, networks, records
from ddefense.experiments import adopting, controlling, environment, norm_attacking
from ddefense.experiments.pair import Trained
from ddefense.experiments.stages import Artefact, Stages
from ddefense.records.samples import UNKNOWN
from ddefense.serving import checksums

# The undistilled network of one run is that of another.
_ELSEWHERE = {"cifar10_warm/networks/baseline.keras": "cifar10/networks/baseline.keras"}
_CLEAN = {"probabilities"}
_CARD = pathlib.Path("assets.extra/model_card.json")


def main(commit: str, folder: pathlib.Path, *exported: str) -> None:
    """Counts one run again."""
    old = json.loads(_at(commit, folder / "results.json"))
    run = _Recount(folder, old, _samples_at(commit, folder))
    counted = run.networks()
    comparisons = run.comparisons(counted)
    controls = run.controls(counted)
    results = _record(
        records.Results,
        old
        | {
            "schema_version": records.SCHEMA_VERSION,
            "networks": counted,
            "comparisons": comparisons,
            "controls": controls,
            "verdict": None
            if old.get("verdict") is None
            else measurements.verdict(
                counted,
                comparisons,
                controls,
                _record(records.DatasetRecord, old["dataset"]),
            ),
            "environment": old["environment"]
            | {"recounted": {"from": commit, "by": environment.describe()}},
        },
    )
    if run.samples is not None:
        run.new_samples().save(folder / "samples.npz")
    records.dump(results, folder / "results.json")
    print(f"| {folder.name} | attack | before | after | both networks |\n|---|---|---|---|---|")
    for was, now in zip(old["networks"], results.networks, strict=True):
        _print_changes(was, now, results)
    for version in map(pathlib.Path, exported):
        _write_card(version, json.loads(_at(commit, version / _CARD)), results)


def _write_card(version: pathlib.Path, old: dict[str, Any], results: records.Results) -> None:
    findings = exporting.findings_in(results, old["name"])
    new = {
        "schema_version": records.CARD_SCHEMA_VERSION,
        "measured": findings.measured,
        "undistilled": findings.undistilled,
        "verdict": findings.verdict,
    }
    known = records.ModelCard.__dataclass_fields__
    card = _record(records.ModelCard, old | {k: v for k, v in new.items() if k in known})
    for name, text in exporting.notes(card).items():
        (version / _CARD).with_name(name).write_text(text)
    checksums.write(version)


class _Recount:
    """One run, as it stood and as it is counted now."""

    def __init__(
        self, folder: pathlib.Path, old: dict[str, Any], arrays: Mapping[str, Any] | None
    ) -> None:
        self.folder, self.old, self.samples = folder, old, arrays
        self.config = _record(records.Results.__annotations__["config"], old["config"])
        self.outcomes: dict[tuple[str, str], records.AttackOutcome] = {}
        self.attempts: dict[tuple[str, str], records.Attempts] = {}
        self.starts: dict[str, np.ndarray] = {}
        self._again: _Again | None = None

    def networks(self) -> list[records.NetworkRecord]:
        """Every network with its attacks counted again."""
        if self.samples is not None:
            for old in self.old["networks"]:
                self._count_jsma(old)
        return [self._network(old) for old in self.old["networks"]]

    def _count_jsma(self, old: dict[str, Any]) -> None:
        name, samples = old["name"], self.samples
        labels, path = samples["labels"], self._path(name)
        outputs = networks.logits_of(networks.load(path)) if path.is_file() else None
        for attack in old["attacks"]:
            fields = {
                field.name: samples[key]
                for field in dataclasses.fields(records.AttackOutcome)
                if (key := f"{name}/{attack}/{field.name}") in samples
            }
            sample, target, reached = (fields[f] for f in ("sample", "target", "success"))
            unchanged = np.diff(fields["offsets"]) == 0
            # Every wrong class is aimed at, so an image that no attempt finds there is right.
            start = labels.copy()
            start[sample[reached & unchanged]] = target[reached & unchanged]
            end = np.where(reached, target, UNKNOWN)
            if outputs is not None:
                seen = networks.predict(outputs, samples["images"]).argmax(axis=1)
                _expect_same(f"{name}, {attack}: class at the start", seen, start)
                images = samples["images"][sample].reshape(len(sample), -1)
                pair = np.repeat(np.arange(len(sample)), np.diff(fields["offsets"]))
                images[pair, fields["features"]] = fields["values"]
                shape = samples["images"].shape[1:]
                end = networks.predict(outputs, images.reshape(-1, *shape)).argmax(axis=1)
                budget = np.diff(fields["offsets"]) <= old["attacks"][attack]["max_features"]
                _expect_same(f"{name}, {attack}: success", (end == target) & budget, reached)
            self.starts[name] = start
            started = start[sample] == target
            self.outcomes[name, attack] = records.AttackOutcome(
                **fields
                | {
                    "start": start[sample].astype(np.int32),
                    "end": end.astype(np.int32),
                    "success": reached & ~started,
                }
            )

    def _path(self, name: str) -> pathlib.Path:
        path = self.folder / "networks" / f"{name}.keras"
        key = path.relative_to(self.folder.parent).as_posix()
        return self.folder.parent / _ELSEWHERE.get(key, key)

    def _starts_wrong(self, old: dict[str, Any], number: int) -> bool:
        """Whether the network errs on one of the first attacked images."""
        if self.samples is None:
            # Every wrong class was aimed at, so that no start in one means that all are right.
            return any(attack["already_target"] for attack in old["attacks"].values())
        wrong = self.starts[old["name"]] != self.samples["labels"]
        return bool(wrong[:number].any())

    def _network(self, old: dict[str, Any]) -> records.NetworkRecord:
        name = old["name"]
        jsma, robustness = dict(old["attacks"]), dict(old["robustness"])
        for attack, was in old["attacks"].items():
            jsma[attack] = _unchanged(was, "already_target")
            if (name, attack) in self.outcomes:
                jsma[attack], robustness[attack] = self._jsma(name, attack, was)
            elif was["already_target"]:
                sys.exit(f"{self.folder}: {name}, {attack}: its attempts were not kept.")
        norm = {
            attack: self._norm(old, attack, was)
            for attack, was in old.get("norm_attacks", {}).items()
        }
        transfer = [{**was, "started": 0} for was in old.get("transfer", [])]
        return _record(
            records.NetworkRecord,
            old
            | {
                "attacks": jsma,
                "robustness": robustness,
                "norm_attacks": norm,
                "transfer": transfer,
            },
        )

    def _jsma(
        self, name: str, attack: str, was: dict[str, Any]
    ) -> tuple[records.AttackRecord, records.RobustnessRecord | None]:
        outcome = self.outcomes[name, attack]
        budget, features = was["max_features"], int(np.prod(self.old["dataset"]["image_shape"]))
        record = measurements.success_record(
            outcome,
            stop=np.full(len(outcome.sample), attacks.Stop.REACHED),
            steps=was["steps"],
            theta=was["theta"],
            max_features=budget,
            num_features=features,
            seed=self.config.seed,
        )
        record = dataclasses.replace(
            record,
            no_admissible_pair=was["no_admissible_pair"],
            zero_maps=was["zero_maps"],
        )
        return record, measurements.robustness(outcome, max_features=budget, num_features=features)

    def _norm(
        self, old: dict[str, Any], attack: str, was: dict[str, Any]
    ) -> dict[str, Any] | records.NormAttackRecord:
        if not self._starts_wrong(old, was["samples"]):
            return _unchanged(was, "already")
        if attack == "transfer_cw_l2" or self.samples is None:
            sys.exit(f"{self.folder}: {old['name']}, {attack}: its attempts were not kept.")
        self._attack_again(self.old["networks"][0], attack)  # to compare with
        return self._attack_again(old, attack)

    def _attack_again(self, old: dict[str, Any], attack: str) -> records.NormAttackRecord:
        record, attempts = self.again.attack(old, attack)
        self.attempts[old["name"], attack] = attempts
        return record

    @property
    def again(self) -> "_Again":
        """Where attacks are run again."""
        if self._again is None:
            self._again = _Again(self.config, self.old["sample_indices"], self._path)
        return self._again

    def comparisons(self, counted: list[records.NetworkRecord]) -> list[records.ComparisonRecord]:
        """From attempts where there are any, else from the records of networks that err nowhere."""
        features = int(np.prod(self.old["dataset"]["image_shape"]))
        found = measurements.comparisons(
            counted, self.outcomes, self.attempts, self.config.max_features, features
        )
        known = {(c.network, c.attack) for c in found}
        undistilled = next((n for n in counted if n.defense == "none"), None)
        for network in counted if undistilled is not None else ():
            for attack in (*network.attacks, *network.norm_attacks):
                if network is not undistilled and (network.name, attack) not in known:
                    found += _from_records(attack, network, undistilled)
        return found

    def controls(self, counted: list[records.NetworkRecord]) -> list[records.ControlRecord]:
        """Those of networks that were attacked again are made again."""
        found = [
            _record(records.ControlRecord, control) for control in self.old.get("controls", [])
        ]
        for network, old in zip(counted, self.old["networks"], strict=True):
            if (network.name, "pgd_linf") not in self.attempts or network is counted[0]:
                continue
            made = controlling.own_controls(
                network.name,
                measurements.zero_gradients(network.name, network.gradients),
                network.norm_attacks,
                self.again.rates(old),
            )
            new = {control.name: control for control in made}
            found = [
                new.get(control.name, control) if control.network == network.name else control
                for control in found
            ]
        return found

    def new_samples(self) -> records.Samples:
        """`samples.npz` with what is known now."""
        clean = {
            key.split("/")[0]: self.samples[key]
            for key in self.samples
            if key.count("/") == 1 and key.split("/")[1] in _CLEAN
        }
        images, labels, indices = (
            self.samples[key] for key in ("images", "labels", "test_indices")
        )
        return records.Samples(images, labels, indices, self.outcomes, clean, self.attempts)


class _Again:
    """Attacks on committed networks, as the run made them."""

    def __init__(self, config: Any, indices: list[int], path: Any) -> None:
        self._config, self._path = config, path
        self._dataset = datasets.load(config.dataset)
        self._stages = Stages(pathlib.Path(tempfile.mkdtemp()), environment.provenance)
        self._samples = self._stages.run(
            "samples", {}, [], lambda folder: np.save(folder / "indices.npy", np.array(indices))
        )
        self._adopted: dict[str, Trained] = {}

    def attack(
        self, old: dict[str, Any], attack: str
    ) -> tuple[records.NormAttackRecord, records.Attempts]:
        """One attack on one network."""
        return norm_attacking.load_attack(self._submit(norm_attacking.attack, old, attack))

    def rates(self, old: dict[str, Any]) -> controlling.SignRates:
        """What the checks for masked gradients need."""
        return controlling.load_rates(self._submit(controlling.attack, old))

    def _submit(self, function: Any, old: dict[str, Any], *arguments: Any) -> Artefact:
        name = old["name"]
        if name not in self._adopted:
            subject = adopting.prepare("network", self._path(name), self._dataset)
            self._adopted[name] = adopting.adopt(
                self._stages,
                name,
                subject,
                temperature=old["temperature"],
                defense=old["defense"],
            )
        return function(
            self._stages,
            self._config,
            self._dataset,
            self._adopted[name],
            self._samples,
            *arguments,
        )


def _unchanged(was: dict[str, Any], already: str) -> dict[str, Any]:
    """A record of which no attempt starts where it aims at."""
    kept = {key: value for key, value in was.items() if key != already}
    return kept | {"started": 0, "success_rate_over_all": was["success_rate"]}


def _from_records(
    attack: str, network: records.NetworkRecord, undistilled: records.NetworkRecord
) -> list[records.ComparisonRecord]:
    """The comparison of two networks that get every attacked image right; none without a record."""
    if attack in network.attacks:
        ours, theirs = network.attacks[attack], undistilled.attacks.get(attack)
        cases = (ours, theirs)
        targets = "targeted"
    else:
        ours, theirs = network.norm_attacks[attack], undistilled.norm_attacks.get(attack)
        targets = "untargeted" if ours.targets == "untargeted" else "targeted"
        cases = (ours, theirs)
        if theirs is not None and targets == "targeted":
            cases = (ours.average, theirs.average)
    if theirs is None:
        return []
    if ours.started or theirs.started:
        sys.exit(f"{network.name}, {attack}: attempts start there, and were not kept.")
    alike = ours.attempts == theirs.attempts
    rates = [found.success_rate for found in ((ours, theirs) if alike else cases)]
    all_reached = attack in network.norm_attacks and all(c.success_rate == 1 for c in cases)
    distances = [c.mean_distance for c in cases] if all_reached else [None, None]
    robust = [n.robustness.get(attack) for n in (network, undistilled)]
    return [
        records.ComparisonRecord(
            attack=attack,
            network=network.name,
            reference=undistilled.name,
            targets=targets,
            samples=min(ours.samples, theirs.samples),
            attempts=min(ours.attempts, theirs.attempts),
            success_rate=rates[0],
            reference_success_rate=rates[1],
            mean_distance=distances[0],
            reference_mean_distance=distances[1],
            robustness=robust[0] and robust[0].capped,
            reference_robustness=robust[1] and robust[1].capped,
        )
    ]


def _print_changes(
    was: dict[str, Any], now: records.NetworkRecord, results: records.Results
) -> None:
    for attack, new in (*now.attacks.items(), *now.norm_attacks.items()):
        if not new.started:
            continue
        old = was["attacks"].get(attack) or was["norm_attacks"][attack]
        compared = results.comparison(attack, now, results.baseline())
        beside = (
            ""
            if compared is None
            else f"{100 * compared.success_rate:.2f} against "
            f"{100 * compared.reference_success_rate:.2f} %"
        )
        print(
            f"| {now.name} | {attack} | {old['successes']}/{old['attempts']} = "
            f"{100 * old['success_rate']:.2f} % | {new.successes}/{new.attempts} = "
            f"{100 * new.success_rate:.2f} % | {beside} |"
        )


def _record(kind: Any, content: Any) -> Any:
    """A record from what was JSON, with finished records in it."""
    adapter = pydantic.TypeAdapter(kind)
    whole = pydantic.TypeAdapter(Any).dump_json(content)
    return adapter.validate_json(whole)


def _at(commit: str, path: pathlib.Path) -> bytes:
    shown = subprocess.run(
        ["git", "show", f"{commit}:./{path.name}"],
        cwd=path.parent,
        capture_output=True,
        check=True,
    )
    return shown.stdout


def _samples_at(commit: str, folder: pathlib.Path) -> dict[str, np.ndarray] | None:
    try:
        content = _at(commit, folder / "samples.npz")
    except subprocess.CalledProcessError:
        return None
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def _expect_same(what: str, now: np.ndarray, then: np.ndarray) -> None:
    if (now != then).any():
        sys.exit(f"{what}: {(now != then).sum()} of {len(now)} are not what the run recorded.")


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:])
