#!/usr/bin/env python3
"""Counts the test cases in ctest's JUnit report: prints `passed failed skipped`.

ctest counts programs; one program holds the cases of a folder. GoogleTest and unittest say in their output how many
cases ran; a program that says nothing is one case."""

import re
import sys
import xml.etree.ElementTree

GTEST_TOTAL = re.compile(r"^\[ *(PASSED|FAILED|SKIPPED) *\] (\d+) tests?\b", re.MULTILINE)
UNITTEST_TOTAL = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
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


def main():
    if len(sys.argv) != 2:
        print("usage: tools/count_tests.py REPORT.xml", file=sys.stderr)
        return 2
    cases = xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testcase")
    counts = [count(case.get("status"), case.findtext("system-out") or "") for case in cases]
    print(*(sum(column) for column in zip(*counts)) if counts else (0, 0, 0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
