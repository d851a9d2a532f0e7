"""The files of a tree, and C++ text without its comments: what the other checkers share."""

import argparse
import pathlib
import re
import subprocess
import typing

CPP_SUFFIXES = (".h", ".cc")
# Only for a tree that git does not know: what .gitignore would leave out.
IGNORED = {".git", "build", ".nova", "__pycache__"}


def arguments(description):
    """The command line every checker takes: `--root`, whose default is the tree the checker stands in."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent,
                        help="the tree to check (default: this one)")
    return parser


def files(root):
    """Every file of the tree that is or may be committed, relative to `root`, sorted."""
    listing = subprocess.run(["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             capture_output=True, text=True, check=False) if (root / ".git").exists() else None
    if listing and listing.returncode == 0:
        paths = [pathlib.PurePosixPath(name) for name in listing.stdout.split("\0") if name]
        return sorted(path for path in paths if (root / path).is_file())
    return sorted(pathlib.PurePosixPath(path.relative_to(root)) for path in root.rglob("*")
                  if path.is_file() and not IGNORED.intersection(path.relative_to(root).parts))


def is_test(path):
    """Whether a C++ file is there to test: such a file may use anything and is never part of the product."""
    return path.stem.endswith("_test") or path.parts[0] in ("tests", "bench")


# A raw string, a string, a character, or a comment; whichever begins first owns what follows. A quote after a letter
# or digit separates digits (1'000) and begins nothing.
_TOKEN = re.compile(r'R"(?P<mark>[^()\s\\]{0,16})\(.*?\)(?P=mark)"'
                    r'|"(?:\\.|[^"\\\n])*"'
                    r"|(?<![0-9a-zA-Z])'(?:\\.|[^'\\\n])*'"
                    r'|//[^\n]*|/\*.*?\*/', re.DOTALL)


def blank(text, keep_strings=False):
    """`text` with comments (and strings) blanked; every line and column stays where it was."""
    def erase(match):
        found = match.group()
        if keep_strings and not found.startswith(("//", "/*")):
            return found
        return re.sub(r"[^\n]", " ", found)
    return _TOKEN.sub(erase, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


class Finding(typing.NamedTuple):
    path: str
    line: int
    problem: str
    remedy: str


def report(findings, done):
    """Prints what was found, in order, or `done`; returns the exit status."""
    findings = sorted(set(findings))
    for path, line, problem, remedy in findings:
        print(f"{path}:{line}: {problem}\n    remedy: {remedy}")
    if not findings:
        print(done)
    return 1 if findings else 0
