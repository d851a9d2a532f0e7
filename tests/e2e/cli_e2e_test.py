"""The verbs of the binary: exit statuses, outputs, and what it says to bad input. 0 done, 1 a check failed, 2 usage or
configuration, 3 a dependency is not there; a refusal is one line that names the setting."""

import concurrent.futures
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
import unittest

import harness
from harness import say

HIDDEN = "hidden-value-never-to-be-shown"


def verbs():
    """As `nova --help` lists them."""
    return re.findall(r"^  (\w+)  ", harness.run("--help").out, re.MULTILINE)


def last_line(text):
    return text.strip().splitlines()[-1]


class HelpTest(unittest.TestCase):
    def test_help_lists_the_verbs(self):
        for arguments in ((), ("--help",), ("-h",), ("help",)):
            with self.subTest(arguments):
                done = harness.run(*arguments)
                self.assertEqual((done.code, done.err), (0, ""))
        self.assertLessEqual({"up", "down", "status", "demo", "audit", "serve", "migrate", "probe", "modules"},
                             set(verbs()))

    def test_every_verb_has_help(self):
        for verb in verbs():
            for flag in ("--help", "-h"):
                with self.subTest(f"{verb} {flag}"):
                    done = harness.run(verb, flag)
                    self.assertEqual((done.code, done.err), (0, ""))
                    self.assertTrue(done.out.startswith(f"usage: nova {verb}"), done.out)

    def test_unknown_verb(self):
        done = harness.run("frobnicate")
        self.assertEqual((done.code, done.out), (2, ""))
        self.assertIn("'frobnicate'", done.err.splitlines()[0])

    def test_unknown_flags_arguments_and_variables_of_every_verb(self):
        for verb in verbs():
            service = ["identity"] if verb == "serve" else []
            for what, arguments, variables in (("--frobnicate", ["--frobnicate=" + HIDDEN], {}),
                                               ("one argument too many", ["one", "two"], {}),
                                               ("NOVA_FROBNICATE", [], {"NOVA_FROBNICATE": HIDDEN})):
                with self.subTest(f"{verb}: {what}"):
                    done = harness.run(verb, *service, *arguments, **variables)
                    self.assertEqual((done.code, done.out), (2, ""), done.err)
                    self.assertEqual(len(done.err.splitlines()), 1, done.err)
                    self.assertIn(what, done.err)
                    self.assertNotIn(HIDDEN, done.err)

    def test_modules(self):
        done = harness.run("modules")
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertRegex(done.out, r"(?m)^identity +postgres +redis ")
        modules = json.loads(harness.run("modules", "--json").out)["modules"]
        self.assertEqual([module["name"] for module in modules], sorted(module["name"] for module in modules))
        self.assertEqual(next(module for module in modules if module["name"] == "identity")["hard"], ["postgres"])


class WithoutStackTest(unittest.TestCase):
    def test_tools_say_what_is_missing(self):
        for arguments in (["demo"], ["probe"], ["status"], ["migrate"], ["audit"], ["status", "--json"]):
            with self.subTest(arguments):
                done = harness.run(*arguments, "--data-dir", "/no/such/folder")
                self.assertEqual((done.code, done.out), (3, ""), done.err)
                self.assertEqual(len(done.err.splitlines()), 1, done.err)
                self.assertIn("/no/such/folder", done.err)
                self.assertIn("--data-dir", done.err)

    def test_down_has_nothing_to_do(self):
        for arguments in (["down"], ["down", "--wipe"]):
            done = harness.run(*arguments, "--data-dir", "/no/such/folder")
            self.assertEqual((done.code, done.err), (0, ""))

    def test_folders_that_cannot_be_made_are_refused(self):
        for folder in ("/proc/nova", "/dev/null/nova"):
            done = harness.run("up", "--data-dir", folder)
            self.assertEqual((done.code, len(done.err.splitlines())), (2, 1), done.err)
            self.assertIn("--data-dir", done.err)

    def test_values_of_up_are_checked(self):
        for flag, value in (("--port-base", "80"), ("--port-base", "70000"), ("--port-base", "many"),
                            ("--leaf-lifetime", "1s"), ("--leaf-lifetime", "soon"), ("--stable-after", "1ms"),
                            ("--stable-after", "1h"), ("--log-level", "loud")):
            with self.subTest(f"{flag} {value}"):
                done = harness.run("up", flag, value, "--data-dir", "/proc/nova")
                self.assertEqual((done.code, len(done.err.splitlines())), (2, 1), done.err)
                self.assertIn(flag, done.err)


class ToolsTest(harness.StackTest):
    def test_demo_passes_and_shows_each_step_with_its_latency(self):
        done = self.stack.verb("demo")
        self.assertEqual((done.code, done.err), (0, ""), done.out)
        *steps, total = done.out.splitlines()
        self.assertEqual(total, f"{len(steps)} steps, 0 failed")
        for step in steps:
            self.assertRegex(step, r"^ok +[0-9.]+ ms  \S")
        text = done.out.lower()
        for needed in ("register", "log in", "verify", "wrong password", "tampered"):
            self.assertIn(needed, text)

    def test_demo_as_json(self):
        done = self.stack.verb("demo", "--json")
        self.assertEqual((done.code, done.err), (0, ""))
        for step in json.loads(done.out)["steps"]:
            self.assertIs(step["passed"], True, step)
            self.assertGreater(step["milliseconds"], 0)
            self.assertTrue(step["step"] and step["observed"])

    def test_a_proxy_of_the_shell_is_none_of_the_services(self):
        proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "grpc_proxy": "http://127.0.0.1:9"}
        done = self.stack.verb("demo", **proxy)
        self.assertEqual((done.code, done.err), (0, ""), done.out)
        done = self.stack.verb("probe", **proxy)
        self.assertEqual((done.code, done.out), (0, "SERVING\n"), done.err)

    def test_demo_without_a_server(self):
        done = self.stack.verb("demo", "--identity-target", f"127.0.0.1:{self.stack.base + 9}")
        self.assertEqual(done.code, 3, done.out + done.err)
        self.assertEqual(len(done.err.splitlines()), 1, done.err)
        self.assertIn("nova up", done.err)

    def test_probe(self):
        for arguments in ([], ["identity"], ["--name", "nova.identity.v2.IdentityService"],
                          ["--port-base", str(self.stack.base)]):
            with self.subTest(arguments):
                done = self.stack.verb("probe", *arguments)
                self.assertEqual((done.code, done.out, done.err), (0, "SERVING\n", ""))

    def test_probe_of_what_is_not_there(self):
        for arguments in (["--target", f"127.0.0.1:{self.stack.base + 9}"], ["--name", "nobody"]):
            with self.subTest(arguments):
                done = self.stack.verb("probe", *arguments)
                self.assertEqual((done.code, done.out), (3, ""), done.err)
                self.assertEqual(len(done.err.splitlines()), 1, done.err)
        self.assertEqual(self.stack.verb("probe", "nobody").code, 2)

    def test_probe_gives_up_when_told_to(self):
        # A server that takes connections and says nothing.
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            began = time.monotonic()
            done = self.stack.verb("probe", "--timeout", "300ms", "--target",
                                   f"127.0.0.1:{silent.getsockname()[1]}")
            self.assertEqual(done.code, 3, done.err)
            self.assertLess(time.monotonic() - began, 20)

    def test_probe_with_certificates_from_the_environment(self):
        variables = {"GRPC_SERVER_CA_CERT_PATH": str(self.stack.certificate("probe", "ca.crt")),
                     "GRPC_CLIENT_CERT_PATH": str(self.stack.certificate("probe", "tls.crt")),
                     "GRPC_CLIENT_KEY_PATH": str(self.stack.certificate("probe", "tls.key"))}
        target = ["--target", f"127.0.0.1:{self.stack.identity_port}"]
        self.assertEqual(harness.run("probe", *target, **variables).out, "SERVING\n")
        del variables["GRPC_CLIENT_KEY_PATH"]
        done = harness.run("probe", *target, **variables)
        self.assertEqual((done.code, len(done.err.splitlines())), (2, 1), done.err)
        self.assertIn("GRPC_CLIENT_KEY_PATH", done.err)

    def test_status(self):
        code, status = self.stack.status()
        self.assertEqual(code, 0)
        self.assertEqual((status["running"], status["ready"], status["state"]), (True, True, "ready"))
        self.assertEqual((status["supervisor"], status["port_base"]), (self.stack.process.pid, self.stack.base))
        self.assertEqual(status["data_dir"], os.path.realpath(self.stack.data))
        ports = {name: (component["port"], component["admin_port"]) for name, component in status["by_name"].items()}
        self.assertEqual(set(ports), set(harness.components()))
        expected = {"postgres": (self.stack.postgres_port, 0), "pgbouncer": (self.stack.pgbouncer_port, 0),
                    "redis": (self.stack.redis_port, 0), "identity": (self.stack.identity_port, self.stack.admin_port)}
        self.assertEqual({name: ports[name] for name in expected}, expected)
        for component in status["components"]:
            self.assertEqual((component["state"], component["restarts"]), ("ready", 0))
            self.assertGreaterEqual(component["uptime_seconds"], 0)
        table = self.stack.verb("status")
        self.assertEqual((table.code, table.err), (0, ""))
        for name in ports:
            self.assertRegex(table.out, rf"(?m)^{name} +ready +\d+ ")

    def test_audit_has_rows_for_every_promise_and_its_status_says_whether_all_passed(self):
        done = self.stack.verb("audit", "--json", limit=120)
        rows = json.loads(done.out)["rows"]
        self.assertEqual({row["promise"] for row in rows}, {"P0-1", "P0-3", "P0-4", "P0-5", "Secrets"})
        for row in rows:
            with self.subTest(f"{row['promise']}: {row['check']}"):
                self.assertLessEqual({"promise", "check", "value", "unit", "floor", "status", "how"}, set(row))
                self.assertIn(row["status"], ("pass", "fail", "not_measured"))
        self.assertEqual(done.code == 0, all(row["status"] == "pass" for row in rows))
        # Figures depend on the machine and what else it does; everything else has to hold.
        self.assertEqual([row for row in rows if row["status"] == "fail" and row["unit"] not in ("ms", "s")], [])
        for check in ("P0-1", "P0-3", "P0-4"):
            self.assertIn((check, "pass"), {(row["promise"], row["status"]) for row in rows})
        counts = {status: sum(row["status"] == status for row in rows) for status in ("pass", "fail", "not_measured")}
        say(f"audit: {counts}")
        only = json.loads(self.stack.verb("audit", "--json", "--only", "P0-1", limit=120).out)["rows"]
        self.assertEqual({row["promise"] for row in only}, {"P0-1"})
        refused = self.stack.verb("audit", "--only", "P9")
        self.assertEqual((refused.code, len(refused.err.splitlines())), (2, 1), refused.err)

    def test_migrate_again_changes_nothing(self):
        before = self.schema("identity")
        self.assertIn("accounts", before)
        for arguments, services in ((["migrate"], harness.services()), (["migrate", "identity"], ["identity"])):
            done = self.stack.verb(*arguments)
            self.assertEqual((done.code, done.err), (0, ""))
            lines = done.out.splitlines()
            self.assertEqual({line.split(":")[0] for line in lines}, set(services))
            for line in lines:
                self.assertRegex(line, r"^\w+: at version \d+$")
        self.assertEqual(self.schema("identity"), before)
        self.assertEqual(self.stack.verb("migrate", "nobody").code, 2)

    def schema(self, database):
        rows = self.stack.sql("SELECT table_name, column_name, data_type FROM information_schema.columns "
                              "WHERE table_schema IN ('public', 'events') ORDER BY 1, 2", database=database)
        return "\n".join(" ".join(row.values()) for row in rows)

    def test_migrating_one_database_several_times_at_once_applies_each_step_once(self):
        self.stack.sql("CREATE DATABASE empty OWNER identity")
        self.addCleanup(self.stack.sql, "DROP DATABASE empty")
        variables = {"NOVA_POSTGRES_PORT": str(self.stack.postgres_port), "NOVA_POSTGRES_DATABASE": "empty",
                     "NOVA_POSTGRES_USER": "identity",
                     "NOVA_POSTGRES_PASSWORD_FILE": str(self.stack.data / "secrets/identity.password"),
                     "NOVA_POSTGRES_SSL_ROOT_CERT": str(self.stack.certificate("operator", "ca.crt"))}
        waiting = ("SELECT pid FROM pg_stat_activity WHERE datname = 'empty' AND usename = 'identity' "
                   "AND wait_event_type = 'Lock'")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            # The table is about to be there, so that whoever makes it waits, and all four are under way together.
            with self.stack.open_transaction("CREATE TABLE accounts ()", database="empty"):
                runs = [pool.submit(harness.run, "migrate", "identity", **variables) for _ in range(4)]
                harness.await_condition("all four wait", lambda: len(self.stack.sql(waiting)) == 4)
            runs = [run.result() for run in runs]
        for done in runs:
            self.assertEqual((done.code, done.err), (0, ""))
        applied = [line for done in runs for line in done.out.splitlines() if "applied" in line]
        self.assertEqual(len(applied), len(set(applied)), applied)
        self.assertGreater(len(applied), 0)
        self.assertEqual(self.schema("empty"), self.schema("identity"))

    def test_migrate_without_a_database(self):
        done = harness.run("migrate", "identity", "--postgres-port", str(self.stack.base + 9), "--postgres-database",
                           "identity", "--postgres-user", "identity", "--postgres-ssl-root-cert",
                           self.stack.certificate("operator", "ca.crt"), NOVA_POSTGRES_PASSWORD=HIDDEN)
        self.assertEqual((done.code, done.out, len(done.err.splitlines())), (3, "", 1), done.err)
        self.assertNotIn(HIDDEN, done.err)


class DownTest(unittest.TestCase):
    def test_down_stops_and_wipe_removes(self):
        with harness.Stack() as stack:
            stack.start()
            children = stack.children()
            done = stack.verb("down")
            self.assertEqual((done.code, done.out, done.err), (0, "stopped\n", ""))
            self.assertEqual(stack.wait(), 0)
            self.assertEqual(harness.await_end(children, 1), [])
            self.assertEqual(stack.taken_ports(), [])

            self.assertEqual(stack.verb("down").out, "nothing ran\n")
            code, status = stack.status()
            self.assertEqual((code, status["running"], status["ready"]), (3, False, False))
            self.assertEqual(stack.verb("status").code, 3)
            self.assertEqual(stack.verb("demo").code, 3)
            self.assertEqual(stack.verb("probe").code, 3)
            self.assertEqual(stack.verb("migrate").code, 3)

            stack.start()
            self.assertEqual(stack.verb("down", "--wipe").code, 0)
            self.assertEqual(stack.wait(), 0)
            self.assertFalse(stack.data.exists())


class ServeTest(harness.StackTest):
    """`nova serve identity` on its own, beside the stack whose database and certificates it uses."""

    def settings(self, **changes):
        """What `nova up` gives to identity, with free ports; None takes a variable away."""
        leaf = lambda file: str(self.stack.certificate("identity", file))
        variables = {
            "GRPC_SERVER_CERT_PATH": leaf("tls.crt"), "GRPC_SERVER_KEY_PATH": leaf("tls.key"),
            "GRPC_CLIENT_CA_CERT_PATH": leaf("ca.crt"), "GRPC_SERVER_CA_CERT_PATH": leaf("ca.crt"),
            "GRPC_CLIENT_CERT_PATH": leaf("tls.crt"), "GRPC_CLIENT_KEY_PATH": leaf("tls.key"),
            "NOVA_GRPC_ADDRESS": "127.0.0.1", "NOVA_GRPC_PORT": "0", "NOVA_ADMIN_PORT": "0",
            "NOVA_POSTGRES_PORT": str(self.stack.pgbouncer_port), "NOVA_POSTGRES_DATABASE": "identity",
            "NOVA_POSTGRES_USER": "identity", "NOVA_POSTGRES_SSL_ROOT_CERT": leaf("ca.crt"),
            "NOVA_POSTGRES_PASSWORD_FILE": str(self.stack.data / "secrets/identity.password"),
            "NOVA_REDIS_PORT": str(self.stack.redis_port), "NOVA_REDIS_USER": "identity",
            "NOVA_REDIS_PASSWORD_FILE": str(self.stack.data / "secrets/redis_identity.password"),
            "NOVA_REDIS_CA_PATH": leaf("ca.crt"), "NOVA_REDIS_SERVER_NAME": "redis.nova.svc.cluster.local",
            "NOVA_AUTH_JWT_SIGNING_KEY_FILE": str(self.stack.data / "secrets/identity_signing_key.pem"), **changes}
        return {name: value for name, value in variables.items() if value is not None}

    def file(self, name, content):
        path = self.stack.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def check_served(self, arguments=(), **changes):
        """It serves, and SIGTERM ends it with status 0. Returns the record of its start."""
        command = ["setpriv", "--pdeathsig", "KILL", "--", harness.BINARY, "serve", "identity", *arguments]
        process = subprocess.Popen(command, env=harness.environment(**self.settings(**changes)), cwd="/",
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        text, end = b"", time.monotonic() + harness.START_LIMIT
        with process.stderr:
            while b'"message":"serving"' not in text or not text.endswith(b"\n"):
                ready, _, _ = select.select([process.stderr], [], [], max(0, end - time.monotonic()))
                chunk = os.read(process.stderr.fileno(), 65536) if ready else b""
                if not chunk:
                    process.kill()
                    process.wait()
                    self.fail(f"it does not serve: {text.decode()}")
                text += chunk
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
        self.assertEqual(process.wait(harness.STOP_LIMIT), 0, (text + rest).decode())
        return next(record for record in map(json.loads, text.decode().splitlines())
                    if record["message"] == "serving")

    def assertRefused(self, code, *needed, arguments=(), **changes):
        done = harness.run("serve", "identity", *arguments, **self.settings(**changes))
        self.assertEqual((done.code, done.out), (code, ""), done.err)
        self.assertEqual(len(done.complaints), 1, done.err)
        self.assertEqual(done.complaints[0], last_line(done.err))
        self.assertTrue(done.complaints[0].startswith("nova serve: "), done.complaints[0])
        for text in needed:
            self.assertIn(text, done.complaints[0])
        secrets = [path.read_text().strip() for path in (self.stack.data / "secrets").iterdir()]
        for hidden in [HIDDEN, *secrets]:
            self.assertNotIn(hidden, done.err)
        return done

    def test_it_serves_with_these_settings(self):
        record = self.check_served()
        self.assertGreater(record["grpc_port"], 0)
        self.assertIs(record["mtls"], True)

    def test_it_serves_in_production(self):
        self.assertEqual(self.check_served(APP_ENV="production")["app_env"], "production")

    def test_flags_win_over_variables_and_variables_over_the_file(self):
        config = self.file("nova.yaml", "postgres:\n  database: nowhere\n  pool_size: 3\n")
        self.check_served(["--config", config])
        self.check_served(["--postgres-database", "identity"], NOVA_POSTGRES_DATABASE="nowhere")
        self.check_served(NOVA_CONFIG=config)

    def test_development_may_run_without_tls_and_says_so_loudly(self):
        names = ("GRPC_SERVER_CERT_PATH", "GRPC_SERVER_KEY_PATH", "GRPC_CLIENT_CA_CERT_PATH")
        self.assertIs(self.check_served(**dict.fromkeys(names))["mtls"], False)
        done = harness.run("serve", "identity", "--postgres-port", str(self.stack.base + 9),
                           **self.settings(**dict.fromkeys(names), NOVA_SERVE_STARTUP_LIMIT="1s"))
        self.assertIn("TLS IS OFF", done.err)

    def test_production_without_certificates(self):
        for env in ("production", "staging"):
            for name in ("GRPC_SERVER_CERT_PATH", "GRPC_SERVER_KEY_PATH", "GRPC_CLIENT_CA_CERT_PATH",
                         "GRPC_SERVER_CA_CERT_PATH", "GRPC_CLIENT_CERT_PATH", "GRPC_CLIENT_KEY_PATH"):
                with self.subTest(f"{env} without {name}"):
                    self.assertRefused(2, env, name, **{"APP_ENV": env, name: None})
            self.assertRefused(2, "GRPC_REQUIRE_CLIENT_CERT", APP_ENV=env, GRPC_REQUIRE_CLIENT_CERT="false")

    def test_half_configured_tls_is_refused_in_development_too(self):
        self.assertRefused(2, "GRPC_SERVER_KEY_PATH", GRPC_SERVER_KEY_PATH=None)
        self.assertRefused(2, "GRPC_CLIENT_CERT_PATH", GRPC_CLIENT_CERT_PATH=None)

    def test_keys_and_certificates_that_cannot_be_used(self):
        key = self.stack.certificate("identity", "tls.key").read_bytes()
        unusable = {"missing": "/no/such/file", "a folder": str(self.stack.folder), "empty": self.file("empty", b""),
                    "noise": self.file("noise", os.urandom(200)),
                    "truncated": self.file("truncated", key[:len(key) // 2]),
                    "another's": str(self.stack.certificate("user", "tls.key"))}
        for variable in ("GRPC_SERVER_KEY_PATH", "GRPC_SERVER_CERT_PATH", "GRPC_CLIENT_CA_CERT_PATH"):
            for what, path in unusable.items():
                with self.subTest(f"{variable}: {what}"):
                    done = self.assertRefused(2, **{variable: path})
                    # A pair that does not match may be either's fault.
                    self.assertRegex(done.complaints[0], "GRPC_(SERVER_KEY|SERVER_CERT|CLIENT_CA_CERT)_PATH")

    def test_mismatched_pair(self):
        done = self.assertRefused(2, GRPC_SERVER_KEY_PATH=str(self.stack.certificate("user", "tls.key")))
        self.assertIn("GRPC_SERVER_KEY_PATH", done.complaints[0])

    def test_key_without_permission(self):
        if os.geteuid() == 0:
            # Root may read anything, so somebody else has to try, with a data folder that is open to them.
            path = self.file("closed.key", self.stack.certificate("identity", "tls.key").read_bytes())
            os.chmod(path, 0o600)
            command = ["setpriv", "--reuid", "nobody", "--clear-groups", "--", harness.BINARY, "serve", "identity"]
            settings = self.settings(GRPC_SERVER_KEY_PATH=path, NOVA_POSTGRES_PASSWORD_FILE=None,
                                     NOVA_POSTGRES_PASSWORD=HIDDEN, NOVA_REDIS_PASSWORD_FILE=None,
                                     NOVA_REDIS_PASSWORD=HIDDEN, NOVA_AUTH_JWT_SIGNING_KEY_FILE=None)
            done = subprocess.run(command, env=harness.environment(**settings), cwd="/", capture_output=True,
                                  text=True, timeout=harness.VERB_LIMIT, check=False)
            done = harness.Finished(done.returncode, done.stdout, done.stderr)
        else:
            path = self.file("closed.key", b"")
            os.chmod(path, 0)
            done = harness.run("serve", "identity", **self.settings(GRPC_SERVER_KEY_PATH=path))
        self.assertEqual((done.code, len(done.complaints)), (2, 1), done.err)
        self.assertIn("GRPC_SERVER_KEY_PATH", done.complaints[0])
        self.assertNotIn(HIDDEN, done.err)

    def test_expired_certificate(self):
        run = lambda *arguments: subprocess.run(["openssl", *arguments], cwd=self.stack.folder, check=True,
                                                capture_output=True)
        ca = self.stack.data / "ca"
        self.file("names", "subjectAltName=URI:spiffe://nova/identity,DNS:identity.nova.svc.cluster.local\n")
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "late.key", "-out",
            "late.csr", "-subj", "/CN=identity")
        run("x509", "-req", "-in", "late.csr", "-CA", str(ca / "ca.crt"), "-CAkey", str(ca / "ca.key"), "-out",
            "late.crt", "-days", "-1", "-extfile", "names")
        self.assertRefused(2, "GRPC_SERVER_CERT_PATH", "expired",
                           GRPC_SERVER_CERT_PATH=str(self.stack.folder / "late.crt"),
                           GRPC_SERVER_KEY_PATH=str(self.stack.folder / "late.key"))

    def test_unknown_settings(self):
        self.assertRefused(2, "NOVA_POSTGRES_PASWORD", "NOVA_POSTGRES_PASSWORD?", NOVA_POSTGRES_PASWORD=HIDDEN)
        self.assertRefused(2, "--postgres-hots", "--postgres-host?", arguments=[f"--postgres-hots={HIDDEN}"])
        config = self.file("nova.yaml", f"postgres:\n  database: identity\n  hots: {HIDDEN}\n")
        self.assertRefused(2, f"{config}:3", "postgres.hots", arguments=["--config", config])

    def test_configuration_files_that_cannot_be_used(self):
        for what, content in {"noise": b"\x00\xff\x00",
                              "a line end in a name": b'"a\\nb": 1\n', "a list": b"- a\n- b\n", "broken": b"a: [1, 2\n",
                              "a section as value": b"postgres: identity\n",
                              "a setting twice": b"grpc:\n  port: 1\ngrpc.port: 2\n"}.items():
            with self.subTest(what):
                config = self.file("nova.yaml", content)
                self.assertRefused(2, config, arguments=["--config", config])
        self.assertRefused(2, "--config", "/no/such/file", arguments=["--config", "/no/such/file"])
        self.assertRefused(2, "NOVA_CONFIG", NOVA_CONFIG="/no/such/file")

    def test_bad_values(self):
        for variable, value in (("NOVA_GRPC_PORT", "70000"), ("NOVA_GRPC_PORT", "many"), ("NOVA_GRPC_PORT", ""),
                                ("NOVA_POSTGRES_QUERY_TIMEOUT", "10"), ("NOVA_POSTGRES_POOL_SIZE", "0"),
                                ("NOVA_POSTGRES_SSL_MODE", "maybe"), ("NOVA_LOG_LEVEL", "loud"), ("APP_ENV", "prod"),
                                ("GRPC_REQUIRE_CLIENT_CERT", "yes"), ("NOVA_AUTH_JWT_ALGORITHM", "HS256"),
                                ("NOVA_AUTH_JWT_ALGORITHM", "none"), ("NOVA_POSTGRES_DATABASE", ""),
                                ("NOVA_POSTGRES_SSL_ROOT_CERT", "/no/such/file"), ("NOVA_POSTGRES_USER", ""),
                                ("NOVA_REDIS_PORT", "70000"), ("NOVA_REDIS_TLS", "maybe"), ("NOVA_REDIS_HOST", "")):
            with self.subTest(f"{variable}={value}"):
                self.assertRefused(2, variable, **{variable: value})
        self.assertRefused(2, "--grpc-port", arguments=["--grpc-port", "many"])
        config = self.file("nova.yaml", "grpc:\n  connection_age_max: soon\n")
        self.assertRefused(2, f"{config}:2", "grpc.connection_age_max", arguments=["--config", config])

    def test_secrets_stand_in_no_file_and_on_no_command_line(self):
        config = self.file("nova.yaml", f"postgres:\n  password: {HIDDEN}\n")
        self.assertRefused(2, "NOVA_POSTGRES_PASSWORD", arguments=["--config", config])
        for arguments in ([f"--postgres-password={HIDDEN}"], ["--postgres-password", HIDDEN]):
            self.assertRefused(2, "NOVA_POSTGRES_PASSWORD", arguments=arguments)
        self.assertRefused(2, "NOVA_POSTGRES_PASSWORD", "NOVA_POSTGRES_PASSWORD_FILE", NOVA_POSTGRES_PASSWORD=HIDDEN)
        self.assertRefused(2, "NOVA_POSTGRES_PASSWORD_FILE", NOVA_POSTGRES_PASSWORD_FILE="/no/such/file")

    def test_signing_key(self):
        name = "NOVA_AUTH_JWT_SIGNING_KEY"
        self.assertRefused(2, name, **{name + "_FILE": None})
        self.assertRefused(2, name, **{name + "_FILE": "/no/such/file"})
        self.assertRefused(2, name, **{name + "_FILE": self.file("noise", b"noise")})
        self.assertRefused(2, name, **{name + "_FILE": None, name: HIDDEN})
        # A key that is right, for another algorithm.
        self.assertRefused(2, name, NOVA_AUTH_JWT_ALGORITHM="ES256")

    def test_unreachable_database(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            for what, changes in {"nobody listens": {"NOVA_POSTGRES_PORT": str(self.stack.base + 9)},
                                  "nobody answers": {"NOVA_POSTGRES_PORT": str(silent.getsockname()[1])},
                                  "no such host": {"NOVA_POSTGRES_HOST": "no-such-host.invalid"}}.items():
                with self.subTest(what):
                    done = self.assertRefused(3, NOVA_POSTGRES_PASSWORD_FILE=None, NOVA_POSTGRES_PASSWORD=HIDDEN,
                                              NOVA_SERVE_STARTUP_LIMIT="2s", **changes)
                    say(f"{what}: {done.complaints[0]}")
                    self.assertIn("NOVA_POSTGRES_HOST", done.complaints[0])

    def test_database_that_refuses(self):
        # PgBouncer answers for the database, so a wrong password looks like one that is not there.
        for changes in ({"NOVA_POSTGRES_PASSWORD_FILE": None, "NOVA_POSTGRES_PASSWORD": HIDDEN},
                        {"NOVA_POSTGRES_USER": "nobody"}, {"NOVA_POSTGRES_DATABASE": "nowhere"}):
            done = self.assertRefused(3, "NOVA_POSTGRES_PASSWORD", **changes)
            say(done.complaints[0])

    def test_it_serves_without_redis(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            for what, port in (("nobody listens", self.stack.base + 9), ("nobody answers", silent.getsockname()[1])):
                with self.subTest(what):
                    self.check_served(NOVA_REDIS_PORT=str(port))
        self.check_served(NOVA_REDIS_PASSWORD_FILE=None, NOVA_REDIS_PASSWORD=HIDDEN)

    def test_taken_ports(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            self.assertRefused(2, port, "NOVA_GRPC_PORT", NOVA_GRPC_PORT=port)
            self.assertRefused(2, port, "NOVA_ADMIN_PORT", NOVA_ADMIN_PORT=port)

    def test_unknown_service(self):
        done = harness.run("serve", "nobody")
        self.assertEqual((done.code, len(done.complaints)), (2, 1), done.err)
        self.assertIn("nova modules", done.complaints[0])
        done = harness.run("serve")
        self.assertEqual((done.code, len(done.complaints)), (2, 1), done.err)


if __name__ == "__main__":
    unittest.main()
