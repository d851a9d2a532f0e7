"""`nova up` as its user sees it: what it prints, what it runs and how that is connected, and that stopping it leaves
nothing behind and keeps the data."""

import os
import pathlib
import pwd
import re
import signal
import subprocess
import time
import unittest

import harness
from harness import say


class SummaryTest(harness.StackTest):
    def test_summary_is_short_and_names_everything(self):
        text = "\n".join(self.stack.summary)
        self.assertLessEqual(len(self.stack.summary), 15)
        for needed in (f"127.0.0.1:{self.stack.identity_port}", f"http://127.0.0.1:{self.stack.admin_port}",
                       f"127.0.0.1:{self.stack.pgbouncer_port}", f"127.0.0.1:{self.stack.postgres_port}",
                       f"127.0.0.1:{self.stack.redis_port}", *harness.services(), str(self.stack.data), "Ctrl-C"):
            self.assertIn(needed, text)
        say(f"first start: ready after {self.stack.seconds_to_ready:.1f} s, {len(self.stack.summary)} lines")

    def test_login_of_the_summary_logs_in(self):
        identifier, password = self.stack.login()
        client = harness.identity_client(self.open_channel())
        answer = client.Login(client.messages.LoginRequest(identifier=identifier, password=password), timeout=20)
        verified = client.VerifyToken(client.messages.VerifyTokenRequest(access_token=answer.access_token), timeout=20)
        self.assertEqual(verified.account_id, answer.account_id)

    def test_command_of_the_summary_can_be_pasted(self):
        line = next(line for line in self.stack.summary if line.strip().startswith("try"))
        command = line.split(None, 1)[1]
        done = subprocess.run(["sh", "-c", command], cwd="/", env=harness.environment(), capture_output=True,
                              text=True, timeout=harness.VERB_LIMIT, check=False)
        self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}{done.stderr}")

    def test_nothing_is_said_on_standard_error(self):
        self.assertEqual(self.stack.errors(), "")


class ProcessesTest(harness.StackTest):
    def setUp(self):
        code, self.status = self.stack.status()
        self.assertEqual(code, 0)
        self.pids = {name: component["pid"] for name, component in self.status["by_name"].items()}

    def test_each_component_is_a_process_of_its_own_under_the_supervisor(self):
        self.assertEqual(tuple(self.pids)[:len(harness.SERVERS)], harness.SERVERS)
        self.assertEqual(set(self.pids), set(harness.components()))
        self.assertEqual(self.status["supervisor"], self.stack.process.pid)
        for name, pid in self.pids.items():
            with self.subTest(name):
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                self.assertEqual(int(stat[1]), self.stack.process.pid, harness.command_line(pid))

    def test_servers_do_not_run_as_root(self):
        for name, account in (("postgres", "postgres"), ("pgbouncer", "postgres"), ("redis", "redis")):
            with self.subTest(name):
                expected = pwd.getpwnam(account).pw_uid if os.geteuid() == 0 else os.geteuid()
                self.assertEqual(harness.user_of(self.pids[name]), expected)
                self.assertNotEqual(harness.user_of(self.pids[name]), 0)

    def test_all_listen_on_loopback_and_on_their_ports_only(self):
        stack = self.stack
        expected = {"postgres": {stack.postgres_port}, "pgbouncer": {stack.pgbouncer_port},
                    "redis": {stack.redis_port}, "identity": {stack.identity_port, stack.admin_port}}
        for name, component in self.status["by_name"].items():
            with self.subTest(name):
                ports = {component["port"], component["admin_port"]} - {0}
                self.assertEqual(ports, expected.get(name, ports))
                self.assertEqual(harness.sockets_of(self.pids[name]).listening,
                                 {("127.0.0.1", port) for port in ports})
        self.assertEqual(harness.sockets_of(stack.process.pid).listening, set())

    def test_there_are_no_unix_sockets_to_get_in_by(self):
        row = self.stack.sql("SELECT current_setting('unix_socket_directories') AS folders, 1 AS one")[0]
        self.assertEqual(row["folders"], "")
        config = {row["key"]: row["value"] for row in self.stack.console("SHOW CONFIG")}
        self.assertEqual(config["unix_socket_dir"], "")
        self.assertEqual(self.stack.redis("CONFIG", "GET", "unixsocket"), "unixsocket")

    def test_secrets_are_readable_by_their_owner_only(self):
        private = [*(self.stack.data / "secrets").iterdir(), *(self.stack.data / "certs").glob("*/tls.key"),
                   self.stack.data / "ca" / "ca.key"]
        self.assertGreater(len(private), len(harness.PRINCIPALS))
        for path in private:
            with self.subTest(str(path)):
                self.assertEqual(path.stat().st_mode & 0o077, 0, oct(path.stat().st_mode))

    def test_no_secret_stands_on_a_command_line(self):
        secrets = [path.read_text().strip() for path in (self.stack.data / "secrets").glob("*.password")]
        # The superuser's, two of `audit`, and two of each service: for PostgreSQL and for Redis.
        self.assertGreaterEqual(len(secrets), 3 + 2 * len(harness.services()))
        self.assertEqual(len(secrets), len(set(secrets)))
        for pid in [self.stack.process.pid, *self.stack.children()]:
            for secret in secrets:
                self.assertNotIn(secret, harness.command_line(pid))


class CertificatesTest(harness.StackTest):
    def openssl(self, *arguments):
        return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=True,
                              timeout=harness.VERB_LIMIT).stdout

    def test_every_principal_has_a_leaf_of_its_own(self):
        serials = set()
        for principal in harness.PRINCIPALS:
            with self.subTest(principal):
                leaf = self.stack.certificate(principal, "tls.crt")
                text = self.openssl("x509", "-in", leaf, "-noout", "-serial", "-text")
                self.assertIn(f"URI:spiffe://nova/{principal},", text + ",")
                self.assertEqual(text.count("URI:"), 1)
                self.assertIn(f"DNS:{principal}.nova.svc.cluster.local", text)
                self.assertIn("ASN1 OID: prime256v1", text)
                self.assertIn("ecdsa-with-SHA256", text)
                self.assertRegex(text, "TLS Web Server Authentication, TLS Web Client Authentication")
                serials.add(re.search("serial=(.*)", text).group(1))
                self.openssl("verify", "-x509_strict", "-CAfile", self.stack.data / "ca" / "ca.crt", leaf)
        self.assertEqual(len(serials), len(harness.PRINCIPALS))


class DatabaseTest(harness.StackTest):
    """Services reach PostgreSQL only through PgBouncer, and every hop is TLS and SCRAM."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.stack.channel() as channel:
            harness.register(harness.identity_client(channel))

    def test_identity_is_connected_to_pgbouncer_only(self):
        connected = harness.sockets_of(self.stack.pid_of("identity")).connected
        remote = {peer[1] for _, peer in connected}
        self.assertIn(self.stack.pgbouncer_port, remote)
        self.assertNotIn(self.stack.postgres_port, remote)

    def test_connections_of_identity_in_postgresql_are_pgbouncers_sockets(self):
        ours = {here[1] for here, peer in harness.sockets_of(self.stack.pid_of("pgbouncer")).connected
                if peer[1] == self.stack.postgres_port}
        rows = self.stack.sql("SELECT client_addr, client_port FROM pg_stat_activity WHERE usename = 'identity'")
        self.assertGreater(len(rows), 0)
        for row in rows:
            self.assertEqual(row["client_addr"], "127.0.0.1")
            self.assertIn(int(row["client_port"]), ours)

    def test_every_connection_to_postgresql_is_tls(self):
        rows = self.stack.sql("SELECT a.usename, s.ssl, s.version FROM pg_stat_activity a "
                              "JOIN pg_stat_ssl s USING (pid) WHERE a.backend_type = 'client backend'")
        self.assertIn("identity", {row["usename"] for row in rows})
        for row in rows:
            self.assertEqual((row["ssl"], row["version"]), ("t", "TLSv1.3"), row)

    def test_every_connection_to_pgbouncer_is_tls(self):
        rows = self.stack.console("SHOW CLIENTS") + self.stack.console("SHOW SERVERS")
        self.assertIn("identity", {row["user"] for row in rows})
        for row in rows:
            self.assertRegex(row["tls"], r"^TLSv1\.3/", row)

    def test_only_scram_over_tls_is_let_in(self):
        rules = self.stack.sql("SELECT type, auth_method, address FROM pg_hba_file_rules")
        self.assertEqual([(rule["type"], rule["auth_method"], rule["address"]) for rule in rules],
                         [("hostssl", "scram-sha-256", "127.0.0.1")])
        for row in self.stack.sql("SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin"):
            self.assertTrue(row["rolpassword"].startswith("SCRAM-SHA-256$"), row["rolname"])
        config = {row["key"]: row["value"] for row in self.stack.console("SHOW CONFIG")}
        self.assertEqual(config["auth_type"], "scram-sha-256")

    def test_plaintext_and_wrong_passwords_are_refused_on_both_hops(self):
        for hop, port in (("PostgreSQL", self.stack.postgres_port), ("PgBouncer", self.stack.pgbouncer_port)):
            with self.subTest(hop):
                right = self.stack.try_sql("SELECT 1", user="identity", database="identity", port=port)
                self.assertEqual(right.returncode, 0, right.stderr)
                plain = self.stack.try_sql("SELECT 1", user="identity", database="identity", port=port,
                                           sslmode="disable")
                self.assertNotEqual(plain.returncode, 0)
                wrong = self.stack.try_sql("SELECT 1", user="identity", database="identity", port=port,
                                           password="not the password")
                self.assertNotEqual(wrong.returncode, 0)
                self.assertIn("auth", wrong.stderr)

    def test_pgbouncer_runs_with_the_promised_figures(self):
        config = {row["key"]: row["value"] for row in self.stack.console("SHOW CONFIG")}
        expected = {"pool_mode": "transaction", "max_client_conn": "1000", "default_pool_size": "25",
                    "query_timeout": "30", "server_lifetime": "3600"}
        self.assertEqual({key: config[key] for key in expected}, expected)
        databases = {row["name"]: row for row in self.stack.console("SHOW DATABASES")}
        self.assertEqual(databases["identity"]["max_connections"], "15")
        self.assertEqual(self.stack.sql("SHOW max_connections")[0]["max_connections"], "200")

    def test_roles_have_no_more_than_they_need(self):
        rows = self.stack.sql("SELECT rolname, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_roles "
                              "WHERE rolname IN ('identity', 'audit')")
        self.assertEqual(len(rows), 2)
        for row in rows:
            self.assertEqual([row[right] for right in row if right != "rolname"], ["f"] * 4, row)
        refused = self.stack.try_sql("SELECT 1", user="identity", database="postgres")
        self.assertNotEqual(refused.returncode, 0, "a service may enter a database that is not its own")


class RedisTest(harness.StackTest):
    """Redis speaks TLS, to users it knows, and lets each do its own work only."""

    def test_plaintext_wrong_passwords_and_nobody_are_refused(self):
        for service in harness.services():
            with self.subTest(service):
                self.assertEqual(self.stack.redis("PING", user=service), "PONG")
                self.assertNotEqual(self.stack.try_redis("PING", user=service, tls=False).returncode, 0)
                self.assertNotEqual(self.stack.try_redis("PING", user=service, password="wrong").returncode, 0)
        for nobody in ("default", "nobody"):
            self.assertNotEqual(self.stack.try_redis("PING", user=nobody, password="wrong").returncode, 0)

    def test_it_runs_with_the_promised_settings(self):
        expected = {"port": "0", "bind": "127.0.0.1", "tls-port": str(self.stack.redis_port),
                    "tls-protocols": "TLSv1.3", "appendonly": "yes", "appendfsync": "everysec",
                    "aof-load-truncated": "yes", "maxmemory-policy": "volatile-lru"}
        for name, value in expected.items():
            self.assertEqual(self.stack.redis("CONFIG", "GET", name).splitlines(), [name, value])

    def test_a_service_reaches_its_own_keys_only(self):
        for service in harness.services():
            self.assertEqual(self.stack.redis("SET", f"{service}:e2e", "x", "EX", "60", user=service), "OK")
            for command in (("FLUSHALL",), ("CONFIG", "GET", "port"), ("KEYS", "*"), ("ACL", "LIST"),
                            ("GET", "somebody:e2e"), ("XADD", "stream:somebody", "*", "e", "x")):
                with self.subTest(f"{service}: {command[0]}"):
                    refused = self.stack.try_redis(*command, user=service)
                    self.assertIn("NOPERM", refused.stdout + refused.stderr)

    def test_services_that_use_it_are_connected_to_it(self):
        users = [name for name, module in harness.services().items() if "redis" in module["hard"] + module["soft"]]
        self.assertNotEqual(users, [])
        for service in users:
            pid = self.stack.pid_of(service)
            harness.await_condition(f"{service} is connected to Redis", lambda pid=pid: self.stack.redis_port in
                                    {peer[1] for _, peer in harness.sockets_of(pid).connected})


class StopTest(unittest.TestCase):
    """Starting and stopping again and again on one folder."""

    def setUp(self):
        self.stack = harness.Stack()
        self.addCleanup(self.stack.close)

    def assertNothingLeft(self, children):
        self.assertEqual(harness.await_end(children, 1), [])
        self.assertEqual(self.stack.children(), [])
        self.assertEqual(self.stack.taken_ports(), [])
        self.assertTrue(self.stack.lock_is_free())

    def test_sigterm_and_ctrl_c_leave_nothing_and_the_next_start_is_warm(self):
        stack = self.stack
        stack.start()
        with stack.channel() as channel:
            account = harness.register(harness.identity_client(channel))
        first_login = stack.login()

        children = stack.children()
        self.assertGreaterEqual(len(children), len(harness.components()))
        began = time.monotonic()
        self.assertEqual(stack.stop(signal.SIGTERM), 0)
        say(f"SIGTERM: stopped after {time.monotonic() - began:.1f} s")
        self.assertNothingLeft(children)

        stack.start(limit=60)
        say(f"warm start: ready after {stack.seconds_to_ready:.1f} s; it says '{stack.summary[0]}'")
        with stack.channel() as channel:
            harness.log_in(harness.identity_client(channel), account)
        self.assertEqual(stack.login(), first_login)

        # Ctrl-C in a terminal goes to the whole process group.
        children = stack.children()
        began = time.monotonic()
        os.killpg(stack.process.pid, signal.SIGINT)
        self.assertEqual(stack.wait(), 0)
        say(f"Ctrl-C: stopped after {time.monotonic() - began:.1f} s")
        self.assertNothingLeft(children)
        self.assertEqual(stack.errors(), "")

    def test_a_call_under_way_is_answered_before_the_end(self):
        stack = self.stack
        stack.start()
        channel = stack.channel()
        self.addCleanup(channel.close)
        client = harness.identity_client(channel)
        account = harness.register(client)

        health = harness.health_client(channel)
        watch = health.Watch(health.messages.HealthCheckRequest(), timeout=60)
        self.assertEqual(next(watch).status, health.messages.HealthCheckResponse.SERVING)
        with stack.locked_accounts():
            request = client.messages.LoginRequest(identifier=account.email, password=account.password)
            under_way = client.Login.future(request, timeout=30)
            harness.await_condition("the log-in waits in PostgreSQL", stack.statements)
            began = time.monotonic()
            stack.process.send_signal(signal.SIGTERM)
            # It says that it is going before it goes.
            self.assertEqual(next(watch).status, health.messages.HealthCheckResponse.NOT_SERVING)
            say(f"NOT_SERVING {(time.monotonic() - began) * 1000:.0f} ms after SIGTERM")
        self.assertEqual(under_way.result(30).account_id, account.id)
        # An open stream does not hold the process up to its drain limit of 10 s.
        self.assertEqual(list(watch), [])
        self.assertEqual(stack.wait(), 0)
        self.assertLess(time.monotonic() - began, 10)
        say(f"SIGTERM with a call under way and an open Watch: stopped after {time.monotonic() - began:.1f} s")

    def test_ctrl_c_during_the_start_leaves_nothing(self):
        self.stack.launch()
        children = harness.await_condition("the first child", self.stack.children)
        self.stack.process.send_signal(signal.SIGINT)
        code = self.stack.wait()
        self.assertNotEqual(code, -signal.SIGINT, "it did not stop in order")
        self.assertNothingLeft(children)
        self.stack.start()
        self.assertEqual(self.stack.stop(), 0)


if __name__ == "__main__":
    unittest.main()
