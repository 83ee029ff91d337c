"""A full disk stops a run in one line, wherever it is met, and costs nothing that is finished.

The disk is a small tmpfs in a mount namespace of its own.
"""

import os
import shutil
import subprocess
import types
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

USAGE, RUN = 2, 1


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk whose room can be set, and which can be made read-only."""
    mount_point = tmp_path_factory.mktemp("disk")
    hold = f"mount -t tmpfs -o size=1g none '{mount_point}' && echo mounted && exec cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", hold],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        pytest.skip(f"no namespaces here: {error}")
    with holder:
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"nothing can be mounted here: {holder.stderr.read().strip()}")
        enter = ["nsenter", f"--target={holder.pid}", "--user", "--mount", "--preserve-credentials"]
        # As it is seen from outside.
        folder = Path(f"/proc/{holder.pid}/root{mount_point}")

        def remount(options):
            subprocess.run([*enter, "mount", "-o", f"remount,{options}", mount_point], check=True)

        def leave(num_bytes):
            """Leaves this much room beside what is there."""
            found = os.statvfs(folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            remount(f"rw,size={used + num_bytes}")

        yield types.SimpleNamespace(
            folder=folder,
            remount=remount,
            leave=leave,
            # From inside.
            within=lambda _: [*enter, "env", f"--chdir={mount_point}"],
        )


def whole_stages(folder):
    """Every file of every finished stage."""
    return {
        path: path.read_bytes()
        for path in (folder / "run" / "stages").glob("[!.]*/*")
        if path.is_file()
    }


@pytest.fixture
def refuse(disk, start_run):
    """Runs into a full disk; what it says last."""

    def refused(num_bytes, *arguments):
        before = whole_stages(disk.folder)
        disk.leave(num_bytes)
        ended = start_run(disk.folder, *arguments, within=disk.within).end()
        assert ended.returncode == RUN, ended.stderr
        assert "Traceback" not in ended.stderr
        assert "Exception ignored" not in ended.stderr
        *log, last = ended.stderr.splitlines()
        assert "No space left on device" in last
        assert "inished stages are kept" in last
        assert "same command resumes" in last
        assert "No space" not in "".join(log)
        after = whole_stages(disk.folder)
        assert {path: after[path] for path in before} == before
        assert not list(disk.folder.rglob(".tmp-*"))
        return last

    return refused


def test_in_training(disk, refuse, start_run, small, small_flags):
    network = (small.workdir / "networks" / "baseline.keras").stat().st_size
    checkpoint = 2 * network  # weights and momentum
    once = (*small_flags, "--epochs=1")

    assert "stage baseline" in refuse(checkpoint // 2, *once)
    stage = disk.folder / "run" / "stages" / ".partial-baseline"
    assert not list(stage.glob("scratch/*"))

    # The checkpoint fits, the network beside it does not.
    assert "stage baseline" in refuse(checkpoint + network // 2, *once)
    assert (stage / "scratch" / "checkpoint.npz").exists()

    disk.leave(10 * network)
    run = start_run(disk.folder, *once, within=disk.within)
    assert "\nresuming baseline\n" in run.wait_for("finished baseline")
    run.kill()
    for path in ("run", "exported"):
        shutil.rmtree(disk.folder / path, ignore_errors=True)


def test_after_training(disk, refuse, start_run, blocked, small, small_flags):
    disk.remount("rw,size=1g")
    for name in ("run", "exported"):
        shutil.copytree(small.folder / name, disk.folder / name)
    run = disk.folder / "run"
    for path in (
        run / "stages" / "jsma_f_exact_on_distilled_t20",
        run / "stages" / "export_distilled_t20",
        run / "figures",
        run / "tables",
        disk.folder / "exported" / "digits_distilled_t20",
    ):
        shutil.rmtree(path)
    for name in ("networks/distilled_t20.keras", "results.json", "samples.npz", "report.md"):
        (run / name).unlink()
    network = (run / "networks" / "baseline.keras").stat().st_size
    exported = disk.folder / "exported" / "digits_baseline" / "1"
    export = sum(path.stat().st_size for path in exported.rglob("*") if path.is_file())

    disk.remount("ro")
    found = start_run(disk.folder, *small_flags, program=blocked, within=disk.within).end()
    assert found.returncode == USAGE
    line, _ = found.stderr.splitlines()
    assert line.startswith("--workdir: expected a directory that can be written, received run")

    # A shard of an attack; then the network to hand out; then its export.
    assert "stage jsma_f_exact_on_distilled_t20" in refuse(8 * 1024, *small_flags)
    assert "In run: " in refuse(network // 2, *small_flags)
    assert (run / "stages" / "jsma_f_exact_on_distilled_t20").exists()
    assert not (run / "networks" / "distilled_t20.keras").exists()
    assert "stage export_distilled_t20" in refuse(network + export // 2, *small_flags)
    assert not list((disk.folder / "exported" / "digits_distilled_t20").iterdir())
    # Results fit, figures do not.
    assert "In run: " in refuse(export + 160 * 1024, *small_flags)
    assert (run / "results.json").exists()
    assert not (run / "report.md").exists()

    disk.remount("size=1g")
    resumed = start_run(disk.folder, *small_flags, within=disk.within).finish()
    resumed.assert_same(small)
    assert resumed.exported() == small.exported()
    assert {path.name for path in (run / "figures").iterdir()} == {
        path.name for path in (small.workdir / "figures").iterdir()
    }
