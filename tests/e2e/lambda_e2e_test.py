"""The rotation of the JWT secret through its two doors, against moto: `nova secrets`, as a CronJob runs it, and `nova
lambda`, as Secrets Manager calls it, under a runtime API of our own."""

import http.server
import json
import queue
import signal
import socket
import subprocess
import threading
import time
import unittest
import uuid

import harness
import secrets_manager
from harness import say

SECRET, PUBLIC = "prod/nova/jwt", "prod/nova/jwt-public"
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
HIDDEN = "do-not-show-this-51d0"
ANNOUNCE = ("--announce", "1s")


def arn(secret):
    return f"arn:aws:secretsmanager:us-east-1:123456789012:secret:{secret}-a1B2c3"


class RotationTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        secrets_manager.require()
        cls.aws = cls.enterClassContext(secrets_manager.SecretsManager())

    def setUp(self):
        # Each test has secrets of its own in the same moto.
        mark = uuid.uuid4().hex[:8]
        self.secret, self.public = f"{SECRET}-{mark}", f"{PUBLIC}-{mark}"
        self.variables = {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.aws.endpoint,
                          "AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": HIDDEN,
                          "AWS_SECRETS_JWT_NAME": self.secret}

    def secrets(self, *arguments, **changes):
        """`nova secrets`; a variable of None is not set."""
        variables = {name: value for name, value in {**self.variables, **changes}.items() if value is not None}
        done = harness.run("secrets", *arguments, **variables)
        self.assertNotIn("PRIVATE", done.out + done.err)
        self.assertNotIn(HIDDEN, done.out + done.err)
        return done

    def rotate(self, *arguments, **changes):
        """What it reports; it must succeed."""
        done = self.secrets("rotate", "--json", *ANNOUNCE, *arguments, **changes)
        self.assertEqual(done.code, 0, done.err)
        return json.loads(done.out)

    def assertRefused(self, done, code, *says):
        self.assertEqual((done.code, done.out), (code, ""), done.err)
        self.assertEqual(len(done.err.splitlines()), 1, done.err)
        for text in says:
            self.assertIn(text, done.err)
        say(done.err.strip())

    def versions(self, secret=None):
        """{stage: version id}"""
        found = {stage: self.aws.version(secret or self.secret, stage)
                 for stage in ("AWSPENDING", "AWSCURRENT", "AWSPREVIOUS")}
        return {stage: version[0] for stage, version in found.items() if version}

    def put_pending(self, text):
        token = str(uuid.uuid4())
        status, answer = self.aws.call("PutSecretValue", SecretId=self.secret, ClientRequestToken=token,
                                       SecretString=text, VersionStages=["AWSPENDING"])
        self.assertEqual(status, 200, answer)
        return token


class CommandTest(RotationTest):
    def test_the_first_version_and_those_that_follow(self):
        self.assertRefused(self.secrets("rotate"), 3, self.secret, "--create")
        first = self.rotate("--create", "--public-secret", self.public, "--issuer", "https://id.example", "--audience",
                            "app,admin", "--expiry", "10m", "--algorithm", "ES256")
        self.assertEqual(first["outcome"], "first_version")
        version, value = self.aws.version(self.secret)
        self.assertEqual(version, first["version_id"])
        self.assertEqual((value["algorithm"], value["issuer"], value["audience"], value["expiry_seconds"]),
                         ("ES256", "https://id.example", ["app", "admin"], 600))
        public = {name: what for name, what in value.items() if name != "signing_key"}
        self.assertEqual(self.aws.version(self.public), (version, public))

        done = self.secrets("rotate", "--public-secret", self.public)
        self.assertEqual(done.code, 0, done.err)
        self.assertRegex(done.out, rf"^not due: version {version} is \d+ s old, and due at \S+Z; .*\n$")
        say(done.out.strip())

        began = time.monotonic()
        done = self.secrets("rotate", "--now", "--public-secret", self.public, "--announce", "2s")
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertGreater(time.monotonic() - began, 1)
        for line in done.out.splitlines():
            say(line)
        heading, row = done.out.splitlines()
        for column in ("VERSION", "KID", "ALGORITHM", "CREATED", "DUE"):
            self.assertNotEqual(row[heading.index(column) - 1:heading.index(column) + 1].strip(), "")
            self.assertEqual(row[heading.index(column) - 1], " ")
        for secret in (self.secret, self.public):
            stages = self.versions(secret)
            self.assertEqual(stages["AWSPREVIOUS"], version)
            self.assertNotEqual(stages["AWSCURRENT"], version)
            self.assertNotIn("AWSPENDING", stages)
        _, next_value = self.aws.version(self.secret)
        self.assertNotEqual(next_value["validation_key"], value["validation_key"])
        self.assertEqual({**next_value, "signing_key": "", "validation_key": ""},
                         {**value, "signing_key": "", "validation_key": ""})

        done = self.secrets("status", "--public-secret", self.public)
        self.assertEqual((done.code, done.err), (0, ""))
        self.assertEqual(len(done.out.splitlines()), 5)
        for line in done.out.splitlines():
            say(line)
        # The rotation before was just now: whose tokens end with it is said.
        done = self.secrets("rotate", "--now", *ANNOUNCE)
        self.assertEqual(done.code, 0)
        self.assertEqual(len(done.err.splitlines()), 1)
        self.assertIn("tokens may be valid until", done.err)

    def test_status_for_programs(self):
        first = self.rotate("--create")
        self.rotate("--now")
        done = self.secrets("status", "--json")
        self.assertEqual((done.code, done.err), (0, ""))
        answer = json.loads(done.out)
        self.assertTrue(answer["ok"])
        by_stage = {version["stage"]: version for version in answer["versions"]}
        self.assertEqual(set(by_stage), {"AWSCURRENT", "AWSPREVIOUS"})
        self.assertEqual(by_stage["AWSPREVIOUS"]["kid"], first["kid"])
        self.assertEqual(by_stage["AWSPREVIOUS"]["due_at"], None)
        self.assertLess(by_stage["AWSCURRENT"]["age_seconds"], 60)

        # One that is due is what a monitor wants to hear of.
        overdue = harness.await_condition(
            "it is due", lambda: (done := self.secrets("status", "--interval", "1s")).code != 0 and done)
        self.assertEqual(overdue.code, 1)
        self.assertIn("is due", overdue.out)
        self.assertRefused(self.secrets("status", "--secret", "no/such/secret"), 3, "no/such/secret")

    def test_two_at_once_make_one_version(self):
        first = self.rotate("--create")
        command = [harness.BINARY, "secrets", "rotate", "--now", "--json", "--announce", "2s"]
        both = [subprocess.Popen(command, env=harness.environment(**self.variables), cwd="/", text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        reports = []
        for process in both:
            out, err = process.communicate(timeout=harness.VERB_LIMIT)
            self.assertEqual(process.returncode, 0, err)
            reports.append(json.loads(out))
        self.assertEqual(reports[0]["version_id"], reports[1]["version_id"])
        self.assertEqual(self.versions(), {"AWSCURRENT": reports[0]["version_id"], "AWSPREVIOUS": first["version_id"]})

    def test_killed_while_it_waits(self):
        first = self.rotate("--create")
        process = subprocess.Popen([harness.BINARY, "secrets", "rotate", "--now", "--announce", "60s"],
                                   env=harness.environment(**self.variables), cwd="/", stdout=subprocess.DEVNULL)
        pending = harness.await_condition("a version is pending", lambda: self.versions().get("AWSPENDING"))
        process.kill()
        process.wait()
        self.assertEqual(self.versions()["AWSCURRENT"], first["version_id"])
        # The next run of the schedule: nothing is due, and what was begun is finished.
        self.assertEqual(self.rotate()["version_id"], pending)
        self.assertEqual(self.versions(), {"AWSCURRENT": pending, "AWSPREVIOUS": first["version_id"]})

    def test_a_pending_version_of_somebody_else(self):
        self.rotate("--create")
        token = self.put_pending(json.dumps({"username": "admin", "password": HIDDEN}))
        self.assertRefused(self.secrets("rotate", *ANNOUNCE), 1, self.secret, token, "algorithm",
                           "docs/runbooks/secret-rotation.md")
        done = self.secrets("status")
        self.assertEqual(done.code, 1)
        self.assertIn(token, done.out)
        # As the runbook says.
        status, _ = self.aws.call("UpdateSecretVersionStage", SecretId=self.secret, VersionStage="AWSPENDING",
                                  RemoveFromVersionId=token)
        self.assertEqual(status, 200)
        self.assertEqual(self.rotate()["outcome"], "not_due")

    def test_settings(self):
        self.rotate("--create")
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            for action in ("rotate", "status"):
                self.assertRefused(self.secrets(action, AWS_ENDPOINT_URL_SECRETS_MANAGER=closed), 3, self.secret)
        for code, says, arguments, changes in (
                (2, "AWS_SECRETS_JWT_NAME", (), {"AWS_SECRETS_JWT_NAME": None}),
                (2, "AWS_SECRETS_JWT_NAME", (), {"AWS_SECRETS_JWT_NAME": ""}),
                (2, "AWS_REGION", (), {"AWS_REGION": None}),
                (2, "AWS_REGION", (), {"AWS_REGION": "nowhere at all"}),
                (2, "AWS_ENDPOINT_URL_SECRETS_MANAGER", (), {"AWS_ENDPOINT_URL_SECRETS_MANAGER": "nonsense"}),
                (2, "AWS_SECRET_ACCESS_KEY", (), {"AWS_SECRET_ACCESS_KEY": None}),
                (2, "NOVA_SECRETS_JWT_PUBLIC_NAME", ("--public-secret", self.secret), {}),
                (2, "NOVA_SECRETS_ALGORITHM", (), {"NOVA_SECRETS_ALGORITHM": "none"}),
                (2, "--algorithm", ("--algorithm", "HS256"), {}), (2, "--interval", ("--interval", "90"), {}),
                (2, "--announce", ("--announce", "-1s"), {}), (2, "--expiry", ("--expiry", "25h"), {}),
                (2, "--issuer", ("--issuer=",), {}), (2, "--audience", ("--audience=",), {}),
                (2, "NOVA_SECRETS_INTERVAL", (), {"NOVA_SECRETS_INTERVAL": "soon"}),
                (2, "NOVA_SECRETS_ANNOUNCE", (), {"NOVA_SECRETS_ANNOUNCE": "later"}),
                (2, "NOVA_SECRETS_ANOUNCE", (), {"NOVA_SECRETS_ANOUNCE": "5s"}),
                (3, "--secrets-endpoint", ("--data-dir", "/no/such/folder"), {})):
            with self.subTest(f"{arguments} {changes}"):
                self.assertRefused(self.secrets("rotate", *arguments, **changes), code, says)
        for action in ("", "frobnicate"):
            self.assertEqual(self.secrets(*([action] if action else [])).code, 2)
        self.assertRefused(self.secrets("status", "--now"), 2, "--now")


class RuntimeApi(http.server.ThreadingHTTPServer):
    """Lambda's side: hands out events, and keeps the answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), RuntimeHandler)
        self.events, self.answers = queue.Queue(), queue.Queue()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.events.put(None)
        self.shutdown()
        self.server_close()

    def invoke(self, event, limit=20.0):
        """("response" or "error", what it said)"""
        request_id = str(uuid.uuid4())
        body = event if isinstance(event, str) else json.dumps(event)
        self.events.put((request_id, body, time.time() + limit))
        path, answer = self.answers.get(timeout=harness.EVENT_LIMIT)
        assert request_id in path, path
        return path.rsplit("/", 1)[1], answer


class RuntimeHandler(http.server.BaseHTTPRequestHandler):
    BASE = "/2018-06-01/runtime/"

    def do_GET(self):
        assert self.path == self.BASE + "invocation/next", self.path
        event = self.server.events.get()
        if event is None:
            return
        request_id, body, deadline = event
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(deadline * 1000)))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self):
        answer = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answers.put((self.path, json.loads(answer)))

    def log_message(self, *_):
        pass


class LambdaTest(RotationTest):
    def setUp(self):
        super().setUp()
        self.rotate("--create", "--public-secret", self.public)
        self.runtime = RuntimeApi()
        self.addCleanup(self.runtime.close)
        self.variables["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{self.runtime.server_address[1]}"
        self.variables["NOVA_SECRETS_JWT_PUBLIC_NAME"] = self.public

    def start(self, **changes):
        process = subprocess.Popen([harness.BINARY, "lambda"], env=harness.environment(**{**self.variables, **changes}),
                                   cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)

        def end():
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=harness.STOP_LIMIT)[1].decode()
            self.assertNotIn("PRIVATE", said)
            self.assertNotIn(HIDDEN, said)
            self.assertFalse(harness.CRASH.search(said), said)
        self.addCleanup(end)

    def step(self, step, token, limit=20.0):
        return self.runtime.invoke({"Step": step, "SecretId": self.secret, "ClientRequestToken": token}, limit)

    def test_a_rotation_step_by_step(self):
        self.start(NOVA_SECRETS_ANNOUNCE="1s")
        first, token = self.versions()["AWSCURRENT"], str(uuid.uuid4())
        for step in STEPS:
            # Secrets Manager may ask for a step twice.
            for _ in range(2):
                self.assertEqual(self.step(step, token), ("response", {}), step)
        for secret in (self.secret, self.public):
            self.assertEqual(self.versions(secret), {"AWSCURRENT": token, "AWSPREVIOUS": first})
        self.assertNotIn("signing_key", self.aws.version(self.public)[1])
        # Late, all of it is done.
        for step in STEPS:
            self.assertEqual(self.step(step, token), ("response", {}), step)
        # A version that was withdrawn does not come back.
        for step in STEPS:
            kind, said = self.step(step, first)
            self.assertEqual((kind, said["errorType"]), ("error", "ABORTED"), step)
            self.assertIn(step, said["errorMessage"])
        say(said["errorMessage"])

    def test_a_deadline_that_comes_first(self):
        self.start(NOVA_SECRETS_ANNOUNCE="4s")
        token = str(uuid.uuid4())
        for step in STEPS[:2]:
            self.assertEqual(self.step(step, token), ("response", {}))
        kind, said = self.step("testSecret", token, limit=1.5)
        self.assertEqual((kind, said["errorType"]), ("error", "UNAVAILABLE"))
        self.assertRegex(said["errorMessage"], r"ready at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
        say(said["errorMessage"])
        # Secrets Manager asks again, and a step that may not be done yet is not done.
        self.assertEqual(self.step("finishSecret", token)[0], "error")
        self.assertNotEqual(self.versions()["AWSCURRENT"], token)
        for step in STEPS:
            self.assertEqual(self.step(step, token), ("response", {}))
        self.assertEqual(self.versions()["AWSCURRENT"], token)

    def test_the_other_door_finishes_it(self):
        self.start(NOVA_SECRETS_ANNOUNCE="1s")
        token = str(uuid.uuid4())
        self.assertEqual(self.step("createSecret", token), ("response", {}))
        self.assertEqual(self.rotate("--public-secret", self.public)["version_id"], token)
        for step in STEPS:
            self.assertEqual(self.step(step, token), ("response", {}))

    def test_events_that_are_none(self):
        self.start()
        good = {"Step": "createSecret", "SecretId": self.secret, "ClientRequestToken": str(uuid.uuid4())}
        before = self.versions()
        for event, says in (("nonsense", "JSON"), ("[]", "JSON"), ({}, "Step"),
                            ({**good, "Step": "create"}, "createSecret"), ({**good, "Step": 1}, "Step"), ({**good, "SecretId": ""}, "SecretId"),
                            ({**good, "SecretId": "another/secret"}, "AWS_SECRETS_JWT_NAME"),
                            ({**good, "SecretId": arn("another/secret")}, "AWS_SECRETS_JWT_NAME"),
                            ({**good, "SecretId": arn("x" + self.secret)}, "AWS_SECRETS_JWT_NAME"),
                            ({**good, "ClientRequestToken": None}, "ClientRequestToken"),
                            ({**good, "ClientRequestToken": "short"}, "32 to 64")):
            with self.subTest(event):
                kind, said = self.runtime.invoke(event)
                self.assertEqual((kind, said["errorType"]), ("error", "INVALID_ARGUMENT"), said)
                self.assertIn(says, said["errorMessage"])
        self.assertEqual(self.versions(), before)
        # It lives on. Secrets Manager calls the secret by its ARN.
        status, answer = self.aws.call("DescribeSecret", SecretId=self.secret)
        self.assertEqual(status, 200)
        self.assertEqual(self.runtime.invoke({**good, "SecretId": answer["ARN"]}), ("response", {}))

    def test_settings(self):
        del self.variables["AWS_LAMBDA_RUNTIME_API"]
        done = harness.run("lambda", **self.variables)
        self.assertRefused(done, 2, "AWS_LAMBDA_RUNTIME_API", "nova secrets rotate")
        done = harness.run("lambda", **self.variables, AWS_LAMBDA_RUNTIME_API="no address")
        self.assertEqual(done.code, 2, done.err)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            closed = f"127.0.0.1:{nobody.getsockname()[1]}"
            self.assertEqual(harness.run("lambda", **self.variables, AWS_LAMBDA_RUNTIME_API=closed).code, 3)

    def test_a_function_that_cannot_start_says_why(self):
        done = harness.run("lambda", **{**self.variables, "AWS_REGION": ""})
        self.assertRefused(done, 2, "AWS_REGION")
        path, said = self.runtime.answers.get(timeout=harness.EVENT_LIMIT)
        self.assertTrue(path.endswith("/init/error"), path)
        self.assertEqual(said["errorType"], "INVALID_ARGUMENT")
        self.assertIn("AWS_REGION", said["errorMessage"])


if __name__ == "__main__":
    unittest.main()
