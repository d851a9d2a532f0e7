#!/usr/bin/env python3
"""Proves that what must not compile does not: every file of tests/negative, with the flags of the build.

The first line of a case says what the compiler must complain about: `// must not compile: <text>`. Each is compiled
twice. Without WRONG it must pass, so that the complaint is about the wrong line and not about the rest; with WRONG it
must fail, and one of the errors must hold that text."""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

import sources

CASES = pathlib.Path("tests/negative")
# Whose flags the cases get: an ordinary source of the chassis.
MODEL = pathlib.Path("nova/runtime/runtime.cc")
FIRST_LINE = re.compile(r"// must not compile: (.+)\n")
TIMEOUT_S = 120


def flags_of_build(root, build):
    """The compiler and flags of MODEL, without precompiled header and output; None if the build does not know it."""
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    words = next((entry["command"].split() for entry in entries if pathlib.Path(entry["file"]) == root / MODEL), None)
    if words is None:
        return None
    start = next(i for i, word in enumerate(words) if "clang" in pathlib.PurePath(word).name)
    kept, rest = [], iter(words[start:])
    for word in rest:
        if word in ("-o", "-c", "-MF", "-MT", "-MQ"):
            next(rest)
        elif word == "-Xclang":
            argument = next(rest)
            if argument in ("-include", "-include-pch"):
                next(rest), next(rest)  # -Xclang and the file
        elif word not in ("-Winvalid-pch", "-MD", "-MMD"):
            kept.append(word)
    return kept + ["-fsyntax-only", "-fno-caret-diagnostics"]


def examine(root, flags, case):
    """What is wrong with the case, or None."""
    declared = FIRST_LINE.match((root / case).read_text(encoding="utf-8"))
    if not declared:
        return "its first line does not say what the compiler must complain about"
    expected = declared.group(1)

    def compile_case(*more):
        return subprocess.run([*flags, *more, case], cwd=root, text=True, check=False, timeout=TIMEOUT_S,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    right = compile_case()
    if right.returncode != 0:
        return f"does not compile even without the wrong line:\n{right.stdout}"
    wrong = compile_case("-DWRONG")
    if wrong.returncode == 0:
        return "compiles, and must not"
    if not any(expected in error for error in re.findall(r"\berror: (.*)", wrong.stdout)):
        return f"fails, but not because of '{expected}':\n{wrong.stdout}"
    return None


def main():
    parser = sources.arguments(__doc__)
    parser.add_argument("--build", type=pathlib.Path, default=None, help="the build tree (default: ROOT/build)")
    options = parser.parse_args()
    try:
        flags = flags_of_build(options.root, options.build or options.root / "build")
    except FileNotFoundError:
        flags = None
    if not flags:
        print("the build tree does not know the flags; run ./dev build first", file=sys.stderr)
        return 3

    cases = [path for path in sources.files(options.root) if path.is_relative_to(CASES) and path.suffix == ".cc"]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda case: examine(options.root, flags, case), cases))
    for case, problem in zip(cases, outcomes):
        print(f"{case}:1: {problem}" if problem else f"{case}: refused as it must be")
    failed = sum(problem is not None for problem in outcomes)
    # GoogleTest's closing lines, which count_tests.py reads.
    print(f"[  PASSED  ] {len(cases) - failed} tests.")
    if failed or not cases:
        print(f"[  FAILED  ] {failed} tests.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
