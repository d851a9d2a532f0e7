"""identity as a stock gRPC client in another language meets it: over mTLS, from the contract alone. Then what a hostile
or unlucky client does, after which the server must be healthy and no work of that client run on."""

import base64
import concurrent.futures
import contextlib
import itertools
import json
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

import grpc
import harness
import http2_frames
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from harness import say

SERVICE = "nova.identity.v2.IdentityService"
CALL_LIMIT = harness.CALL_LIMIT
# How soon a statement must have ended in PostgreSQL after its client has gone. Far below the 10 s after which the
# server would have given up by itself.
CANCEL_LIMIT = 5


class IdentityTest(harness.StackTest):
    def setUp(self):
        self.channel = self.open_channel()
        self.client = harness.identity_client(self.channel)
        self.messages = self.client.messages

    def login_request(self, account, **fields):
        return self.messages.LoginRequest(**{"identifier": account.email, "password": account.password, **fields})

    def assertHealthy(self):
        """A new connection is served, and health says so."""
        with self.stack.channel() as channel:
            health = harness.health_client(channel)
            answer = health.Check(health.messages.HealthCheckRequest(), timeout=CALL_LIMIT)
            self.assertEqual(answer.status, answer.SERVING)
            client = harness.identity_client(channel)
            harness.log_in(client, harness.register(client))


class AccountTest(IdentityTest):
    def test_register_log_in_verify(self):
        account = harness.register(self.client)
        self.assertEqual(uuid.UUID(account.id).version, 7)
        answer = harness.log_in(self.client, account)
        self.assertEqual(answer.account_id, account.id)
        left = answer.expires_at.ToSeconds() - time.time()
        self.assertTrue(14 * 60 < left <= 15 * 60 + 1, left)
        verified = self.client.VerifyToken(self.messages.VerifyTokenRequest(access_token=answer.access_token),
                                           timeout=CALL_LIMIT)
        self.assertEqual(verified.account_id, account.id)
        self.assertEqual(uuid.UUID(verified.session_id).version, 7)
        self.assertEqual(verified.expires_at.ToSeconds(), answer.expires_at.ToSeconds())

    def test_username_and_email_log_in_in_any_spelling(self):
        account = harness.register(self.client)
        for identifier in (account.username, account.username.upper(), account.email.upper(), f" {account.email} "):
            with self.subTest(identifier):
                answer = self.client.Login(self.login_request(account, identifier=identifier), timeout=CALL_LIMIT)
                self.assertEqual(answer.account_id, account.id)

    def test_repeated_registration_is_the_same_account(self):
        request = harness.registration()
        first = self.client.Register(request, timeout=CALL_LIMIT)
        self.assertEqual(self.client.Register(request, timeout=CALL_LIMIT), first)
        # Many at once, as after a lost answer with an eager client: still one account.
        request = harness.registration()
        calls = [self.client.Register.future(request, timeout=CALL_LIMIT) for _ in range(8)]
        self.assertEqual(len({call.result().account.id for call in calls}), 1)

    def test_taken_names_and_used_keys_are_refused(self):
        request = harness.registration()
        self.client.Register(request, timeout=CALL_LIMIT)
        rival = harness.registration(username=request.username)
        self.assertFails(StatusCode.ALREADY_EXISTS, self.client.Register, rival, timeout=CALL_LIMIT)
        rival = harness.registration(email=request.email.upper())
        self.assertFails(StatusCode.ALREADY_EXISTS, self.client.Register, rival, timeout=CALL_LIMIT)
        for change in ({"email": "other@example.com"}, {"password": "quite another password"}):
            other = type(request)()
            other.CopyFrom(request)
            for field, value in change.items():
                setattr(other, field, value)
            error = self.assertFails(StatusCode.INVALID_ARGUMENT, self.client.Register, other, timeout=CALL_LIMIT)
            self.assertIn("idempotency_key", error.details())

    def test_unknown_user_and_wrong_password_are_answered_alike_and_after_the_same_time(self):
        account = harness.register(self.client)
        requests = {"wrong password": self.login_request(account, password="not the password"),
                    "unknown user": self.login_request(account, identifier=f"nobody-{uuid.uuid4().hex}@example.com"),
                    "impossible name": self.login_request(account, identifier="no such name at all")}
        answers, times = set(), {what: [] for what in requests}
        # One more in a row locks an identifier.
        for _ in range(9):
            for what, request in requests.items():
                began = time.perf_counter()
                error = self.assertFails(StatusCode.UNAUTHENTICATED, self.client.Login, request, timeout=CALL_LIMIT)
                times[what].append(time.perf_counter() - began)
                answers.add((error.code(), error.details(), tuple(error.trailing_metadata() or ())))
        self.assertEqual(len(answers), 1, answers)
        medians = {what: statistics.median(seconds) * 1000 for what, seconds in times.items()}
        say("median of 9: " + ", ".join(f"{what} {ms:.1f} ms" for what, ms in medians.items()))
        # argon2id takes nearly all of the time; an answer without it would come 20 times sooner.
        for left, right in itertools.permutations(medians.values(), 2):
            self.assertLess(left, 3 * right)
        # Whether there is an account does not show in when it is locked, either.
        codes = {what: [harness.failure(self.client.Login, request, timeout=CALL_LIMIT).code() for _ in range(3)]
                 for what, request in requests.items()}
        self.assertEqual(len(set(map(tuple, codes.values()))), 1, codes)
        self.assertEqual(codes["unknown user"][-1], StatusCode.RESOURCE_EXHAUSTED)

    def test_the_caller_is_taken_from_the_token(self):
        mine, other = harness.register(self.client), harness.register(self.client)
        for account in (mine, other):
            token = harness.log_in(self.client, account).access_token
            answer = self.client.GetAccount(self.messages.GetAccountRequest(), timeout=CALL_LIMIT,
                                            metadata=[("authorization", f"Bearer {token}")])
            self.assertEqual((answer.account.id, answer.account.email, answer.account.username),
                             (account.id, account.email, account.username))
        for metadata in ([], [("authorization", "")], [("authorization", "Bearer ")], [("authorization", "Basic eA==")],
                         [("authorization", "Bearer not.a.token")]):
            with self.subTest(metadata):
                self.assertFails(StatusCode.UNAUTHENTICATED, self.client.GetAccount, self.messages.GetAccountRequest(),
                                 timeout=CALL_LIMIT, metadata=metadata)


def unpack(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def pack(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenTest(IdentityTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.stack.channel() as channel:
            client = harness.identity_client(channel)
            cls.account = harness.register(client)
            cls.token = harness.log_in(client, cls.account).access_token

    def keys(self):
        return json.loads(self.client.GetJwks(self.messages.GetJwksRequest(), timeout=CALL_LIMIT).jwks)["keys"]

    def openssl_verifies(self, key, message, signature):
        """openssl's judgement, on the public key as identity publishes it."""
        # An Ed25519 key as SubjectPublicKeyInfo is this prefix and its 32 bytes (RFC 8410).
        der = bytes.fromhex("302a300506032b6570032100") + unpack(key["x"])
        with tempfile.TemporaryDirectory() as folder:
            for name, data in (("key.der", der), ("message", message), ("signature", signature)):
                with open(f"{folder}/{name}", "wb") as file:
                    file.write(data)
            done = subprocess.run(["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der",
                                   "-rawin", "-in", "message", "-sigfile", "signature"], cwd=folder,
                                  capture_output=True, text=True, check=False)
        return done.returncode == 0

    def test_openssl_verifies_the_token_against_the_published_keys(self):
        header, payload, signature = self.token.split(".")
        names = json.loads(unpack(header))
        self.assertEqual((names["alg"], names["typ"]), ("EdDSA", "at+jwt"))
        key = next(key for key in self.keys() if key["kid"] == names["kid"])
        self.assertEqual((key["kty"], key["crv"], key["use"]), ("OKP", "Ed25519", "sig"))
        self.assertNotIn("d", key)
        message = f"{header}.{payload}".encode()
        self.assertTrue(self.openssl_verifies(key, message, unpack(signature)))
        self.assertFalse(self.openssl_verifies(key, message + b"x", unpack(signature)))
        claims = json.loads(unpack(payload))
        self.assertEqual((claims["iss"], claims["sub"]), ("nova", self.account.id))
        self.assertEqual(claims["exp"] - claims["iat"], 15 * 60)
        self.assertIn("nova", [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"])

    def test_no_private_half_is_published(self):
        pem = (self.stack.data / "secrets" / "identity_signing_key.pem").read_text()
        der = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-")))
        # PKCS#8 of Ed25519 ends with the 32 secret bytes.
        self.assertNotIn(pack(der[-32:]), json.dumps(self.keys()))

    def test_tampered_tokens_are_refused_alike(self):
        header, payload, signature = self.token.split(".")
        claims = json.loads(unpack(payload))
        other = pack(json.dumps({**claims, "sub": str(uuid.uuid4())}).encode())
        late = pack(json.dumps({**claims, "exp": claims["exp"] + 3600}).encode())
        none = pack(json.dumps({"alg": "none", "typ": "JWT"}).encode())
        symmetric = pack(json.dumps({**json.loads(unpack(header)), "alg": "HS256"}).encode())
        flipped = bytearray(unpack(signature))
        flipped[0] ^= 1
        forged = {"another account": f"{header}.{other}.{signature}", "a later end": f"{header}.{late}.{signature}",
                  "a flipped bit": f"{header}.{payload}.{pack(bytes(flipped))}",
                  "no signature": f"{header}.{payload}.", "alg none": f"{none}.{payload}.",
                  "alg HS256": f"{symmetric}.{payload}.{signature}", "padding": self.token + "=",
                  "a fourth part": self.token + ".x", "nothing": "", "noise": "a" * 9000}
        answers = set()
        for what, token in forged.items():
            with self.subTest(what):
                error = self.assertFails(StatusCode.UNAUTHENTICATED, self.client.VerifyToken,
                                         self.messages.VerifyTokenRequest(access_token=token), timeout=CALL_LIMIT)
                answers.add(error.details())
        self.assertEqual(len(answers), 1, answers)
        self.client.VerifyToken(self.messages.VerifyTokenRequest(access_token=self.token), timeout=CALL_LIMIT)


class MalformedRequestTest(IdentityTest):
    def raw(self, method):
        return self.channel.unary_unary(f"/{SERVICE}/{method}")

    def test_malformed_registrations_name_the_field(self):
        wrong = {"email": ("", "no-at-sign", "@example.com", "two@at@signs", "a b@example.com", "x" * 300 + "@a.b"),
                 "username": ("", "ab", "has space", "x" * 31, "no-hyphens", ".dot", "ünïcode!"),
                 "password": ("", "short", "x" * 257), "idempotency_key": ("", "not a uuid", str(uuid.UUID(int=0)))}
        for field, values in wrong.items():
            for value in values:
                with self.subTest(f"{field}={value[:20]!r}"):
                    request = harness.registration(**{field: value})
                    error = self.assertFails(StatusCode.INVALID_ARGUMENT, self.client.Register, request,
                                             timeout=CALL_LIMIT)
                    self.assertTrue(error.details().startswith(f"{field}: "), error.details())
                    if len(value) > 3:
                        self.assertNotIn(value, error.details())

    def test_malformed_log_ins_name_the_field(self):
        account = harness.register(self.client)
        for field, values in {"identifier": ("", "x" * 300), "password": ("", "x" * 300)}.items():
            for value in values:
                with self.subTest(f"{field}={value[:20]!r}"):
                    request = self.login_request(account, **{field: value})
                    error = self.assertFails(StatusCode.INVALID_ARGUMENT, self.client.Login, request,
                                             timeout=CALL_LIMIT)
                    self.assertTrue(error.details().startswith(f"{field}: "), error.details())

    def test_bodies_that_are_no_message_are_refused(self):
        for method in ("Register", "Login", "VerifyToken"):
            # A truncated field, a wrong wire type, text that is not UTF-8, noise.
            for body in (b"\x0a\xff", b"\x0b", b"\x0a\x02\xff\xfe", bytes(range(256))):
                with self.subTest(f"{method} {body[:8]!r}"):
                    self.assertFails(StatusCode.INVALID_ARGUMENT, self.raw(method), body, timeout=CALL_LIMIT)
        self.assertHealthy()

    def test_unknown_methods_are_unimplemented(self):
        self.assertFails(StatusCode.UNIMPLEMENTED, self.raw("NoSuchMethod"), b"", timeout=CALL_LIMIT)

    def test_message_over_the_limit_is_refused_and_the_connection_goes_on(self):
        request = harness.registration(email="x" * (5 << 20))
        self.assertFails(StatusCode.RESOURCE_EXHAUSTED, self.client.Register, request, timeout=CALL_LIMIT)
        harness.register(self.client)
        self.assertHealthy()

    def test_tokens_of_accounts_that_are_gone_are_refused(self):
        account = harness.register(self.client)
        token = harness.log_in(self.client, account).access_token
        self.stack.sql(f"DELETE FROM accounts WHERE id = '{account.id}'", database="identity")
        self.assertFails(StatusCode.UNAUTHENTICATED, self.client.GetAccount, self.messages.GetAccountRequest(),
                         timeout=CALL_LIMIT, metadata=[("authorization", f"Bearer {token}")])


class VanishedWorkTest(IdentityTest):
    """A client that does not wait leaves no work behind: seen in pg_stat_activity while a lock holds its statements."""

    # Fewer than identity's connections, so that its health probe still gets one.
    CALLS = 4

    def handled(self, code, method="Register"):
        return self.stack.metric("grpc_server_handled_total", grpc_service=SERVICE, grpc_method=method, grpc_code=code)

    def await_statements(self, count):
        harness.await_condition(f"{count} statements wait in PostgreSQL",
                                lambda: len(self.stack.statements()) == count)

    def await_nothing_runs(self):
        began = time.monotonic()
        harness.await_condition("no statement runs on", lambda: not self.stack.statements(), CANCEL_LIMIT)
        return time.monotonic() - began

    def test_killed_client_leaves_no_statement_running(self):
        with self.stack.locked_accounts():
            client = subprocess.Popen(
                [sys.executable, "-B", harness.ROOT / "tests/e2e/vanishing_client.py", str(self.stack.identity_port),
                 self.stack.certificate("operator", ""), str(self.CALLS)], stdout=subprocess.PIPE, text=True)
            self.addCleanup(client.stdout.close)
            self.assertEqual(client.stdout.readline(), "under way\n")
            self.await_statements(self.CALLS)
            client.kill()
            client.wait()
            say(f"killed with {self.CALLS} calls under way: nothing runs after {self.await_nothing_runs():.2f} s")
        self.assertHealthy()

    def test_killed_client_with_more_calls_than_the_server_takes_at_once(self):
        with self.stack.locked_accounts():
            client = subprocess.Popen(
                [sys.executable, "-B", harness.ROOT / "tests/e2e/vanishing_client.py", str(self.stack.identity_port),
                 self.stack.certificate("operator", ""), "200"], stdout=subprocess.PIPE, text=True)
            self.addCleanup(client.stdout.close)
            self.assertEqual(client.stdout.readline(), "under way\n")
            harness.await_condition("statements wait in PostgreSQL", self.stack.statements)
            client.kill()
            client.wait()
            took = self.await_nothing_runs()
        self.stack.await_ready()
        in_flight = lambda: (self.stack.metric("grpc_server_started_total", grpc_method="Register") -
                             self.stack.metric("grpc_server_handled_total", grpc_method="Register"))
        harness.await_condition("every call has ended", lambda: in_flight() == 0)
        say(f"killed with 200 calls under way: nothing runs after {took:.2f} s")
        self.assertHealthy()

    def test_cancelled_call_leaves_no_statement_running(self):
        with self.stack.locked_accounts():
            call = self.client.Register.future(harness.registration(), timeout=60)
            self.await_statements(1)
            call.cancel()
            say(f"cancelled: nothing runs after {self.await_nothing_runs():.2f} s")
        self.assertHealthy()

    def test_deadline_that_passes_leaves_no_statement_running(self):
        with self.stack.locked_accounts():
            call = self.client.Register.future(harness.registration(), timeout=3)
            self.await_statements(1)
            self.assertEqual(call.exception(CALL_LIMIT).code(), StatusCode.DEADLINE_EXCEEDED)
            say(f"deadline of 3 s passed: nothing runs after another {self.await_nothing_runs():.2f} s")
        self.assertHealthy()

    def test_deadline_that_has_passed_on_arrival_does_no_work(self):
        request = harness.registration()
        done_before = self.handled("OK")
        context = ssl.create_default_context(cafile=str(self.stack.certificate("operator", "ca.crt")))
        context.load_cert_chain(self.stack.certificate("operator", "tls.crt"),
                                self.stack.certificate("operator", "tls.key"))
        context.set_alpn_protocols(["h2"])
        send = lambda timeout, message: http2_frames.call(
            ("127.0.0.1", self.stack.identity_port), context, "identity.nova.svc.cluster.local", f"/{SERVICE}/Register",
            timeout, message.SerializeToString(), CALL_LIMIT)
        for timeout in ("1n", "0n", "0m"):
            with self.subTest(timeout):
                self.assertIn(send(timeout, request), (http2_frames.HEADERS, http2_frames.RST_STREAM))
        self.assertEqual(self.stack.statements(), [])
        self.assertEqual(self.handled("OK"), done_before)
        # The same bytes with time left do register: what refused them was the deadline.
        self.assertEqual(send("9S", harness.registration()), http2_frames.HEADERS)
        self.assertEqual(self.handled("OK"), done_before + 1)
        rows = self.stack.sql(f"SELECT count(*) FROM accounts WHERE email = '{request.email}'", database="identity")
        self.assertEqual(rows, [{"count": "0"}])
        self.assertHealthy()


class PeerTest(IdentityTest):
    """Who may call what is decided by the certificate."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.forged = cls.stack.folder / "forged"
        cls.forged.mkdir()
        run = lambda *arguments: subprocess.run(["openssl", *arguments], cwd=cls.forged, check=True,
                                                capture_output=True)
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Nova development CA",
            "-days", "1")
        run("req", *curve, "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=operator")
        (cls.forged / "names").write_text("subjectAltName=URI:spiffe://nova/operator,"
                                          "DNS:operator.nova.svc.cluster.local\nextendedKeyUsage=clientAuth\n")
        run("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-out", "tls.crt", "-days", "1",
            "-extfile", "names")

    def assertRefused(self, channel):
        """No call gets through the handshake, the server counts none, and others are served."""
        started = self.stack.metric("grpc_server_started_total", grpc_service=SERVICE)
        with channel:
            client = harness.identity_client(channel)
            self.assertFails(StatusCode.UNAVAILABLE, client.GetJwks, self.messages.GetJwksRequest(), timeout=CALL_LIMIT)
        self.assertEqual(self.stack.metric("grpc_server_started_total", grpc_service=SERVICE), started)
        self.assertHealthy()

    def test_plaintext_is_refused(self):
        self.assertRefused(grpc.insecure_channel(f"127.0.0.1:{self.stack.identity_port}"))

    def test_client_without_a_certificate_is_refused(self):
        ca = self.stack.certificate("operator", "ca.crt").read_bytes()
        self.assertRefused(self.stack.channel(credentials=grpc.ssl_channel_credentials(ca)))

    def test_certificate_of_another_authority_is_refused(self):
        ca = self.stack.certificate("operator", "ca.crt").read_bytes()
        self.assertRefused(self.stack.channel(credentials=grpc.ssl_channel_credentials(
            ca, (self.forged / "tls.key").read_bytes(), (self.forged / "tls.crt").read_bytes())))

    def test_client_that_trusts_another_authority_refuses_the_server(self):
        other = (self.forged / "ca.crt").read_bytes()
        self.assertRefused(self.stack.channel(credentials=self.stack.credentials("operator", ca=other)))

    def test_client_that_expects_another_service_refuses_the_server(self):
        self.assertRefused(self.stack.channel(expected="user"))

    def test_older_tls_is_refused(self):
        context = ssl.create_default_context(cafile=str(self.stack.certificate("operator", "ca.crt")))
        context.load_cert_chain(self.stack.certificate("operator", "tls.crt"),
                                self.stack.certificate("operator", "tls.key"))
        context.set_alpn_protocols(["h2"])
        connect = lambda: contextlib.closing(context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.stack.identity_port), CALL_LIMIT),
            server_hostname="identity.nova.svc.cluster.local"))
        with connect() as connection:
            self.assertEqual(connection.version(), "TLSv1.3")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            connect()

    def test_every_principal_may_call_what_the_contract_says_and_nothing_else(self):
        # An empty request that the peer may send is judged by its fields; one it may not send never gets there.
        options = harness.message_module("api/rpc/v1/options.proto")
        calls = 0
        for principal in harness.PRINCIPALS:
            client = harness.identity_client(self.open_channel(principal))
            for method in client.descriptor.methods:
                allowed = method.GetOptions().Extensions[options.policy].allowed_peers
                request = getattr(client.messages, method.input_type.name)()
                try:
                    getattr(client, method.name)(request, timeout=CALL_LIMIT)
                    code = StatusCode.OK
                except grpc.RpcError as error:
                    code = error.code()
                calls += 1
                with self.subTest(f"{principal} {method.name}"):
                    self.assertNotIn(code, (StatusCode.UNAVAILABLE, StatusCode.UNKNOWN, StatusCode.INTERNAL))
                    self.assertEqual(code != StatusCode.PERMISSION_DENIED, "*" in allowed or principal in allowed, code)
        say(f"{calls} pairs of principal and method as declared")

    def test_refused_peer_is_told_nothing_more(self):
        client = harness.identity_client(self.open_channel("probe"))
        error = self.assertFails(StatusCode.PERMISSION_DENIED, client.Register, harness.registration(),
                                 timeout=CALL_LIMIT)
        self.assertNotIn("operator", error.details())


class HealthAndReflectionTest(IdentityTest):
    def test_health_check(self):
        health = harness.health_client(self.open_channel("probe"))
        for name in ("", SERVICE):
            with self.subTest(name):
                answer = health.Check(health.messages.HealthCheckRequest(service=name), timeout=CALL_LIMIT)
                self.assertEqual(answer.status, answer.SERVING)
        self.assertFails(StatusCode.NOT_FOUND, health.Check, health.messages.HealthCheckRequest(service="nobody"),
                         timeout=CALL_LIMIT)

    def test_health_watch_begins_with_the_status(self):
        health = harness.health_client(self.open_channel("probe"))
        for name, expected in (("", "SERVING"), (SERVICE, "SERVING"), ("nobody", "SERVICE_UNKNOWN")):
            with self.subTest(name):
                call = health.Watch(health.messages.HealthCheckRequest(service=name), timeout=CALL_LIMIT)
                self.addCleanup(call.cancel)
                self.assertEqual(next(call).status, health.messages.HealthCheckResponse.ServingStatus.Value(expected))

    def reflection(self, principal):
        return harness.Client(self.open_channel(principal), "api/reflection/v1alpha/reflection.proto",
                              "ServerReflection")

    def test_reflection_tells_the_operator_what_runs(self):
        reflection = self.reflection("operator")
        request = reflection.messages.ServerReflectionRequest
        answers = reflection.ServerReflectionInfo(
            iter([request(list_services="*"), request(file_containing_symbol=SERVICE),
                  request(file_containing_symbol="no.such.Symbol")]), timeout=CALL_LIMIT)
        listed, file, unknown = list(answers)
        self.assertEqual({service.name for service in listed.list_services_response.service},
                         {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
        files = [descriptor_pb2.FileDescriptorProto.FromString(data)
                 for data in file.file_descriptor_response.file_descriptor_proto]
        methods = {method.name for described in files for service in described.service
                   if f"{described.package}.{service.name}" == SERVICE for method in service.method}
        self.assertEqual(methods, {method.name for method in self.client.descriptor.methods})
        self.assertEqual(unknown.error_response.error_code, StatusCode.NOT_FOUND.value[0])

    def test_reflection_is_refused_for_services(self):
        for principal in ("gateway", "user"):
            reflection = self.reflection(principal)
            request = reflection.messages.ServerReflectionRequest(list_services="*")
            error = harness.failure(list, reflection.ServerReflectionInfo(iter([request]), timeout=CALL_LIMIT))
            self.assertEqual(error.code(), StatusCode.PERMISSION_DENIED)


class AdminPortTest(IdentityTest):
    def test_metrics_parse_and_count_calls_exactly(self):
        counted = lambda: self.stack.metric("grpc_server_handled_total", grpc_service=SERVICE, grpc_method="GetJwks",
                                            grpc_code="OK", grpc_type="unary")
        timed = lambda: self.stack.metric("grpc_server_handling_seconds_count", grpc_service=SERVICE,
                                          grpc_method="GetJwks")
        before = counted(), timed()
        for _ in range(7):
            self.client.GetJwks(self.messages.GetJwksRequest(), timeout=CALL_LIMIT)
        self.assertEqual((counted(), timed()), (before[0] + 7, before[1] + 7))
        status, text = self.stack.admin("/metrics")
        self.assertEqual(status, 200)
        edges = {labels["le"] for name, labels, _ in harness.parse_metrics(text)
                 if name == "grpc_server_handling_seconds_bucket"}
        self.assertTrue({"0.005", "0.01", "+Inf"} <= edges, edges)
        say(f"{len(text.splitlines())} lines of metrics")

    def test_probes_and_status_page(self):
        self.assertEqual(self.stack.admin("/livez"), (200, "ok\n"))
        for path in ("/readyz", "/statusz"):
            status, text = self.stack.admin(path)
            self.assertEqual(status, 200)
            answer = json.loads(text)
            self.assertEqual((answer["serving"], answer["draining"], answer["cause"]), (True, False, ""))
            self.assertEqual([(dependency["name"], dependency["hard"], dependency["healthy"])
                              for dependency in answer["dependencies"]],
                             [("postgres", True, True), ("redis", False, True)])

    def test_other_paths_and_methods_are_refused(self):
        self.assertEqual(self.stack.admin("/no/such/path")[0], 404)
        self.assertEqual(self.stack.admin("/metrics", method="POST")[0], 405)


class LogTest(IdentityTest):
    def test_no_secret_and_no_personal_data_reaches_a_log_or_a_metric(self):
        account = harness.register(self.client)
        token = harness.log_in(self.client, account).access_token
        bearer = [("authorization", f"Bearer {token}")]
        self.client.GetAccount(self.messages.GetAccountRequest(), timeout=CALL_LIMIT, metadata=bearer)
        for password in ("wrong password, never to be seen", "x"):
            harness.failure(self.client.Login, self.login_request(account, password=password), timeout=CALL_LIMIT)
        harness.failure(self.client.VerifyToken, self.messages.VerifyTokenRequest(access_token=token + "x"),
                        timeout=CALL_LIMIT)
        rival = harness.registration(username=account.username)
        harness.failure(self.client.Register, rival, timeout=CALL_LIMIT)
        # A statement that fails in PostgreSQL, with the request's values in it.
        with self.stack.locked_accounts():
            harness.failure(self.client.Login, self.login_request(account), timeout=0.5)

        seen = self.stack.log_text() + self.stack.admin("/metrics")[1] + self.stack.admin("/statusz")[1]
        self.assertIn("serving", seen)
        hidden = [account.password, "wrong password, never to be seen", token, token.split(".")[2], account.email,
                  account.username, rival.email]
        hidden += [path.read_text().strip() for path in (self.stack.data / "secrets").iterdir()]
        for secret in hidden:
            self.assertNotIn(secret, seen)


    def test_every_log_line_of_a_service_is_json(self):
        # A handshake that fails is logged by gRPC itself.
        with self.stack.channel(credentials=grpc.ssl_channel_credentials(
                self.stack.certificate("operator", "ca.crt").read_bytes())) as channel:
            client = harness.identity_client(channel)
            harness.failure(client.GetJwks, self.messages.GetJwksRequest(), timeout=CALL_LIMIT)
        log = self.stack.data / "logs" / "identity.log"
        harness.await_condition("gRPC's record", lambda: "Handshake" in log.read_text())
        for line in log.read_text().splitlines():
            record = json.loads(line)
            self.assertLessEqual({"time", "level", "service", "message"}, set(record), line)
            self.assertEqual(record["service"], "identity")


class LoadTest(IdentityTest):
    def test_many_clients_at_once_are_all_answered(self):
        # More connections than identity has to its database, and more work than argon2id's threads take at once.
        accounts = [harness.register(self.client) for _ in range(4)]

        def work(number):
            with self.stack.channel() as channel:
                client = harness.identity_client(channel)
                return harness.log_in(client, accounts[number % 4]).account_id == accounts[number % 4].id

        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            self.assertTrue(all(pool.map(work, range(90))))
        say(f"90 log-ins by 30 clients, each on a connection of its own: {time.monotonic() - began:.1f} s")
        budget = int(self.stack.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'identity'")[0]["count"])
        self.assertLessEqual(budget, 15)


if __name__ == "__main__":
    unittest.main()
