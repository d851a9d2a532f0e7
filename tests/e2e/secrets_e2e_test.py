"""Access tokens' keys from a Secrets Manager, as an operator sees it: a stack that runs on one, keys that rotate under
load without a restart, a Secrets Manager that goes away, and settings that are wrong."""

import base64
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import unittest
import uuid

import grpc
import harness
import secrets_manager
from grpc import StatusCode
from harness import say

CALL_LIMIT = harness.CALL_LIMIT
SECRET = "dev/nova/jwt"
ROTATION_LIMIT = 120
# In nothing that anybody can read may it appear.
HIDDEN = "do-not-show-this-8c1f"


def unpack(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pack(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def kid_of(token):
    return json.loads(unpack(token.split(".")[0]))["kid"]


def resign(token, pem):
    """The same claims, with another id, signed by this Ed25519 key."""
    header, payload, _ = token.split(".")
    claims = {**json.loads(unpack(payload)), "jti": str(uuid.uuid4())}
    message = f"{header}.{pack(json.dumps(claims).encode())}"
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "key.pem").write_text(pem)
        (pathlib.Path(folder) / "message").write_text(message)
        signature = subprocess.run(["openssl", "pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", "message"],
                                   cwd=folder, capture_output=True, check=True).stdout
    return f"{message}.{pack(signature)}"


class SecretsTest(unittest.TestCase):
    """A stack that has its keys from moto."""

    @classmethod
    def setUpClass(cls):
        secrets_manager.require()
        cls.aws = cls.enterClassContext(secrets_manager.SecretsManager())
        cls.stack = cls.enterClassContext(harness.Stack("--secrets-endpoint", cls.aws.endpoint))
        cls.stack.start()

    def setUp(self):
        self.identity = self.client("identity")
        self.user = self.client("user")
        self.messages = self.identity.messages

    def client(self, service):
        channel = self.stack.channel("gateway", service=service)
        self.addCleanup(channel.close)
        return harness.identity_client(channel) if service == "identity" else harness.user_client(channel)

    def published(self):
        answer = self.identity.GetJwks(self.messages.GetJwksRequest(), timeout=CALL_LIMIT)
        return {key["kid"] for key in json.loads(answer.jwks)["keys"]}

    def verify(self, token):
        return self.identity.VerifyToken(self.messages.VerifyTokenRequest(access_token=token), timeout=CALL_LIMIT)

    def at_user(self, token):
        """A call of user's that needs a token; what it answers is another test's business."""
        return self.user.GetSettings(self.user.messages.GetSettingsRequest(), timeout=CALL_LIMIT,
                                     metadata=harness.bearer(token))

    def verify_at_user(self, token):
        """The same, whether the profile is there yet or not."""
        try:
            self.at_user(token)
        except grpc.RpcError as error:
            if error.code() != StatusCode.NOT_FOUND:
                raise

    def account(self):
        """(account, access token), known to user as well."""
        account = harness.register(self.identity)
        token = harness.log_in(self.identity, account).access_token
        harness.await_own_profile(self.user, token)
        return account, token

    def is_refused(self, call, *arguments):
        try:
            call(*arguments)
            return False
        except grpc.RpcError as error:
            if error.code() != StatusCode.UNAUTHENTICATED:
                raise
            return True

    def status(self):
        return json.loads(self.stack.admin("/statusz")[1])["secrets"]

    def rotate(self, *arguments):
        done = self.stack.verb("secrets", "rotate", "--now", "--json", *arguments, limit=ROTATION_LIMIT)
        self.assertEqual(done.code, 0, done.err)
        return json.loads(done.out)


class KeysTest(SecretsTest):
    def test_1_the_keys_are_those_of_the_secret(self):
        version, value = self.aws.version(SECRET)
        self.assertEqual({"algorithm", "audience", "expiry_seconds", "issuer", "signing_key", "validation_key"},
                         set(value))
        _, token = self.account()
        self.assertIn(kid_of(token), self.published())
        self.verify(token)
        status = self.status()
        say(f"/statusz: {json.dumps(status)}")
        self.assertEqual(status["aws_identity"]["source"], "environment")
        self.assertEqual(status["jwt"]["secret"], SECRET)
        current = next(key for key in status["jwt"]["keys"] if key["stage"] == "AWSCURRENT")
        self.assertEqual((current["version_id"], current["kid"], current["signs"]), (version, kid_of(token), True))
        self.assertNotIn("PRIVATE", json.dumps(status))
        # The key that the stack would use otherwise is not even made.
        self.assertFalse((self.stack.data / "secrets" / "identity_signing_key.pem").exists())

    def test_2_services_ask_for_values_and_nothing_else(self):
        for service in harness.services():
            asked = harness.by_labels(self.stack.metrics(service), "nova_secrets_requests_total", "operation")
            self.assertEqual(set(asked), {("GetSecretValue",)} if service == "identity" else set())

    def test_3_rotation_under_load(self):
        account, first = self.account()
        first_version, first_value = self.aws.version(SECRET)
        pids = {service: self.stack.pid_of(service) for service in harness.services()}
        tokens = {kid_of(first): first}

        def log_in():
            token = harness.log_in(self.identity, account).access_token
            tokens.setdefault(kid_of(token), token)
            # One that was signed this moment is good everywhere.
            self.at_user(token)
            self.verify(token)

        def use_all():
            for token in list(tokens.values()):
                self.at_user(token)
                self.verify(token)

        # A token of the first key is good until the second rotation takes its key away.
        with harness.Load() as load:
            load.repeat("a log-in, and its token at once", log_in, pause=0.2)
            load.repeat("tokens of both keys", use_all, pause=0.02)
            began = time.monotonic()
            report = self.rotate()
            harness.await_condition("tokens have the new key", lambda: len(tokens) == 2)
            say(f"rotated in {time.monotonic() - began:.1f} s under load: {dict(load.calls)}")
            load.stop()
            self.assertEqual(load.failures, [])
        self.assertEqual(report["outcome"], "rotated")
        version, _ = self.aws.version(SECRET)
        self.assertEqual(report["version_id"], version)
        self.assertEqual(self.aws.version(SECRET, "AWSPREVIOUS")[0], first_version)
        self.assertIsNone(self.aws.version(SECRET, "AWSPENDING"))
        self.assertEqual(report["kid"], next(kid for kid in tokens if kid != kid_of(first)))

        # Whoever has stolen the first key can use it as long as it is AWSPREVIOUS, and no longer.
        stolen = resign(first, first_value["signing_key"])
        self.verify(stolen)
        self.at_user(stolen)
        self.rotate()
        began = time.monotonic()
        for call in (self.verify, self.at_user):
            harness.await_condition("the withdrawn key is refused", lambda: self.is_refused(call, stolen), limit=30)
        say(f"a withdrawn key was refused everywhere {time.monotonic() - began:.1f} s after the second rotation")
        self.verify(harness.log_in(self.identity, account).access_token)
        self.assertEqual({service: self.stack.pid_of(service) for service in harness.services()}, pids)

    def test_4_a_rotation_that_is_not_due(self):
        before = self.aws.version(SECRET)
        done = self.stack.verb("secrets", "rotate")
        self.assertEqual(done.code, 0, done.err)
        say(done.out.strip())
        self.assertEqual(self.aws.version(SECRET), before)
        done = self.stack.verb("secrets", "status")
        self.assertEqual(done.code, 0, done.err)
        for line in done.out.splitlines():
            say(line)
        self.assertIn("AWSCURRENT", done.out)
        self.assertNotIn("PRIVATE", done.out)


class LostTest(SecretsTest):
    """The Secrets Manager goes away, and comes back without its secret."""

    def test_keys_stay_when_it_is_gone(self):
        _, token = self.account()
        failing = lambda: self.stack.metric("nova_jwt_keys_failing")
        self.assertEqual(failing(), 0)
        with open(self.stack.data / "logs" / "identity.log") as log:
            log.seek(0, os.SEEK_END)
            self.aws.stop()
            harness.await_condition("the failure is seen", lambda: failing() == 1)
            self.assertIn("problem", self.status()["jwt"])
            # Nobody's call knows of it.
            self.verify(token)
            self.at_user(token)
            _, another = self.account()
            self.assertEqual(kid_of(another), kid_of(token))
            code, body = self.stack.admin("/readyz")
            self.assertEqual(code, 200, body)
            self.assertIn("secrets_manager", body)
            # One that has no keys yet does not start, and says in one line why.
            done = harness.ServiceProcess(self.stack, NOVA_SERVE_STARTUP_LIMIT="2s").run()
            self.assertEqual((done.code, len(done.complaints)), (3, 1), done.err)
            say(done.complaints[0])
            self.assertIn("AWS_SECRETS_JWT_NAME", done.complaints[0])
            self.aws.start()
            # Its secret is not there any more: another failure, and the keys still stay.
            done = harness.ServiceProcess(self.stack).run()
            self.assertEqual((done.code, len(done.complaints)), (3, 1), done.err)
            say(done.complaints[0])
            self.assertIn("AWS_SECRETS_JWT_NAME", done.complaints[0])
            self.verify(token)
            # A new secret is a new key, which nobody could announce: tokens of the lost one are not good any more, and
            # those of the new one at user as soon as it has seen one.
            done = self.stack.verb("secrets", "rotate", "--create", limit=ROTATION_LIMIT)
            self.assertEqual(done.code, 0, done.err)
            harness.await_condition("it is well again", lambda: failing() == 0, limit=60)
            said = log.read()
            account = harness.register(self.identity)
            token = harness.log_in(self.identity, account).access_token
            self.verify(token)
            harness.await_condition("user has the new key", lambda: not self.is_refused(self.verify_at_user, token))
        self.assertNotIn("PRIVATE", said)
        say(next(line for line in said.splitlines() if "last good" in line))


class SettingsTest(SecretsTest):
    """One clear line for every setting that is wrong: its name, and the remedy."""

    def refused(self, code, *expected, **changes):
        done = harness.ServiceProcess(self.stack, NOVA_SERVE_STARTUP_LIMIT="3s", **changes).run()
        self.assertEqual((done.code, len(done.complaints)), (code, 1), done.err)
        for text in expected:
            self.assertIn(text, done.complaints[0])
        self.assertNotIn(HIDDEN, done.out + done.err)
        say(f"{' '.join(changes)}: {done.complaints[0]}")

    def test_garbage(self):
        for variable, value in (
                ("AWS_REGION", ""), ("AWS_REGION", "nowhere at all"), ("AWS_REGION", "us-east-1/x"),
                ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "nonsense"),
                ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "ftp://127.0.0.1"),
                ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://example.com"),
                ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://127.0.0.1:5/path?query"),
                ("AWS_SECRET_ACCESS_KEY_FILE", "/no/such/file"), ("AWS_ACCESS_KEY_ID", ""),
                ("AWS_CA_BUNDLE", "/no/such/file"),
                ("NOVA_SECRETS_SOFT_TTL", "soon"), ("NOVA_SECRETS_SOFT_TTL", "0s"), ("NOVA_SECRETS_SOFT_TTL", "300"),
                ("NOVA_SECRETS_HARD_TTL", "1s"), ("NOVA_SECRETS_HARD_TTL", "-1s"),
                ("NOVA_SECRETS_STALE_MAX", "forever"), ("NOVA_SECRETS_NEGATIVE_TTL", "x"),
                ("NOVA_SECRETS_SIZE_MAX", "0"), ("NOVA_SECRETS_SIZE_MAX", "many"),
                ("NOVA_SECRETS_BACKOFF", "1"), ("NOVA_SECRETS_BACKOFF_MAX", "1us"), ("NOVA_SECRETS_ANNOUNCE", "-5s"),
                ("NOVA_SECRETS_ANNOUNCE", "later"), ("RESILIENCE_SECRETS_MANAGER_TIMEOUT_MS", "fast"),
                ("RESILIENCE_AWS_CREDENTIALS_TIMEOUT_MS", "-1"), ("NOVA_SECRETS_SOFT_TLT", "5s")):
            with self.subTest(f"{variable}={value}"):
                self.refused(2, variable, **{variable: value})

    def test_credentials(self):
        without = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY_FILE": None}
        self.refused(2, "AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY_FILE=None)
        self.refused(2, "AWS_ACCESS_KEY_ID", AWS_ACCESS_KEY_ID=None)
        self.refused(2, "AWS_WEB_IDENTITY_TOKEN_FILE", AWS_ROLE_ARN="arn:aws:iam::123456789012:role/nova", **without)
        self.refused(2, "AWS_ROLE_ARN", AWS_WEB_IDENTITY_TOKEN_FILE="/no/such/file", **without)
        self.refused(2, "AWS_CONTAINER_CREDENTIALS_FULL_URI", AWS_CONTAINER_CREDENTIALS_FULL_URI="http://example.com/",
                     AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="/no/such/file", **without)
        # Nothing is configured, and this is no instance.
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            self.refused(3, "AWS_", AWS_EC2_METADATA_SERVICE_ENDPOINT=closed, **without)
        self.refused(3, "AWS_", AWS_EC2_METADATA_DISABLED="true", **without)

    def test_web_identity(self):
        """As a pod of EKS has it: a role, a token in a file, and STS."""
        token = self.stack.folder / "token"
        token.write_text(HIDDEN + "\n")
        role = "arn:aws:iam::123456789012:role/nova-identity"
        with harness.ServiceProcess(
                self.stack, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY_FILE=None, AWS_ROLE_ARN=role,
                AWS_WEB_IDENTITY_TOKEN_FILE=str(token), AWS_ENDPOINT_URL_STS=self.aws.endpoint) as process:
            status = json.loads(harness.http_request(process.admin_port, "/statusz")[1])["secrets"]["aws_identity"]
            said = process.await_record(lambda record: record["message"] == "AWS identity in use", CALL_LIMIT)
        self.assertEqual(status["source"], "web_identity")
        self.assertIn("assumed-role/nova-identity/", status["name"])
        self.assertIn("expires_at", status)
        self.assertEqual((said["source"], said["identity"]), ("web_identity", status["name"]))
        self.assertNotIn(HIDDEN, str(process.records) + str(process.other_lines))
        say(f"/statusz: {status}")

    def test_secrets_that_cannot_be_used(self):
        self.refused(3, "AWS_SECRETS_JWT_NAME", "no/such/secret", AWS_SECRETS_JWT_NAME="no/such/secret")
        good = self.aws.version(SECRET)[1]
        values = {"text": HIDDEN, "a list": "[]", "nothing": "{}", "signing_key": {**good, "signing_key": HIDDEN},
                  "algorithm": {**good, "algorithm": "none"}, "HS256": {**good, "algorithm": "HS256"},
                  "validation_key": {**good, "validation_key": HIDDEN},
                  "issuer": {name: value for name, value in good.items() if name != "issuer"},
                  "audience": {**good, "audience": "nova"}, "expiry_seconds": {**good, "expiry_seconds": HIDDEN}}
        for what, value in values.items():
            name = f"test/{what.replace(' ', '-')}"
            text = value if isinstance(value, str) else json.dumps(value)
            self.assertEqual(self.aws.call("CreateSecret", Name=name, SecretString=text)[0], 200)
            with self.subTest(what):
                done = harness.ServiceProcess(self.stack, AWS_SECRETS_JWT_NAME=name).run()
                self.assertIn(done.code, (2, 3) if what == "HS256" else (3,), done.err)
                self.assertEqual(len(done.complaints), 1, done.err)
                say(f"{what}: {done.complaints[0]}")
                self.assertIn("AWS_SECRETS_JWT_NAME", done.complaints[0])
                if value is not None and isinstance(value, dict) and what != "HS256" and value:
                    self.assertIn(what, done.complaints[0])
                self.assertNotIn(HIDDEN, done.out + done.err)
                self.assertNotIn("-----BEGIN", done.err)

    def test_two_sources_at_once(self):
        self.refused(2, "AWS_SECRETS_JWT_NAME", "NOVA_AUTH_JWT_SIGNING_KEY", NOVA_AUTH_JWT_SIGNING_KEY=HIDDEN)

    def test_a_verifier_that_could_sign(self):
        own = self.stack
        identity = harness.ServiceProcess(own).variables
        aws = {name: value for name, value in identity.items() if name.startswith("AWS_")}
        done = harness.ServiceProcess(own, service="user", **aws).run()
        self.assertEqual((done.code, len(done.complaints)), (2, 1), done.err)
        say(done.complaints[0])
        self.assertIn("signing_key", done.complaints[0])

    def test_a_verifier_with_a_secret_of_its_own(self):
        public = {name: value for name, value in self.aws.version(SECRET)[1].items() if name != "signing_key"}
        self.assertEqual(self.aws.call("CreateSecret", Name="test/public", SecretString=json.dumps(public))[0], 200)
        identity = harness.ServiceProcess(self.stack).variables
        aws = {name: value for name, value in identity.items() if name.startswith("AWS_")}
        _, token = self.account()
        with harness.ServiceProcess(self.stack, service="user",
                                    **{**aws, "AWS_SECRETS_JWT_NAME": "test/public"}) as process:
            with self.stack.channel("gateway", service="user", port=process.port) as channel:
                user = harness.user_client(channel)
                user.GetSettings(user.messages.GetSettingsRequest(), timeout=CALL_LIMIT,
                                 metadata=harness.bearer(token))

    def test_up(self):
        for value, code in (("nonsense", 2), ("http://example.com:80", 2), ("https://127.0.0.1:1", 2),
                            ("http://127.0.0.1:1", 3)):
            with self.subTest(value), harness.Stack("--secrets-endpoint", value) as stack:
                stack.launch()
                self.assertEqual(stack.wait(harness.START_LIMIT), code, stack.errors())
                complaints = [line for line in stack.errors().splitlines() if "--secrets-endpoint" in line]
                self.assertEqual(len(complaints), 1, stack.errors())
                say(complaints[0])


if __name__ == "__main__":
    unittest.main()
