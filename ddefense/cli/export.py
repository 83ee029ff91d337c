"""Exports a saved network as a SavedModel for TF Serving; checks exports; configures servers.

Usage: bin/export --network=<file>.keras [flags]
       bin/export --verify=<directory of a model, a version, or several models>
       bin/export --write_server_config [flags]
"""

import os
import pathlib
import re
import sys
from collections.abc import Callable

from absl import flags, logging

from ddefense.cli import flags as cli_flags
from ddefense.cli import program, values
from ddefense.experiments import known_results
from ddefense.experiments import workdir as experiment_dirs
from ddefense.files import odd_kind
from ddefense.records import RunError
from ddefense.serving import server_config, verifying
from ddefense.settings import ConfigError

Job = Callable[[], None]

# What is a name in a URL as it stands, and in every file system.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FAILED = 1


def run() -> None:
    """Entry point of `bin/export` and `ddefense-export`."""
    program.run_once("bin/export", cli_flags.define_for_export, _configure, _do)


def _configure() -> Job:
    asked = flags.FLAGS
    if asked.verify is not None:
        return _configure_verify(asked.verify)
    try:
        server_config.check_base(asked.server_base)
    except ValueError as error:
        raise ConfigError("server_base", f"{error}") from error
    if asked.network:
        return _configure_export(pathlib.Path(asked.network))
    if not asked.write_server_config:
        raise ConfigError(
            "network",
            "expected the path of a .keras file to export (or --verify=<exported model>, "
            "or --write_server_config); received none.",
        )
    _refuse_beside("write_server_config", allowed=("export_dir", "server_base"))
    return _write_server_config


def _do(job: Job) -> None:
    job()


def _refuse_beside(flag: str, allowed: tuple[str, ...] = ()) -> None:
    """Refuses flags that mean nothing beside another."""
    defined = flags.FLAGS.flags_by_module_dict()[cli_flags.__name__]
    given = [found.name for found in defined if found.present]
    others = [name for name in given if name not in (flag, *allowed)]
    if others:
        raise ConfigError(
            flag, f"expected without --{' and --'.join(others)}; received both. Drop one."
        )


def _configure_verify(directory: str) -> Job:
    if not os.path.isdir(directory):
        raise ConfigError(
            "verify",
            "expected the directory of an exported model, of one version of it, or of "
            f"several models; received {directory!r}, which is none.",
        )
    _refuse_beside("verify")
    return lambda: _verify(pathlib.Path(directory))


def _configure_export(network: pathlib.Path) -> Job:
    asked = flags.FLAGS
    if not network.is_file():
        raise ConfigError(
            "network",
            f"expected a .keras file; received {str(network)!r}, which is "
            f"{odd_kind(network) or 'none'}.",
        )
    if asked.quantize and not asked.dataset:
        raise ConfigError(
            "quantize",
            f"expected with --dataset=<name>, whose training images calibrate the "
            f"{asked.quantize} network and whose test set measures it; received none.",
        )
    class_names = None if asked.class_names is None else values.class_names(asked.class_names)
    value_range = None if asked.value_range is None else values.value_range(asked.value_range)
    known = known_results.find(network, pathlib.Path(asked.results) if asked.results else None)
    measured_on = None if known is None else known.dataset
    if asked.dataset and measured_on not in (None, asked.dataset):
        raise ConfigError(
            "dataset",
            f"expected {measured_on}, on which the network was measured; received {asked.dataset}.",
        )
    base = values.directory("export_dir", asked.export_dir)
    base /= _name(network, measured_on or asked.dataset)

    def export() -> None:
        # Before TensorFlow is imported, which takes seconds.
        experiment_dirs.check_writable("export_dir", base)
        program.start_tensorflow()

        from ddefense.cli import terminal
        from ddefense.experiments import exporting_saved
        from ddefense.reporting import saved_export

        done = exporting_saved.run(
            exporting_saved.Export(
                network=network,
                base=base,
                class_names=class_names,
                value_range=value_range,
                expose_logits=asked.expose_logits,
                results=known,
                dataset=asked.dataset,
                data_dir=cli_flags.data_dir(),
                quantize=asked.quantize is not None,
            )
        )
        table = saved_export.table(
            done.card,
            done.exported.path,
            done.exported.max_difference,
            done.test_accuracy,
            range_given=done.range_given,
        )
        terminal.log(table)
        if asked.write_server_config:
            _write_server_config()
        logging.info("exported: %s", done.exported.path)

    return export


def _name(network: pathlib.Path, dataset: str | None) -> str:
    """The model's name: `--name`, or one after the network's file."""
    name, source = flags.FLAGS.name, ""
    if name is None:
        stem = network.stem
        name = stem if dataset is None or stem.startswith(dataset) else f"{dataset}_{stem}"
        source = ", after the network's file. Give one with --name"
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise ConfigError(
            "name",
            "expected letters, digits, and ._- within, such as my_model, and not a number "
            f"alone, which would be a version; received {name!r}{source}.",
        )
    return str(name)


def _verify(directory: pathlib.Path) -> None:
    """Says of every version whether it is as it was written; exits with 1 if one is not."""
    good = True
    for version in verifying.versions_of(directory):
        try:
            found = verifying.verify(version)
            _check_weights(version)
        except RunError as error:
            good = False
            logging.error("FAIL %s: %s", version, error)
        else:
            logging.info(
                "ok %s: %d files as they were written; it loads and answers %d warm-up requests",
                version,
                found.files,
                found.requests,
            )
    if not good:
        sys.exit(_FAILED)


def _check_weights(version: pathlib.Path) -> None:
    """Compares the weights of a whole version with its model card."""
    program.start_tensorflow()

    from ddefense import exporting

    exporting.check_weights(version)


def _write_server_config() -> None:
    asked = flags.FLAGS
    folder = values.directory("export_dir", asked.export_dir)
    for name, ours in server_config.write(folder, asked.server_base).items():
        note = "written" if ours else "kept, for it was edited"
        logging.info("%s: %s", folder / name, note)


if __name__ == "__main__":
    run()
