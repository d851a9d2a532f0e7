"""Accounts are registered in identity while `user`, identity and Redis are killed again and again. Every registration
must make its profile appear in `user`, once, and soon after everything is back.

By hand, against a build of yours:

    /usr/bin/python3 tests/e2e/exactly_once_e2e_test.py
    REGISTRATIONS=500 KILLS=5 SEED=7 /usr/bin/python3 tests/e2e/exactly_once_e2e_test.py
"""

import os
import random
import signal
import threading
import time
import unittest
import uuid

import grpc
import harness
from harness import say

REGISTRATIONS = int(os.environ.get("REGISTRATIONS", "2000"))
# Of each component.
KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))

VICTIMS = ("user", "identity", "redis")
CLIENTS = 12
# The promise: from the moment everything is back, seconds until the last effect.
RECOVERY_LIMIT = 5.0
# Patience with one registration, over all its attempts.
REGISTER_LIMIT = 60
# What a client of a process that was just killed sees; it asks again with the same idempotency key.
RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
             grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.ABORTED)
BATCH_MAX = 100
# Asking costs a process each time, and the machine is busy with better things.
STATUS_INTERVAL = 0.2


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Progress:
    """How many registrations have succeeded, for those who wait for a number of them."""

    def __init__(self):
        self.changed = threading.Condition()
        self.accounts = {}  # id -> username
        self.attempts = 0
        self.failure = None

    def succeeded(self, account):
        with self.changed:
            self.accounts[account.id] = account.username
            self.changed.notify_all()

    def failed(self, error):
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def await_count(self, count):
        with self.changed:
            self.changed.wait_for(lambda: self.failure or len(self.accounts) >= count)
            if self.failure:
                raise self.failure


class ExactlyOnceTest(harness.StackTest):
    @classmethod
    def setUpClass(cls):
        # A killed process is started again at once, however often it is killed.
        cls.stack = harness.Stack("--stable-after", "100ms")
        cls.addClassCleanup(cls.stack.close)
        cls.stack.start()

    def register(self, numbers, progress):
        """Registers accounts until the numbers are used up; each is tried until it succeeds."""
        try:
            with self.stack.channel() as channel:
                client = harness.identity_client(channel)
                for number in numbers:
                    request = harness.registration(f"{number:05}-{uuid.uuid4().hex[:8]}".replace("-", "_"))
                    self.register_one(client, request, progress)
        except BaseException as error:  # the main thread must hear of it, whatever it is
            progress.failed(error)

    def register_one(self, client, request, progress):
        end = time.monotonic() + REGISTER_LIMIT
        while True:
            with progress.changed:
                progress.attempts += 1
            try:
                # Waiting for the connection: between calls nobody would work on it.
                answer = client.Register(request, timeout=harness.CALL_LIMIT, wait_for_ready=True)
                progress.succeeded(answer.account)
                return
            except grpc.RpcError as error:
                if error.code() not in RETRYABLE or time.monotonic() > end:
                    raise
                # The time a client would leave between attempts.
                threading.Event().wait(0.05)

    def component(self, name):
        return self.stack.status()[1]["by_name"][name]

    def await_up(self, name, killed):
        def is_up():
            now = self.component(name)
            return now["state"] == "ready" and now["pid"] not in (0, killed)
        harness.await_condition(f"{name} is back", is_up, interval=STATUS_INTERVAL)

    def kill_each(self, progress):
        """Kills every victim KILLS times, spread over the registrations. Returns the outages: (name, from, to)."""
        order = [victim for _ in range(KILLS) for victim in random.sample(VICTIMS, len(VICTIMS))]
        outages, reaper_of = [], {}

        def note_return(name, pid, began):
            try:
                self.await_up(name, pid)
                outages.append((name, began, time.time()))
            except BaseException as error:  # as above
                progress.failed(error)

        for number, victim in enumerate(order):
            progress.await_count((number + 1) * REGISTRATIONS // (len(order) + 1))
            # Not before it is back from the last time, but never mind the others: they may be down together.
            if victim in reaper_of:
                reaper_of[victim].join()
            pid = self.component(victim)["pid"]
            began = time.time()
            os.kill(pid, signal.SIGKILL)
            reaper_of[victim] = threading.Thread(target=note_return, args=(victim, pid, began))
            reaper_of[victim].start()
        for reaper in reaper_of.values():
            reaper.join()
        if progress.failure:
            raise progress.failure
        return outages

    def user_sql(self, sql):
        return self.stack.sql(sql, database="user")

    def profiles(self):
        return {row["id"] for row in self.user_sql("SELECT id FROM users")}

    def test_registrations_survive_kills(self):
        random.seed(SEED)
        say(f"seed {SEED}: {REGISTRATIONS} registrations, {KILLS} kills -9 each of {', '.join(VICTIMS)}")
        # The account that `nova up` makes for people counts like the others.
        harness.await_condition("the first profile", lambda: len(self.profiles()) == 1)
        progress = Progress()
        numbers = iter(range(REGISTRATIONS))
        lock = threading.Lock()

        def next_numbers():
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                yield number

        began = time.monotonic()
        clients = [threading.Thread(target=self.register, args=(next_numbers(), progress)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        outages = self.kill_each(progress)
        for client in clients:
            client.join()
        if progress.failure:
            raise progress.failure
        self.stack.await_ready()
        recovered = time.monotonic()
        say(f"{len(progress.accounts)} registered in {recovered - began:.1f} s, {progress.attempts} attempts; "
            f"processes were down {sum(to - since for _, since, to in outages):.1f} s in total")

        missing = lambda: set(progress.accounts) - self.profiles()
        harness.await_condition("every profile is there", lambda: not missing(), 60)
        took = time.monotonic() - recovered
        say(f"the last profile was there {took:.2f} s after everything was back")
        self.assertLess(took, RECOVERY_LIMIT)
        self.check_each_once(progress.accounts)
        self.check_delays(outages)

    def check_each_once(self, accounts):
        """Nothing lost, nothing twice, nothing made up: by the tables of both services, and by asking `user`."""
        registered = {row["id"] for row in self.stack.sql("SELECT id FROM accounts", database="identity")}
        self.assertEqual(len(registered), REGISTRATIONS + 1)
        self.assertEqual(self.profiles(), registered)

        published = self.stack.sql("SELECT id, aggregate, type FROM events.outbox WHERE type LIKE '%.AccountRegistered'",
                                   database="identity")
        self.assertEqual({row["aggregate"] for row in published}, {f"account/{account}" for account in registered})
        self.assertEqual(len(published), len(registered))
        marks = [row["event_id"] for row in self.user_sql("SELECT event_id FROM events.inbox")]
        self.assertEqual(sorted(marks), sorted(row["id"] for row in published))
        # Each effect writes one such event in its own transaction: a second effect would show as a second event.
        created = [row["aggregate"] for row in self.user_sql(
            "SELECT aggregate FROM events.outbox WHERE type LIKE '%.UserCreated'")]
        self.assertEqual(sorted(created), sorted(f"user/{account}" for account in registered))
        self.assertEqual(self.user_sql("SELECT * FROM events.dead_letters"), [])

        with self.stack.channel(service="user") as channel:
            client = harness.Client(channel, "api/user/v2/user.proto", "UserService")
            ids = list(accounts)
            for start in range(0, len(ids), BATCH_MAX):
                wanted = ids[start:start + BATCH_MAX]
                answer = client.GetUsersByIds(client.messages.GetUsersByIdsRequest(user_ids=wanted),
                                              timeout=harness.CALL_LIMIT)
                self.assertEqual([(entry.user_id, entry.found, entry.user.username) for entry in answer.entries],
                                 [(account, True, accounts[account]) for account in wanted])
        say(f"{len(registered)} accounts, as many profiles, marks and effects")

    def check_delays(self, outages):
        """How long each effect took, not counting the time in which one of the three was down."""
        effects = self.user_sql("SELECT event_id, extract(epoch FROM received_at) AS at FROM events.inbox")
        at = {row["event_id"]: float(row["at"]) for row in effects}
        delays, up_delays = [], []
        for row in self.stack.sql("SELECT id, extract(epoch FROM occurred_at) AS at FROM events.outbox "
                                  "WHERE type LIKE '%.AccountRegistered'", database="identity"):
            since, until = float(row["at"]), at[row["id"]]
            delays.append(until - since)
            up_delays.append(until - since - down_within(outages, since, until))
        say(f"registration to profile: p50 {percentile(delays, 0.5):.3f} s, p99 {percentile(delays, 0.99):.3f} s, "
            f"longest {max(delays):.3f} s; of that with all three up: longest {max(up_delays):.3f} s")
        self.assertLess(max(up_delays), RECOVERY_LIMIT)


def down_within(outages, since, until):
    """For how much of this time at least one process was down."""
    edges = sorted((max(begin, since), min(end, until)) for _, begin, end in outages if begin < until and end > since)
    total, covered = 0.0, since
    for begin, end in edges:
        total += max(0.0, end - max(begin, covered))
        covered = max(covered, end)
    return total


if __name__ == "__main__":
    unittest.main(verbosity=2)
