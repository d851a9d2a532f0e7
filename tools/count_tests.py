#!/usr/bin/env python3
"""Reads ctest's JUnit report: prints `passed failed skipped`, or with --failures what the failed test cases said.

ctest counts programs; one program holds the cases of a folder. GoogleTest and unittest say in their output how many
cases ran; a program that says nothing is one case."""

import re
import sys
import xml.etree.ElementTree

GTEST_TOTAL = re.compile(r"^\[ *(PASSED|FAILED|SKIPPED) *\] (\d+) tests?\b", re.MULTILINE)
UNITTEST_TOTAL = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
GTEST_FAILED = re.compile(r"^\[ RUN +\] (\S+)\n((?:(?!\[ RUN ).*\n)*?)\[ +FAILED +\] \1", re.MULTILINE)
UNITTEST_FAILED = re.compile(r"^={70}\n((?:FAIL|ERROR): .*\n(?:(?!={70}$|-{70}\nRan ).*\n)*)", re.MULTILINE)
LINES_MAX = 40  # of one failed case, or of the end of a program that did not name one
UNITTEST_NOT_PASSED = re.compile(r"(failures|errors|skipped|expected failures)=(\d+)")


def count(status, output):
    """(passed, failed, skipped) of one program."""
    passed = failed = skipped = 0
    if gtest := GTEST_TOTAL.findall(output):
        totals = {kind: int(number) for kind, number in gtest}
        passed, failed, skipped = (totals.get(kind, 0) for kind in ("PASSED", "FAILED", "SKIPPED"))
    elif unittest := UNITTEST_TOTAL.search(output):
        other = {kind: int(number) for kind, number in UNITTEST_NOT_PASSED.findall(output[unittest.end():])}
        failed, skipped = other.get("failures", 0) + other.get("errors", 0), other.get("skipped", 0)
        passed = int(unittest.group(1)) - failed - skipped
    elif status == "run":
        passed = 1
    elif status == "disabled":
        skipped = 1
    # A program that crashed, leaked, hung or never started counts as failed, whatever it printed before.
    if status not in ("run", "disabled") and failed == 0:
        failed = 1
    return passed, failed, skipped


def failures(status, output):
    """What each failed case of one program said; for a program that names none, how its output ends."""
    if count(status, output)[1] == 0:
        return []
    said = [f"{name}\n{text}" for name, text in GTEST_FAILED.findall(output)] or UNITTEST_FAILED.findall(output)
    if said:
        return ["\n".join(text.rstrip().split("\n")[:LINES_MAX]) for text in said]
    return ["\n".join(output.rstrip().split("\n")[-LINES_MAX:])]


def main():
    *options, report = sys.argv[1:] or [""]
    if not report or options not in ([], ["--failures"]):
        print("usage: tools/count_tests.py [--failures] REPORT.xml", file=sys.stderr)
        return 2
    cases = xml.etree.ElementTree.parse(report).getroot().iter("testcase")
    programs = [(case.get("name"), case.get("status"), case.findtext("system-out") or "") for case in cases]
    if options:
        for name, status, output in programs:
            for text in failures(status, output):
                print(f"--- {name}: {text}")
        return 0
    counts = [count(status, output) for _, status, output in programs]
    print(*(sum(column) for column in zip(*counts)) if counts else (0, 0, 0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
