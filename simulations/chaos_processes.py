"""The processes of a crash test: one nats-server or a cluster of three, and workers; each can be killed and stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from adapters import embedded_probe
from adapters.embedded_process import Child
from adapters.embedded_servers import MAX_PAYLOAD, NatsServer, find_nats_server
from simulations.chaos_network import Network

READY_WITHIN_S: Final = 30.0
FENCED_WORDS: Final = "was written by another worker"


class Node(NatsServer):
    """One node of a cluster on loopback; everybody reaches it through the network's links."""

    def __init__(self, folder: Path, number: int, network: Network) -> None:
        super().__init__(folder / f"n{number}", folder / f"n{number}.log", fixed_port=None, keep_open=())
        self._number = number
        self._network = network

    def launch(self) -> None:
        """Start it without waiting: JetStream serves once several of them stand."""
        self.prepare()
        self._spawn_on(embedded_probe.free_port())

    def argv(self, port: int) -> list[str]:
        """Return how it is started."""
        host, network = embedded_probe.HOST, self._network
        network.client_ports[self._number] = port
        config = self.directory / "nats-server.conf"
        routes = ", ".join(f'"nats://{host}:{route}"' for route in network.routes_of(self._number))
        config.write_text(
            f'listen: "{host}:{port}"\n'
            f'client_advertise: "{host}:{network.clients_of(self._number)}"\n'
            f"server_name: n{self._number}\n"
            f"max_payload: {MAX_PAYLOAD}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.directory), ensure_ascii=False)}, sync_interval: always }}\n"
            f'cluster {{ name: chaos, listen: "{host}:{network.route_ports[self._number]}",\n'
            f'  advertise: "{host}:{network.nowhere}", routes: [{routes}] }}\n',
            encoding="utf-8",
        )
        return [str(find_nats_server()), "--config", str(config)]


class Processes:
    """All of them; `close` leaves none behind."""

    def __init__(self, folder: Path, *, network: Network | None, workers: int) -> None:
        self._folder = folder
        self.nodes: list[NatsServer] = []
        self.workers: list[Child] = []
        self.network = network
        self._workers_wanted = workers
        self._logs: list[Path] = []

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        if self.network is None:
            return [node.url for node in self.nodes]
        return [f"nats://{embedded_probe.HOST}:{self.network.clients_of(at)}" for at in range(len(self.nodes))]

    def start(self) -> None:
        """Start the servers; they answer when this returns."""
        if self.network is None:
            server = NatsServer(self._folder / "nats", self._folder / "nats.log", fixed_port=None, keep_open=())
            self.nodes = [server]
            server.start()
            return
        cluster = [Node(self._folder, number, self.network) for number in range(len(self.network.route_ports))]
        self.nodes = [*cluster]
        for node in cluster:
            node.launch()
        for node in cluster:
            if node.child is not None:
                node.child.wait_until(node.serves, READY_WITHIN_S)

    def close(self) -> None:
        """End everything, what stands still too."""
        for child in (*self.workers, *(node.child for node in self.nodes)):
            if child is not None and child.alive:
                cont(child)
                child.kill()
        for node in self.nodes:
            node.staging.stop()

    def start_workers(self) -> None:
        """Start every worker and wait until it serves."""
        for number in range(self._workers_wanted):
            self.workers.append(self._worker(number))
        deadline = time.monotonic() + READY_WITHIN_S
        for number, child in enumerate(self.workers):
            child.wait_until(self._ready_file(number).exists, max(1.0, deadline - time.monotonic()))

    def restart_worker(self, number: int) -> None:
        """Start a worker in the place of a dead one."""
        self.workers[number] = self._worker(number)

    def restart_dead_workers(self) -> int:
        """Start what ended by itself anew, as a supervisor would; returns how many."""
        dead = [number for number, child in enumerate(self.workers) if child.exit_code not in {None, -signal.SIGKILL}]
        for number in dead:
            self.restart_worker(number)
        return len(dead)

    def fenced(self) -> int:
        """How often a worker said that another had written its partition."""
        return sum(log.read_text(encoding="utf-8", errors="replace").count(FENCED_WORDS) for log in set(self._logs))

    def stop_workers(self) -> None:
        """Ask all to hand over and end."""
        for child in self.workers:
            child.signal_stop()
        for child in self.workers:
            child.stop(within_s=15.0)

    def _worker(self, number: int) -> Child:
        self._ready_file(number).unlink(missing_ok=True)
        log = self._folder / f"worker-{number}.log"
        self._logs.append(log)
        child = Child(
            name=f"worker-{number}",
            argv=[sys.executable, "-P", "-m", "adapters.cli", "run", "worker", "--data", str(self._folder)],
            log_path=log,
            environ={"TALLY_NATS_URL": ",".join(self.urls), "TALLY_READY_FILE": str(self._ready_file(number))},
        )
        child.start()
        return child

    def _ready_file(self, number: int) -> Path:
        return self._folder / f"worker-{number}.ready"


def stop(child: Child) -> None:
    """Let a process stand still, its connections open (SIGSTOP)."""
    _signal(child, signal.SIGSTOP)


def cont(child: Child) -> None:
    """Let it go on."""
    _signal(child, signal.SIGCONT)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.pid is not None and child.alive:
        os.kill(child.pid, number)


def cluster_leader(info: dict[str, Any]) -> str:
    """The node that leads a stream, empty when there is none just now."""
    return (info.get("cluster") or {}).get("leader") or ""
