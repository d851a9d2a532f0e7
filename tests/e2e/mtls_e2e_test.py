"""The TLS of every hop of a live stack, as peers see it that share no code with Nova: `openssl s_client`, Python's ssl,
a stock gRPC client, with certificates made by `openssl`. What is right is taken, what is wrong is refused and counted
once under its reason, and certificates change under load without anybody noticing."""

import contextlib
import os
import pathlib
import re
import secrets
import socket
import ssl
import struct
import subprocess
import threading
import time
import typing
import unittest

import certificates
import grpc
import harness
from certificates import dns_name, is_turned_away, look_at
from grpc import StatusCode
from harness import CALL_LIMIT, say

ERRORS = "nova_tls_handshake_errors_total"
# How soon new files show in a new handshake: a look a second by Nova, one by gRPC, and a busy machine.
SEEN_WITHIN = 10
# What the server grants an unfinished handshake (grpc.handshake_timeout), and a busy machine.
HANDSHAKE_TIMEOUT = 10
# A process that is not refused by then serves.
REFUSAL_LIMIT = 10
# Of a server's connections, where it must not be the default's half an hour, in seconds.
CONNECTION_AGE, CONNECTION_GRACE = 4, 1
SERVER_VARIABLES = ("GRPC_SERVER_CERT_PATH", "GRPC_SERVER_KEY_PATH", "GRPC_CLIENT_CA_CERT_PATH")
CHANNEL_VARIABLES = ("GRPC_SERVER_CA_CERT_PATH", "GRPC_CLIENT_CERT_PATH", "GRPC_CLIENT_KEY_PATH")


def errors_in(samples):
    return harness.by_labels(samples, ERRORS, "side", "reason")


class TlsTest(harness.StackTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ca = cls.stack.data / "ca" / "ca.crt"
        cls.me = certificates.Leaf(cls.stack.certificate("operator", "tls.crt"),
                                   cls.stack.certificate("operator", "tls.key"))


# --- Every hop ---

class Hop(typing.NamedTuple):
    principal: str
    port: int
    options: dict  # of look_at


class EveryHopTest(TlsTest):
    def hops(self):
        yield from (Hop(service, self.stack.port_of(service), {"leaf": self.me, "alpn": "h2"})
                    for service in harness.services())
        yield Hop("postgres", self.stack.postgres_port, {"starttls": "postgres"})
        yield Hop("pgbouncer", self.stack.pgbouncer_port, {"starttls": "postgres"})
        yield Hop("redis", self.stack.redis_port, {})

    def test_every_port_shows_the_certificate_of_its_own_principal_over_tls_1_3(self):
        hops = list(self.hops())
        for hop in hops:
            with self.subTest(hop.principal):
                shown = look_at(hop.port, ca=self.ca, name=dns_name(hop.principal), **hop.options)
                self.assertTrue(shown.verified, shown.errors)
                self.assertEqual(shown.protocol, "TLSv1.3")
                self.assertEqual([name for name in shown.names if name.startswith("URI:")],
                                 [f"URI:spiffe://nova/{hop.principal}"])
                self.assertEqual([name for name in shown.names if certificates.DOMAIN in name],
                                 [f"DNS:{dns_name(hop.principal)}"])
            for other in hops:
                if other.principal != hop.principal:
                    with self.subTest(f"{hop.principal} taken for {other.principal}"):
                        shown = look_at(hop.port, ca=self.ca, name=dns_name(other.principal), **hop.options)
                        self.assertFalse(shown.verified)
                        self.assertIn("hostname mismatch", shown.errors)

    def test_every_port_is_verified_against_this_authority_and_no_other(self):
        other = certificates.Authority.create(self.stack.folder / "not-of-the-stack")
        for hop in self.hops():
            with self.subTest(hop.principal):
                shown = look_at(hop.port, ca=other.certificate, name=dns_name(hop.principal), **hop.options)
                self.assertFalse(shown.verified)
                self.assertRegex(shown.errors, "unable to get local issuer|self-signed certificate in certificate")

    def test_older_versions_are_refused_on_every_port(self):
        for hop in self.hops():
            options = {"ca": self.ca, "name": dns_name(hop.principal), **hop.options}
            for version in ("-tls1_2", "-tls1_1", "-tls1"):
                with self.subTest(f"{hop.principal} {version}"):
                    shown = look_at(hop.port, version, *certificates.WEAKEST, **options)
                    self.assertEqual((shown.verified, shown.protocol, shown.pem), (False, "", ""), shown)
            # The same, but for the version: it was that.
            self.assertTrue(look_at(hop.port, "-tls1_3", *certificates.WEAKEST, **options).verified)

    def test_no_database_port_speaks_plaintext(self):
        for port in (self.stack.postgres_port, self.stack.pgbouncer_port):
            done = self.stack.try_sql("SELECT 1", user="identity", database="identity", port=port, sslmode="disable")
            self.assertNotEqual(done.returncode, 0)
            self.assertRegex(done.stderr, "no encryption|SSL required")
        self.assertNotEqual(self.stack.try_redis("PING", user="audit", tls=False).returncode, 0)

    def test_database_connections_of_every_service_are_encrypted_from_end_to_end(self):
        services = set(harness.services())
        # PostgreSQL's side of PgBouncer's connections for the services.
        rows = self.stack.sql("SELECT usename, ssl, version FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
                              "WHERE client_addr IS NOT NULL")
        self.assertLessEqual(services, {row["usename"] for row in rows})
        self.assertEqual({(row["ssl"], row["version"]) for row in rows}, {("t", "TLSv1.3")})
        # PgBouncer's, of both sides.
        for command in ("SHOW CLIENTS", "SHOW SERVERS"):
            rows = self.stack.console(command)
            self.assertLessEqual(services, {row["user"] for row in rows}, command)
            self.assertEqual([row for row in rows if not row["tls"].startswith("TLSv1.3/")], [], command)

    def test_services_connect_to_ports_of_the_stack_only(self):
        """Each of which demands TLS 1.3, as seen above: so no byte of theirs leaves a process as plaintext."""
        secure = {hop.port for hop in self.hops()}
        for service in harness.services():
            own = {self.stack.port_of(service), self.stack.admin_port_of(service)}
            connected = harness.sockets_of(self.stack.pid_of(service)).connected
            outgoing = {remote[1] for local, remote in connected if local[1] not in own}
            self.assertTrue({self.stack.pgbouncer_port, self.stack.redis_port} <= outgoing <= secure, outgoing)


# --- Bad peers ---

class BadPeer(typing.NamedTuple):
    what: str
    reason: str
    # Comes, is refused, and says whether it saw that.
    comes: typing.Callable[[int], bool]


def hello(version=ssl.TLSVersion.TLSv1_3):
    """The first message of a client of OpenSSL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def sends(data, then=None):
    """A peer that sends these bytes; `then`: "close" or "reset", else it waits to be turned away."""
    def come(port):
        with socket.create_connection(("127.0.0.1", port), CALL_LIMIT) as connection:
            connection.sendall(data)
            if then == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if then:
                return True
            # An alert may come first.
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            except TimeoutError:
                return False
            return True
    return come


class BadPeerTest(TlsTest):
    """Each comes once. It is refused, the service counts it once, under its reason, and is healthy afterwards."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.stack.folder / "bad"
        cls.ours = ours = certificates.Authority.of(cls.stack, "bad")
        cls.other = other = certificates.Authority.create(folder / "other")
        # Our authority's name, but not its key.
        subject = certificates.openssl("x509", "-in", cls.ca, "-noout", "-subject").stdout.strip()
        name = subject.removeprefix("subject=CN = ")
        cls.namesake = certificates.Authority.create(folder / "namesake", name)
        middle = ours.issue("middle", "An intermediate", names="", usages="", constraints="CA:TRUE")
        below = certificates.Authority(folder / "below", middle.certificate, middle.key)
        by_operator = certificates.Authority(folder / "by-operator", cls.me.certificate, cls.me.key)
        rejected = lambda why: f"certificate_rejected_{why}"
        cls.certificates = {
            "expired": (rejected("expired"), ours.issue("expired", begins=-7200, ends=-3600)),
            "not yet valid": (rejected("not_yet_valid"), ours.issue("early", begins=3600, ends=7200)),
            "of an unknown authority": (rejected("unknown_ca"), other.issue("unknown")),
            "of an unknown authority that is sent along":
                (rejected("unknown_ca"), other.issue("unknown-sent", along=[other.certificate])),
            "of an intermediate that is not sent": (rejected("unknown_ca"), below.issue("broken")),
            "self-signed": (rejected("self_signed"), ours.self_signed("self-signed")),
            "without a name": (rejected("wrong_name"), ours.issue("nameless", names="")),
            "of another trust domain": (rejected("wrong_name"), ours.issue(
                "foreign", names=f"URI:spiffe://example/operator,DNS:{dns_name('operator')}")),
            "with a name that is no principal": (rejected("wrong_name"), ours.issue(
                "no-principal", names=f"URI:spiffe://nova/operator/x,DNS:{dns_name('operator')}")),
            "with two principals": (rejected("wrong_name"), ours.issue(
                "two", names="URI:spiffe://nova/operator,URI:spiffe://nova/gateway")),
            "for servers only": (rejected("wrong_usage"), ours.issue("server", usages="serverAuth")),
            "for mail": (rejected("wrong_usage"), ours.issue("mail", usages="emailProtection")),
            "with RSA of 1024 bits": (rejected("weak_key"), ours.issue("weak-rsa", key="RSA-1024")),
            "signed by way of SHA-1": (rejected("weak_key"), ours.issue("weak-digest", digest="sha1")),
            "of an authority of the same name": (rejected("unknown_ca"), cls.namesake.issue("namesake")),
            "signed by a principal": (rejected("other"), by_operator.issue("by-operator", along=[cls.me.certificate])),
        }

    def by_s_client(self, *arguments, **options):
        return lambda port: is_turned_away(port, *arguments, **{"ca": self.ca, "alpn": "h2", **options})

    def by_grpcio(self, certificate=None, ca=None, options=()):
        """One attempt to connect: for the next one it would wait longer than anybody looks."""
        read = lambda path: pathlib.Path(path).read_bytes()
        credentials = grpc.ssl_channel_credentials(read(ca or self.ca), certificate and read(certificate.key),
                                                   certificate and read(certificate.certificate))

        def come(port):
            patient = [(f"grpc.{name}_reconnect_backoff_ms", 60_000) for name in ("initial", "min", "max")]
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials,
                                     [*patient, ("grpc.use_local_subchannel_pool", 1), *options]) as channel:
                error = harness.failure(channel.unary_unary("/grpc.health.v1.Health/Check"), b"", timeout=CALL_LIMIT)
                return error.code() == StatusCode.UNAVAILABLE
        return come

    def peers(self):
        yield BadPeer("s_client without a certificate", "no_client_certificate", self.by_s_client())
        yield BadPeer("grpcio without a certificate", "no_client_certificate", self.by_grpcio())
        for what, (reason, leaf) in self.certificates.items():
            # Else OpenSSL itself would not show a weak one.
            weak = certificates.WEAKEST if reason.endswith("weak_key") else ()
            yield BadPeer(f"s_client with a certificate {what}", reason, self.by_s_client(*weak, leaf=leaf))
            if not weak:
                yield BadPeer(f"grpcio with a certificate {what}", reason, self.by_grpcio(leaf))
        for version in ("-tls1_2", "-tls1_1"):
            yield BadPeer(f"s_client {version}", "protocol",
                          self.by_s_client(version, *certificates.WEAKEST, leaf=self.me))
        yield BadPeer("s_client that speaks another application protocol", "protocol",
                      self.by_s_client(leaf=self.me, alpn="http/1.1"))
        yield BadPeer("s_client that speaks no application protocol", "protocol",
                      self.by_s_client(leaf=self.me, alpn=None))
        yield BadPeer("s_client that trusts another authority", "refused_by_peer",
                      self.by_s_client(leaf=self.me, ca=self.other.certificate))
        # gRPC sends no alert.
        yield BadPeer("grpcio that trusts another authority", "peer_closed",
                      self.by_grpcio(self.me, ca=self.other.certificate))
        yield BadPeer("a gRPC client without TLS", "plaintext", self.plaintext_grpcio)
        yield BadPeer("a browser without TLS", "plaintext", sends(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        yield BadPeer("Redis' protocol", "plaintext", sends(b"*1\r\n$4\r\nPING\r\n"))
        yield BadPeer("noise in the form of TLS", "protocol", sends(b"\x16\x03\x01\x00\x20" + b"\xff" * 32))
        yield BadPeer("connect and close", "peer_closed", sends(b"", then="close"))
        yield BadPeer("connect and reset", "peer_closed", sends(b"", then="reset"))
        yield BadPeer("half a hello", "peer_closed", sends(hello()[:100], then="close"))
        yield BadPeer("a hello and no more", "peer_closed", sends(hello(), then="close"))

    def plaintext_grpcio(self, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.initial_reconnect_backoff_ms", 60_000),
                                                         ("grpc.use_local_subchannel_pool", 1)]) as channel:
            error = harness.failure(channel.unary_unary("/grpc.health.v1.Health/Check"), b"", timeout=CALL_LIMIT)
            return error.code() == StatusCode.UNAVAILABLE

    def errors(self, service):
        return errors_in(self.stack.metrics(service))

    def handshakes(self, service):
        return harness.by_labels(self.stack.metrics(service), "nova_tls_handshake_seconds_count", "side")

    def assertCounted(self, service, before, expected):
        """The errors of a service grow by just that. A count may come a moment after its peer has been turned away."""
        harness.await_condition(f"{service} counts {expected}",
                                lambda: harness.growth(before, self.errors(service)), limit=CALL_LIMIT)
        self.assertEqual(harness.growth(before, self.errors(service)), expected)

    def assertHealthy(self, service):
        with self.stack.channel(service=service) as channel:
            health = harness.health_client(channel)
            answer = health.Check(health.messages.HealthCheckRequest(), timeout=CALL_LIMIT)
            self.assertEqual(answer.status, answer.SERVING)

    def test_every_bad_peer_is_refused_and_counted_once_under_its_reason(self):
        for service in harness.services():
            port, total, peers = self.stack.port_of(service), {}, 0
            first, first_handshakes = self.errors(service), self.handshakes(service)
            for peer in self.peers():
                with self.subTest(f"{peer.what} at {service}"):
                    before = self.errors(service)
                    self.assertTrue(peer.comes(port), "it was not turned away")
                    self.assertCounted(service, before, {("server", peer.reason): 1})
                    self.assertHealthy(service)
                total["server", peer.reason] = total.get(("server", peer.reason), 0) + 1
                peers += 1
            # Nor did anything come late, and none counts as good: those were the good ones in between.
            self.assertEqual(harness.growth(first, self.errors(service)), total)
            self.assertEqual(harness.growth(first_handshakes, self.handshakes(service)).get(("server",)), peers)
            say(f"{service}: {peers} bad peers, {len(total)} reasons")

    def test_handshakes_that_hang_are_ended_and_counted_as_such(self):
        hung = {}
        for service in harness.services():
            before = self.errors(service)
            connections = [socket.create_connection(("127.0.0.1", self.stack.port_of(service)), 3 * HANDSHAKE_TIMEOUT)
                           for _ in range(3)]
            for connection, data in zip(connections, (b"", hello()[:100], hello())):
                self.addCleanup(connection.close)
                connection.sendall(data)
            hung[service] = before, connections, time.monotonic()
        # Whoever is served meanwhile does not notice.
        for service, (before, connections, began) in hung.items():
            self.assertHealthy(service)
            for connection in connections:
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(65536):
                        pass
            seconds = time.monotonic() - began
            self.assertGreater(seconds, HANDSHAKE_TIMEOUT - 1)
            say(f"{service}: {len(connections)} handshakes that hung were ended after {seconds:.1f} s")
            expected = {("server", "timeout"): len(connections)}
            harness.await_condition("they are counted",
                                    lambda: harness.growth(before, self.errors(service)) == expected, limit=CALL_LIMIT)

    def test_good_handshakes_are_timed_and_are_no_errors(self):
        for service in harness.services():
            errors, handshakes = self.errors(service), self.handshakes(service)
            for _ in range(10):
                self.assertHealthy(service)
            self.assertEqual(harness.growth(errors, self.errors(service)), {})
            self.assertEqual(harness.growth(handshakes, self.handshakes(service)).get(("server",)), 10)

    def test_all_reasons_stand_there_from_the_start(self):
        """A rate over a series that begins with its first error shows nothing of that error."""
        reasons = {reason for side, reason in self.errors("identity") if side == "server"}
        self.assertLessEqual({reason for reason, _ in self.certificates.values()} |
                             {"no_client_certificate", "refused_by_peer", "plaintext", "protocol", "peer_closed",
                              "timeout"}, reasons)


class BadServer:
    """A server that takes one connection, deals with it as `serve(socket)` does, and is gone."""

    def __init__(self, serve):
        self.listener = harness.bind_loopback(0)
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self):
        """One that nobody has come to still waits."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join(CALL_LIMIT)

    def _run(self):
        with contextlib.suppress(OSError):
            with self.listener:
                connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(CALL_LIMIT)
                self.serve(connection)

    @staticmethod
    def tls(leaf, ca, version=ssl.TLSVersion.TLSv1_3, protocols=("h2",)):
        """Speaks TLS, and then listens only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = version
        context.load_cert_chain(leaf.certificate, leaf.key)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
        if protocols:
            context.set_alpn_protocols(list(protocols))

        def serve(connection):
            with context.wrap_socket(connection, server_side=True) as secure:
                while secure.recv(4096):
                    pass
        return serve

    @staticmethod
    def plain(answer):
        def serve(connection):
            connection.recv(4096)
            connection.sendall(answer)
            while answer and connection.recv(4096):
                pass
        return serve

    @staticmethod
    def silent(connection):
        while connection.recv(4096):
            pass


class BadServerTest(TlsTest):
    """What shows itself where `user` expects identity: it is refused, and counted once, by the end that called."""

    def test_every_bad_server_is_refused_and_counted_once_under_its_reason(self):
        ours = certificates.Authority.of(self.stack, "bad-servers")
        other = certificates.Authority.create(self.stack.folder / "bad-servers-other")
        issue = lambda file, authority=ours, **options: authority.issue(file, "identity", **options)
        good = issue("good")
        shows = lambda leaf, **options: BadServer.tls(leaf, **{"ca": self.ca, **options})
        rejected = lambda why: f"certificate_rejected_{why}"
        servers = {
            "another principal": (rejected("wrong_name"), shows(ours.issue("user", "user"))),
            "an expired leaf": (rejected("expired"), shows(issue("expired", begins=-7200, ends=-3600))),
            "a leaf that is not yet valid": (rejected("not_yet_valid"), shows(issue("early", begins=3600, ends=7200))),
            "a leaf of another authority": (rejected("unknown_ca"), shows(issue("unknown", other))),
            "the same with its authority":
                (rejected("unknown_ca"), shows(issue("unknown-sent", other, along=[other.certificate]))),
            "a self-signed leaf": (rejected("self_signed"), shows(ours.self_signed("self-signed", "identity"))),
            "a leaf for clients": (rejected("wrong_usage"), shows(issue("client", usages="clientAuth"))),
            "a server that does not trust us": ("refused_by_peer", shows(good, ca=other.certificate)),
            "TLS 1.2": ("protocol", shows(good, version=ssl.TLSVersion.TLSv1_2)),
            "another application protocol": ("protocol", shows(good, protocols=("http/1.1",))),
            "no application protocol": ("protocol", shows(good, protocols=())),
            "a server without TLS": ("plaintext", BadServer.plain(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            "accept and close": ("peer_closed", BadServer.plain(b"")),
            "accept and nothing more": ("timeout", BadServer.silent),
        }
        for what, (reason, serve) in servers.items():
            with self.subTest(what):
                server = BadServer(serve)
                self.addCleanup(server.close)
                with harness.ServiceProcess(self.stack, "user", NOVA_SERVE_DRAIN_DELAY="0s",
                                            NOVA_PEERS_IDENTITY_TARGET=f"127.0.0.1:{server.port}") as process:
                    errors = lambda: harness.growth({}, errors_in(process.metrics()))
                    harness.await_condition("it is counted", errors, limit=CALL_LIMIT)
                    # Nobody listens there by now, so there is nothing more to count.
                    server.thread.join(CALL_LIMIT)
                    self.assertEqual(errors(), {("client", reason): 1})


# --- Rotation ---

class RotationTest(TlsTest):
    """On a process of its own: `nova up` would put right what is put wrong here."""

    def setUp(self):
        folder = self.stack.folder / f"rotation-{self.id().rpartition('.')[2]}"
        folder.mkdir()
        self.authority = certificates.Authority.of(self.stack, folder / "ca")
        self.other = certificates.Authority.create(folder / "other")
        self.mount = certificates.MountedSecret(folder / "mount")
        self.mount.put(*self.leaf("first"), self.ca)
        self.paths = {**dict(zip(SERVER_VARIABLES, map(self.mount.__getitem__, self.mount.FILES))),
                      **dict(zip(CHANNEL_VARIABLES, map(self.mount.__getitem__, ("ca.crt", "tls.crt", "tls.key"))))}
        self.process = harness.ServiceProcess(self.stack, "identity", **self.paths)

    def leaf(self, file, principal="identity", authority=None, **options):
        return (authority or self.authority).issue(file, principal, **options)

    def shown(self):
        shown = look_at(self.process.port, ca=self.ca, leaf=self.me, alpn="h2", name=dns_name("identity"))
        self.assertTrue(shown.verified, shown.errors)
        return shown

    def reloads(self, side="server"):
        return {result: value for (has, result), value in harness.by_labels(
            self.process.metrics(), "nova_tls_reloads_total", "side", "result").items() if has == side}

    def expiry(self, side="server"):
        return harness.sum_of(self.process.metrics(), "nova_tls_certificate_expiry_timestamp_seconds", side=side)

    def open_channel_here(self):
        return self.stack.channel(port=self.process.port)

    def begin(self, load):
        """Unary calls on connections that last and on new ones; streams that say nothing, and one that is asked."""
        channel = self.open_channel_here()
        self.addCleanup(channel.close)
        client = harness.identity_client(channel)
        account = harness.register(client)
        token = client.messages.VerifyTokenRequest(access_token=harness.log_in(client, account).access_token)
        verify = lambda: client.VerifyToken(token, timeout=CALL_LIMIT)
        for i in range(3):
            load.repeat(f"unary {i}", verify)

        def on_a_new_connection():
            with self.open_channel_here() as fresh:
                harness.identity_client(fresh).VerifyToken(token, timeout=CALL_LIMIT)
        load.repeat("unary on a new connection", on_a_new_connection)
        health, reflection = harness.health_client(channel), harness.reflection_client(channel)
        for i in range(10):
            load.hold(f"watch {i}", health.Watch(health.messages.HealthCheckRequest()))
        load.hold("answers on a stream", reflection.ServerReflectionInfo(harness.questions(0.02)))

    def assertNobodyNoticed(self, load):
        load.stop()
        self.assertEqual(load.failures, [])
        for what in ("unary 0", "unary on a new connection", "answers on a stream"):
            self.assertGreater(load.calls[what], 10, load.calls)
        self.assertEqual([load.calls[f"watch {i}"] for i in range(10)], [1] * 10)
        fresh = load.calls["unary on a new connection"]
        say(f"{sum(load.calls.values())} calls and messages, {fresh} new connections, 0 failed")

    def test_new_leaves_are_shown_and_bad_ones_are_not_while_nobody_notices(self):
        with self.process, harness.Load() as load:
            self.begin(load)
            good = self.check_good_ones()
            self.check_bad_ones(good)
            # And it is not stuck with it.
            self.check_good_ones(times=1, name="last")
            self.assertNobodyNoticed(load)

    def check_good_ones(self, times=3, name="good"):
        leaf, waits = None, []
        for i in range(times):
            # RSA, too; and each lives for a time of its own, so that the metric shows which it is.
            leaf = self.leaf(f"{name}-{i}", key=("P-256", "RSA-2048")[i % 2], ends=3600 + 60 * i)
            before, swapped = self.reloads(), time.monotonic()
            self.mount.put(*leaf, self.ca)
            harness.await_condition("the port shows the new leaf", lambda: self.shown().serial == leaf.serial,
                                    SEEN_WITHIN)
            waits.append(time.monotonic() - swapped)
            self.assertEqual(self.expiry(), self.shown().not_after)
            self.assertEqual(self.expiry("client"), self.shown().not_after)
            self.assertEqual(self.reloads(), {**before, "published": before["published"] + 1})
        say(f"{times} new leaves were shown after {', '.join(f'{wait:.1f} s' for wait in waits)}")
        return leaf

    def check_bad_ones(self, good):
        good_pair = good.certificate.read_bytes(), good.key.read_bytes()
        fresh = self.leaf("fresh")
        truncated = fresh.certificate.read_bytes()[:-200]
        cert, key, ca = zip(SERVER_VARIABLES, self.mount.FILES)
        bad = {
            # What is there, which file the line must name, and how it must say why.
            "the key of another leaf": ((fresh.certificate, good.key, self.ca), key, "does not match"),
            "a truncated certificate": ((truncated, fresh.key, self.ca), cert, "PEM"),
            "a truncated key": ((fresh.certificate, fresh.key.read_bytes()[:100], self.ca), key, "PEM"),
            "no key": ((fresh.certificate, None, self.ca), key, "cannot be read"),
            "an empty certificate": ((b"", fresh.key, self.ca), cert, "PEM"),
            "an empty authority": ((*fresh, b""), ca, "PEM"),
            "a leaf of another authority": ((*self.leaf("other", authority=self.other), self.ca), cert, "verify"),
            "an expired leaf": ((*self.leaf("expired", begins=-7200, ends=-3600), self.ca), cert, "expired"),
            "a leaf of tomorrow": ((*self.leaf("early", begins=86400, ends=90000), self.ca), cert, "not valid before"),
            "an authority that has not signed the leaf": ((*fresh, self.other.certificate), cert, "verify"),
            "a leaf without a principal": ((*self.leaf("nobody", names="DNS:localhost"), self.ca), cert, "URI name"),
            "a leaf for clients only": ((*self.leaf("client", usages="clientAuth"), self.ca), cert, "server auth"),
            "a weak key": ((*self.leaf("weak", key="RSA-1024"), self.ca), key, "weak"),
            # All would be in order, but for the channels of this service's clients.
            "the leaf of another principal": ((*self.leaf("principal", "user"), self.ca), cert, "user"),
        }
        before, before_client = self.reloads(), self.reloads("client")
        refused = 0
        for what, (files, (variable, file), why) in bad.items():
            with self.subTest(what):
                self.assertEqual(self.shown().serial, good.serial)
                since = len(self.process.records)
                self.mount.put(*files)
                refused += 1
                record = self.process.await_record(
                    lambda record: record["message"].startswith("certificate") and record.get("side") == "server",
                    limit=SEEN_WITHIN, since=since)
                self.assertEqual(record["message"], "certificate refused; the last good one stays in use", record)
                # One line, with what people need to know.
                line = record["error"]["message"]
                self.assertIn(f"{variable}={self.mount[file]}", line)
                self.assertIn(why, line)
                self.assertNotIn("\n", line)
                self.assertEqual(self.reloads(), {**before, "refused": before["refused"] + refused})
                self.assertEqual(self.shown().serial, good.serial)
        # A leaf for clients only serves the process as a client; whatever is wrong for both is refused by both.
        harness.await_condition("the client's side has looked as well", lambda: self.reloads("client") == {
            "refused": before_client["refused"] + refused - 1, "published": before_client["published"] + 1},
                                limit=SEEN_WITHIN)
        # As long as gRPC could need to take up what was published in error.
        time.sleep(3)
        self.assertEqual(self.shown().serial, good.serial)
        self.assertEqual(self.expiry(), self.shown().not_after)
        self.mount.put(*good_pair, self.ca)
        self.assertEqual([line for line in self.process.other_lines], [])
        say(f"{len(bad)} bad sets were refused, each with its line")


    def test_authority_is_introduced_and_withdrawn_and_connections_made_under_it_end(self):
        ours, both = self.ca.read_bytes(), self.ca.read_bytes() + self.other.certificate.read_bytes()
        leaf = self.leaf("kept")
        theirs = self.leaf("theirs", "operator", self.other)
        read = lambda path: path.read_bytes()
        credentials = grpc.ssl_channel_credentials(ours, read(theirs.key), read(theirs.certificate))
        self.mount.put(*leaf, ours)
        self.process = harness.ServiceProcess(self.stack, "identity", **self.paths,
                                              NOVA_GRPC_CONNECTION_AGE_MAX=f"{CONNECTION_AGE}s",
                                              NOVA_GRPC_CONNECTION_AGE_GRACE=f"{CONNECTION_GRACE}s")

        def check(limit=CALL_LIMIT):
            """Of a new connection with a leaf of the other authority: None, or the status of the failure."""
            with self.stack.channel(credentials=credentials, port=self.process.port) as channel:
                health = harness.health_client(channel)
                try:
                    health.Check(health.messages.HealthCheckRequest(), timeout=limit)
                except grpc.RpcError as error:
                    return error.code()
            return None

        with self.process, harness.Load() as load:
            mine = self.open_channel_here()
            self.addCleanup(mine.close)
            health = harness.health_client(mine)
            load.repeat("unary", lambda: health.Check(health.messages.HealthCheckRequest(), timeout=CALL_LIMIT), 0.001)
            self.assertEqual(check(), StatusCode.UNAVAILABLE)
            self.mount.put(*leaf, both)
            harness.await_condition("the other authority is trusted", lambda: check() is None, SEEN_WITHIN)

            with self.stack.channel(credentials=credentials, port=self.process.port) as channel:
                theirs_health = harness.health_client(channel)
                stream = theirs_health.Watch(theirs_health.messages.HealthCheckRequest())
                next(stream)
                before = errors_in(self.process.metrics())
                self.mount.put(*leaf, ours)
                withdrawn = time.monotonic()
                harness.await_condition("the other authority is no longer trusted",
                                        lambda: check() == StatusCode.UNAVAILABLE, SEEN_WITHIN)
                refused_after = time.monotonic() - withdrawn
                # What was connected before lives out its days, and there are few.
                error = harness.failure(list, stream)
                ended_after = time.monotonic() - withdrawn
                self.assertEqual(error.code(), StatusCode.UNAVAILABLE)
                # gRPC lets a connection be a tenth older.
                self.assertLess(ended_after, SEEN_WITHIN + 1.1 * CONNECTION_AGE + CONNECTION_GRACE)
                say(f"a withdrawn authority: new connections are refused after {refused_after:.1f} s, one made before "
                    f"ended after {ended_after:.1f} s")
                self.assertEqual(harness.failure(theirs_health.Check, theirs_health.messages.HealthCheckRequest(),
                                                 timeout=CALL_LIMIT).code(), StatusCode.UNAVAILABLE)
            self.assertEqual(set(harness.growth(before, errors_in(self.process.metrics()))),
                             {("server", "certificate_rejected_unknown_ca")})
            # Its own leaf has not changed, and whoever has one of the authority that stays notices nothing.
            self.assertEqual(self.shown().serial, leaf.serial)
            load.stop()
            self.assertEqual(load.failures, [])
            self.assertGreater(load.calls["unary"], 100)


# --- No silent downgrade ---

class DowngradeTest(TlsTest):
    def assertRefused(self, *needed, service="identity", **changes):
        process = harness.ServiceProcess(self.stack, service, NOVA_LOG_LEVEL="warn", NOVA_SERVE_STARTUP_LIMIT="1s",
                                         **changes)
        try:
            done = process.run(limit=REFUSAL_LIMIT)
        except subprocess.TimeoutExpired:
            self.fail("it serves")
        self.assertEqual((done.code, done.out), (2, ""), done.err)
        self.assertEqual(len(done.complaints), 1, done.err)
        for text in needed:
            self.assertIn(text, done.complaints[0])
        return done.complaints[0]

    def test_staging_and_production_do_not_start_without_tls_on_every_hop(self):
        for env in ("staging", "production"):
            for service in harness.services():
                for names in (SERVER_VARIABLES, CHANNEL_VARIABLES):
                    with self.subTest(f"{env}, {service} without {names}"):
                        line = self.assertRefused(f"APP_ENV={env}", *names, service=service, APP_ENV=env,
                                                  **dict.fromkeys(names))
                        self.assertEqual([name for name in (*SERVER_VARIABLES, *CHANNEL_VARIABLES)
                                          if name in line and name not in names], [], line)
                for variable, values in (("NOVA_REDIS_TLS", ("false",)),
                                         ("NOVA_POSTGRES_SSL_MODE", ("disable", "require"))):
                    for value in values:
                        with self.subTest(f"{env}, {service} with {variable}={value}"):
                            self.assertRefused(variable, f"APP_ENV={env}", service=service, APP_ENV=env,
                                               **{variable: value})

    def test_each_single_setting_is_needed_by_services_that_call_others_as_well(self):
        """As cli_e2e_test.py sees it of identity, which calls nobody."""
        for env in ("staging", "production"):
            for name in (*SERVER_VARIABLES, *CHANNEL_VARIABLES):
                with self.subTest(f"{env} without {name}"):
                    self.assertRefused(f"APP_ENV={env}", name, service="user", APP_ENV=env, **{name: None})
            self.assertRefused("GRPC_REQUIRE_CLIENT_CERT", service="user", APP_ENV=env,
                               GRPC_REQUIRE_CLIENT_CERT="false")

    def test_what_a_channel_cannot_use_is_refused_wherever_it_runs(self):
        key = self.me.key.read_bytes()
        file = self.stack.folder / "unusable"
        for env in ("development", "production"):
            for variable in CHANNEL_VARIABLES:
                for what, content in (("missing", None), ("empty", b""), ("noise", secrets.token_bytes(200)),
                                      ("half a key", key[:len(key) // 2])):
                    with self.subTest(f"{env}, {variable}: {what}"):
                        file.unlink(missing_ok=True)
                        if content is not None:
                            file.write_bytes(content)
                        self.assertRefused(f"{variable}={file}", service="user", APP_ENV=env, **{variable: str(file)})

    def test_authority_that_this_user_may_not_read(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody who may not read it")
        closed = self.stack.folder / "closed.crt"
        closed.write_bytes(self.ca.read_bytes())
        closed.chmod(0o600)
        for variable in ("GRPC_CLIENT_CA_CERT_PATH", "GRPC_SERVER_CA_CERT_PATH"):
            with self.subTest(variable):
                process = harness.ServiceProcess(self.stack, APP_ENV="production", **{variable: str(closed)})
                # Everything else must be open to that user, who is somebody in no group.
                opened = self.open_copies(process.variables, keep=variable)
                done = subprocess.run(["setpriv", "--reuid", "nobody", "--clear-groups", "--", harness.BINARY, "serve",
                                       "identity"], env=harness.environment(**opened), cwd="/", capture_output=True,
                                      text=True, timeout=harness.VERB_LIMIT, check=False)
                done = harness.Finished(done.returncode, done.stdout, done.stderr)
                self.assertEqual((done.code, len(done.complaints)), (2, 1), done.err)
                self.assertIn(f"{variable}={closed}", done.complaints[0])
                self.assertIn("cannot be read", done.complaints[0])

    def open_copies(self, variables, keep):
        """The same settings, with copies of their files that anybody may read."""
        folder = self.stack.folder / "open"
        folder.mkdir(exist_ok=True)
        copies = dict(variables)
        for name, value in variables.items():
            if name != keep and re.search(r"_(PATH|FILE|CERT)$", name) and value.startswith("/"):
                copy = folder / name
                copy.write_bytes(pathlib.Path(value).read_bytes())
                copy.chmod(0o644)
                copies[name] = str(copy)
        return copies

    def test_development_without_certificates_serves_plaintext_and_names_the_variables(self):
        changes = dict.fromkeys((*SERVER_VARIABLES, *CHANNEL_VARIABLES))
        with harness.ServiceProcess(self.stack, "user", **changes) as process:
            warnings = [record for record in process.records if "TLS IS OFF" in record["message"]]
            self.assertEqual([record["level"].lower()[:4] for record in warnings], ["warn"] * 2, warnings)
            for record, names in zip(warnings, (SERVER_VARIABLES, CHANNEL_VARIABLES)):
                for name in names:
                    self.assertIn(name, record["remedy"])
            process.await_ready()
            with grpc.insecure_channel(f"127.0.0.1:{process.port}") as channel:
                health = harness.health_client(channel)
                self.assertEqual(health.Check(health.messages.HealthCheckRequest(), timeout=CALL_LIMIT).status, 1)

    def test_client_certificates_may_be_optional_in_development(self):
        with harness.ServiceProcess(self.stack, GRPC_REQUIRE_CLIENT_CERT="false") as process:
            warning = next(record for record in process.records if "OPTIONAL" in record["message"])
            self.assertIn("GRPC_REQUIRE_CLIENT_CERT", warning["remedy"])
            process.await_ready()
            nobody = grpc.ssl_channel_credentials(self.ca.read_bytes())
            check = lambda credentials: self.stack.channel(credentials=credentials, port=process.port)
            for credentials in (nobody, self.stack.credentials("operator")):
                with check(credentials) as channel:
                    health = harness.health_client(channel)
                    self.assertEqual(health.Check(health.messages.HealthCheckRequest(), timeout=CALL_LIMIT).status, 1)
            # One that is shown must be good all the same.
            expired = certificates.Authority.of(self.stack, "optional").issue("expired", begins=-7200, ends=-3600)
            read = lambda path: path.read_bytes()
            with check(grpc.ssl_channel_credentials(read(self.ca), read(expired.key),
                                                    read(expired.certificate))) as channel:
                health = harness.health_client(channel)
                self.assertFails(StatusCode.UNAVAILABLE, health.Check, health.messages.HealthCheckRequest(),
                                 timeout=CALL_LIMIT)


if __name__ == "__main__":
    unittest.main()
