"""The local stack: PostgreSQL, the mail sandbox and Airflow, started and stopped as one.

Everything that a stack keeps lives in one directory, its *home*: data, keys (mode 0600), ports, logs. Ports are
chosen once and kept, because mailboxes remember the ports of the sandbox.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from emberflow import private_files
from emberflow.errors import StackError
from emberflow.local_stack import airflow, variable_files
from emberflow.local_stack.postgres import EmbeddedPostgres
from emberflow.local_stack.processes import Service, is_suspended

if TYPE_CHECKING:
    from pydantic import SecretStr

    from emberflow.local_stack.airflow_client import AirflowClient
    from emberflow.operations.mailboxes import Servers, Way
    from emberflow.sandbox import SandboxAddress
    from emberflow.settings import Settings

DAG_IDS = {"warmup_hourly", "dispatch", "inbox", "reconcile", "reputation", "domain_checks"}
_PORTS = ("airflow", "smtp", "smtps", "imap", "imaps")
_PREFERRED_AIRFLOW_PORT = 8080
_FIRST_PORT = 20_000
_PORT_RANGE = 12_000
_AIRFLOW_TIMEOUT_S = 300.0
_DEMO_SEED = 1
_SANDBOX_TIMEOUT_S = 20.0

Report = Callable[[str], None]
STEPS = ("PostgreSQL", "mail sandbox", "database schema", "Airflow's database", "Airflow")


SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class ServiceState:
    """One line of ``emberflow status``."""

    name: str
    pid: int | None
    address: str

    @property
    def is_suspended(self) -> bool:
        """Whether a signal holds the process (SIGSTOP): it is there and does nothing."""
        return self.pid is not None and is_suspended(self.pid)


@dataclass(frozen=True)
class Part:
    """One part of the stack as its supervisor sees it.

    ``needs`` are the parts that must answer (``answers``) before this one is started.
    """

    name: str
    is_running: Callable[[], bool]
    start: Callable[[], None]
    needs: tuple[str, ...] = ()
    answers: Callable[[], bool] = lambda: True


class Stack:
    """One instance of the local stack in ``home``.

    ``attached`` ties its processes to this one: they end with it, however it ends. Detached ones stay until
    ``stop`` is called by this or a later command, are started again when they die (``local_stack.supervisor``), and
    honour the operator's own ``EMBERFLOW_...`` variables: with those set, the same stack works on another database,
    with other CAs, keys or scripts. ``variables`` are set for its processes above all others.
    """

    def __init__(
        self, home: Path, *, attached: bool, policy: str = "standard", variables: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self._variables = dict(variables or {})
        self._attached = attached
        self._policy = policy
        self._configured = {} if attached else _operators_variables()
        self._postgres = EmbeddedPostgres(home / "postgres")
        self._sandbox = Service("mail-sandbox", home / "run")
        self._airflow = [Service(name, home / "run") for name in airflow.COMPONENTS]
        self._supervisor = Service(SUPERVISOR, home / "run")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database ``emberflow``."""
        return self._configured.get("EMBERFLOW_DATABASE_URL") or self._postgres.url("emberflow")

    @property
    def sandbox_directory(self) -> Path:
        """Where the mail sandbox keeps its accounts, rules, certificates and delivery log."""
        return self.home / "sandbox"

    def sandbox_address(self) -> SandboxAddress:
        """Return the sandbox's host, ports and CA."""
        from emberflow.sandbox import SandboxAddress

        ports = self._ports()
        return SandboxAddress(
            host="localhost",
            smtp_port=ports["smtp"],
            smtps_port=ports["smtps"],
            imap_port=ports["imap"],
            imaps_port=ports["imaps"],
            ca_file=self._sandbox_ca(),
        )

    def sandbox_servers(self) -> Servers:
        """Return the sandbox as mailboxes refer to it."""
        from emberflow.operations.mailboxes import Servers

        address = self.sandbox_address()
        return Servers(address.host, address.smtp_port, "starttls", address.host, address.imaps_port, "implicit")

    def sandbox_accounts(self) -> Way:
        """Return how mailboxes are created on the sandbox."""
        from emberflow.operations.mailboxes import Way
        from emberflow.sandbox import create_accounts

        def create(address: str, password: SecretStr) -> None:
            create_accounts(self.sandbox_directory, {address: password.get_secret_value()})

        return Way("the local mail sandbox", create)

    def airflow_client(self) -> AirflowClient:
        """Return a REST client that is logged in as the administrator."""
        from emberflow.local_stack.airflow_client import AirflowClient

        return AirflowClient(self._ports()["airflow"], self._keys()["AIRFLOW_ADMIN_PASSWORD"])

    def airflow_login(self) -> tuple[str, str, str]:
        """Return the address of Airflow's pages, the user name and the password."""
        return (
            f"http://127.0.0.1:{self._ports()['airflow']}",
            airflow.ADMIN,
            self._keys()["AIRFLOW_ADMIN_PASSWORD"],
        )

    def was_started(self) -> bool:
        """Return whether ``up`` has started this stack and no ``down`` came since."""
        return (self.home / "stack.env").exists()

    def is_running(self) -> bool:
        """Return whether ``up`` has started this stack and its database server runs."""
        return self.was_started() and self._postgres.pid() is not None

    def settings(self) -> Settings:
        """Return the settings that this stack's processes run with."""
        from pydantic import SecretStr

        from emberflow.settings import Settings

        keys = self._keys()
        return Settings(
            database_url=SecretStr(self.database_url),
            mail_mode="sandbox",
            ca_files={"localhost": self._sandbox_ca()},
            secret_keys=json.loads(keys["EMBERFLOW_SECRET_KEYS"]),
            token_keys=json.loads(keys["EMBERFLOW_TOKEN_KEYS"]),
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that every process of this stack gets, on top of this process's own.

        Inherited Airflow variables are left out: the stack configures its own Airflow.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "EMBERFLOW_", "DBT_")) and name != "PYTHONDONTWRITEBYTECODE"
        }
        keys = self._keys()
        own = {name: keys[name] for name in ("EMBERFLOW_SECRET_KEYS", "EMBERFLOW_TOKEN_KEYS")}
        configured = airflow.environment(
            self.home / "airflow",
            self._postgres.url("airflow"),
            self._ports()["airflow"],
            keys,
            keys["AIRFLOW_ADMIN_PASSWORD"],
        )
        search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return inherited | configured | own | self._addresses() | {"PATH": search_path} | self._variables

    def running_environment(self) -> dict[str, str]:
        """Return the variables that the processes of the running stack got when ``up`` started them."""
        others = {name: value for name, value in self.environment().items() if not name.startswith("EMBERFLOW_")}
        return others | self.recorded_settings()

    def recorded_settings(self) -> dict[str, str]:
        """Return the settings of the running stack as its files state them, whatever the present shell says."""
        keys = {name: value for name, value in self._keys().items() if name.startswith("EMBERFLOW_")}
        return keys | variable_files.read(self.home / "stack.env") | self._variables

    def with_other_settings(self, environment: Mapping[str, str]) -> dict[str, list[str]]:
        """Return by process which settings it was started with otherwise than ``environment`` has them."""
        services = [self._sandbox, *self._airflow, self._supervisor]
        return {service.name: names for service in services if (names := service.other_settings(environment))}

    def require_same_settings(self) -> None:
        """Refuse to start anything beside processes that run with other settings.

        Raises:
            StackError: there are such processes. The text names the settings and shows no value.
        """
        others = self.with_other_settings(self.environment())
        if others:
            told = "; ".join(f"{process} ({', '.join(names)})" for process, names in others.items())
            raise StackError(
                f"these run with other settings: {told}. Nothing was changed: run `./emberflow down` first, "
                "or set the variables as they were at the last `up`"
            )

    @contextmanager
    def alone(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Let no other command start or stop this stack meanwhile; ``on_wait`` is called before waiting for one."""
        private_files.make_directory(self.home)
        with private_files.append(self.home / "stack.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def supervise_in_background(self) -> None:
        """Start the process that starts again what dies."""
        command = [sys.executable, "-m", "emberflow.local_stack.supervisor"]
        self._supervisor.start(command, self.environment(), die_with_parent=False)

    def parts(self) -> list[Part]:
        """Return the parts in the order in which they are started, for the supervisor."""
        postgres = Part("postgresql", lambda: self._postgres.pid() is not None, self._postgres.start)
        sandbox = Part(self._sandbox.name, lambda: self._sandbox.process() is not None, self._start_sandbox)
        return [postgres, sandbox, *(self._as_part(service, postgres.name) for service in self._airflow)]

    def _as_part(self, service: Service, database: str) -> Part:
        return Part(
            service.name,
            is_running=lambda: service.process() is not None,
            start=lambda: self._start_component(service),
            # A task reports to the API server: it fails when nobody answers there.
            needs=(database, airflow.API_SERVER) if service.name == airflow.SCHEDULER else (database,),
            answers=self._api_answers if service.name == airflow.API_SERVER else lambda: True,
        )

    def _api_answers(self) -> bool:
        return _answers(self._ports()["airflow"])

    def _start_component(self, service: Service) -> None:
        if service.name == airflow.API_SERVER:
            self._free_port_of(service)
        command = [airflow_program(), *airflow.COMPONENTS[service.name]]
        service.start(command, self.environment(), die_with_parent=self._attached)

    def start(self, report: Report = lambda _: None) -> None:
        """Start what does not run yet, in order, and wait until all of it answers.

        Raises:
            StackError: something did not start; the text says what and shows the end of its log.
        """
        self.start_servers(report)
        self.start_airflow(report)

    def start_servers(self, report: Report = lambda _: None) -> None:
        """Start PostgreSQL and the mail sandbox and bring the database to its schema; Airflow does not run yet.

        Raises:
            StackError: as in :meth:`start`.
        """
        private_files.make_directory(self.home)
        self._supervisor.stop()  # it would start the same parts
        for service in self._airflow:
            if service.name == airflow.API_SERVER and service.process() is None:
                self._free_port_of(service)
        report("PostgreSQL")
        self._postgres.start(die_with_parent=self._attached)
        for database in ("emberflow", "airflow"):
            self._postgres.create_database(database)
        variable_files.write(self.home / "stack.env", self._addresses())
        report("mail sandbox")
        self._start_sandbox()
        report("database schema")
        self._migrate()

    def start_airflow(self, report: Report = lambda _: None) -> None:
        """Start Airflow on the servers that run.

        Raises:
            StackError: as in :meth:`start`.
        """
        report("Airflow's database")
        environment = self.environment()
        log = Service("airflow-migrate", self.home / "run")
        private_files.write_text(log.log_file, "")
        with private_files.append(log.log_file) as out:
            done = subprocess.run(
                [sys.executable, str(airflow.PREPARE)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=False,
                umask=private_files.UMASK,
            )  # fmt: skip
        if done.returncode != 0:
            raise StackError(f"Airflow's database could not be prepared:\n{log.log_tail()}")
        report("Airflow")
        # The scheduler comes last: its tasks fail while the API server does not answer.
        first = [service for service in self._airflow if service.name != airflow.SCHEDULER]
        for service in first:
            if service.process() is None:
                self._start_component(service)

        def all_run() -> None:
            for service in [*first, self._sandbox]:
                service.require_running()

        self.airflow_client().wait_until_ready(DAG_IDS, _AIRFLOW_TIMEOUT_S, all_run)
        (scheduler,) = (service for service in self._airflow if service.name == airflow.SCHEDULER)
        if scheduler.process() is None:
            self._start_component(scheduler)

    def stop(self) -> None:
        """Stop everything that runs; what is kept in ``home`` stays."""
        self._supervisor.stop()
        for service in self._airflow:
            service.ask_to_stop()
        for service in [*self._airflow, self._sandbox]:
            service.stop()
        self._postgres.stop()
        (self.home / "stack.env").unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop everything and delete the home directory."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def status(self) -> list[ServiceState]:
        """Return the state of each part."""
        ports = self._ports() if self.home.exists() else {}
        states = [ServiceState("postgresql", self._postgres.pid(), self.database_url)]
        smtp = (
            f"localhost: SMTP {ports.get('smtp')}, {ports.get('smtps')}; IMAP {ports.get('imap')}, {ports.get('imaps')}"
        )
        for service in [self._sandbox, *self._airflow]:
            process = service.process()
            address = {"mail-sandbox": smtp, "airflow-api-server": f"http://127.0.0.1:{ports.get('airflow')}"}
            states.append(ServiceState(service.name, process.pid if process else None, address.get(service.name, "")))
        if not self._attached:
            process = self._supervisor.process()
            states.append(ServiceState(SUPERVISOR, process.pid if process else None, ""))
        return states

    def _start_sandbox(self) -> None:
        if self._sandbox.process() is not None:
            return
        self._sandbox.end_session()
        self._require_free("smtp", "smtps", "imap", "imaps")
        ports = self._ports()
        command = [sys.executable, "-m", "emberflow.sandbox", str(self.sandbox_directory)]
        for name in ("smtp", "smtps", "imap", "imaps"):
            command += [f"--{name}-port", str(ports[name])]
        private_files.make_directory(self.sandbox_directory)
        self._sandbox.start(command, self.environment(), die_with_parent=self._attached)
        deadline = time.monotonic() + _SANDBOX_TIMEOUT_S
        while not _answers(ports["imaps"]):
            self._sandbox.require_running()
            if time.monotonic() > deadline:
                raise StackError(f"the mail sandbox does not answer:\n{self._sandbox.log_tail()}")
            time.sleep(0.05)

    def _free_port_of(self, api_server: Service) -> None:
        api_server.end_session()  # a worker that outlived it may still listen
        self._require_free("airflow")

    def _require_free(self, *names: str) -> None:
        """Raise a StackError if another program listens where a part that does not run is about to."""
        ports = self._ports()
        taken = [f"127.0.0.1:{ports[name]}" for name in names if _answers(ports[name])]
        if taken:
            raise StackError(
                f"{', '.join(taken)} is used by another program: stop it, and then run `./emberflow up`. "
                f"The ports of this stack are in {self.home / 'ports.json'}; `airflow` may be changed there, "
                "but mailboxes remember the others"
            )

    def _sandbox_ca(self) -> Path:
        return self.sandbox_directory / "tls" / "ca.pem"

    def _migrate(self) -> None:
        from sqlalchemy import create_engine

        from emberflow.database.migrate import upgrade
        from emberflow.policy.document import shipped
        from emberflow.policy.versions import ensure_in_force

        engine = create_engine(self.database_url)
        try:
            upgrade(engine)
            with engine.begin() as connection:
                ensure_in_force(connection, shipped(self._policy), self._beginning())
        finally:
            engine.dispose()

    def _beginning(self) -> Settings:
        """Return what a new database takes its seed and scripts from; those of a demonstration are always the same."""
        from emberflow.settings import Settings

        return self.settings().model_copy(update={"seed": _DEMO_SEED}) if self._attached else Settings()

    def _addresses(self) -> dict[str, str]:
        """Return the settings that a later command finds in ``stack.env``."""
        ca_files = {"localhost": str(self._sandbox_ca())}
        ca_files |= json.loads(self._configured.get("EMBERFLOW_CA_FILES", "{}"))
        return self._configured | {
            "EMBERFLOW_HOME": str(self.home),
            "EMBERFLOW_DATABASE_URL": self.database_url,
            "EMBERFLOW_CA_FILES": json.dumps(ca_files),
        }

    def _ports(self) -> dict[str, int]:
        file = self.home / "ports.json"
        if not file.exists():
            # Airflow binds its port half a minute later: of stacks that start together only one may count on it.
            claim = None if self._attached else _sole_claim_on_preferred_ports()
            if claim is not None:
                weakref.finalize(self, claim.close)
            preferred = {} if claim is None else {"airflow": _PREFERRED_AIRFLOW_PORT}
            private_files.write_text(file, json.dumps(_free_ports(_PORTS, preferred)))
        ports: dict[str, int] = json.loads(file.read_text())
        return ports

    def _keys(self) -> dict[str, str]:
        file = self.home / "keys.env"
        if not file.exists():
            variable_files.write(file, generate_keys())
        return variable_files.read(file)


def _operators_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("EMBERFLOW_")}


def airflow_program() -> str:
    """Return the path of Airflow's own command line."""
    return str(Path(sys.executable).parent / "airflow")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def generate_keys() -> dict[str, str]:
    """Return a fresh set of every key that a stack needs, by variable name."""
    from emberflow.database.secrets import generate_key

    return {
        "EMBERFLOW_SECRET_KEYS": json.dumps({"k1": generate_key()}),
        "EMBERFLOW_TOKEN_KEYS": json.dumps([secrets.token_urlsafe(32)]),
        "AIRFLOW_FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW_API_SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW_JWT_SECRET": secrets.token_urlsafe(64),
        "AIRFLOW_ADMIN_PASSWORD": secrets.token_urlsafe(12),
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
    }


def _free_ports(names: tuple[str, ...], preferred: Mapping[str, int]) -> dict[str, int]:
    """Choose a free loopback port per name; all are held open until the last one is chosen.

    Ports below the range from which Linux gives outgoing connections theirs, so that none is taken before we bind.
    """
    held: list[socket.socket] = []
    chosen = {}
    try:
        for name in names:
            candidates = [preferred[name]] if name in preferred else []
            candidates += [_FIRST_PORT + secrets.randbelow(_PORT_RANGE) for _ in range(100)]
            chosen[name] = next(port for port in candidates if _holds(port, held))
    finally:
        for listener in held:
            listener.close()
    return chosen


def _sole_claim_on_preferred_ports() -> IO[bytes] | None:
    """Return a lock that this user's other stacks find taken while it is open, or None if one of them has it."""
    name = Path(tempfile.gettempdir()) / f"emberflow-{os.getuid()}-ports.lock"
    try:
        claim = os.fdopen(os.open(name, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600), "rb")
    except OSError:
        return None
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        claim.close()
        return None
    return claim


def _holds(port: int, held: list[socket.socket]) -> bool:
    listener = socket.socket()
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        return False
    held.append(listener)
    return True
