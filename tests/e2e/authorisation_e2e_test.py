"""Who may call what: every principal that has a certificate calls every method of every service, on a live stack. What
must come of it is read from the contracts by protoc and Protobuf's own Python, without any of Nova's code."""

import pathlib
import subprocess
import tempfile
import threading
import typing
import unittest

import certificates
import grpc
import harness
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from harness import say

# The start of a field of 255 bytes that never come: no message of any type.
UNDECODABLE = b"\x0a\xff"
REFUSAL = "the certificate of this peer does not allow this call"
# They have certificates because they are servers. None of them ever calls a service.
SERVER_LEAVES = ("postgres", "pgbouncer", "redis")
# How long a stream that must be refused is left without a message, in seconds.
PATIENCE = 5
EVERYWHERE = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


class Method(typing.NamedTuple):
    service: str
    name: str
    streams: bool
    allowed: frozenset  # principals
    needs_token: bool

    @property
    def path(self):
        return f"/{self.service}/{self.name}"


def declared_methods():
    """All methods of all contracts, with what their options say."""
    options = harness.message_module("api/rpc/v1/options.proto")
    protos = sorted(str(path.relative_to(harness.ROOT)) for path in (harness.ROOT / "api").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        descriptors = pathlib.Path(folder) / "all.pb"
        subprocess.run(["protoc", "-I", harness.ROOT, "--include_imports", f"--descriptor_set_out={descriptors}",
                        *protos], cwd=harness.ROOT, check=True, env=harness.environment())
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    methods = []
    for file in files:
        for service in file.service:
            for method in service.method:
                policy = method.options.Extensions[options.policy]
                allowed = harness.PRINCIPALS if "*" in policy.allowed_peers else policy.allowed_peers
                methods.append(Method(f"{file.package}.{service.name}", method.name,
                                      method.client_streaming or method.server_streaming, frozenset(allowed),
                                      policy.caller == options.CALLER_RULE_REQUIRED))
    return methods


def module_of(service):
    """Which module serves it: nova.<module>.v2.<Name>."""
    return service.split(".")[1]


class AuthorisationTest(harness.StackTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.methods = declared_methods()
        authority = certificates.Authority.of(cls.stack)
        # Signed by the authority that everybody trusts, and named like a principal: yet nobody has been told of it.
        stranger = authority.issue("stranger", "stranger")
        read = lambda path: path.read_bytes()
        cls.strangers = {"stranger": grpc.ssl_channel_credentials(read(authority.certificate), read(stranger.key),
                                                                  read(stranger.certificate))}

    def methods_on(self, module):
        return [method for method in self.methods
                if method.service in EVERYWHERE or module_of(method.service) == module]

    def call(self, channel, method, is_allowed):
        """The error of a call whose body is no message."""
        if not method.streams:
            return harness.failure(channel.unary_unary(method.path), UNDECODABLE, timeout=harness.CALL_LIMIT)
        # Whoever is not allowed hears of it before having sent anything.
        ended = threading.Event()

        def body():
            if is_allowed or not ended.wait(PATIENCE):
                yield UNDECODABLE
        stream = channel.stream_stream(method.path)(body(), timeout=harness.CALL_LIMIT)
        try:
            return harness.failure(list, stream)
        finally:
            ended.set()

    def test_contracts_name_principals_only(self):
        known = set(harness.PRINCIPALS)
        for method in self.methods:
            with self.subTest(method.path):
                self.assertTrue(method.allowed)
                self.assertLessEqual(method.allowed, known)

    def test_every_certificate_belongs_to_somebody_who_is_asked(self):
        self.assertEqual({folder.name for folder in (self.stack.data / "certs").iterdir()},
                         {*harness.PRINCIPALS, *SERVER_LEAVES})

    def test_what_the_services_serve_is_what_the_contracts_declare(self):
        """Or something would not be walked below."""
        walked = set()
        for module in harness.services():
            with self.subTest(module):
                expected = {(method.service, method.name) for method in self.methods_on(module)}
                # The server makes these samples when it starts, one for each method it has.
                served = harness.by_labels(self.stack.metrics(module), "grpc_server_started_total", "grpc_service",
                                           "grpc_method")
                self.assertEqual(set(served), expected)
                # What it says of itself to whoever asks.
                reflection = harness.reflection_client(self.open_channel(service=module))
                request = reflection.messages.ServerReflectionRequest(list_services="*")
                answer = next(reflection.ServerReflectionInfo(iter([request]), timeout=harness.CALL_LIMIT))
                self.assertEqual({service.name for service in answer.list_services_response.service},
                                 {service for service, _ in expected})
                walked |= expected
        self.assertEqual({(method.service, method.name) for method in self.methods}, walked)

    def test_methods_of_other_services_are_not_there_for_anybody(self):
        for module in harness.services():
            channel = self.open_channel(service=module)
            for method in set(self.methods) - set(self.methods_on(module)):
                with self.subTest(f"{method.path} at {module}"):
                    self.assertFails(StatusCode.UNIMPLEMENTED, channel.unary_unary(method.path), UNDECODABLE,
                                     timeout=harness.CALL_LIMIT)

    def walk(self, principals):
        """Each of them calls each method of each service. Returns how many calls that were."""
        calls = refused = 0
        for module in harness.services():
            before = self.refusals(module)
            expected = {}
            for principal in principals:
                channel = self.open_channel(principal, self.strangers.get(principal), module)
                for method in self.methods_on(module):
                    is_allowed = principal in method.allowed
                    if not is_allowed:
                        expected[principal, method.path] = 1
                    with self.subTest(f"{principal} calls {method.path} of {module}"):
                        error = self.call(channel, method, is_allowed)
                        calls += 1
                        if not is_allowed:
                            self.assertEqual((error.code(), error.details()), (StatusCode.PERMISSION_DENIED, REFUSAL))
                        else:
                            code = StatusCode.UNAUTHENTICATED if method.needs_token else StatusCode.INVALID_ARGUMENT
                            self.assertEqual(error.code(), code, error.details())
            with self.subTest(f"refusals are counted by {module}"):
                self.assertEqual(harness.growth(before, self.refusals(module)), expected)
            refused += len(expected)
        say(f"{calls} calls, of which {refused} had to be refused")
        return calls

    def test_every_principal_calls_every_method_of_every_service(self):
        methods = sum(len(self.methods_on(module)) for module in harness.services())
        self.assertEqual(self.walk(harness.PRINCIPALS), methods * len(harness.PRINCIPALS))

    def test_whoever_is_no_principal_of_the_deployment_may_call_nothing(self):
        self.walk([*SERVER_LEAVES, *self.strangers])

    def refusals(self, module):
        return harness.by_labels(self.stack.metrics(module), "nova_rpc_peer_refused_total", "peer", "method")


if __name__ == "__main__":
    unittest.main()
