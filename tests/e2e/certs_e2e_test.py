"""`nova certs` as its user sees it: an authority and leaves that `openssl` judges, rotations under a stack at work, what
each process says it has in memory, and a rotation that was killed in between."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

import certificates
import grpc
import harness
from certificates import openssl
from harness import say

SERVERS = {"postgres": "postgres", "pgbouncer": "postgres", "redis": None}  # and how a handshake begins there


class Folder(unittest.TestCase):
    """A data folder of its own, on which nothing runs."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nova-e2e-certs-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.data = self.folder / "data"

    def certs(self, *arguments):
        return harness.run("certs", *arguments, "--data-dir", self.data)

    def done(self, *arguments):
        """What it prints with --json; it must succeed."""
        done = self.certs(*arguments, "--json")
        self.assertEqual((done.code, done.err), (0, ""), done.out)
        return json.loads(done.out)

    def assertRefused(self, code, *arguments, says):
        done = self.certs(*arguments)
        self.assertEqual((done.code, done.out), (code, ""), done.err)
        self.assertEqual(len(done.err.splitlines()), 1, done.err)
        for text in says if isinstance(says, tuple) else (says,):
            self.assertIn(text, done.err)


class WithoutStackTest(Folder):
    def assertGood(self, leaf, principal, *names, authority=None):
        """In openssl's judgement, for both ends of a connection."""
        for purpose in ("sslserver", "sslclient"):
            for name in (certificates.dns_name(principal), "localhost", *names):
                done = openssl("verify", "-CAfile", authority or leaf / "ca.crt", "-purpose", purpose, "-verify_hostname",
                               name, leaf / "tls.crt", check=False)
                self.assertEqual(done.returncode, 0, f"{purpose} {name}: {done.stdout}{done.stderr}")
        text = openssl("x509", "-in", leaf / "tls.crt", "-noout", "-text").stdout
        self.assertIn(f"URI:spiffe://nova/{principal}", text)
        key = openssl("pkey", "-in", leaf / "tls.key", "-pubout").stdout
        self.assertEqual(key, openssl("x509", "-in", leaf / "tls.crt", "-noout", "-pubkey").stdout)
        self.assertEqual((leaf / "tls.key").stat().st_mode & 0o777, 0o600)

    def test_an_authority_and_leaves_that_openssl_accepts(self):
        made = self.done("init")
        self.assertEqual(made["directory"], str(self.data / "ca"))
        self.assertEqual((self.data / "ca" / "ca.key").stat().st_mode & 0o777, 0o600)
        issued = self.done("issue", "identity")
        leaf = self.data / "certs" / "identity"
        self.assertEqual((issued["directory"], issued["issuer"]), (str(leaf), made["subject"]))
        self.assertGood(leaf, "identity", authority=self.data / "ca" / "ca.crt")
        self.assertEqual(certificates.Leaf(leaf / "tls.crt", leaf / "tls.key").serial, issued["serial"])

        # Elsewhere, with names of one's own.
        out = self.folder / "out"
        self.done("issue", "somebody", "--out", out, "--lifetime", "2h", "--dns", "a.example.com,b.example.com", "--ip",
                  "10.1.2.3")
        self.assertGood(out, "somebody", "a.example.com", "b.example.com")
        text = openssl("x509", "-in", out / "tls.crt", "-noout", "-text").stdout
        self.assertIn("IP Address:10.1.2.3", text)
        check = lambda seconds: openssl("x509", "-in", out / "tls.crt", "-noout", "-checkend", seconds,
                                        check=False).returncode
        self.assertEqual((check(7100), check(7300)), (0, 1))
        # And of another authority.
        other = self.done("init", "--ca", self.folder / "other-ca")
        issued = self.done("issue", "identity", "--ca", self.folder / "other-ca", "--out", self.folder / "other")
        self.assertEqual(issued["issuer"], other["subject"])
        self.assertGood(self.folder / "other", "identity")
        done = openssl("verify", "-CAfile", self.data / "ca" / "ca.crt", self.folder / "other" / "tls.crt", check=False)
        self.assertNotEqual(done.returncode, 0)

    def test_init_says_what_it_is_for_and_replaces_nothing(self):
        for help_text in (self.certs("--help").out, self.certs("init", "--help").out, self.certs("init").out):
            self.assertIn("cert-manager signs", help_text)
        before = (self.data / "ca" / "ca.key").read_bytes()
        self.assertRefused(2, "init", says="rotate --ca")
        self.assertRefused(2, "init", "--ca", self.data / "ca", says="--ca")
        self.assertEqual((self.data / "ca" / "ca.key").read_bytes(), before)

    def test_rotation_without_a_stack(self):
        self.done("init")
        for principal in ("identity", "operator"):
            self.done("issue", principal)
        first = self.done("show")
        self.assertEqual((first["running"], first["processes"], first["authority"]["under_way"]), (False, [], False))
        rotated = self.done("rotate", "identity")
        self.assertEqual((rotated["principals"], rotated["live"]), (["identity"], False))
        second = self.done("show")
        changed = [before["principal"] for before, after in zip(first["certificates"], second["certificates"])
                   if before["serial"] != after["serial"]]
        self.assertEqual(changed, ["identity"])
        self.assertEqual(self.done("rotate", "operator,identity")["principals"], ["operator", "identity"])

        self.assertTrue(self.done("rotate", "--ca")["authority_replaced"])
        third = self.done("show")
        self.assertNotEqual(third["authority"]["fingerprint"], first["authority"]["fingerprint"])
        for certificate in third["certificates"]:
            self.assertEqual(certificate["issuer"], third["authority"]["subject"])
            self.assertEqual([authority["fingerprint"] for authority in certificate["authorities"]],
                             [third["authority"]["fingerprint"]])
            self.assertGood(pathlib.Path(certificate["directory"]), certificate["principal"])
        # A table for people has the same.
        table = self.certs("show").out
        for certificate in third["certificates"]:
            self.assertRegex(table, rf"(?m)^{certificate['principal']} +{certificate['not_after']} .* "
                                    rf"{certificate['serial'][:8]} ")

    def test_verify_names_the_file_and_the_remedy(self):
        self.done("init")
        self.done("issue", "identity")
        self.done("issue", "operator")
        done = self.certs("verify")
        self.assertEqual((done.code, len(done.out.splitlines())), (0, 2), done.out + done.err)
        # A mounted Secret, of whoever.
        secret = self.folder / "secret"
        secret.mkdir()
        leaf = self.data / "certs" / "identity"
        for file in ("tls.crt", "tls.key", "ca.crt"):
            shutil.copy(leaf / file, secret / file)
        self.assertEqual(self.certs("verify", secret).code, 0)
        shutil.copy(self.data / "certs" / "operator" / "tls.key", secret / "tls.key")
        done = self.certs("verify", secret)
        self.assertEqual((done.code, len(done.out.splitlines())), (1, 1), done.out)
        self.assertIn(f"{secret}/tls.key: the key does not match", done.out)
        # One of several.
        shutil.copy(secret / "tls.key", leaf / "tls.key")
        done = self.certs("verify", "--json")
        verdicts = {pathlib.Path(item["directory"]).name: item for item in json.loads(done.out)["sets"]}
        self.assertEqual((done.code, verdicts["identity"]["ok"], verdicts["operator"]["ok"]), (1, False, True))
        self.assertIn("nova certs rotate identity", verdicts["identity"]["problem"])
        self.done("rotate", "identity")
        self.assertEqual(self.certs("verify").code, 0)
        # A good certificate, of somebody else.
        self.done("issue", "user", "--out", leaf)
        done = self.certs("verify", "identity")
        self.assertEqual(done.code, 1)
        self.assertIn("it is the certificate of user", done.out)
        # What another tool has made badly: no name of ours.
        authority = certificates.Authority.create(self.folder / "foreign")
        bad = authority.issue("bad", names="DNS:localhost")
        for name, path in (("tls.crt", bad.certificate), ("tls.key", bad.key), ("ca.crt", authority.certificate)):
            shutil.copy(path, secret / name)
        done = self.certs("verify", secret)
        self.assertEqual(done.code, 1)
        self.assertIn("no URI name", done.out)

    def test_what_is_wrong_is_said_in_one_line(self):
        for action in ("show", "verify", "rotate"):
            self.assertRefused(3, action, says=("--data-dir", str(self.data)))
        self.assertRefused(3, "issue", "identity", says="nova certs init")
        self.assertRefused(2, says="action")
        self.assertRefused(2, "frobnicate", says="init, issue, rotate, show or verify")
        self.done("init")
        self.assertRefused(3, "rotate", says="nova certs issue")
        self.assertRefused(3, "verify", says="nova certs issue")
        self.assertRefused(2, "issue", says="principal")
        for action in ("issue", "rotate", "verify"):
            self.assertRefused(2, action, "identiy", says=("'identiy'", "identity, user"))
        self.assertRefused(2, "rotate", "--ca", "identity", says="--ca")
        self.assertRefused(2, "issue", "identity", "--dns", "more.example.com", says="--out")
        self.assertRefused(2, "issue", "Some Body", "--out", self.folder / "out", says="'Some Body'")
        self.assertRefused(3, "issue", "identity", "--ca", self.folder / "nothing", "--out", self.folder / "out",
                           says=(str(self.folder / "nothing"), "--ca"))
        self.assertRefused(3, "verify", self.folder / "nothing", says="tls.crt")
        self.assertRefused(2, "rotate", "--lifetime", "soon", says="--lifetime")
        shutil.rmtree(self.data / "ca")
        self.assertRefused(3, "rotate", says="nova certs init")

    @unittest.skipUnless(os.geteuid() == 0, "only root gives files away")
    def test_another_accounts_folder_is_left_alone(self):
        self.done("init")
        self.done("issue", "identity")
        shutil.chown(self.data, "nobody")
        for arguments in (("rotate",), ("rotate", "--ca"), ("issue", "identity")):
            self.assertRefused(2, *arguments, says="'nobody'")


class LiveTest(harness.StackTest):
    @classmethod
    def setUpClass(cls):
        """The authority of this stack was made by hand, before its first start."""
        cls.stack = harness.Stack()
        unittest.addModuleCleanup(cls.stack.close)
        made = cls.stack.verb("certs", "init")
        assert made.code == 0, made.err
        before = (cls.stack.data / "ca" / "ca.crt").read_bytes()
        cls.stack.start()
        assert (cls.stack.data / "ca" / "ca.crt").read_bytes() == before, "nova up made another one"

    def show(self):
        done = self.stack.verb("certs", "show", "--json")
        self.assertEqual((done.code, done.err), (0, ""))
        view = json.loads(done.out)
        view["on_disk"] = {certificate["principal"]: certificate for certificate in view["certificates"]}
        view["in_memory"] = {process["name"]: process for process in view["processes"]}
        return view

    def serials(self, view):
        """What each end of each process has in memory."""
        return {(process["name"], certificate["side"]): certificate["serial"] for process in view["processes"]
                for certificate in process["certificates"]}

    def assertSettled(self, view, authority):
        """Every process has in memory what is on the disk, by `authority` alone."""
        self.assertEqual(set(view["in_memory"]), set(harness.components()))
        for name, process in view["in_memory"].items():
            self.assertEqual((process["current"], process["problem"]), (True, ""), name)
            self.assertEqual([certificate["side"] for certificate in process["certificates"]],
                             ["port"] if name in SERVERS else ["server", "client"])
            for certificate in process["certificates"]:
                self.assertEqual(certificate["serial"], view["on_disk"][name]["serial"])
                self.assertEqual((certificate["principal"], certificate["issuer"]), (name, authority["subject"]))
                if name not in SERVERS:
                    self.assertEqual([known["fingerprint"] for known in certificate["authorities"]],
                                     [authority["fingerprint"]])
        # openssl sees the same on every port, and trusts it by the authority's certificate alone.
        for name in view["in_memory"]:
            shown = self.shown(name)
            self.assertTrue(shown.verified, f"{name}: {shown.errors}")
            self.assertEqual(shown.serial, view["on_disk"][name]["serial"], name)

    def shown(self, name):
        """By the port of a component, to openssl."""
        leaf = certificates.Leaf(self.stack.certificate("operator", "tls.crt"),
                                 self.stack.certificate("operator", "tls.key"))
        return certificates.look_at(self.stack.port_of(name), ca=self.stack.data / "ca" / "ca.crt",
                                    leaf=None if name in SERVERS else leaf, name=certificates.dns_name(name),
                                    starttls=SERVERS.get(name), alpn=None if name in SERVERS else "h2")

    def fresh_channel(self):
        """As a process that has just started: with the files of now, read as one set."""
        folder = pathlib.Path(os.path.realpath(self.stack.data / "certs" / "gateway" / "..data"))
        read = lambda file: (folder / file).read_bytes()
        return self.stack.channel(credentials=grpc.ssl_channel_credentials(read("ca.crt"), read("tls.key"),
                                                                           read("tls.crt")))

    def load(self):
        """Calls over one connection, calls over a new one each, and an open stream."""
        load = harness.Load()
        self.addCleanup(load.stop)
        held = self.open_channel("gateway")
        ask = harness.health_client(held)
        empty = ask.messages.HealthCheckRequest()
        load.repeat("held", lambda: ask.Check(empty, timeout=harness.CALL_LIMIT, wait_for_ready=True))

        def anew():
            # Without patience: not one handshake may fail.
            with self.fresh_channel() as channel:
                harness.health_client(channel).Check(empty, timeout=harness.CALL_LIMIT)
        load.repeat("new", anew, pause=0.02)
        # A call that goes through to PostgreSQL and Redis.
        identity = harness.identity_client(held)
        account = harness.register(identity)
        load.repeat("log in", lambda: identity.Login(
            identity.messages.LoginRequest(identifier=account.email, password=account.password),
            timeout=harness.CALL_LIMIT, wait_for_ready=True), pause=0.1)
        # Only people and tools may ask for it.
        reflection = harness.reflection_client(self.open_channel("operator"))
        load.hold("stream", reflection.ServerReflectionInfo(harness.questions(0.05)))
        return load

    def finish(self, load):
        load.stop()
        self.assertEqual(load.failures, [])
        for what in ("held", "new", "log in", "stream"):
            self.assertGreater(load.calls[what], 10, what)
        say(f"calls, none failed: {dict(load.calls)}")

    def restarts(self):
        return {name: component["restarts"] for name, component in self.stack.status()[1]["by_name"].items()}

    def rotate(self, *arguments):
        done = self.stack.verb("certs", "rotate", *arguments, "--json")
        self.assertEqual((done.code, done.err), (0, ""), done.out)
        return json.loads(done.out)

    def test_leaves_are_replaced_under_load(self):
        before = self.show()
        self.assertSettled(before, before["authority"])
        load = self.load()
        rotated = self.rotate()
        after = self.show()
        self.finish(load)
        self.assertTrue(rotated["live"])
        self.assertEqual(set(rotated["principals"]), set(before["on_disk"]))
        self.assertSettled(after, before["authority"])
        old, new = self.serials(before), self.serials(after)
        self.assertEqual(set(old), set(new))
        self.assertEqual([end for end in old if old[end] == new[end]], [])
        self.assertEqual(set(self.restarts().values()), {0})
        say(f"leaves of {len(rotated['principals'])} principals in {rotated['seconds']:.1f} s")

    def test_the_authority_is_replaced_under_load_even_if_the_tool_is_killed(self):
        before = self.show()
        load = self.load()
        command = [harness.BINARY, "certs", "rotate", "--ca", "--data-dir", self.stack.data]
        for step in ("next_trusted", "former_trusted"):
            tool = subprocess.Popen(command, env=harness.environment(), stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
            harness.await_condition(step, lambda: tool.poll() is None and self.rotation() == step)
            tool.kill()
            tool.communicate(timeout=harness.VERB_LIMIT)
            view = self.show()
            self.assertEqual((view["authority"]["rotation"], view["authority"]["under_way"]), (step, True))
            self.assertIn("nova certs rotate --ca", self.stack.verb("certs", "show").out)
            # Between two steps all goes on, and `nova up` brings what was not done yet.
            harness.await_condition("everyone has followed", lambda: self.have_followed(self.show()))
            self.assertEqual(self.stack.verb("certs", "verify").code, 0)
        rotated = self.rotate("--ca")
        after = self.show()
        self.finish(load)
        self.assertTrue(rotated["continued"] and rotated["live"], rotated)
        self.assertNotEqual(after["authority"]["fingerprint"], before["authority"]["fingerprint"])
        self.assertEqual((after["authority"]["rotation"], after["authority"]["under_way"]), ("none", False))
        self.assertSettled(after, after["authority"])
        self.assertEqual(set(self.restarts().values()), {0})

    def have_followed(self, view):
        """Everyone trusts both authorities, has a leaf of the one that signs, and knows it."""
        return (all(process["current"] for process in view["processes"]) and
                all(len(certificate["authorities"]) == 2 for certificate in view["certificates"]) and
                {certificate["issuer"] for certificate in view["certificates"]} == {view["authority"]["subject"]})

    def rotation(self):
        """Without asking the processes, which takes longer than some steps."""
        data = self.stack.data / "ca" / "..data"
        return ("next_trusted" if (data / "next.crt").exists() else
                "former_trusted" if (data / "former.crt").exists() else "none")

    def test_a_whole_replacement_of_the_authority(self):
        load = self.load()
        rotated = self.rotate("--ca")
        after = self.show()
        self.finish(load)
        self.assertFalse(rotated["continued"])
        self.assertSettled(after, after["authority"])
        # PgBouncer reaches PostgreSQL over connections that it has to make anew, too.
        self.stack.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'identity'")
        self.assertEqual(self.stack.sql("SELECT 1 AS one", user="identity", database="identity",
                                        port=self.stack.pgbouncer_port), [{"one": "1"}])
        say(f"the authority and {len(rotated['principals'])} leaves in {rotated['seconds']:.1f} s")

    def test_a_leaf_that_is_about_to_end_is_renewed_at_once(self):
        began = time.monotonic()
        short = {}
        for name in harness.components():
            done = self.stack.verb("certs", "issue", name, "--lifetime", "6s", "--json")
            self.assertEqual((done.code, done.err), (0, ""))
            short[name] = json.loads(done.out)["serial"]
        # By then the short ones have ended.
        harness.await_condition("all are renewed", lambda: all(
            process["current"] and certificate["serial"] != short[process["name"]]
            for process in self.show()["processes"] for certificate in process["certificates"]), limit=10)
        view = self.show()
        for name in short:
            # gRPC follows what the process has in memory.
            harness.await_condition(f"{name} shows the new one",
                                    lambda: self.shown(name).serial == view["on_disk"][name]["serial"], limit=5)
        say(f"renewed and on every port after {time.monotonic() - began:.1f} s")
        self.assertSettled(view, view["authority"])

    def test_a_process_that_does_not_take_it_up_is_named(self):
        with harness.stalled(self.stack.pid_of("user")):
            done = self.stack.verb("certs", "rotate", "user", "--take-up-limit", "1s")
            self.assertEqual((done.code, done.out, len(done.err.splitlines())), (3, "", 1), done.err)
            for text in ("user has not taken up", "within 1 s", f"{self.stack.data}/logs/user.log"):
                self.assertIn(text, done.err)
            table = self.stack.verb("certs", "show").out
            self.assertRegex(table, r"(?m)^user +\d+ .* unknown$")
        self.rotate("user")
        self.assertTrue(self.show()["in_memory"]["user"]["current"])

    def test_a_bad_set_is_refused_mended_and_never_served(self):
        before = self.show()
        folder = pathlib.Path(os.path.realpath(self.stack.data / "certs" / "pgbouncer" / "..data"))
        shutil.copyfile(self.stack.data / "certs" / "operator" / "tls.key", folder / "tls.key")
        harness.await_condition("another set is there and good", lambda: self.show()["on_disk"]["pgbouncer"][
            "serial"] != before["on_disk"]["pgbouncer"]["serial"] and self.show()["in_memory"]["pgbouncer"]["current"])
        self.assertEqual(self.stack.verb("certs", "verify").code, 0)
        self.assertEqual(set(self.restarts().values()), {0})

    def test_the_status_page_tells_what_is_in_memory_and_keeps_its_other_keys(self):
        status = json.loads(self.stack.admin("/statusz")[1])
        self.assertLessEqual({"serving", "draining", "cause", "dependencies", "certificates"}, set(status))
        self.assertEqual([certificate["side"] for certificate in status["certificates"]], ["server", "client"])
        for certificate in status["certificates"]:
            self.assertEqual(set(certificate), {"side", "principal", "serial", "not_before", "not_after", "issuer",
                                                "authorities"})
            self.assertRegex(certificate["not_after"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
            fingerprint = openssl("x509", "-in", self.stack.data / "ca" / "ca.crt", "-noout", "-fingerprint",
                                  "-sha256").stdout.partition("=")[2].strip().replace(":", "")
            self.assertEqual([authority["fingerprint"] for authority in certificate["authorities"]], [fingerprint])


if __name__ == "__main__":
    unittest.main()
