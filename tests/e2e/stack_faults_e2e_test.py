"""`nova up` when things go wrong: processes that are killed or stall, folders that are not whole, ports that are taken,
certificates that expire. Nothing may be lost, and nothing may stay behind."""

import json
import os
import shutil
import signal
import socket
import ssl
import threading
import time
import unittest

import grpc
import harness
from harness import say

# How soon after the supervisor's death its children must be gone: PostgreSQL gets SIGQUIT, the others SIGKILL.
ORPHAN_LIMIT = 15


class Watcher:
    """The statuses a health Watch reports, with their times."""

    def __init__(self, channel):
        self.health = harness.health_client(channel)
        self.statuses = self.health.messages.HealthCheckResponse.ServingStatus
        self.call = self.health.Watch(self.health.messages.HealthCheckRequest(), timeout=300)
        self.seen = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for response in self.call:
                with self.changed:
                    self.seen.append((self.statuses.Name(response.status), time.monotonic()))
                    self.changed.notify_all()
        except grpc.RpcError:
            pass

    def await_status(self, name, limit=harness.EVENT_LIMIT):
        """When `name` became the last status reported."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.seen and self.seen[-1][0] == name, limit), (name, self.seen)
            return self.seen[-1][1]


class FaultTest(harness.StackTest):
    def setUp(self):
        if self.stack.process is None:
            self.stack.start()
        self.stack.await_ready()
        self.account = self.once_available(harness.register)

    def once_available(self, do, *arguments):
        """do(client, ...) as soon as nobody answers UNAVAILABLE any more: PgBouncer refuses for a second after its
        database has come back."""
        def attempt():
            with self.stack.channel() as channel:
                try:
                    return do(harness.identity_client(channel), *arguments)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
        return harness.await_condition("it is available", attempt)

    def assertServes(self):
        """An account from before still logs in, and a new one can be made."""
        answer = self.once_available(harness.log_in, self.account)
        self.assertEqual(answer.account_id, self.account.id)
        self.once_available(harness.register)


class ComponentFaultTest(FaultTest):
    def check_restart(self, component):
        """Kills it; returns how long it took until it was ready again."""
        _, before = self.stack.status()
        killed = before["by_name"][component]
        began = time.monotonic()
        os.kill(killed["pid"], signal.SIGKILL)

        def is_back():
            code, status = self.stack.status()
            now = status["by_name"][component]
            return code == 0 and now["pid"] not in (0, killed["pid"]) and now["restarts"] == killed["restarts"] + 1

        harness.await_condition(f"{component} is back", is_back)
        self.assertServes()
        say(f"{component} killed: serves again after {time.monotonic() - began:.1f} s")
        # Health goes by several probes in a row: it may hear of the fault, and of its end, a moment later.
        harness.await_condition("the probe says SERVING", lambda: self.stack.verb("probe").code == 0)

    def test_killed_service_is_restarted(self):
        for service in harness.services():
            with self.subTest(service):
                self.check_restart(service)

    def test_killed_pgbouncer_is_restarted(self):
        self.check_restart("pgbouncer")

    def test_killed_postgresql_is_restarted_and_keeps_the_data(self):
        self.check_restart("postgres")

    def test_killed_redis_is_restarted_and_keeps_the_data(self):
        self.stack.redis("SET", "identity:e2e", "kept", user="identity")
        self.check_restart("redis")
        self.assertEqual(self.stack.redis("GET", "identity:e2e", user="identity"), "kept")

    def test_without_redis_accounts_are_made_and_log_in(self):
        redis = self.stack.pid_of("redis")
        self.addCleanup(os.kill, redis, signal.SIGCONT)
        os.kill(redis, signal.SIGSTOP)
        with self.stack.channel() as channel:
            client = harness.identity_client(channel)
            began = time.monotonic()
            for _ in range(3):
                self.assertTrue(harness.log_in(client, harness.register(client)).access_token)
            say(f"stalled Redis: 3 registrations and log-ins in {time.monotonic() - began:.1f} s")
        self.assertEqual(self.stack.verb("probe").code, 0)
        self.assertEqual(self.stack.admin("/readyz")[0], 200)
        os.kill(redis, signal.SIGCONT)
        self.stack.await_ready()

    def test_lost_database_shows_in_health_and_its_return_too(self):
        channel = self.open_channel()
        watcher = Watcher(channel)
        self.addCleanup(watcher.call.cancel)
        watcher.await_status("SERVING")
        pooler = self.stack.pid_of("pgbouncer")
        self.addCleanup(os.kill, pooler, signal.SIGCONT)

        began = time.monotonic()
        os.kill(pooler, signal.SIGSTOP)
        say(f"stalled PgBouncer: NOT_SERVING after {watcher.await_status('NOT_SERVING') - began:.1f} s")
        self.assertEqual(self.stack.verb("probe").code, 1)
        self.assertEqual(self.stack.verb("probe").out, "NOT_SERVING\n")
        self.assertEqual(self.stack.admin("/readyz")[0], 503)
        self.assertEqual(self.stack.admin("/livez")[0], 200)
        cause = json.loads(self.stack.admin("/statusz")[1])["cause"]
        self.assertIn("postgres", cause)
        code, status = self.stack.status()
        self.assertEqual((code, status["ready"]), (1, False))
        self.assertEqual(status["by_name"]["identity"]["state"], "not ready")
        # What waits in vain says so, and soon.
        client = harness.identity_client(channel)
        error = harness.failure(harness.log_in, client, self.account)
        self.assertIn(error.code(), (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
                                     grpc.StatusCode.RESOURCE_EXHAUSTED))

        began = time.monotonic()
        os.kill(pooler, signal.SIGCONT)
        say(f"PgBouncer goes on: SERVING after {watcher.await_status('SERVING') - began:.1f} s")
        self.assertEqual(self.stack.verb("probe").code, 0)
        self.assertServes()

    def test_status_tells_a_stalled_service(self):
        identity = self.stack.pid_of("identity")
        self.addCleanup(os.kill, identity, signal.SIGCONT)
        os.kill(identity, signal.SIGSTOP)
        code, status = self.stack.status()
        self.assertEqual((code, status["by_name"]["identity"]["state"]), (1, "no answer"))
        self.assertEqual(self.stack.verb("probe", "--timeout", "500ms").code, 3)
        os.kill(identity, signal.SIGCONT)
        self.stack.await_ready()


class SupervisorFaultTest(FaultTest):
    def test_killed_supervisor_leaves_no_child_and_the_next_start_keeps_the_data(self):
        children = self.stack.children()
        self.assertGreaterEqual(len(children), len(harness.components()))
        began = time.monotonic()
        self.stack.process.kill()
        self.stack.wait()
        left = harness.await_end(children, ORPHAN_LIMIT)
        self.assertEqual([harness.command_line(pid) for pid in left], [])
        say(f"SIGKILL: {len(children)} processes gone after {time.monotonic() - began:.1f} s")
        self.assertEqual(self.stack.children(), [])
        self.assertTrue(self.stack.lock_is_free())
        code, status = self.stack.status()
        self.assertEqual((code, status["running"]), (3, False))

        self.stack.start()
        say(f"start after SIGKILL: ready after {self.stack.seconds_to_ready:.1f} s")
        self.assertServes()

    def test_start_right_after_a_kill_does_not_trip_over_what_is_still_going(self):
        self.stack.process.kill()
        self.stack.wait()
        self.stack.start()
        self.assertServes()

    def test_second_up_on_the_same_folder_is_refused(self):
        before = sorted(self.stack.children())
        done = self.stack.verb("up", "--port-base", str(self.stack.base))
        self.assertEqual((done.code, done.out), (2, ""))
        self.assertEqual(len(done.err.splitlines()), 1, done.err)
        self.assertIn(str(self.stack.data), done.err)
        self.assertIn("nova down", done.err)
        self.assertEqual(sorted(self.stack.children()), before)
        self.assertServes()

    def test_wipe_and_foreign_folders(self):
        foreign = self.stack.folder / "foreign"
        foreign.mkdir()
        (foreign / "precious.txt").write_text("mine")
        for arguments in (("up", "--port-base", "65000"), ("down", "--wipe")):
            with self.subTest(arguments[0]):
                done = harness.run(*arguments, "--data-dir", foreign)
                self.assertEqual((done.code, len(done.err.splitlines())), (2, 1), done.err)
                self.assertIn("--data-dir", done.err)
                self.assertEqual([path.name for path in foreign.iterdir()], ["precious.txt"])


class TakenPortTest(unittest.TestCase):
    def test_each_port_that_is_taken_is_named_and_nothing_is_started(self):
        with harness.Stack() as stack:
            for who, port in (("identity", stack.identity_port), ("admin", stack.admin_port),
                              ("PgBouncer", stack.pgbouncer_port), ("PostgreSQL", stack.postgres_port),
                              ("Redis", stack.redis_port)):
                with self.subTest(who):
                    listener = harness.bind_loopback(port)
                    self.assertIsNotNone(listener)
                    with listener:
                        done = stack.verb("up", "--port-base", str(stack.base))
                    self.assertEqual((done.code, done.out), (2, ""))
                    self.assertEqual(len(done.err.splitlines()), 1, done.err)
                    for needed in (str(port), who, "--port-base"):
                        self.assertIn(needed, done.err)
                    self.assertEqual(stack.children(), [])
                    self.assertEqual(stack.taken_ports(), [])
            stack.start()
            self.assertEqual(stack.stop(), 0)


class HalfWrittenFolderTest(unittest.TestCase):
    """A data folder that is not whole: either the start heals it, or it is refused in one line with the remedy."""

    def setUp(self):
        self.stack = harness.Stack()
        self.addCleanup(self.stack.close)

    def assertRefused(self, *needed):
        before = {path: path.stat().st_size for path in self.stack.data.rglob("*") if path.is_file()}
        done = self.stack.verb("up", "--port-base", str(self.stack.base))
        self.assertEqual((done.code, done.out), (2, ""))
        self.assertEqual(len(done.err.splitlines()), 1, done.err)
        for text in (str(self.stack.data), *needed):
            self.assertIn(text, done.err)
        self.assertEqual(self.stack.children(), [])
        after = {path: path.stat().st_size for path in self.stack.data.rglob("*") if path.is_file()}
        # The lock says who looked last.
        before.pop(self.stack.data / "lock", None)
        after.pop(self.stack.data / "lock", None)
        self.assertEqual(before, after, "something of the folder was lost")

    def test_first_start_that_was_killed_is_begun_anew(self):
        # The moments at which a first start can die, by what is on the disk then.
        for moment in ("nova.json", "ca", "certs/identity", "postgres.tmp", "postgres/PG_VERSION", "redis/redis.conf"):
            with self.subTest(moment):
                self.stack.launch()
                harness.await_condition(moment, (self.stack.data / moment).exists)
                self.assertEqual(self.stack.kill(), [])
                self.stack.start()
                with self.stack.channel() as channel:
                    harness.register(harness.identity_client(channel))
                self.assertEqual(self.stack.stop(), 0)
                self.assertEqual(self.stack.verb("down", "--wipe").code, 0)
                self.assertFalse(self.stack.data.exists())

    def test_damage_is_named_and_what_was_hidden_can_be_put_back(self):
        stack = self.stack
        stack.start()
        with stack.channel() as channel:
            account = harness.register(harness.identity_client(channel))
        self.assertEqual(stack.stop(), 0)

        aside = stack.folder / "aside"
        for part, needed in (("postgres", "nova down --wipe"), ("postgres/global/pg_control", "nova down --wipe"),
                             ("postgres/PG_VERSION", "nova down --wipe"),
                             ("secrets/nova_admin.password", "nova down --wipe"), ("ca/ca.key", "ca.key"),
                             ("ca/ca.crt", "ca.crt")):
            with self.subTest(f"without {part}"):
                (stack.data / part).rename(aside)
                self.assertRefused(needed)
                aside.rename(stack.data / part)
        marker = stack.data / "nova.json"
        whole = marker.read_bytes()
        for cut in (b"", whole[:len(whole) // 2], b"{}", b'{"format":99}\n'):
            with self.subTest(f"nova.json holds {cut}"):
                marker.write_bytes(cut)
                self.assertRefused()
        marker.write_bytes(whole)

        # What can be made again is made again; what was in Redis comes from the services' outboxes. The folder of a nova
        # that had no Redis looks like this, too.
        for part in ("certs/identity", "secrets/identity.password", "pgbouncer", "state.json", "logs", "redis",
                     "certs/redis", "secrets/redis_identity.password", "secrets/redis_audit.password"):
            path = stack.data / part
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        stack.start()
        with stack.channel() as channel:
            self.assertEqual(harness.log_in(harness.identity_client(channel), account).account_id, account.id)


class RenewalTest(unittest.TestCase):
    def test_certificates_are_renewed_under_load_before_they_expire(self):
        lifetime = 60
        with harness.Stack("--leaf-lifetime", f"{lifetime}s") as stack:
            stack.start()
            first = self.leaf(stack)
            expires = ssl.cert_time_to_seconds(first["notAfter"])
            self.assertLessEqual(expires - time.time(), lifetime)

            with stack.channel() as channel:
                account = harness.register(harness.identity_client(channel))
            calls, failures = 0, []
            # Past the first expiry, with some to spare. Each call makes a connection, with the certificate of now.
            while time.time() < expires + 8:
                with stack.channel() as channel:
                    try:
                        harness.log_in(harness.identity_client(channel), account)
                    except grpc.RpcError as error:
                        failures.append(f"{time.time() - expires:+.1f} s: {error.code()} {error.details()}")
                    calls += 1
            self.assertEqual(failures, [])
            self.assertGreater(calls, 50)
            second = self.leaf(stack)
            self.assertNotEqual(second["serialNumber"], first["serialNumber"])
            self.assertGreater(ssl.cert_time_to_seconds(second["notAfter"]), expires)
            say(f"{calls} calls, each on a connection of its own, past the expiry of the first certificate; 0 failed")

            # The servers have new ones too: a new connection verifies them.
            for port in (stack.pgbouncer_port, stack.postgres_port):
                self.assertEqual(stack.sql("SELECT 1 AS one", user="identity", database="identity", port=port),
                                 [{"one": "1"}])
            self.assertEqual(stack.redis("PING"), "PONG")
            code, status = stack.status()
            self.assertEqual(code, 0)
            self.assertEqual({component["restarts"] for component in status["components"]}, {0})
            self.assertEqual(stack.stop(), 0)

    def leaf(self, stack):
        """What identity shows on a new connection."""
        context = ssl.create_default_context(cafile=str(stack.certificate("operator", "ca.crt")))
        context.load_cert_chain(stack.certificate("operator", "tls.crt"), stack.certificate("operator", "tls.key"))
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", stack.identity_port), harness.CALL_LIMIT) as plain:
            with context.wrap_socket(plain, server_hostname="identity.nova.svc.cluster.local") as secure:
                self.assertEqual(secure.version(), "TLSv1.3")
                return secure.getpeercert()


if __name__ == "__main__":
    unittest.main()
