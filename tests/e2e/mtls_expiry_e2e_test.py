"""Leaves that live two minutes, under a running load, until all the first ones have expired: nobody notices.
LEAF_LIFETIME is that life in seconds; `nova up` takes 60 and more."""

import itertools
import os
import time
import unittest

import certificates
import harness
from certificates import dns_name, look_at
from harness import CALL_LIMIT, say

LIFETIME = int(os.environ.get("LEAF_LIFETIME", "120"))
# How long it goes on when the last of the first certificates has expired: nobody may allow for more, except for the
# minute by which clocks may differ, and nobody is asked to.
BEYOND = 10
EXPIRY = "nova_tls_certificate_expiry_timestamp_seconds"


class ExpiryTest(unittest.TestCase):
    def setUp(self):
        self.stack = harness.Stack("--leaf-lifetime", f"{LIFETIME}s")
        self.addCleanup(self.stack.close)
        self.stack.start()
        self.ca = self.stack.data / "ca" / "ca.crt"
        me = certificates.Leaf(self.stack.certificate("operator", "tls.crt"),
                               self.stack.certificate("operator", "tls.key"))
        self.hops = {service: (self.stack.port_of(service), {"leaf": me, "alpn": "h2"})
                     for service in harness.services()}
        self.hops["postgres"] = self.stack.postgres_port, {"starttls": "postgres"}
        self.hops["pgbouncer"] = self.stack.pgbouncer_port, {"starttls": "postgres"}
        self.hops["redis"] = self.stack.redis_port, {}

    def shown(self):
        """{who: the leaf it shows now on a new connection}; each verifies."""
        leaves = {}
        for who, (port, options) in self.hops.items():
            leaves[who] = shown = look_at(port, ca=self.ca, name=dns_name(who), **options)
            self.assertTrue(shown.verified, f"{who}: {shown.errors}")
        return leaves

    def expiries(self):
        """{(service, side): when the certificate in its memory expires}, all of them in the future."""
        found = {}
        for service in harness.services():
            for (side,), value in harness.by_labels(self.stack.metrics(service), EXPIRY, "side").items():
                found[service, side] = value
        self.assertEqual(len(found), 2 * len(harness.services()), found)
        for which, expiry in found.items():
            self.assertGreater(expiry, time.time(), which)
        return found

    def begin(self, load):
        """Calls that use every hop, on connections that last and on new ones, and open streams."""
        stack = self.stack
        channels = {service: stack.channel(service=service) for service in harness.services()}
        for channel in channels.values():
            self.addCleanup(channel.close)
        identity, users = harness.identity_client(channels["identity"]), harness.user_client(channels["user"])
        account = harness.register(identity)
        tokens = harness.log_in(identity, account)
        harness.await_own_profile(users, tokens.access_token)
        verify = identity.messages.VerifyTokenRequest(access_token=tokens.access_token)
        own, metadata = users.messages.GetUserRequest(user_id=account.id), harness.bearer(tokens.access_token)
        # Both of them read from the database, and the second verifies a token with identity's keys.
        for i in range(2):
            load.repeat("identity.VerifyToken", lambda: identity.VerifyToken(verify, timeout=CALL_LIMIT), pause=0.002)
            load.repeat("user.GetUser", lambda: users.GetUser(own, timeout=CALL_LIMIT, metadata=metadata), pause=0.002)

        def on_new_connections():
            with stack.channel() as to_identity, stack.channel(service="user") as to_user:
                harness.identity_client(to_identity).VerifyToken(verify, timeout=CALL_LIMIT)
                harness.user_client(to_user).GetUser(own, timeout=CALL_LIMIT, metadata=metadata)
        load.repeat("on new connections", on_new_connections, pause=0.1)
        # Events go through Redis: the profile of a new account is there soon.
        numbers = itertools.count()

        def through_redis():
            fresh = harness.register(identity, tag=f"expiry-{next(numbers)}-{os.getpid()}".replace("-", "_"))
            token = harness.log_in(identity, fresh).access_token
            harness.await_own_profile(users, token)
        load.repeat("an event", through_redis, pause=5)
        for service, channel in channels.items():
            health, reflection = harness.health_client(channel), harness.reflection_client(channel)
            for i in range(10):
                load.hold(f"{service}: watch {i}", health.Watch(health.messages.HealthCheckRequest()))
            load.hold(f"{service}: answers", reflection.ServerReflectionInfo(harness.questions(0.02)))

    def test_leaves_expire_under_load_and_nobody_notices(self):
        stack = self.stack
        first, expiries = self.shown(), self.expiries()
        for who, leaf in first.items():
            self.assertLessEqual(leaf.not_after - time.time(), LIFETIME, who)
        serials = {who: {leaf.serial} for who, leaf in first.items()}
        last_of_the_first = max(leaf.not_after for leaf in first.values())
        with harness.Load() as load:
            self.begin(load)
            while time.time() < last_of_the_first + BEYOND:
                for who, leaf in self.shown().items():
                    self.assertGreater(leaf.not_after, time.time(), who)
                    serials[who].add(leaf.serial)
                self.expiries()
                self.assertEqual(load.failures, [])
                time.sleep(1)
            load.stop()
        self.assertEqual(load.failures, [])
        unary = sum(count for what, count in load.calls.items() if "watch" not in what)
        for what in ("identity.VerifyToken", "user.GetUser", "on new connections", "an event", "identity: answers",
                     "user: answers"):
            self.assertGreater(load.calls[what], LIFETIME / 20, load.calls)
        watches = {what: count for what, count in load.calls.items() if "watch" in what}
        self.assertEqual(set(watches.values()), {1})
        self.assertEqual(len(watches), 10 * len(harness.services()))

        # Each had another one in time, also in the memory of each process.
        for who, seen in serials.items():
            self.assertGreaterEqual(len(seen), 2, who)
        for which, expiry in self.expiries().items():
            self.assertGreater(expiry, expiries[which] + LIFETIME / 3, which)
        for service in harness.services():
            samples = stack.metrics(service)
            self.assertEqual(harness.sum_of(samples, "nova_tls_reloads_total", result="refused"), 0)
            self.assertGreater(harness.sum_of(samples, "nova_tls_reloads_total", result="published", side="server"), 1)
            self.assertEqual(harness.growth({}, harness.by_labels(samples, "nova_tls_handshake_errors_total", "side",
                                                                  "reason")), {})
        code, status = stack.status()
        self.assertEqual(code, 0)
        self.assertEqual({component["restarts"] for component in status["components"]}, {0})
        say(f"leaves of {LIFETIME} s: {unary} calls and answers and {len(watches)} silent streams past the expiry of "
            f"the first, 0 failed; at least {min(map(len, serials.values()))} leaves on each port")


if __name__ == "__main__":
    unittest.main()
