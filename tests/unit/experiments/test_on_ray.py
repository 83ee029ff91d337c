"""What a cluster is asked for and what is refused; tests/end_to_end/test_cluster.py runs one."""

import functools
import io
import socket

import numpy as np
import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")

from ddefense.settings import ConfigError

from ddefense.experiments import on_ray
from ddefense.experiments.on_ray import Cluster


def node(cpus=2.0, gpus=0.0, name="n"):
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return {"Resources": resources, "NodeManagerHostname": name, "NodeID": "0123456789"}


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        (Cluster(), 0.0),
        (Cluster(num_gpus=0.25), 0.25),
        (Cluster(num_gpus=0.25, devices=2), 2.0),
        (Cluster(num_gpus=4, devices=2), 4.0),
    ],
)
def test_a_training_takes_as_many_gpus_as_it_is_split_over(cluster, expected):
    assert cluster.gpus_of_training == expected


@pytest.mark.parametrize(
    ("cluster", "nodes", "said"),
    [
        (Cluster(num_gpus=0.5), [node(), node()], "num_gpus: expected at most 0, the GPUs"),
        (Cluster(num_gpus=2), [node(gpus=1), node(gpus=1)], "num_gpus: expected at most 1, the"),
        (Cluster(num_gpus=1, devices=2), [node(gpus=1)], "devices: expected at most 1, the GPUs"),
        (Cluster(num_cpus=3), [node(), node()], "threads: expected at most 2, the CPUs"),
        (Cluster(), [], "threads: expected at most 0, the CPUs"),
    ],
)
def test_what_no_node_has_is_refused(cluster, nodes, said):
    with pytest.raises(ConfigError) as caught:
        on_ray._check_resources(cluster, nodes)
    assert str(caught.value).startswith(said)


def test_what_one_node_has_will_do():
    on_ray._check_resources(Cluster(num_gpus=2, num_cpus=2), [node(), node(gpus=2)])


@pytest.mark.parametrize(
    ("cluster", "nodes", "at_once"),
    [
        (Cluster(), [node(2), node(3)], 5),
        (Cluster(num_cpus=2), [node(2), node(3)], 2),
        (Cluster(num_gpus=0.5), [node(gpus=2), node()], 4),
        (Cluster(max_concurrent=3), [node(8)], 3),
    ],
)
def test_as_many_tasks_are_done_at_once_as_fit(cluster, nodes, at_once, monkeypatch):
    monkeypatch.setattr(on_ray.ray, "remote", lambda **options: lambda work: None)
    assert on_ray.OnRay(cluster, print, nodes).at_once == at_once


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "10.0.0.1"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ConfigError, match=f"expected auto or <host>:<port>.* received '{address}'"):
        on_ray._check_reachable(address)


def test_an_address_at_which_somebody_listens_will_do():
    with socket.socket() as listening, socket.socket() as unused:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        on_ray._check_reachable(f"127.0.0.1:{listening.getsockname()[1]}")
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"received {address}, where nobody answers"):
            on_ray._check_reachable(address)
    for other in (None, "auto"):
        on_ray._check_reachable(other)


def test_the_client_of_ray_is_refused():
    with pytest.raises(ConfigError, match=r"received ray://head:10001. Run the command on a node"):
        on_ray._check_reachable("ray://head:10001")


def test_a_head_without_cpus_is_not_asked():
    assert on_ray._can_run(Cluster(), node())
    assert not on_ray._can_run(Cluster(), node(cpus=0))
    assert not on_ray._can_run(Cluster(num_gpus=0.5), node())
    assert on_ray._can_run(Cluster(num_gpus=0.5), node(gpus=1))


def test_differing_versions_are_all_named():
    ours = {"python": "3.11.7", "keras": "3.15.1", "ddefense": "0.1.0"}
    on_ray._check_versions("n-01", ours, {**ours, "more": "1"})
    with pytest.raises(ConfigError) as caught:
        on_ray._check_versions("n-01", ours, {"python": "3.12.1", "ddefense": "0.1.0"})
    assert "node n-01 has others: python 3.12.1 there, 3.11.7 here; keras missing there" in str(
        caught.value
    )


def total(dataset, other, factor):
    return float(dataset.test.images.sum() + other.train.images.sum()) * factor


def test_datasets_stay_out_of_what_is_sent_and_come_back(toy, digits, monkeypatch):
    work = functools.partial(total, toy, digits, 2.0)
    buffer = io.BytesIO()
    pickler = on_ray._Pickler(buffer)
    pickler.dump(lambda: work())
    assert pickler.datasets == [toy, digits]
    assert len(buffer.getvalue()) < 10_000 < digits.train.images.nbytes
    monkeypatch.setattr(on_ray, "_dataset", lambda reference: {"a": toy, "b": digits}[reference])
    found = on_ray._Unpickler(io.BytesIO(buffer.getvalue()), ["a", "b"]).load()()
    np.testing.assert_equal(found, work())
