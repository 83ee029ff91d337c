"""Runs on a Ray cluster of two nodes on this machine, in a network of their own.

    unshare -rnm python tests/end_to_end/cluster.py <scenario> <folder>

Ray listens on every address of a machine, so that nothing here may run outside of a network
namespace. Prints what happened as JSON.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

from ddefense import files

PORT = 6379
RUN = ("-P", "-m", "ddefense.cli", "--executor=ray", f"--ray_address=127.0.0.1:{PORT}")
SECONDS = 420


def bring_loopback_up():
    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, get_flags, request))[1]
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", flags | up))
    interfaces = {name for _, name in socket.if_nameindex()}
    assert interfaces == {"lo"}, f"not in a network namespace: {interfaces}"


class Nodes:
    """The nodes of a cluster, each of one CPU."""

    def __init__(self, folder):
        self._folder, self._processes = folder, []
        # Its sockets need a short path.
        self._temporary = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")

    def start(self, *, within=(), cpus=1, **variables):
        """Starts a node, the first one as the head, and waits until it is there."""
        head = not self._processes
        place = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        place.append(f"--temp-dir={self._temporary.name}")
        command = [
            *within,
            *(sys.executable, "-P", "-c", "from ray.scripts.scripts import main; main()"),
            *("start", *(place if head else [f"--address=127.0.0.1:{PORT}"])),
            *("--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"),
            *("--disable-usage-stats", "--block", f"--object-store-memory={10**8}"),
        ]
        log = self._folder / f"node_{len(self._processes)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,
            )
        self._processes.append(process)
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return process

    def remove(self, node):
        """Ends a node at once, and whatever runs on it."""
        ids = descendants(node.pid)
        for pid in (node.pid, *ids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self):
        for process in reversed(self._processes):
            self.remove(process)
        self._temporary.cleanup()


def descendants(pid):
    """Processes that a process started, and those that these did."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found


def workers(node=None):
    """Processes that are at work on a stage, by id: those of our nodes, and no others."""
    found = {}
    for pid in descendants(os.getpid() if node is None else node.pid):
        with contextlib.suppress(OSError):
            title = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            if title.startswith("ray::ddefense: ") and "probe" not in title:
                found[pid] = title.removeprefix("ray::ddefense: ")
    return found


class Job:
    """A run on the cluster."""

    def __init__(self, folder, *flags, program=RUN):
        self._folder = folder
        self._log = (folder / "driver.log").open("a+")
        self._start = self._log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(
            [sys.executable, *program, *flags],
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def said(self):
        with (self._folder / "driver.log").open() as log:
            log.seek(self._start)
            return log.read()

    def wait_until(self, condition):
        deadline = time.monotonic() + SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        return found

    def finished(self):
        return re.findall(r"^finished (\S+) in ", self.said(), re.MULTILINE)

    def end(self):
        status = self.process.wait(SECONDS)
        return {"status": status, "log": self.said()}


def losses(nodes, folder, *flags):
    """A worker is killed, then a node is removed, then the driver is killed and starts again."""
    nodes.start()
    second = nodes.start()
    job = Job(folder, *flags)
    job.wait_until(lambda: len(job.finished()) >= 2)
    pid, killed = next(iter(job.wait_until(workers).items()))
    os.kill(pid, signal.SIGKILL)
    job.wait_until(lambda: len(job.finished()) >= 6)
    job.wait_until(lambda: workers(second))
    nodes.remove(second)
    before = len(job.finished())
    job.wait_until(lambda: len(job.finished()) >= before + 4)
    job.process.kill()
    job.process.wait()
    ended = Job(folder, *flags).end()
    return ended | {"killed": killed, "before": before}


def often(nodes, folder, *flags):
    """Workers are killed, every some seconds, as long as the run goes on."""
    seconds = float(os.environ.get("KILL_SECONDS", "30"))
    nodes.start()
    nodes.start()
    job, killed, start = Job(folder, *flags), [], time.monotonic()
    last = start
    while job.process.poll() is None:
        if time.monotonic() - last >= seconds and (found := workers()):
            last = time.monotonic()
            pid, name = next(iter(found.items()))
            os.kill(pid, signal.SIGKILL)
            killed.append(name)
        time.sleep(0.1)
    return job.end() | {"killed": killed, "seconds": time.monotonic() - start}


def stopped(nodes, folder, *flags):
    """The driver is asked to stop."""
    nodes.start()
    job = Job(folder, *flags)
    job.wait_until(workers)
    job.process.send_signal(signal.SIGTERM)
    return job.end()


def without_gpu(nodes, folder, *flags):
    """A GPU is asked for where there is none."""
    nodes.start()
    return Job(folder, *flags, "--num_gpus=0.5").end()


def too_many_threads(nodes, folder, *flags):
    """Tasks take more CPUs than a node has."""
    nodes.start()
    return Job(folder, *flags, "--threads=3").end()


def not_shared(nodes, folder, *flags):
    """The second node sees another folder in the place of the run directory's."""
    nodes.start()
    hide = f"mount -t tmpfs none '{folder}' && exec \"$@\""
    nodes.start(within=("unshare", "-m", "sh", "-c", hide, "sh"))
    return Job(folder, *flags).end()


def storage_alone(nodes, folder, *flags):
    """The second node sees neither the run directory nor the caches of the first."""
    caches = [folder / "caches_1", folder / "caches_2"]
    for cache in (*caches, folder / "run"):
        cache.mkdir()
    nodes.start(TMPDIR=str(caches[0]))
    hide = f"mount -t tmpfs none '{folder}/run' && exec \"$@\""
    nodes.start(within=("unshare", "-m", "sh", "-c", hide, "sh"), TMPDIR=str(caches[1]))
    job, worked = Job(folder, *flags), [False, False]
    while job.process.poll() is None:
        worked = [
            was or any(cache.rglob("stage.json")) for was, cache in zip(worked, caches, strict=True)
        ]
        time.sleep(0.1)
    left = [str(path) for cache in caches for path in cache.rglob("stage.json")]
    return job.end() | {"worked": worked, "left": left}


def replaced(nodes, folder, storage):
    """The first of a few stages is another one when they are run again, then nothing is."""
    nodes.start()
    nodes.start()
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{PORT}"
    program = (
        "-P",
        str(pathlib.Path(__file__).with_name("graph.py")),
        str(folder),
        *filter(None, [storage]),
    )
    stages = folder / "storage" if storage else folder / "run" / "stages"
    found, made = [], folder / "made"
    for turn in range(3):
        if turn == 1:
            (stages / "train" / "text").write_text("another")
            record = json.loads((stages / "train" / "stage.json").read_text())
            record["content"] = files.folder_sha256(stages / "train", without=("stage.json",))
            (stages / "train" / "stage.json").write_text(json.dumps(record))
        made.write_text("")
        ended = Job(folder, program=program).end()
        found.append(ended | {"made": sorted(made.read_text().split())})
    return found


def other_versions(nodes, folder, *flags):
    """The second node has another NumPy, as far as its records say."""
    nodes.start()
    found = folder / "other" / "numpy-0.1.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    path = os.pathsep.join([str(found.parent), os.environ["PYTHONPATH"]])
    nodes.start(PYTHONPATH=path)
    return Job(folder, *flags).end()


def main():
    name, folder, *flags = sys.argv[1:]
    folder = pathlib.Path(folder).resolve()
    bring_loopback_up()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_raylet_start_wait_time_s": "120"}  # a busy machine takes its time
    os.environ.pop("RAY_ADDRESS", None)
    nodes = Nodes(folder)
    try:
        found = globals()[name](nodes, folder, *flags)
    finally:
        nodes.stop()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
