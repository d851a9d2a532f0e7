#!/usr/bin/env python3
"""Checks the style rules that are worth a program: each names what to write instead."""

import re
import sys
import typing

import sources
from sources import Finding

CPP = (".h", ".cc")
TEXT = CPP + (".py", ".sh", ".txt", ".cmake", ".proto", ".sql", ".md", ".yaml", ".yml", ".json", ".supp", "")


class Rule(typing.NamedTuple):
    name: str
    pattern: re.Pattern
    problem: str
    remedy: str
    suffixes: tuple = CPP
    # Folders where it is the right thing to write.
    home: tuple = ()
    # Whether comments and strings count as well.
    everywhere: bool = False
    # Whether it holds for tests.
    tests: bool = True


RULES = [
    Rule("sleep", re.compile(r"\b(?:sleep_for|sleep_until|usleep|nanosleep)\b|(?:^|[;{}()!]|(?<!\w)::)\s*sleep\s*\(",
                             re.MULTILINE),
         "a thread that sleeps serves nobody and cannot be cancelled",
         "co_await runtime::Sleep(call, delay) (nova/runtime/runtime.h); a test awaits the event itself"),
    Rule("detached", re.compile(r"\basio::detached(?:_t)?\b"),
         "detached work outlives what it uses, and nobody learns how it ended",
         "runtime::Scope (nova/runtime/scope.h), which joins it"),
    Rule("co_spawn", re.compile(r"\bco_spawn\b"),
         "a coroutine started here runs without the limits and the join of a scope",
         "runtime::Scope (nova/runtime/scope.h), or Runtime::RunBlocking from a thread of yours",
         home=("nova/runtime", "nova/rpc"), tests=False),
    Rule("libpq", re.compile(r"\bPQ[a-z]\w*\s*\("),
         "libpq is called outside nova/postgres",
         "postgres::Pool (nova/postgres), where deadlines, cancellation and limits live",
         home=("nova/postgres",)),
    Rule("hiredis", re.compile(r"\bredis[A-Z]\w*\s*\("),
         "hiredis is called outside nova/redis",
         "redis::Client (nova/redis), where deadlines, cancellation and the order of replies live",
         home=("nova/redis",)),
    Rule("stub", re.compile(r"\b(?:NewStub|GenericStub|TemplatedGenericStub|CreateChannel|CreateCustomChannel|"
                            r"CreateCustomChannelWithInterceptors|InProcessChannel)\b"),
         "a raw gRPC stub or channel is made outside nova/rpc",
         "rpc::Client (nova/rpc/client.h), where deadline, breaker, bulkhead and retries live",
         home=("nova/rpc",), tests=False),
    Rule("using-namespace", re.compile(r"\busing\s+namespace\s+std\s*;"),
         "`using namespace std` lets a new standard library change what a name means",
         "name what is used"),
    Rule("unfinished", re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b"),
         "a note that something is unfinished",
         "finish it, or say in a sentence what the limit is and why it stands", suffixes=TEXT, everywhere=True),
    Rule("whitespace", re.compile(r"[ \t]+$|\r$", re.MULTILINE),
         "white space at the end of a line", "remove it", suffixes=TEXT, everywhere=True),
]


class Exemption(typing.NamedTuple):
    path: str
    rule: str
    reason: str


# Short on purpose. An entry that is no longer needed is itself a finding.
EXEMPTIONS = [
    Exemption("local/sql.cc", "libpq",
              "the supervisor asks PgBouncer's console, which no pool can, and makes roles before any pool exists"),
    Exemption("nova/redis/pipeline.cc", "co_spawn",
              "the sender of a connection begins with the first command of a batch, in no task; the pipeline joins it"),
    Exemption("local/redis_connection.cc", "hiredis",
              "the supervisor asks whether Redis is ready from its main thread, which no runtime serves"),
    Exemption("local/stack_pg_test.cc", "libpq",
              "looks at the certificate of a handshake, which no pool shows"),
]


def exempt(path, rule, used):
    for exemption in EXEMPTIONS:
        if exemption.rule == rule and str(path) == exemption.path:
            used.add(exemption)
            return True
    return False


def check_once(path, text):
    """A header is included once: `#pragma once` stands before everything but comments."""
    first = sources.blank(text).split(None, 2)
    if first[:2] != ["#pragma", "once"]:
        yield Finding(str(path), 1, "a header without `#pragma once` before its first line of code", "add it")


def check(root):
    findings, used, checked = [], set(), 0
    for path in sources.files(root):
        if path.suffix not in TEXT:
            continue
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        checked += 1
        code = sources.blank(text) if path.suffix in CPP else text
        for rule in RULES:
            if path.suffix not in rule.suffixes or any(path.is_relative_to(home) for home in rule.home):
                continue
            if not rule.tests and sources.is_test(path):
                continue
            for match in rule.pattern.finditer(text if rule.everywhere else code):
                if not exempt(path, rule.name, used):
                    findings.append(Finding(str(path), sources.line_of(text, match.start()),
                                            f"{rule.problem} [{rule.name}]", rule.remedy))
        if path.suffix == ".h":
            findings += check_once(path, text)
    for exemption in EXEMPTIONS:
        if exemption not in used and (root / exemption.path).parent.exists():
            findings.append(Finding("tools/text_rules.py", 1,
                                    f"the exemption of {exemption.path} from [{exemption.rule}] is not needed",
                                    "remove it from EXEMPTIONS"))
    return findings, checked


def main():
    options = sources.arguments(__doc__).parse_args()
    findings, checked = check(options.root)
    return sources.report(findings, f"{checked} files follow the rules")


if __name__ == "__main__":
    sys.exit(main())
