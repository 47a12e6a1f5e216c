"""Tasks on a Ray cluster: one on this machine, or a running one of any number of nodes.

Ray's own retries are off, as it repeats a task that runs out of memory for ever: each failure comes to `wait`, which
submits the task again, at most `RETRIES` times. A result follows from the task alone, wherever and however often it runs.
"""
import contextlib
import hashlib
import math
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

import fxgrow
from fxgrow.common import one_line
from fxgrow.errors import FxgrowError
from fxgrow.experiments.evolve.worker import Task, TaskResult, run, threads
from fxgrow.experiments.settings import TrainError, optional

RETRIES = 4  # of one task
IDLE = 8     # networks that no task needs at present and that stay in the object store
PATIENCE = 20  # seconds for a cluster to answer
STARTS = 3   # of a cluster of our own, at most: Ray gives each of its parts half a minute, which a busy machine may not
LOCAL = "127.0.0.1"


@dataclass
class Job:
    """A task that is submitted; network: a hash of its network's bytes; failures: how often it came to nothing."""
    token: int
    task: Task
    network: str
    failures: int = 0


class Ray:
    """An engine with one Ray task a network.

    Each network is put into the object store once for all the tasks that start from it, and workers read it in place.

    Args:
        workers: how many tasks at a time, at most; None: as many as the cluster has room for.
        address: of a running cluster (`host:port`, `auto`, `ray://host:port`); None: the one that this process is connected
            to, else a new one on this machine, which listens on the loopback interface alone and ends with the engine.
        cpus: CPUs that a task takes, which is how many threads it computes with. Only with 1 are sums those of the other
            engines, bit by bit.
        gpus: GPUs that a task takes (0.5: two tasks share one); None: one where the cluster has any. Without it trains on
            the CPU, unless the settings name another device.

    Raises:
        TrainError: Ray is not installed, no cluster answers, or it has no room for a task.
    """
    work: Any  # what is run on a worker

    def __init__(self, workers: int | None = None, address: str | None = None, *, cpus: int = 1, gpus: float | None = None):
        self.ray = ray = optional("ray", "engine ray needs the package ray", "ray")
        self.most, self.cpus, self.gpus, self.count = workers, cpus, gpus or 0, 0
        self.running: dict[Any, Job] = {}
        self.networks: OrderedDict[str, Any] = OrderedDict()  # hash -> reference
        self.connected = _connect(ray, address, None if workers is None else workers * cpus)
        try:
            if gpus is None:
                self.gpus = 1 if any(n.get("GPU", 0) >= 1 for n in self._nodes()) else 0
            if workers is None and not self._room():
                raise TrainError(f"no node of the Ray cluster has {cpus} CPUs and {self.gpus:g} GPUs for a task: ask for "
                                 "less, or say with workers how many tasks are to wait for nodes that will join")
            self.remote = ray.remote(num_cpus=cpus, num_gpus=self.gpus, max_retries=0)(self.work)
        except BaseException:
            self.close()
            raise

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _room(self) -> int:
        """Return how many tasks the nodes that are there now take at a time."""
        room = 0
        for node in self._nodes():
            by_gpus = node.get("GPU", 0) // self.gpus if self.gpus else math.inf
            room += int(min(node.get("CPU", 0) // self.cpus, by_gpus))
        return room

    @property
    def workers(self) -> int:
        """Return how many tasks run at a time: as many as the nodes have room for now, at least 1, as others may come."""
        return max(1, min(self._room(), math.inf if self.most is None else self.most))  # type: ignore[return-value]

    def submit(self, task: Task) -> int:
        """Hand a task to the cluster and return its token."""
        self.count += 1
        self._start(Job(self.count, task, hashlib.sha256(task.network).hexdigest()))
        return self.count

    def _start(self, job: Job) -> None:
        small = replace(job.task, network=b"")
        self.running[self.remote.remote(small, self._network(job), self.cpus, self.gpus > 0, _versions())] = job

    def _network(self, job: Job) -> Any:
        """Return a reference to a job's network, put into the object store unless it is there."""
        import numpy
        if job.network not in self.networks:
            self.networks[job.network] = self.ray.put(numpy.frombuffer(job.task.network, dtype=numpy.uint8))
        self.networks.move_to_end(job.network)
        needed = {job.network, *(other.network for other in self.running.values())}
        for name in [name for name in self.networks if name not in needed][:-IDLE]:
            del self.networks[name]
        return self.networks[job.network]

    def wait(self) -> tuple[int, TaskResult]:
        """Return the next token and result; work that is lost with a worker or a node is done again.

        Raises:
            TrainError: what fails would fail for every network: settings, data, or what is installed on a node.
        """
        while True:
            done, _ = self.ray.wait(list(self.running), num_returns=1)
            job = self.running.pop(done[0])
            try:
                return job.token, self.ray.get(done[0])
            except self.ray.exceptions.RayError as error:
                why = self._reason(error)
            job.failures += 1
            if job.failures > RETRIES:
                why = f"failed {job.failures} times on the cluster, at last so: {why}"
                return job.token, TaskResult.failure(job.task, why)
            self._start(job)

    def _reason(self, error: Any) -> str:
        """Return in one line why a task failed; raise the error where it is no matter of this task alone."""
        cause = getattr(error, "cause", None) or error
        if isinstance(error, self.ray.exceptions.ObjectLostError) or isinstance(cause, self.ray.exceptions.ObjectLostError):
            self.networks.clear()  # put again from the bytes that each job has; tasks that run keep theirs
        if isinstance(cause, ImportError) or "failed to import on the worker" in str(cause):
            raise TrainError("a node of the Ray cluster cannot import what the search needs: install the same fxgrow[ray] "
                             f"on each ({str(cause).strip().splitlines()[-1]})") from error
        if isinstance(cause, FxgrowError):
            raise cause
        return f"{type(cause).__name__}: {one_line(cause)}"

    def close(self) -> None:
        """End what runs, and what was started or connected to here."""
        for ref in self.running:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.cancel(ref, force=True)
        self.running.clear()
        self.networks.clear()
        if self.connected:
            self.ray.shutdown()
            self.connected = False


def _versions() -> dict[str, str]:
    return {"fxgrow": fxgrow.__version__, "torch": torch.__version__}


def work(task: Task, network: Any, cpus: int, gpu: bool, versions: dict[str, str]) -> TaskResult:
    """Run a task on a worker; `network`: its bytes as an array in the object store, read where they lie."""
    if versions != _versions():
        node = socket.gethostname()
        raise TrainError(f"node {node} has {_versions()} and the search runs with {versions}: install the same")
    train = dict(task.config["train"])
    if not gpu and train.get("device", "auto") == "auto":
        train["device"] = "cpu"  # Ray does not hide the GPUs that a task has not asked for
    with threads(cpus):
        return run(replace(task, network=memoryview(network), config={**task.config, "train": train}))


Ray.work = staticmethod(work)


def _connect(ray: Any, address: str | None, cpus: int | None) -> bool:
    """Connect to a cluster; False: this process was connected already."""
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise TrainError(f"this process is connected to the Ray cluster at {here}, not to {address}: "
                             "call ray.shutdown() before")
        return False
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        _start(ray, num_cpus=cpus, **quiet)
        return True
    try:
        with _reached(address) as found:
            ray.init(address=found, **quiet)
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        raise TrainError(f"no Ray cluster answers at {address} ({one_line(error)}): start one with `ray start --head`, or "
                         "leave the address out") from error
    return True


def _start(ray: Any, **options: Any) -> None:
    """Start a cluster on this machine."""
    for left in reversed(range(STARTS)):
        try:
            with loopback():
                ray.init(address="local", include_dashboard=False, _node_ip_address=LOCAL, **options)
            return
        except Exception as error:  # of no class of its own where a node is slow to start
            ray.shutdown()
            if not left:
                why = one_line(error)
                raise TrainError(f"a Ray cluster cannot be started here ({why}): choose engine processes") from error


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """Let Ray listen and connect on the loopback interface, as it does on macOS and Windows, and report no usage."""
    import ray
    constants = ray._private.ray_constants
    was, usage = constants.ENABLE_RAY_CLUSTER, os.environ.get("RAY_USAGE_STATS_ENABLED")
    constants.ENABLE_RAY_CLUSTER, os.environ["RAY_USAGE_STATS_ENABLED"] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = was
        os.environ.pop("RAY_USAGE_STATS_ENABLED")
        if usage is not None:
            os.environ["RAY_USAGE_STATS_ENABLED"] = usage


@contextlib.contextmanager
def _reached(address: str) -> Iterator[str]:
    """Yield the address of a cluster that answers; `ray.init` would wait for ever where none does."""
    import ray
    if address.startswith("ray://"):
        _, _, rest = address.partition("://")
        socket.create_connection(_split(rest), timeout=PATIENCE).close()
        yield address
        return
    services = ray._private.services
    host, port = _split(services.canonicalize_bootstrap_address_or_die(address))  # this machine's name instead of 127.0.0.1
    own = contextlib.nullcontext()
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError:
        if address == "auto" or not services.is_localhost(_split(address)[0]):
            raise
        host, own = LOCAL, loopback()  # type: ignore[assignment]
        socket.create_connection((host, port), timeout=PATIENCE).close()
    probe = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    subprocess.run([sys.executable, "-c", probe, f"{host}:{port}"], timeout=PATIENCE, check=True, capture_output=True)
    with own:
        yield f"{host}:{port}"


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is host:port, auto or ray://host:port")
    return host, int(port)
