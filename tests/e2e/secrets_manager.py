"""A Secrets Manager for tests: moto, as a process of its own on loopback, asked in AWS' own protocol."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import select
import subprocess
import time
import unittest

import harness

PYTHON = os.environ.get("NOVA_TEST_PYTHON", "")
START_LIMIT = 60
# moto takes anybody; it wants to see a region and a service.
AUTHORIZATION = ("AWS4-HMAC-SHA256 Credential=AKIATEST/20260101/us-east-1/secretsmanager/aws4_request, "
                 "SignedHeaders=host, Signature=none")


def require():
    """For setUpClass: without moto there is nothing to ask."""
    if not PYTHON:
        raise unittest.SkipTest("NOVA_TEST_PYTHON is not set: ./dev test installs moto (tests/requirements.txt) and "
                                "sets it")


class SecretsManager:
    """Runs while it is entered. It forgets everything when it ends; start() again is a new one on the same port."""

    def __init__(self):
        self.process = None
        self.port = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.stop()

    def start(self):
        # It must not outlive a test that was killed.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p",
             str(self.port)], env=harness.environment(PYTHONUNBUFFERED="1"), cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        text, end = b"", time.monotonic() + START_LIMIT
        while not (match := re.search(rb"Running on http://127\.0\.0\.1:(\d+)", text)):
            ready, _, _ = select.select([self.process.stderr], [], [], max(0, end - time.monotonic()))
            chunk = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            if not chunk:
                self.process.kill()
                raise AssertionError(f"moto does not start: {text.decode()}")
            text += chunk
        self.port = int(match.group(1))
        # Its access log; a full pipe would stop it.
        self.drain = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        self.drain.wait()
        self.process = None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def call(self, operation, **request):
        """(status, answer)"""
        headers = {"Content-Type": "application/x-amz-json-1.1", "Authorization": AUTHORIZATION,
                   "X-Amz-Target": f"secretsmanager.{operation}"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request("POST", "/", json.dumps(request), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")

    def version(self, secret, stage="AWSCURRENT"):
        """(version id, the value as JSON) of a stage; None if there is none."""
        status, answer = self.call("GetSecretValue", SecretId=secret, VersionStage=stage)
        return (answer["VersionId"], json.loads(answer["SecretString"])) if status == 200 else None
