"""Searches on a Ray cluster of two nodes on this machine: same results, and nothing is lost when workers or nodes die."""
from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster  # noqa: E402

from fxgrow.experiments.evolve import (  # noqa: E402
    SearchConfig,
    Store,
    engine,
    ray_engine,
    search,
)
from fxgrow.experiments.evolve.ray_engine import RETRIES, Ray, work  # noqa: E402
from fxgrow.experiments.evolve.worker import Task  # noqa: E402
from fxgrow.experiments.settings import TrainError  # noqa: E402
from fxgrow.experiments.train import Interrupted  # noqa: E402

SMALL = {"model": "zoo:mlp:hidden=(8,8)", "data": "digits", "limit": 60, "first_steps": 4, "rounds": 2, "keep": 2,
         "children": 2, "steps": 8, "final_steps": 2, "train": {"batch_size": 20, "lr": 0.05},
         "mutations": [{"pass": "widen", "factor": [1.5, 2.0]}]}
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2 ** 20}


def small(**changes) -> SearchConfig:
    return SearchConfig.of({**SMALL, **changes})


def facts(found):
    """All that a search says, seconds and the order in which tasks ended aside."""
    return sorted((dataclasses.replace(s, seconds=0.0) for s in (*found.evaluations, found.best, *found.population)),
                  key=lambda s: (s.round, s.number))


@pytest.fixture(scope="module")
def cluster():
    with ray_engine.loopback():
        made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            made.add_node(**NODE)
            connected = Ray(address=made.address)  # for all tests: workers import torch once
            yield made
            connected.close()
            assert not ray.is_initialized()
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture
def on(cluster):
    """Makes engines on the cluster, and ends them; `body` is what their workers do."""
    made = []

    def on(body=work, **options):
        kind = type("Mine", (Ray,), {"work": staticmethod(body)})
        made.append(kind(address=cluster.address, **options))
        return made[-1]
    yield on
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return search(small(), tmp_path_factory.mktemp("serial") / "run")


@pytest.mark.sweep
def test_the_same_as_serial_each_network_put_once_and_every_cpu_used(tmp_path, on, serial, monkeypatch):
    puts, put = [], ray.put
    monkeypatch.setattr(ray, "put", lambda a: puts.append(bytes(a)) or put(a))
    running = on()
    assert running.workers == 2
    most = []
    start = running._start
    monkeypatch.setattr(running, "_start", lambda job: start(job) or most.append(len(running.running)))
    assert facts(search(small(), tmp_path / "run", engine=running)) == facts(serial)
    assert len(puts) == len(set(puts)) < len(most) == len(serial.evaluations)
    assert len(running.networks) <= ray_engine.IDLE + 1 and not running.running


@pytest.mark.sweep
def test_workers_read_networks_where_they_lie(on):
    def body(task, network, *rest):
        return network.dtype.name, network.flags.writeable, network.flags.owndata, len(network)
    running = on(body)
    running.submit(Task(0, 0, bytes(2 ** 20), None, 1, 0, {}))
    assert running.wait() == (1, ("uint8", False, False, 2 ** 20))


@pytest.mark.sweep
def test_steady_searches_keep_the_workers_busy(tmp_path, on):
    found = search(small(mode="steady", selection="aging"), tmp_path / "run", engine=on())
    assert sorted(s.number for s in found.evaluations[:-1]) == [0, 1, 2, 3, 4]
    assert all(s.archive for s in found.evaluations)


@pytest.mark.sweep
def test_workers_that_are_killed_lose_nothing(tmp_path, on, serial):
    def body(task, *rest):
        mark = tmp_path / f"begun{task.number}"
        if task.round == 1 and task.number in (1, 2) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), {1: signal.SIGKILL, 2: signal.SIGTERM}[task.number])
            time.sleep(60)
        return work(task, *rest)
    found = search(small(), tmp_path / "run", engine=on(body))
    assert len(list(tmp_path.glob("begun*"))) == 2 and facts(found) == facts(serial)


@pytest.mark.sweep
def test_a_node_that_is_lost_loses_nothing(tmp_path, on, cluster, serial):
    doomed = cluster.add_node(**NODE)
    mark = tmp_path / "begun"
    identity = doomed.node_id

    def body(task, *rest):
        if task.round >= 1 and ray.get_runtime_context().get_node_id() == identity:
            mark.touch()
            time.sleep(100)  # the node goes down meanwhile
        until = time.monotonic() + 60
        while task.round == 1 and not mark.exists() and time.monotonic() < until:
            time.sleep(0.05)  # the other nodes leave it a task
        return work(task, *rest)

    running = on(body)
    assert running.workers == 3
    finished = []

    def watch(run, s):
        if s is None:
            return
        finished.append((s.number, s.round))
        if s.round == 1 and doomed in cluster.worker_nodes:
            assert mark.exists()
            cluster.remove_node(doomed, allow_graceful=False)
            assert {(e.number, e.round) for e in Store(tmp_path / "run").evaluations()} == set(finished)

    found = search(small(), tmp_path / "run", engine=running, watch=[watch])
    assert doomed not in cluster.worker_nodes and facts(found) == facts(serial)
    until = time.monotonic() + 60
    while running.workers != 2 and time.monotonic() < until:  # the head finds out by itself
        time.sleep(0.2)
    assert running.workers == 2


@pytest.mark.sweep
def test_what_fails_again_and_again_is_one_failed_network(tmp_path, on):
    def body(task, *rest):
        if (task.number, task.round) == (1, 1):
            (tmp_path / f"{time.time_ns()}.try").touch()
            raise MemoryError("no room for it")
        return work(task, *rest)
    running = on(body)
    found = search(small(), tmp_path / "run", engine=running)
    failed = [s for s in found.evaluations if not s.archive]
    assert [(s.number, s.round) for s in failed] == [(1, 1)] and len(list(tmp_path.glob("*.try"))) == RETRIES + 1
    running.submit(Task(1, 1, b"", None, 1, 0, {}))
    assert running.wait()[1].error == "failed 5 times on the cluster, at last so: MemoryError: no room for it"


@pytest.mark.sweep
def test_a_network_that_is_lost_is_put_again(tmp_path, on):
    def body(task, network, *rest):
        if not (tmp_path / "begun").exists():
            (tmp_path / "begun").touch()
            raise ray.exceptions.ObjectLostError(network_ref, "", "")
        return bytes(network[:3]), len(network)
    running = on(body)
    network_ref = "00" * 28
    running.submit(Task(0, 0, b"abc" * 100, None, 1, 0, {}))
    first = dict(running.networks)
    assert running.wait() == (1, (b"abc", 300))
    assert first and running.networks.keys() == first.keys() and running.networks != first


@pytest.mark.sweep
def test_what_is_wrong_for_all_networks_ends_the_search(tmp_path, on):
    other = {"fxgrow": "0.0", "torch": "0.0"}
    with pytest.raises(TrainError, match="install the same"):
        search(small(), tmp_path / "a", engine=on(lambda task, network, cpus, gpu, _: work(task, network, cpus, gpu, other)))
    assert not Store(tmp_path / "a").evaluations()

    def body(*_):
        raise ModuleNotFoundError("No module named 'deap'")
    with pytest.raises(TrainError, match="cannot import what the search needs.*deap"):
        search(small(), tmp_path / "b", engine=on(body))


@pytest.mark.sweep
def test_ctrl_c_leaves_a_search_to_go_on_with(tmp_path, on, serial):
    driver = os.getpid()

    def body(task, *rest):
        if task.round == 1:
            if task.number == 2:  # the last one that is submitted: the search waits by now
                os.kill(driver, signal.SIGINT)
            time.sleep(60 if task.number else 0)
        return work(task, *rest)
    running = on(body)
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            search(small(), tmp_path / "run", engine=running)
    finally:
        signal.signal(signal.SIGINT, was)
    running.close()
    assert not running.running and 1 <= len(Store(tmp_path / "run").evaluations()) <= 2
    assert facts(search(small(), tmp_path / "run", engine=on())) == facts(serial)


@pytest.mark.sweep
def test_tasks_take_gpus_where_there_are_any(on, cluster, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # which says that there are none
    """Two tasks on half a GPU each, which the node says that it has."""
    node = cluster.add_node(**{**NODE, "num_cpus": 4, "num_gpus": 1})
    try:
        def body(task, network, cpus, gpu, versions):
            return gpu, os.environ.get("CUDA_VISIBLE_DEVICES")
        assert on().gpus == 1 and on().workers == 1 and on(gpus=0).workers == 6 and on(workers=2, gpus=0).workers == 2
        assert on(cpus=2, gpus=0.5).workers == 2
        running = on(body, gpus=0.5)
        running.submit(Task(0, 0, b"x", None, 1, 0, {}))
        assert running.wait() == (1, (True, "0"))
    finally:
        cluster.remove_node(node)


@pytest.mark.sweep
@pytest.mark.parametrize("options, said", [({"cpus": 50}, "has 50 CPUs"), ({"gpus": 3}, "3 GPUs")])
def test_tasks_that_fit_no_node_are_told(on, options, said):
    with pytest.raises(TrainError, match=said):
        on(**options)


@pytest.mark.sweep
def test_the_connection_of_the_caller_stays(cluster):
    Ray().close()
    assert ray.is_initialized()
    with pytest.raises(TrainError, match="is connected to the Ray cluster"):
        Ray(address="127.0.0.1:1")


def test_serial_computes_with_one_thread_as_workers_do(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr("fxgrow.experiments.evolve.engines.run", lambda task: torch.get_num_threads())
        with engine("serial") as running:
            running.submit(Task(0, 0, b"", None, 1, 0, {}))
            assert running.wait() == (1, 1) and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_training_that_is_interrupted_is_no_failed_network(tmp_path, monkeypatch):
    def fit(self):
        raise Interrupted("interrupted at step 1")
    monkeypatch.setattr("fxgrow.experiments.evolve.worker.Trainer.fit", fit)
    with pytest.raises(KeyboardInterrupt):
        search(small(), tmp_path)
    assert not Store(tmp_path).evaluations()


@pytest.mark.sweep
def test_addresses_where_no_cluster_is(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_engine, "PATIENCE", 3)
    with socket.socket() as silent:  # something listens there that is no Ray
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for address in ("127.0.0.1:1", "nonsense", f"127.0.0.1:{silent.getsockname()[1]}", "ray://127.0.0.1:1"):
            with pytest.raises(TrainError, match="no Ray cluster answers at .*: start one with `ray start --head`"):
                with engine("ray", address=address):
                    raise AssertionError


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrainError, match=r"pip install 'fxgrow\[ray\]'"):
        with engine("ray"):
            raise AssertionError


@pytest.mark.sweep
def test_a_cluster_of_its_own_is_on_loopback_and_ends(tmp_path):
    """In a process of its own, as it is for a user; the cluster's processes are gone soon after it."""
    def processes(session: str) -> list[str]:
        listed = subprocess.run(["ps", "-eo", "pid,args", "-ww"], capture_output=True, text=True, check=True).stdout
        return [line for line in listed.splitlines() if session in line]

    code = ("import ray, sys\nfrom fxgrow.experiments.evolve.engines import engine\n"
            "with engine('ray', 2) as e:\n    print(ray.get_runtime_context().gcs_address, e.workers, "
            "ray._private.worker.global_worker.node.session_name, flush=True)\n    sys.stdin.read()\n"
            "print(ray.is_initialized())")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], text=True, env=env, cwd=tmp_path, **pipes) as driver:
        address, workers, session = driver.stdout.readline().split() or [driver.communicate()[1], "", ""]
        assert address.startswith("127.0.0.1:") and workers == "2", address
        assert any("raylet/raylet" in line for line in processes(session))
        left, errors = driver.communicate()
    assert driver.returncode == 0 and left.strip() == "False", errors
    until = time.monotonic() + 60
    while processes(session) and time.monotonic() < until:
        time.sleep(0.2)
    assert not processes(session)


def test_a_cluster_that_is_slow_to_start_is_started_again():
    class Slow:
        def __init__(self, failures):
            self.failures, self.starts = failures, 0

        def is_initialized(self):
            return False

        def init(self, **options):
            self.starts += 1
            if self.starts <= self.failures:
                raise Exception("The current node timed out during startup.\nMore.")

        def shutdown(self):
            pass

    slow = Slow(2)
    assert ray_engine._connect(slow, None, 1) and slow.starts == 3
    with pytest.raises(TrainError, match=r"cannot be started here \(The current node timed out during startup\.\): choose"):
        ray_engine._connect(Slow(9), None, 1)
