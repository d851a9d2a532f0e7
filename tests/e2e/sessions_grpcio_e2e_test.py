"""Sessions, passwords and the end of accounts, as a stock gRPC client meets them: what a token is good for after every
way in which it can end, what a guesser and a thief achieve, and what is left behind in Redis, PostgreSQL and logs."""

import base64
import concurrent.futures
import hashlib
import time
import unittest
import uuid

import grpc
import harness
from grpc import StatusCode
from harness import say

CALL_LIMIT = harness.CALL_LIMIT
# Failures in a row until an identifier is locked.
LOCKOUT_THRESHOLD = 10
WRONG_PASSWORD = "not the password"
NEW_PASSWORD = "quite another password"


def secret_of(token):
    """The bytes of a token behind the id of its row."""
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[16:]


class SessionsTest(harness.StackTest):
    def setUp(self):
        # As the gateway, for whom the sessions are: a person's client is behind every call.
        self.client = harness.identity_client(self.open_channel("gateway"))
        self.users = harness.user_client(self.open_channel("gateway", service="user"))
        self.messages = self.client.messages

    def call(self, method, request, token=None, **options):
        """client.METHOD(request) on behalf of whoever got this access token."""
        metadata = harness.bearer(token) if token else None
        return getattr(self.client, method)(request, timeout=CALL_LIMIT, metadata=metadata, **options)

    def log_in(self, account, **fields):
        return self.call("Login", self.messages.LoginRequest(
            **{"identifier": account.email, "password": account.password, **fields}))

    def refresh(self, refresh_token):
        return self.call("RefreshToken", self.messages.RefreshTokenRequest(refresh_token=refresh_token))

    def verify(self, access_token):
        return self.call("VerifyToken", self.messages.VerifyTokenRequest(access_token=access_token))

    def sessions(self, token, **fields):
        return self.call("ListSessions", self.messages.ListSessionsRequest(**fields), token)

    def assertAlive(self, session):
        self.assertEqual(self.verify(session.access_token).session_id, session.session_id)

    def assertEnded(self, session):
        """Neither of its tokens is good for anything."""
        error = self.assertFails(StatusCode.UNAUTHENTICATED, self.verify, session.access_token)
        self.assertEqual(error.details(), "the access token is not valid")
        error = self.assertFails(StatusCode.UNAUTHENTICATED, self.refresh, session.refresh_token)
        self.assertEqual(error.details(), "the refresh token is not valid")
        self.assertFails(StatusCode.UNAUTHENTICATED, self.sessions, session.access_token)

    def session_rows(self, account):
        return self.stack.sql("SELECT id, generation, revoked_reason FROM sessions "
                              f"WHERE account_id = '{account.id}' ORDER BY id", database="identity")

    def events(self, account, name):
        """The messages of this type about an account that stand on identity's stream."""
        return [harness.event_of(envelope) for envelope in self.stack.stream("identity")
                if envelope.aggregate == f"account/{account.id}" and envelope.type == f"nova.events.v1.{name}"]

    def await_event(self, account, name):
        return harness.await_condition(f"{name} is on the stream", lambda: self.events(account, name))[0]


class RefreshTest(SessionsTest):
    def setUp(self):
        super().setUp()
        self.account = harness.register(self.client)
        self.session = self.log_in(self.account)

    def let_grace_pass(self):
        """Makes the last exchange a minute older than it is."""
        changed = self.stack.sql("UPDATE sessions SET rotated_at = rotated_at - interval '1 minute' "
                                 f"WHERE id = '{self.session.session_id}' RETURNING id", database="identity")
        self.assertEqual(len(changed), 1)

    def test_refresh_yields_new_tokens_of_the_same_session(self):
        first, tokens = self.session, [self.session.refresh_token]
        for _ in range(3):
            answer = self.refresh(tokens[-1])
            self.assertEqual((answer.account_id, answer.session_id), (self.account.id, first.session_id))
            self.assertAlive(answer)
            self.assertGreater(answer.expires_at.ToSeconds(), time.time() + 14 * 60)
            self.assertGreaterEqual(answer.refresh_expires_at.ToNanoseconds(), first.refresh_expires_at.ToNanoseconds())
            tokens.append(answer.refresh_token)
        self.assertEqual(len(set(tokens)), len(tokens))
        # Access tokens are not taken back one by one: the first is good while the session is.
        self.assertAlive(first)
        self.assertEqual([row["generation"] for row in self.session_rows(self.account)], ["3"])

    def test_refresh_whose_answer_was_lost_yields_the_same_successor(self):
        answers = [self.refresh(self.session.refresh_token) for _ in range(3)]
        self.assertEqual(len({answer.refresh_token for answer in answers}), 1)
        for answer in answers:
            self.assertAlive(answer)
        # The successor is good whichever of the answers arrived.
        self.assertAlive(self.refresh(answers[0].refresh_token))

    def test_token_before_the_last_ends_the_whole_session_at_once(self):
        other = self.log_in(self.account)
        second = self.refresh(self.session.refresh_token)
        third = self.refresh(second.refresh_token)
        # Spent a moment ago, but not last.
        self.assertFails(StatusCode.UNAUTHENTICATED, self.refresh, self.session.refresh_token)
        for answer in (self.session, second, third):
            self.assertEnded(answer)
        self.assertAlive(other)
        reasons = {row["id"]: row["revoked_reason"] for row in self.session_rows(self.account)}
        self.assertEqual(reasons[other.session_id], "")
        self.assertTrue(reasons[self.session.session_id])

    def test_spent_token_that_comes_late_ends_the_whole_session(self):
        second = self.refresh(self.session.refresh_token)
        self.let_grace_pass()
        self.assertFails(StatusCode.UNAUTHENTICATED, self.refresh, self.session.refresh_token)
        self.assertEnded(second)

    def test_token_that_was_never_issued_ends_nothing(self):
        spent = self.session.refresh_token
        second = self.refresh(spent)
        answers = set()
        # Who knows the id of a session can make up tokens of it, of any generation.
        for position in (30, 60, len(spent) - 2):
            forged = spent[:position] + ("A" if spent[position] != "A" else "B") + spent[position + 1:]
            answers.add(self.assertFails(StatusCode.UNAUTHENTICATED, self.refresh, forged).details())
        for noise in ("", "x", spent + "A", "A" * 9000):
            answers.add(self.assertFails(StatusCode.UNAUTHENTICATED, self.refresh, noise).details())
        self.assertEqual(answers, {"the refresh token is not valid"})
        self.assertAlive(self.refresh(second.refresh_token))

    def test_hundred_refreshes_at_once_agree(self):
        clients = [harness.identity_client(self.open_channel("gateway")) for _ in range(10)]
        for client in clients:
            client.GetJwks(self.messages.GetJwksRequest(), timeout=CALL_LIMIT)
        took = []
        # Several rounds: a race that is lost is not lost every time.
        for round_number in range(5):
            session = self.log_in(self.account)
            request = self.messages.RefreshTokenRequest(refresh_token=session.refresh_token)
            began = time.monotonic()
            calls = [client.RefreshToken.future(request, timeout=CALL_LIMIT) for _ in range(10) for client in clients]
            answers = [call.result() for call in calls]
            took.append((time.monotonic() - began) * 1000)
            self.assertEqual(len({answer.refresh_token for answer in answers}), 1)
            self.assertEqual({answer.session_id for answer in answers}, {session.session_id})
            rows = self.session_rows(self.account)
            self.assertEqual(len(rows), 1 + round_number + 1)
            self.assertEqual(rows[-1], {"id": session.session_id, "generation": "1", "revoked_reason": ""})
            self.assertAlive(self.refresh(answers[0].refresh_token))
        say(f"100 refreshes of one token on 10 connections: {min(took):.0f} to {max(took):.0f} ms")

    def test_refresh_is_quick_beside_a_log_in(self):
        def timed(call):
            began = time.perf_counter()
            return call(), (time.perf_counter() - began) * 1000

        token, refreshes = self.session.refresh_token, []
        for _ in range(50):
            answer, took = timed(lambda: self.refresh(token))
            token = answer.refresh_token
            refreshes.append(took)
        logins = [timed(lambda: self.log_in(self.account))[1] for _ in range(5)]
        say(f"in a row, medians: refresh {sorted(refreshes)[25]:.1f} ms, log-in {sorted(logins)[2]:.1f} ms")
        # It computes no password.
        self.assertLess(sorted(refreshes)[25], sorted(logins)[2])


class EndOfSessionsTest(SessionsTest):
    def setUp(self):
        super().setUp()
        self.account = harness.register(self.client)

    def test_log_out_ends_the_session_of_the_caller_alone(self):
        mine, other = self.log_in(self.account), self.log_in(self.account)
        self.call("Logout", self.messages.LogoutRequest(), mine.access_token)
        self.assertEnded(mine)
        self.assertAlive(other)
        # Again, as after a lost answer.
        self.call("Logout", self.messages.LogoutRequest(), mine.access_token)
        self.assertFails(StatusCode.UNAUTHENTICATED, self.call, "Logout", self.messages.LogoutRequest())

    def test_sessions_are_listed_in_pages_with_the_current_one_marked(self):
        opened = [self.log_in(self.account, device_name=f"device {number}") for number in range(5)]
        current = opened[2]
        listed, token, pages = [], "", 0
        while pages == 0 or token:
            page = self.sessions(current.access_token, page_size=2, page_token=token)
            if pages == 0:
                # One that appears while the client pages changes no later page.
                late = self.log_in(self.account)
            self.assertLessEqual(len(page.sessions), 2)
            listed += page.sessions
            token, pages = page.next_page_token, pages + 1
        self.assertEqual(pages, 3)
        self.assertEqual([(session.id, session.device_name) for session in listed],
                         [(answer.session_id, f"device {number}") for number, answer in reversed([*enumerate(opened)])])
        self.assertEqual([session.id for session in listed if session.current], [current.session_id])
        for session in listed:
            self.assertLessEqual(session.created_at.ToNanoseconds(), session.last_used_at.ToNanoseconds())
            self.assertGreater(session.expires_at.ToSeconds(), time.time())
        every = self.sessions(current.access_token)
        self.assertEqual([session.id for session in every.sessions],
                         [late.session_id, *(session.id for session in listed)])
        self.assertEqual(every.next_page_token, "")

    def test_pages_that_cannot_be_are_refused_by_field(self):
        token = self.log_in(self.account).access_token
        for field, values in {"page_size": (-1, 101), "page_token": ("x", str(uuid.uuid4()) + "x")}.items():
            for value in values:
                with self.subTest(f"{field}={value}"):
                    error = self.assertFails(StatusCode.INVALID_ARGUMENT, self.sessions, token, **{field: value})
                    self.assertTrue(error.details().startswith(f"{field}: "), error.details())

    def test_caller_revokes_a_session_of_their_own_and_nobody_elses(self):
        mine, other = self.log_in(self.account), self.log_in(self.account)
        stranger = self.log_in(harness.register(self.client))
        revoke = lambda session_id, token: self.call(
            "RevokeSession", self.messages.RevokeSessionRequest(session_id=session_id), token)
        self.assertFails(StatusCode.NOT_FOUND, revoke, other.session_id, stranger.access_token)
        self.assertFails(StatusCode.NOT_FOUND, revoke, str(uuid.uuid4()), mine.access_token)
        error = self.assertFails(StatusCode.INVALID_ARGUMENT, revoke, "no uuid", mine.access_token)
        self.assertTrue(error.details().startswith("session_id: "), error.details())
        self.assertAlive(other)
        for _ in range(2):
            revoke(other.session_id, mine.access_token)
        self.assertEnded(other)
        self.assertAlive(mine)
        self.assertEqual([session.id for session in self.sessions(mine.access_token).sessions], [mine.session_id])

    def test_caller_revokes_all_others_or_all(self):
        sessions = [self.log_in(self.account) for _ in range(4)]
        stranger = self.log_in(harness.register(self.client))
        mine, others = sessions[1], [sessions[0], *sessions[2:]]
        revoke = lambda **fields: self.call("RevokeAllSessions", self.messages.RevokeAllSessionsRequest(**fields),
                                            mine.access_token).revoked
        self.assertEqual(revoke(), 3)
        for other in others:
            self.assertEnded(other)
        self.assertAlive(mine)
        self.assertEqual(revoke(), 0)
        self.assertEqual(revoke(include_current=True), 1)
        self.assertEnded(mine)
        self.assertAlive(stranger)
        # It was no ban.
        self.assertAlive(self.log_in(self.account))

    def test_changed_password_keeps_this_session_and_ends_the_others(self):
        mine, other = self.log_in(self.account), self.log_in(self.account)
        change = lambda current, wanted: self.call(
            "ChangePassword", self.messages.ChangePasswordRequest(current_password=current, new_password=wanted),
            mine.access_token)
        for field, arguments in {"current_password": (WRONG_PASSWORD, NEW_PASSWORD),
                                 "new_password": (self.account.password, "short")}.items():
            with self.subTest(field):
                error = self.assertFails(StatusCode.INVALID_ARGUMENT, change, *arguments)
                self.assertTrue(error.details().startswith(f"{field}: "), error.details())
        self.assertAlive(other)

        change(self.account.password, NEW_PASSWORD)
        self.assertAlive(mine)
        self.assertAlive(self.refresh(mine.refresh_token))
        self.assertEnded(other)
        self.assertFails(StatusCode.UNAUTHENTICATED, self.log_in, self.account)
        self.assertAlive(self.log_in(self.account._replace(password=NEW_PASSWORD)))
        self.assertFalse(self.await_event(self.account, "PasswordChanged").by_reset)


class PasswordResetTest(SessionsTest):
    def setUp(self):
        super().setUp()
        self.account = harness.register(self.client)
        self.mailer = harness.identity_client(self.open_channel("communication"))

    def request(self, email):
        return self.call("RequestPasswordReset", self.messages.RequestPasswordResetRequest(email=email))

    def issue(self, reset_id):
        return self.mailer.IssuePasswordReset(self.messages.IssuePasswordResetRequest(reset_id=reset_id),
                                              timeout=CALL_LIMIT)

    def reset(self, token, password=NEW_PASSWORD):
        return self.call("ResetPassword", self.messages.ResetPasswordRequest(reset_token=token, new_password=password))

    def test_reset_from_the_event_to_the_new_password(self):
        session = self.log_in(self.account)
        self.request(self.account.email)
        event = self.await_event(self.account, "PasswordResetRequested")
        self.assertEqual(event.account_id, self.account.id)
        self.assertGreater(event.expires_at.ToSeconds(), time.time() + 60)

        voided = self.issue(event.reset_id)
        mail = self.issue(event.reset_id)
        self.assertEqual((mail.email, mail.username), (self.account.email, self.account.username))
        self.assertEqual(mail.expires_at.ToSeconds(), event.expires_at.ToSeconds())
        refusals = {self.assertFails(StatusCode.UNAUTHENTICATED, self.reset, token).details()
                    for token in ("", "x", voided.reset_token, mail.reset_token[:-2] + "AA", mail.reset_token + "A")}
        error = self.assertFails(StatusCode.INVALID_ARGUMENT, self.reset, mail.reset_token, "short")
        self.assertTrue(error.details().startswith("new_password: "), error.details())
        self.assertAlive(session)
        self.assertAlive(self.log_in(self.account))
        texts = [self.account.email, self.account.password, NEW_PASSWORD, session.access_token]
        tokens = [session.refresh_token, session.device_token, voided.reset_token, mail.reset_token]
        self.assertNothingLeaks(texts, tokens, kept_as_hash=[session.device_token, mail.reset_token])

        device_token = self.reset(mail.reset_token).device_token
        self.assertEnded(session)
        self.assertFails(StatusCode.UNAUTHENTICATED, self.log_in, self.account)
        changed = self.account._replace(password=NEW_PASSWORD)
        answer = self.log_in(changed, device_token=device_token)
        self.assertEqual(answer.device_token, device_token)
        # It serves once, in the words of every refusal.
        refusals.add(self.assertFails(StatusCode.UNAUTHENTICATED, self.reset, mail.reset_token,
                                      "yet another password").details())
        self.assertEqual(len(refusals), 1, refusals)
        self.assertFails(StatusCode.NOT_FOUND, self.issue, event.reset_id)
        self.assertAlive(answer)
        self.assertTrue(self.await_event(self.account, "PasswordChanged").by_reset)

        self.assertNothingLeaks(texts, [*tokens, device_token], kept_as_hash=[device_token])

    def assertNothingLeaks(self, texts, tokens, kept_as_hash):
        """None of it is in a stream, a log or a table, in which there are hashes of tokens at most."""
        # The accounts, which hold the address, are not among them.
        tables = {"identity": ("events.outbox", "events.inbox", "events.dead_letters", "password_resets",
                               "password_reset_requests", "devices", "sessions", "login_attempts"),
                  "user": ("events.outbox", "events.inbox", "events.dead_letters", "users", "user_settings")}
        places = {f"table {table} of {database}": self.stack.sql(
            f"SELECT coalesce(string_agg(t::text, ' '), 'none') AS rows FROM {table} AS t",
            database=database)[0]["rows"].encode() for database, names in tables.items() for table in names}
        self.assertIn(self.account.id.encode(), places["table sessions of identity"])
        for producer in ("identity", "user"):
            stream = b" ".join(envelope.SerializeToString() for envelope in self.stack.stream(producer))
            self.assertIn(self.account.id.encode(), stream)
            places[f"stream of {producer}"] = stream
        places["logs"] = self.stack.log_text().encode()

        hidden = {text.encode() for text in [*texts, *tokens]}
        for token in tokens:
            # What it holds behind the id of its row, whole or cut to pieces.
            secret = secret_of(token)
            hidden |= {secret[start:start + 16] for start in range(len(secret) - 15)}
        for name, content in places.items():
            for secret in hidden:
                self.assertFalse(secret in content, f"{name} holds {secret!r}")
                # As PostgreSQL prints bytes.
                self.assertFalse(secret.hex().encode() in content, f"{name} holds {secret!r} as bytes")
        rows = b"".join(places.values())
        for token in kept_as_hash:
            self.assertTrue(hashlib.sha256(secret_of(token)).hexdigest().encode() in rows, "this looks in vain")

    def test_only_who_delivers_mail_is_issued_a_token_and_only_the_gateway_uses_it(self):
        self.request(self.account.email)
        reset_id = self.await_event(self.account, "PasswordResetRequested").reset_id
        for principal in harness.PRINCIPALS:
            client = harness.identity_client(self.open_channel(principal))
            if principal != "communication":
                self.assertFails(StatusCode.PERMISSION_DENIED, client.IssuePasswordReset,
                                 self.messages.IssuePasswordResetRequest(reset_id=reset_id), timeout=CALL_LIMIT)
            if principal != "gateway":
                self.assertFails(StatusCode.PERMISSION_DENIED, client.ResetPassword,
                                 self.messages.ResetPasswordRequest(reset_token="x", new_password=NEW_PASSWORD),
                                 timeout=CALL_LIMIT)
        self.assertTrue(self.issue(reset_id).reset_token)

    def test_unknown_address_is_answered_alike_and_nothing_is_sent(self):
        unknown = f"nobody-{uuid.uuid4().hex}@example.com"
        sent = lambda: self.stack.sql("SELECT aggregate FROM events.outbox WHERE type LIKE "
                                      "'%.PasswordResetRequested' ORDER BY position", database="identity")
        before, times = sent(), {}
        for email in (unknown, self.account.email):
            began = time.perf_counter()
            answer, call = self.client.RequestPasswordReset.with_call(
                self.messages.RequestPasswordResetRequest(email=email), timeout=CALL_LIMIT)
            times[email] = (time.perf_counter() - began) * 1000
            self.assertEqual((answer.SerializeToString(), tuple(call.trailing_metadata() or ())), (b"", ()))
        say(f"request of a reset: known address {times[self.account.email]:.1f} ms, unknown {times[unknown]:.1f} ms")
        self.assertEqual(sent(), [*before, {"aggregate": f"account/{self.account.id}"}])

    def test_requests_in_a_row_send_one_mail(self):
        for email in (self.account.email, self.account.email.upper(), f" {self.account.email} "):
            self.request(email)
        self.await_event(self.account, "PasswordResetRequested")
        rows = self.stack.sql("SELECT count(*) FROM events.outbox WHERE type LIKE '%.PasswordResetRequested' AND "
                              f"aggregate = 'account/{self.account.id}'", database="identity")
        self.assertEqual(rows, [{"count": "1"}])
        error = self.assertFails(StatusCode.INVALID_ARGUMENT, self.request, "no address")
        self.assertTrue(error.details().startswith("email: "), error.details())


class LockoutTest(SessionsTest):
    def fail(self, identifier, **fields):
        return harness.failure(self.call, "Login", self.messages.LoginRequest(
            identifier=identifier, password=WRONG_PASSWORD, **fields))

    def lock(self, identifier):
        """What a guesser is told until the identifier is locked, and then."""
        return [(error.code(), error.details()) for error in
                (self.fail(identifier) for _ in range(LOCKOUT_THRESHOLD + 1))]

    def test_guesser_is_locked_out_and_the_user_is_not(self):
        account = harness.register(self.client)
        session = self.log_in(account)
        began = time.monotonic()
        answers = self.lock(account.email)
        say(f"{len(answers)} failed log-ins in a row: {time.monotonic() - began:.1f} s")
        self.assertEqual([code for code, _ in answers],
                         [StatusCode.UNAUTHENTICATED] * LOCKOUT_THRESHOLD + [StatusCode.RESOURCE_EXHAUSTED])
        # Whether there is such an account shows in nothing.
        self.assertEqual(self.lock(f"nobody-{uuid.uuid4().hex}@example.com"), answers)

        # Locked means locked: the right password does not open it from elsewhere.
        self.assertFails(StatusCode.RESOURCE_EXHAUSTED, self.log_in, account)
        self.assertFails(StatusCode.RESOURCE_EXHAUSTED, self.log_in, account, device_token=session.device_token + "A")
        # Who has been here before goes on, with a new log-in and without one.
        answer = self.log_in(account, device_token=session.device_token)
        self.assertEqual(answer.account_id, account.id)
        self.assertAlive(self.refresh(session.refresh_token))
        # The device is of one account.
        other = harness.register(self.client)
        stolen = self.log_in(other).device_token
        self.assertFails(StatusCode.RESOURCE_EXHAUSTED, self.log_in, account, device_token=stolen)

    def test_device_is_locked_by_its_own_failures_alone(self):
        account = harness.register(self.client)
        device = self.log_in(account).device_token
        codes = [self.fail(account.email, device_token=device).code() for _ in range(LOCKOUT_THRESHOLD + 1)]
        self.assertEqual(codes, [StatusCode.UNAUTHENTICATED] * LOCKOUT_THRESHOLD + [StatusCode.RESOURCE_EXHAUSTED])
        self.assertAlive(self.log_in(account))

    def test_lock_ends_by_itself_and_by_a_reset_of_the_password(self):
        account = harness.register(self.client)
        self.lock(account.email)
        self.assertFails(StatusCode.RESOURCE_EXHAUSTED, self.log_in, account)
        left = self.stack.sql("SELECT max(extract(epoch FROM locked_until - now())) AS seconds FROM login_attempts",
                              database="identity")
        self.assertLessEqual(float(left[0]["seconds"]), 60)
        # As if that time had passed.
        self.stack.sql("UPDATE login_attempts SET locked_until = now() - interval '1 second' "
                       "WHERE locked_until IS NOT NULL", database="identity")
        self.assertAlive(self.log_in(account))

        self.lock(account.email)
        self.assertFails(StatusCode.RESOURCE_EXHAUSTED, self.log_in, account)
        self.call("RequestPasswordReset", self.messages.RequestPasswordResetRequest(email=account.email))
        reset_id = self.await_event(account, "PasswordResetRequested").reset_id
        mailer = harness.identity_client(self.open_channel("communication"))
        token = mailer.IssuePasswordReset(self.messages.IssuePasswordResetRequest(reset_id=reset_id),
                                          timeout=CALL_LIMIT).reset_token
        self.call("ResetPassword", self.messages.ResetPasswordRequest(reset_token=token, new_password=NEW_PASSWORD))
        self.assertAlive(self.log_in(account._replace(password=NEW_PASSWORD)))


class EndOfAccountsTest(SessionsTest):
    def setUp(self):
        super().setUp()
        self.account = harness.register(self.client)
        self.session = self.log_in(self.account)
        harness.await_own_profile(self.users, self.session.access_token)
        self.operator = harness.user_client(self.open_channel("operator", service="user"))

    def await_end(self, session):
        """Returns when identity has heard of what happened in `user`."""
        def has_ended():
            try:
                self.verify(session.access_token)
            except grpc.RpcError as error:
                return error.code() == StatusCode.UNAUTHENTICATED
        began = time.monotonic()
        harness.await_condition("the session has ended", has_ended, interval=0.005)
        return (time.monotonic() - began) * 1000

    def test_banned_user_is_out_until_the_ban_ends(self):
        stranger = self.log_in(harness.register(self.client))
        self.operator.BanUser(self.users.messages.BanUserRequest(user_id=self.account.id, reason="spam"),
                              timeout=CALL_LIMIT)
        say(f"ban in user to end of the session in identity: {self.await_end(self.session):.0f} ms")
        self.assertEnded(self.session)
        self.assertFails(StatusCode.PERMISSION_DENIED, self.log_in, self.account)
        # To who does not know the password, nothing has changed.
        self.assertFails(StatusCode.UNAUTHENTICATED, self.log_in, self.account._replace(password=WRONG_PASSWORD))
        self.assertAlive(stranger)

        self.operator.UnbanUser(self.users.messages.UnbanUserRequest(user_id=self.account.id), timeout=CALL_LIMIT)

        def logs_in():
            try:
                return self.log_in(self.account)
            except grpc.RpcError as error:
                self.assertEqual(error.code(), StatusCode.PERMISSION_DENIED)
        self.assertAlive(harness.await_condition("the account is reinstated", logs_in))
        # The sessions from before do not come back.
        self.assertEnded(self.session)

    def test_deleted_user_is_gone_and_the_name_is_free_again(self):
        self.users.DeleteUser(self.users.messages.DeleteUserRequest(), timeout=CALL_LIMIT,
                              metadata=harness.bearer(self.session.access_token))
        say(f"deletion in user to end of the account in identity: {self.await_end(self.session):.0f} ms")
        self.assertEnded(self.session)
        error = self.assertFails(StatusCode.UNAUTHENTICATED, self.log_in, self.account)
        unknown = self.assertFails(StatusCode.UNAUTHENTICATED, self.log_in,
                                   self.account._replace(email=f"nobody-{uuid.uuid4().hex}@example.com"))
        self.assertEqual(error.details(), unknown.details())
        self.assertEqual(self.session_rows(self.account), [])
        self.assertEqual(self.await_event(self.account, "AccountDeleted").account_id, self.account.id)

        # Somebody else takes both names, and gets a profile that knows nothing of the one before.
        heir = harness.register(self.client, username=self.account.username, email=self.account.email)
        self.assertNotEqual(heir.id, self.account.id)
        harness.await_own_profile(self.users, self.log_in(heir).access_token)
        # The answer about the name may be as old as a name that nobody has.
        def find():
            try:
                return self.users.GetUserByUsername(
                    self.users.messages.GetUserByUsernameRequest(username=heir.username), timeout=CALL_LIMIT).user
            except grpc.RpcError as error:
                self.assertEqual(error.code(), StatusCode.NOT_FOUND)
        self.assertEqual(harness.await_condition("the new user has the name", find).id, heir.id)
        self.assertFails(StatusCode.NOT_FOUND, self.users.GetUser,
                         self.users.messages.GetUserRequest(user_id=self.account.id), timeout=CALL_LIMIT)


class ManySessionsTest(SessionsTest):
    def test_sessions_of_many_clients_at_once_are_kept_apart(self):
        accounts = [harness.register(self.client) for _ in range(4)]

        def live(number):
            """One client's life: in, refresh a few times, out."""
            account = accounts[number % len(accounts)]
            with self.stack.channel("gateway") as channel:
                client = harness.identity_client(channel)
                answer = harness.log_in(client, account)
                for _ in range(5):
                    answer = client.RefreshToken(
                        self.messages.RefreshTokenRequest(refresh_token=answer.refresh_token), timeout=CALL_LIMIT)
                    self.assertEqual(answer.account_id, account.id)
                client.Logout(self.messages.LogoutRequest(), timeout=CALL_LIMIT,
                              metadata=harness.bearer(answer.access_token))
            return answer

        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            ended = list(pool.map(live, range(24)))
        say(f"24 clients log in, refresh 5 times and log out: {time.monotonic() - began:.1f} s")
        for answer in ended:
            self.assertEnded(answer)
        generations = [row["generation"] for account in accounts for row in self.session_rows(account)]
        self.assertEqual(generations, ["5"] * 24)


if __name__ == "__main__":
    unittest.main()
