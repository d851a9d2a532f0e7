"""What the end-to-end tests share: a stack of `nova up` in a folder of its own, its verbs, its certificates and its
database, seen only through what a user has: the command line, files, ports, psql, and a stock gRPC client.

    with harness.Stack() as stack:
        stack.start()
        channel = stack.channel("operator")
"""

import ast
import atexit
import collections
import contextlib
import csv
import fcntl
import functools
import http.client
import importlib
import io
import json
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import typing
import unittest
import uuid

# A refused handshake is what some tests are after; gRPC's own words about it would only confuse.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf import descriptor_pb2

ROOT = pathlib.Path(os.environ.get("TEST_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BINARY = pathlib.Path(os.environ.get("TEST_BINARY_DIR", ROOT / "build")) / "nova"

# Limits of patience, in seconds. None is a promise of the product: they are there so that a hang ends as a failure.
START_LIMIT = 90
STOP_LIMIT = 60
VERB_LIMIT = 60
CALL_LIMIT = 20
EVENT_LIMIT = 30
POLL_INTERVAL = 0.05

PRINCIPALS = ("identity", "user", "content", "social", "media", "communication", "search", "events", "gateway",
              "operator", "probe", "audit")
PASSWORD = "a long enough password"


def say(text):
    """A measured figure or an observation, in the test's own output."""
    print(f"    {text}", file=sys.stderr, flush=True)


def environment(**extra):
    """A closed environment: nothing of the caller's may decide what a test sees."""
    kept = {name: os.environ[name] for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS") if name in os.environ}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **kept, **extra}


def await_condition(what, condition, limit=EVENT_LIMIT, interval=POLL_INTERVAL):
    """Asks until `condition()` is true and returns what it said; for what offers nothing to wait on."""
    end = time.monotonic() + limit
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= end:
            raise AssertionError(f"not within {limit} s: {what}")
        time.sleep(interval)


# --- Ports ---

# C++ fixtures take theirs from 20000 up; outgoing connections from 32768 up.
PORT_BASES = range(10000, 19800, 200)
# A port of the slot that nova has no use for: who listens there has the slot.
GUARD_OFFSET = 150
USED_OFFSETS = (0, 100, *range(1, 9), *range(101, 109), 32, 33, 79)
# What `nova up` starts before the services, in this order.
SERVERS = ("postgres", "pgbouncer", "redis")


def bind_loopback(port):
    """A listening socket, or None when the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        return listener
    except OSError:
        listener.close()
        return None


class PortSlot:
    """A free --port-base that no other test gets while this object lives."""

    def __init__(self):
        for base in random.sample(PORT_BASES, len(PORT_BASES)):
            self.guard = bind_loopback(base + GUARD_OFFSET)
            if self.guard is None:
                continue
            free = [bind_loopback(base + offset) for offset in USED_OFFSETS]
            for listener in filter(None, free):
                listener.close()
            if all(free):
                self.base = base
                return
            self.guard.close()
        raise RuntimeError("no free range of ports")

    def close(self):
        self.guard.close()


# --- Modules ---

@functools.cache
def services():
    """{service: what `nova modules --json` says of it}; `nova up` starts each of them."""
    return {module["name"]: module for module in json.loads(run("modules", "--json").out)["modules"]}


def components():
    """What `nova status` lists."""
    return [*SERVERS, *services()]


# --- Processes ---

def processes_in(folder):
    """Processes that work below `folder`: every child of a stack has its working directory there."""
    folder = pathlib.Path(os.path.realpath(folder))
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            where = pathlib.Path(os.readlink(f"/proc/{entry}/cwd"))
            if where == folder or folder in where.parents:
                found.append(int(entry))
    return found


def command_line(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return "(gone)"


def state_of(pid):
    """"R", "S", "D", "T" (stopped), "Z"; empty when there is no such process any more."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def children_of(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def stalled(pid):
    """While this lasts, the process exists, holds its connections, and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        await_condition(f"{pid} stands still", lambda: state_of(pid) == "T", interval=0.001)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def stalled_tree(pid):
    """The same for a process and its children, which cannot become more once it stands still."""
    with contextlib.ExitStack() as all_stalled:
        all_stalled.enter_context(stalled(pid))
        for child in children_of(pid):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                all_stalled.enter_context(stalled(child))
        yield


def await_end(pids, limit):
    """Waits until all these processes have ended, whosever children they are; returns the ones that have not."""
    poller, left = select.poll(), {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            poller.register(descriptor, select.POLLIN)
            left[descriptor] = pid
    end = time.monotonic() + limit
    while left and (remaining := end - time.monotonic()) > 0:
        for descriptor, _ in poller.poll(remaining * 1000):
            poller.unregister(descriptor)
            os.close(descriptor)
            del left[descriptor]
    for descriptor in left:
        os.close(descriptor)
    return list(left.values())


class Sockets(typing.NamedTuple):
    listening: set  # (address, port)
    connected: set  # ((local address, port), (remote address, port))


def sockets_of(pid):
    """The TCP sockets of one process, as the kernel lists them."""
    inodes = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}")):
                inodes.add(match.group(1))

    def address(text):
        host, port = text.split(":")
        words = struct.pack(f"={len(host) // 8}I", *(int(host[i:i + 8], 16) for i in range(0, len(host), 8)))
        name = socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)
        # A socket for both families shows IPv4 addresses in this form.
        return name.removeprefix("::ffff:"), int(port, 16)

    found = Sockets(set(), set())
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] not in inodes:
                continue
            if fields[3] == "0A":
                found.listening.add(address(fields[1]))
            elif fields[3] == "01":
                found.connected.add((address(fields[1]), address(fields[2])))
    return found


def user_of(pid):
    return os.stat(f"/proc/{pid}").st_uid


class Finished(typing.NamedTuple):
    code: int
    out: str
    err: str

    @property
    def complaints(self):
        """Standard error without log records, which are JSON or begin with their time."""
        return [line for line in self.err.splitlines() if not re.match(r"\{.*\}$|\d\d:\d\d:\d\d\.\d+ ", line)]


def run(*arguments, limit=VERB_LIMIT, cwd="/", **variables):
    """`nova ARGUMENTS...` to its end."""
    done = subprocess.run([BINARY, *map(str, arguments)], env=environment(**variables), cwd=cwd, text=True,
                          errors="backslashreplace", timeout=limit, stdin=subprocess.DEVNULL, capture_output=True,
                          check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


# What a sanitizer or an abort writes; no log may hold it.
CRASH = re.compile(r"ERROR: \w+Sanitizer|runtime error:|AddressSanitizer|LeakSanitizer|Assertion .* failed|"
                   r"terminate called|PANIC:")


# --- The stack ---

class Stack:
    """`nova up` on a data folder and a range of ports of its own. start() and stop() may be repeated.

    `arguments` and `variables` of the environment are those of `nova up`."""

    def __init__(self, *arguments, **variables):
        self.arguments = arguments
        self.variables = variables
        # PostgreSQL runs as another user when the test is root's: the way to the data must be open.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nova-e2e-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.slot = PortSlot()
        self.base = self.slot.base
        self.identity_port, self.admin_port = self.base + 1, self.base + 101
        self.pgbouncer_port, self.postgres_port = self.base + 32, self.base + 33
        self.redis_port = self.base + 79
        self.process = None
        self.summary = []
        self.seconds_to_ready = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- Life --

    def launch(self):
        """Starts the supervisor without waiting for it."""
        assert self.process is None
        # It must not outlive a test that was killed.
        command = ["setpriv", "--pdeathsig", "TERM", "--", BINARY, "up", "--data-dir", self.data, "--port-base",
                   str(self.base), *self.arguments]
        with open(self.folder / "up.stderr", "ab") as errors:
            self.process = subprocess.Popen(command, env=environment(**self.variables), cwd="/",
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                            start_new_session=True)

    def start(self, limit=START_LIMIT):
        """Starts it and returns when it has printed its summary."""
        began = time.monotonic()
        self.launch()
        text, end = b"", began + limit
        descriptor = self.process.stdout.fileno()
        while not re.search(rb"^Ctrl-C.*\n", text, re.MULTILINE):
            ready, _, _ = select.select([descriptor], [], [], max(0, end - time.monotonic()))
            chunk = os.read(descriptor, 65536) if ready else b""
            if not chunk:
                code = self.process.poll()
                self.kill()
                raise AssertionError(f"nova up is not ready (exit status {code}): {text.decode()}"
                                     f"{self.errors()}")
            text += chunk
        self.seconds_to_ready = time.monotonic() - began
        self.summary = text.decode().splitlines()

    def stop(self, number=signal.SIGTERM, limit=STOP_LIMIT):
        """Asks it to end, and returns its exit status."""
        self.process.send_signal(number)
        return self.wait(limit)

    def wait(self, limit=STOP_LIMIT):
        code = self.process.wait(limit)
        self.process.stdout.close()
        self.process = None
        return code

    def kill(self):
        """Ends the supervisor at once, as the kernel does when memory is short, and waits for what it left."""
        children = processes_in(self.data)
        self.process.kill()
        self.wait()
        return await_end(children, EVENT_LIMIT)

    def close(self):
        try:
            if self.process is not None and self.process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.stop()
            if self.process is not None:
                self.kill()
            crashes = [line for line in self.log_text().splitlines() if CRASH.search(line)]
            assert not crashes, "\n".join(crashes)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.slot.close()

    def errors(self):
        return (self.folder / "up.stderr").read_text(errors="replace")

    def log_text(self):
        """Everything that any process of the stack has logged."""
        logs = sorted((self.data / "logs").glob("*")) + [self.folder / "up.stderr"]
        return "".join(log.read_text(errors="replace") for log in logs if log.is_file())

    def children(self):
        return processes_in(self.data)

    def lock_is_free(self):
        with open(self.data / "lock", "r+b") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return True

    def taken_ports(self):
        listeners = {offset: bind_loopback(self.base + offset) for offset in USED_OFFSETS}
        for listener in filter(None, listeners.values()):
            listener.close()
        return [self.base + offset for offset, listener in listeners.items() if listener is None]

    # -- Verbs --

    def verb(self, *arguments, **options):
        return run(*arguments, "--data-dir", self.data, **options)

    def status(self):
        """(exit status, what `nova status --json` says, by component)."""
        done = self.verb("status", "--json")
        answer = json.loads(done.out) if done.out else {"components": []}
        answer["by_name"] = {component["name"]: component for component in answer["components"]}
        return done.code, answer

    def pid_of(self, component):
        return self.status()[1]["by_name"][component]["pid"]

    def port_of(self, component):
        return self.identity_port if component == "identity" else self.status()[1]["by_name"][component]["port"]

    def await_ready(self, limit=EVENT_LIMIT):
        return await_condition("the stack is ready", lambda: self.status()[0] == 0, limit)

    def login(self):
        """What the summary offers: (identifier, password)."""
        line = next(line for line in self.summary if line.strip().startswith("login"))
        identifier, password = line.split(None, 1)[1].split(" / ")
        return identifier, password

    # -- HTTP --

    def admin_port_of(self, service):
        return self.admin_port if service == "identity" else self.status()[1]["by_name"][service]["admin_port"]

    def admin(self, path, method="GET", service="identity"):
        """(status, body) of the admin port of a service."""
        return http_request(self.admin_port_of(service), path, method)

    def metrics(self, service="identity"):
        return parse_metrics(self.admin("/metrics", service=service)[1])

    def metric(self, name, **labels):
        """The sum of the samples of `name` that carry these labels, of identity."""
        return sum_of(self.metrics(), name, **labels)

    # -- SQL --

    def certificate(self, principal, file):
        return self.data / "certs" / principal / file

    def sql_environment(self, user, sslmode="verify-full", password=None):
        return environment(
            PGPASSWORD=password or (self.data / "secrets" / f"{user}.password").read_text().strip(), PGUSER=user,
            PGHOST="127.0.0.1", PGSSLMODE=sslmode, PGSSLROOTCERT=str(self.certificate("operator", "ca.crt")),
            PGCONNECT_TIMEOUT="10", PGAPPNAME="e2e")

    def try_sql(self, sql, user="nova_admin", database="postgres", port=None, **options):
        return subprocess.run(
            ["psql", "-Xq", "--csv", "-v", "ON_ERROR_STOP=1", "-p", str(port or self.postgres_port), "-d", database,
             "-c", sql], env=self.sql_environment(user, **options), cwd="/", text=True, timeout=VERB_LIMIT,
            stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def sql(self, sql, **options):
        """The rows of one statement, as dictionaries; to PostgreSQL itself, as its superuser, unless told otherwise."""
        done = self.try_sql(sql, **options)
        assert done.returncode == 0, done.stderr
        return list(csv.DictReader(io.StringIO(done.stdout)))

    def try_redis(self, *command, user, password=None, tls=True):
        """One command to Redis, as a service or as `audit`; the exit status says whether it was refused."""
        secure = ["--tls", "--cacert", str(self.certificate("operator", "ca.crt"))]
        password = password or (self.data / "secrets" / f"redis_{user}.password").read_text().strip()
        return subprocess.run(
            ["redis-cli", "-e", "-h", "127.0.0.1", "-p", str(self.redis_port), *(secure if tls else []), "--user", user,
             "--no-auth-warning", *map(str, command)], env=environment(REDISCLI_AUTH=password), cwd="/", text=True,
            timeout=VERB_LIMIT, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def redis(self, *command, user="audit"):
        """What Redis answers, as redis-cli prints it for programs."""
        done = self.try_redis(*command, user=user)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def stream(self, producer):
        """The envelopes on the stream of a service, as any consumer finds them there."""
        # For people, redis-cli quotes strings as C does; what it prints for programs leaves bytes ambiguous.
        printed = self.redis("--no-raw", "XRANGE", f"stream:{producer}", "-", "+", user="user")
        strings = [ast.literal_eval(f"b{quoted}") for quoted in re.findall(r'"(?:[^"\\]|\\.)*"', printed)]
        envelope = message_module("api/events/v1/envelope.proto").Envelope
        # Each entry: its id, the name of its only field, the value.
        return [envelope.FromString(value) for value in strings[2::3]]

    def console(self, command):
        """A SHOW command of PgBouncer."""
        return self.sql(command, user="audit", database="pgbouncer", port=self.pgbouncer_port)

    def statements(self):
        """Statements of identity that PostgreSQL works on, those of its health probe aside."""
        return self.sql("SELECT pid, state, wait_event_type, query FROM pg_stat_activity WHERE usename = 'identity' "
                        "AND state <> 'idle' AND query LIKE '%accounts%'")

    @contextlib.contextmanager
    def locked_accounts(self):
        """While this lasts, every statement on the accounts waits in PostgreSQL. Statements that waited long may have
        opened the circuit breaker: afterwards it is closed again."""
        with self.open_transaction("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE"):
            yield
        await_condition("the breaker of postgres is closed",
                        lambda: self.metric("nova_breaker_state", dependency="postgres", state="closed") == 1)

    @contextlib.contextmanager
    def open_transaction(self, sql, database="identity"):
        """While this lasts, a transaction that has done `sql` is open; then it is rolled back."""
        session = subprocess.Popen(
            ["psql", "-XqAt", "-p", str(self.postgres_port), "-d", database], env=self.sql_environment("nova_admin"),
            cwd="/", text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            session.stdin.write(f"BEGIN;\n{sql};\nSELECT 'done';\n")
            session.stdin.flush()
            answer = session.stdout.readline()
            assert answer == "done\n", answer
            yield
        finally:
            session.stdin.close()
            session.wait(CALL_LIMIT)
            session.stdout.close()

    # -- gRPC --

    def credentials(self, principal, ca=None):
        # One version of the set, which may be replaced meanwhile.
        version = (self.certificate(principal, "tls.crt").parent / "..data").resolve()
        read = lambda file: (version / file).read_bytes()
        return grpc.ssl_channel_credentials(ca or read("ca.crt"), read("tls.key"), read("tls.crt"))

    def channel(self, principal="operator", credentials=None, service="identity", expected=None, port=None):
        """A channel to a service, as that principal, with a connection of its own. `expected`: who must answer there;
        `port`: where, if it is not the one that the stack has started."""
        options = [("grpc.ssl_target_name_override", f"{expected or service}.nova.svc.cluster.local"),
                   # Without it gRPC shares connections between channels that look alike.
                   ("grpc.use_local_subchannel_pool", 1),
                   # A server that was killed is back within a second; gRPC's own patience grows to two minutes.
                   ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500),
                   ("grpc.min_reconnect_backoff_ms", 1000)]
        return grpc.secure_channel(f"127.0.0.1:{port or self.port_of(service)}",
                                   credentials or self.credentials(principal), options)


class ServiceProcess:
    """One more process of a service of the stack, which `nova up` knows nothing of: `nova serve` with the environment
    of its own, changed by `variables` (None takes one away), on ports of its own."""

    def __init__(self, stack, service="identity", **variables):
        own = pathlib.Path(f"/proc/{stack.pid_of(service)}/environ").read_bytes().decode().rstrip("\0").split("\0")
        self.service = service
        self.variables = {**dict(variable.split("=", 1) for variable in own), "NOVA_GRPC_PORT": "0",
                          "NOVA_ADMIN_PORT": "0", "NOVA_LOG_FORMAT": "json", "NOVA_LOG_LEVEL": "info", **variables}
        self.variables = {name: value for name, value in self.variables.items() if value is not None}
        # What it has logged so far, without what is no record.
        self.records, self.other_lines = [], []
        self.changed = threading.Condition()
        self.process = None

    def run(self, limit=VERB_LIMIT):
        """For one that must not start: runs it to its end."""
        return run("serve", self.service, limit=limit, **self.variables)

    def __enter__(self):
        # It must not outlive a test that was killed.
        command = ["setpriv", "--pdeathsig", "KILL", "--", BINARY, "serve", self.service]
        self.process = subprocess.Popen(command, env=environment(**self.variables), cwd="/", text=True,
                                        errors="backslashreplace", stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            serving = self.await_record(lambda record: record["message"] == "serving", START_LIMIT)
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise
        self.port, self.admin_port = serving["grpc_port"], serving["admin_port"]
        return self

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_LIMIT)
        self.reader.join(STOP_LIMIT)
        self.process.stderr.close()
        if kind is None:
            assert code == 0, (code, self.other_lines)
            assert not any(CRASH.search(line) for line in self.other_lines), self.other_lines

    def _read(self):
        for line in self.process.stderr:
            with self.changed:
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    self.other_lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def await_record(self, wanted, limit=EVENT_LIMIT, since=0):
        """The first record, from number `since` on, for which `wanted(record)` is true."""
        find = lambda: next((record for record in self.records[since:] if wanted(record)), None)
        with self.changed:
            found = self.changed.wait_for(lambda: find() or self.process.poll() is not None, limit) and find()
            assert found, f"no such record in {self.records[since:]}, {self.other_lines}"
            return found

    def await_ready(self, limit=EVENT_LIMIT):
        """It serves from the first call on, but is healthy only when its dependencies have answered."""
        await_condition(f"{self.service} is ready", lambda: http_request(self.admin_port, "/readyz")[0] == 200, limit)

    def metrics(self):
        return parse_metrics(http_request(self.admin_port, "/metrics")[1])


class Load:
    """Calls and open streams for as long as it lasts, each kind in a thread of its own; what fails is remembered."""

    def __init__(self):
        self.calls = collections.Counter()
        self.failures = []
        self.stopping = threading.Event()
        self.threads, self.streams = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def repeat(self, what, call, pause=0.0):
        """call() again and again."""
        def loop():
            while not self.stopping.is_set():
                try:
                    call()
                    self.calls[what] += 1
                except Exception as error:  # pylint: disable=broad-except
                    # Whatever it was: a load that ended without a word would prove nothing.
                    self._fail(what, error)
                self.stopping.wait(pause)
        self._start(loop)

    def hold(self, what, stream):
        """A stream that must not end by itself; its messages are counted."""
        def read():
            try:
                for _ in stream:
                    self.calls[what] += 1
                self._fail(what, "it ended")
            except grpc.RpcError as error:
                if not self.stopping.is_set():
                    self._fail(what, error)
        self.streams.append(stream)
        self._start(read)

    def stop(self):
        self.stopping.set()
        for stream in self.streams:
            stream.cancel()
        for thread in self.threads:
            thread.join(2 * CALL_LIMIT)
            assert not thread.is_alive(), "a call goes on beyond its deadline"

    def _fail(self, what, error):
        if isinstance(error, grpc.Call):
            error = f"{error.code()} {error.details()}"
        elif isinstance(error, Exception):
            error = repr(error)
        self.failures.append(f"{time.strftime('%H:%M:%S')} {what}: {error}")

    def _start(self, target):
        self.threads.append(threading.Thread(target=target, daemon=True))
        self.threads[-1].start()


def questions(pause):
    """A request for the reflection stream, again and again until the stream ends: proof that it is alive."""
    request = message_module("api/reflection/v1alpha/reflection.proto").ServerReflectionRequest(list_services="*")
    while True:
        yield request
        time.sleep(pause)


# --- HTTP ---

def http_request(port, path, method="GET"):
    """(status, body)"""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_LIMIT)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


# --- Prometheus' text format ---

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:\\.|[^"\\])*",?)*)\})? '
                    r'([-+]?(?:[0-9.]+(?:e[-+]?\d+)?|Inf|NaN))(?: \d+)?')
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:\\.|[^"\\])*)"')


def parse_metrics(text):
    """[(name, labels, value)]; fails on a line that is not of the format, and on a sample without a type."""
    samples, types = [], {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"the type of {name} stands there twice"
            types[name] = kind
        if not line or line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"not a sample: {line}"
        name = match.group(1)
        assert name in types or re.sub(r"_(bucket|sum|count)$", "", name) in types, f"no type: {line}"
        samples.append((name, dict(LABEL.findall(match.group(2) or "")), float(match.group(3))))
    return samples


def sum_of(samples, name, **labels):
    return sum(value for found, has, value in samples if found == name and labels.items() <= has.items())


def by_labels(samples, name, *labels):
    """{(value of each of `labels`): value} of a metric."""
    return {tuple(has[label] for label in labels): value for found, has, value in samples if found == name}


def growth(before, after):
    """What of by_labels() has grown, and by how much."""
    return {labels: value - before.get(labels, 0) for labels, value in after.items() if value != before.get(labels, 0)}


# --- gRPC contracts ---

# Where the messages are; set for the programs that a test starts, too.
MESSAGES = "E2E_MESSAGES"


def message_module(proto):
    """The messages of one of the repository's contracts, made by protoc as any other team would."""
    if MESSAGES not in os.environ:
        folder = tempfile.mkdtemp(prefix="nova-e2e-messages-", dir="/tmp")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        protos = sorted(path.relative_to(ROOT) for path in (ROOT / "api").rglob("*.proto"))
        subprocess.run(["protoc", "-I", ROOT, f"--python_out={folder}", *protos], cwd=ROOT, check=True,
                       env=environment())
        os.environ[MESSAGES] = folder
    if os.environ[MESSAGES] not in sys.path:
        sys.path.insert(0, os.environ[MESSAGES])
    return importlib.import_module(proto.removesuffix(".proto").replace("/", ".") + "_pb2")


class Client:
    """Calls by method name: client.Register(request, timeout=5). Built from the contract alone."""

    def __init__(self, channel, proto, service):
        self.messages = message_module(proto)
        self.descriptor = self.messages.DESCRIPTOR.services_by_name[service]
        for method in self.descriptor.methods:
            shape = descriptor_pb2.MethodDescriptorProto()
            method.CopyToProto(shape)
            kind = (f"{'stream' if shape.client_streaming else 'unary'}_"
                    f"{'stream' if shape.server_streaming else 'unary'}")
            setattr(self, method.name, getattr(channel, kind)(
                f"/{self.descriptor.full_name}/{method.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=getattr(self.messages, method.output_type.name).FromString))


def identity_client(channel):
    return Client(channel, "api/identity/v2/identity.proto", "IdentityService")


def health_client(channel):
    return Client(channel, "api/health/v1/health.proto", "Health")


def reflection_client(channel):
    return Client(channel, "api/reflection/v1alpha/reflection.proto", "ServerReflection")


def user_client(channel):
    return Client(channel, "api/user/v2/user.proto", "UserService")


def bearer(access_token):
    """The metadata of a call on behalf of whoever got this token."""
    return [("authorization", f"Bearer {access_token}")]


def await_own_profile(users, access_token, limit=EVENT_LIMIT):
    """Returns when `user` has made the profile of whoever got this token."""
    mine = message_module("api/user/v2/user.proto").GetSettingsRequest()

    def find():
        try:
            users.GetSettings(mine, timeout=CALL_LIMIT, metadata=bearer(access_token))
            return True
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
    await_condition("the profile is there", find, limit, interval=0.005)


def event_of(envelope):
    """The message that an envelope carries."""
    module = message_module(f"api/events/v1/{envelope.producer}.proto")
    return getattr(module, envelope.type.rpartition(".")[2]).FromString(envelope.payload)


class Account(typing.NamedTuple):
    id: str
    email: str
    username: str
    password: str


def registration(tag=None, **fields):
    """A valid RegisterRequest for an account that nobody has."""
    messages = message_module("api/identity/v2/identity.proto")
    tag = tag or uuid.uuid4().hex[:12]
    return messages.RegisterRequest(**{"email": f"e2e-{tag}@example.com", "username": f"e2e_{tag}",
                                       "password": PASSWORD, "idempotency_key": str(uuid.uuid4()), **fields})


def register(client, **fields):
    request = registration(**fields)
    account = client.Register(request, timeout=CALL_LIMIT).account
    return Account(account.id, request.email, request.username, request.password)


def log_in(client, account):
    return client.Login(client.messages.LoginRequest(identifier=account.email, password=account.password),
                        timeout=CALL_LIMIT)


def failure(call, *arguments, **options):
    """The RpcError of a call that must fail."""
    try:
        answer = call(*arguments, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"the call succeeded: {answer}")


class StackTest(unittest.TestCase):
    """Tests that use one stack, which all such classes of a program share."""

    _shared = None

    @classmethod
    def setUpClass(cls):
        if StackTest._shared is None:
            StackTest._shared = stack = Stack()
            unittest.addModuleCleanup(stack.close)
            stack.start()
        cls.stack = StackTest._shared

    def open_channel(self, *arguments, **options):
        channel = self.stack.channel(*arguments, **options)
        self.addCleanup(channel.close)
        return channel

    def assertFails(self, code, call, *arguments, **options):
        error = failure(call, *arguments, **options)
        self.assertEqual(error.code(), code, error.details())
        return error
