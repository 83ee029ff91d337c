"""Distills a network on a user's data; writes both networks and a record of how it went.

Usage: bin/distill --data=<folder, .npz or dataset> --network=<file>.keras --temperature=<T> [flags]
"""

import pathlib
import shlex
import sys

from absl import flags, logging

from ddefense.cli import data_flags, distill_flags, program, values
from ddefense.cli import flags as cli_flags
from ddefense.config import digest
from ddefense.distill_config import DistillJob
from ddefense.experiments import workdir as experiment_dirs
from ddefense.files import odd_kind
from ddefense.settings import ConfigError


def run() -> None:
    """Entry point of `bin/distill` and `ddefense-distill`."""
    program.run("bin/distill", distill_flags.define, _configure, _distill)


def _configure() -> tuple[DistillJob, pathlib.Path]:
    asked = flags.FLAGS
    if not asked.network:
        raise ConfigError(
            "network",
            f"expected a .keras file, or one of {list(distill_flags.NETWORKS)}; received none.",
        )
    for name in ("network", "student"):
        _check_network(name, asked[name].value)
    cli_flags.check_tensorboard()
    data = data_flags.asked()
    job = DistillJob(
        network=asked.network,
        student=asked.student or None,
        data=data.data,
        image_shape=data.image_shape,
        value_range=data.value_range,
        class_names=data.class_names,
        test_share=data.test_share,
        config=distill_flags.config(),
        tensorboard=asked.tensorboard,
    )
    if asked.workdir is not None:
        return job, values.directory("workdir", asked.workdir)
    stem = pathlib.Path(asked.network).stem
    return job, pathlib.Path("runs", f"distill_{stem}_{digest(job.fields())}")


def _check_network(flag: str, received: str | None) -> None:
    if not received or received in distill_flags.NETWORKS or pathlib.Path(received).is_file():
        return
    raise ConfigError(
        flag,
        f"expected a .keras file, or one of {list(distill_flags.NETWORKS)}; received "
        f"{received!r}, which is {odd_kind(pathlib.Path(received)) or 'neither'}.",
    )


def _distill(job: DistillJob, workdir: pathlib.Path) -> None:
    # Before TensorFlow is imported, which takes seconds.
    experiment_dirs.check(workdir, job)
    program.start_tensorflow(job.config)

    from ddefense.cli import terminal
    from ddefense.experiments import distilling_saved
    from ddefense.reporting import distillation

    record = distilling_saved.run(
        job,
        workdir,
        data_dir=data_flags.asked().data_dir,
        command=shlex.join(["bin/distill", *sys.argv[1:]]),
    )
    terminal.log(distillation.table(record))
    for name in ("initial", "distilled"):
        logging.info("%s network: %s", name, workdir / "networks" / f"{name}.keras")
    logging.info("record: %s", workdir / "distillation.json")


if __name__ == "__main__":
    run()
