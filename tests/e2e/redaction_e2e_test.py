"""Nothing secret and nothing personal in anything that the system writes or answers: it is driven through success and
every failure with values that are known, and everything that comes out of it is searched for them."""

import base64
import json
import os
import pathlib
import re
import signal
import unittest
import urllib.parse
import uuid

import grpc
import harness
import secrets_manager
from grpc import StatusCode
from harness import say

CALL_LIMIT = harness.CALL_LIMIT
# People's, as they type it into whatever there is to type.
PHONE = "+44 20 7946 0958"
ADDRESS = "203.0.113.77"
FORWARDED = "198.51.100.23"
# Shorter ones would be found by chance.
MARK_MIN = 8


def forms(value):
    """Every spelling in which a value may come out."""
    raw = value.encode()
    # In base64 the value may begin at any of three offsets; what does not depend on its neighbours is searched.
    shifted = {base64.b64encode(b"x" * shift + raw)[(0, 2, 3)[shift]:].rstrip(b"=")[:-2].decode() for shift in range(3)}
    found = {value, urllib.parse.quote(value, safe=""), json.dumps(value)[1:-1], raw.hex(), raw.hex().upper(), *shifted,
             *(text.replace("+", "-").replace("/", "_") for text in shifted)}
    return {form for form in found if len(form) >= MARK_MIN}


class Marks:
    def __init__(self):
        self.forms = {}

    def add(self, name, value):
        """Remembers a value that may appear nowhere; returns it."""
        assert len(value) >= MARK_MIN, f"{name} is too short to be searched for"
        for form in forms(value):
            self.forms.setdefault(form, name)
        return value

    def found_in(self, text):
        return sorted({name for form, name in self.forms.items() if form in text})


class RedactionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.marks = Marks()
        cls.outputs = {}  # what came out of where
        arguments = []
        if secrets_manager.PYTHON:
            cls.aws = cls.enterClassContext(secrets_manager.SecretsManager())
            arguments = ["--secrets-endpoint", cls.aws.endpoint]
        else:
            print("*** NOVA_TEST_PYTHON is not set: without a Secrets Manager (./dev test installs it) ***")
            cls.aws = None
        cls.stack = cls.enterClassContext(harness.Stack(
            *arguments, NOVA_LOG_LEVEL="debug",
            # Never used, and in the environment of `nova up` all the same.
            NOVA_AUTH_JWT_ISSUER="nova"))
        cls.stack.start()

    def keep(self, where, text):
        self.outputs[where] = self.outputs.get(where, "") + text

    def add_secrets_of_the_stack(self):
        for path in sorted((self.stack.data / "secrets").iterdir()):
            text = path.read_text()
            lines = [line for line in text.splitlines() if line and not line.startswith("-----")]
            for line in lines:
                self.marks.add(path.name, line)
        for key in sorted((self.stack.data).rglob("*.key")):
            for line in key.read_text().splitlines():
                if len(line) >= MARK_MIN and not line.startswith("-----"):
                    self.marks.add(str(key.relative_to(self.stack.data)), line)
        if self.aws:
            value = self.aws.version("dev/nova/jwt")[1]["signing_key"]
            for line in value.splitlines():
                if len(line) >= MARK_MIN and not line.startswith("-----"):
                    self.marks.add("the JWT secret", line)

    def call(self, method, request, **options):
        """The answer; or None, and what the error says is kept."""
        try:
            return method(request, timeout=options.pop("timeout", CALL_LIMIT), **options)
        except grpc.RpcError as error:
            said = f"{error.code()} {error.details()} {error.trailing_metadata()} {error.initial_metadata()}"
            self.keep("errors of calls", said + "\n")
            return None

    def drive(self, identity, users, tag):
        """What a person does, right and wrong."""
        messages = identity.messages
        email = self.marks.add(f"{tag}: email", f"person-{tag}-{uuid.uuid4().hex}@mail.example.org")
        password = self.marks.add(f"{tag}: password", f"password {uuid.uuid4().hex}")
        wrong = self.marks.add(f"{tag}: wrong password", f"wrong {uuid.uuid4().hex}")
        noise = self.marks.add(f"{tag}: noise", f"noise-{uuid.uuid4().hex}")
        registration = harness.registration(email=email, password=password)
        self.call(identity.Register, registration)
        # The address is taken; the database says so, too.
        self.call(identity.Register, harness.registration(email=email, password=wrong))
        for field in ("email", "username", "password", "idempotency_key"):
            self.call(identity.Register, harness.registration(**{field: noise + "\n" + noise}))
        headers = [("x-forwarded-for", FORWARDED), ("user-agent", f"agent {ADDRESS}"), ("cookie", f"session={noise}"),
                   ("x-api-key", noise)]
        login = self.call(identity.Login, messages.LoginRequest(
            identifier=email, password=password, device_name=f"{PHONE} at {ADDRESS}"), metadata=headers)
        self.call(identity.Login, messages.LoginRequest(identifier=email, password=wrong))
        self.call(identity.Login, messages.LoginRequest(identifier=noise + "@nowhere.example.org", password=wrong))
        if not login:
            return
        access = self.marks.add(f"{tag}: access token", login.access_token)
        refresh = self.marks.add(f"{tag}: refresh token", login.refresh_token)
        self.marks.add(f"{tag}: device token", login.device_token)
        mine = harness.bearer(access)
        harness.await_own_profile(users, access)
        self.call(identity.GetAccount, messages.GetAccountRequest(), metadata=mine)
        self.call(identity.ListSessions, messages.ListSessionsRequest(page_token=noise), metadata=mine)
        self.call(identity.RevokeSession, messages.RevokeSessionRequest(session_id=noise), metadata=mine)
        self.call(users.GetSettings, users.messages.GetSettingsRequest(), metadata=mine)
        header, payload, signature = access.split(".")
        for broken in (access + "x", f"{header}.{payload}.", f"{header}.{payload}", noise, f"{header}.{noise}.{signature}",
                       f"{noise}.{payload}.{signature}", access * 20, f"Bearer {access}"):
            self.call(identity.VerifyToken, messages.VerifyTokenRequest(access_token=broken))
            for client in (identity.GetAccount, users.GetSettings):
                request = (messages.GetAccountRequest() if client is identity.GetAccount
                           else users.messages.GetSettingsRequest())
                self.call(client, request, metadata=harness.bearer(broken))
        for header in (noise, f"Basic {noise}", f"Bearer{noise}", f"Digest username={noise}"):
            self.call(identity.GetAccount, messages.GetAccountRequest(), metadata=[("authorization", header)])
        refreshed = self.call(identity.RefreshToken, messages.RefreshTokenRequest(refresh_token=refresh))
        if refreshed:
            self.marks.add(f"{tag}: second access token", refreshed.access_token)
            self.marks.add(f"{tag}: second refresh token", refreshed.refresh_token)
        self.call(identity.RefreshToken, messages.RefreshTokenRequest(refresh_token=noise))
        self.call(identity.RequestPasswordReset, messages.RequestPasswordResetRequest(email=email))
        self.call(identity.RequestPasswordReset, messages.RequestPasswordResetRequest(email=noise))
        self.call(identity.ChangePassword, messages.ChangePasswordRequest(current_password=wrong, new_password=noise),
                  metadata=mine)
        self.call(identity.ChangePassword, messages.ChangePasswordRequest(current_password=password, new_password=wrong),
                  metadata=mine)

    def verbs(self):
        for arguments in (["status"], ["status", "--json"], ["demo"], ["certs", "show"], ["certs", "verify"],
                          ["probe", "identity"], ["migrate"], ["audit", "--only", "P0-4"], ["secrets", "status"],
                          ["secrets", "rotate"]):
            done = self.stack.verb(*arguments, limit=120)
            self.keep("nova " + " ".join(arguments), done.out + done.err)

    def failures_at_start(self):
        """A service whose secrets are wrong."""
        for setting in ("NOVA_POSTGRES_PASSWORD", "NOVA_REDIS_PASSWORD", "NOVA_AUTH_JWT_SIGNING_KEY",
                        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "NOVA_NO_SUCH_PASSWORD"):
            value = self.marks.add(f"a wrong {setting}", f"secret-{uuid.uuid4().hex}")
            process = harness.ServiceProcess(self.stack, NOVA_SERVE_STARTUP_LIMIT="2s", NOVA_LOG_LEVEL="debug",
                                             **{setting: value, f"{setting}_FILE": None})
            # It serves without Redis, and says what is wrong; and moto takes any signature.
            if setting == "NOVA_REDIS_PASSWORD" or setting.startswith("AWS_"):
                with process:
                    if setting == "NOVA_REDIS_PASSWORD":
                        process.await_record(lambda record: "redis" in json.dumps(record) and record["level"] != "info",
                                             CALL_LIMIT)
                    for path in ("/statusz", "/metrics", "/readyz"):
                        self.keep(f"a service with a wrong {setting}", harness.http_request(process.admin_port, path)[1])
                self.keep(f"a service with a wrong {setting}", json.dumps(process.records) + str(process.other_lines))
                continue
            done = process.run()
            self.keep(f"a service with a wrong {setting}", done.out + done.err)

    def pages(self, when):
        for service in harness.services():
            for path in ("/metrics", "/statusz", "/livez", "/readyz"):
                self.keep(f"{path} of {service} {when}", self.stack.admin(path, service=service)[1])

    def files(self):
        """Everything in the data folder that is not there to keep secrets or people's data."""
        kept = ("secrets", "postgres", "redis", "ca", "certs")
        texts = {"up.stderr": self.stack.errors(), "summary": "\n".join(
            # The login of the demo is printed on purpose.
            line for line in self.stack.summary if not line.strip().startswith("login"))}
        for path in sorted(self.stack.data.rglob("*")):
            relative = path.relative_to(self.stack.data)
            if relative.parts[0] in kept or not path.is_file():
                continue
            # What PgBouncer is configured with; readable for its own account alone.
            if relative.parts[0] == "pgbouncer":
                self.assertEqual(path.stat().st_mode & 0o077, 0, path)
                continue
            texts[str(relative)] = path.read_text(errors="replace")
        return texts

    def test_nothing_secret_comes_out(self):
        self.add_secrets_of_the_stack()
        self.marks.add("a telephone number", PHONE)
        self.marks.add("the address of a person", ADDRESS)
        self.marks.add("the address of a client", FORWARDED)
        with self.stack.channel("gateway") as channel, self.stack.channel("gateway", service="user") as other:
            identity, users = harness.identity_client(channel), harness.user_client(other)
            self.drive(identity, users, "well")
            self.verbs()
            self.failures_at_start()
            for component in ("postgres", "redis"):
                pid = self.stack.pid_of(component)
                with harness.stalled(pid):
                    email = self.marks.add(f"{component} stands: email", f"stalled-{uuid.uuid4().hex}@mail.example.org")
                    password = self.marks.add(f"{component} stands: password", f"password {uuid.uuid4().hex}")
                    for _ in range(2):
                        self.call(identity.Register, harness.registration(email=email, password=password), timeout=2)
                        self.call(identity.Login, identity.messages.LoginRequest(identifier=email, password=password),
                                  timeout=2)
                    self.pages(f"while {component} stands")
                self.stack.await_ready()
            if self.aws:
                self.aws.stop()
                harness.await_condition("the keys cannot be read",
                                        lambda: self.stack.metric("nova_jwt_keys_failing") == 1)
                self.pages("without a Secrets Manager")
                self.verbs()
            os.kill(self.stack.pid_of("identity"), signal.SIGABRT)
            harness.await_condition("identity has ended", lambda: self.stack.status()[0] != 0)
            self.pages_of_user("while identity is away", users)
        self.stack.stop()
        self.outputs.update(self.files())

        size = sum(len(text) for text in self.outputs.values())
        say(f"{len(self.marks.forms)} spellings in {len(self.outputs)} outputs of {size // 1024} KiB")
        self.assertGreater(size, 50_000)
        findings = {where: found for where, text in self.outputs.items() if (found := self.marks.found_in(text))}
        self.assertEqual(findings, {})
        # Whatever it says: a private key, or a hash of a password, has no place there.
        for where, text in self.outputs.items():
            self.assertIsNone(re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\$argon2|eyJ[\w-]{10,}\.eyJ", text), where)

    def pages_of_user(self, when, users):
        self.call(users.GetSettings, users.messages.GetSettingsRequest(), timeout=2)
        for path in ("/metrics", "/statusz"):
            self.keep(f"{path} of user {when}", self.stack.admin(path, service="user")[1])


class ScannerTest(unittest.TestCase):
    """A search that finds nothing proves nothing, unless it finds what is there."""

    def test_every_spelling_is_found(self):
        marks = Marks()
        value = marks.add("planted", 'a "secret" of 31 bytes & more+/=')
        raw = value.encode()
        for text in (value, json.dumps({"key": value}), urllib.parse.quote(value, safe=""), raw.hex(),
                     base64.b64encode(raw).decode(), base64.b64encode(b"user:" + raw + b"\n").decode(),
                     base64.urlsafe_b64encode(b"{'" + raw + b"'}").decode()):
            self.assertEqual(marks.found_in(f"before {text} after"), ["planted"], text)
        self.assertEqual(marks.found_in("before after"), [])


if __name__ == "__main__":
    unittest.main()
