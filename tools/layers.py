#!/usr/bin/env python3
"""Holds the tree against the house: which folders there are, and which may use which.

The table under `## Layers` in ARCHITECTURE.md is the rule; C++ includes, proto imports and CMake links must fit it,
and it may not allow what nobody does. A row is `| folder | folder, ... or – | what it is |`, each name in backquotes;
a folder may use only what stands above it, `nova/*` means every folder of nova, and where two rows fit, the one
without `*` counts. Tests (x_test.cc, test_x.h, tests/, bench/) may use anything, and nothing may use them or tools/."""

import fnmatch
import pathlib
import re
import sys
import typing

import sources
from sources import Finding

TABLE = "ARCHITECTURE.md"
FORM = "a row is | `folder` | `folder`, ... or – | what it is |"
TOP_FOLDERS = {"api", "nova", "graphql", "services", "gateway", "local", "audit", "app", "k8s", "docs", "tests",
               "bench", "tools", "cmake", ".ci"}
TOP_FILES = {"README.md", "ARCHITECTURE.md", "dev", "Dockerfile", ".clang-format", ".dockerignore", ".gitignore",
             "LICENSE", "CMakeLists.txt"}
SERVICES = {"identity", "user", "content", "social", "media", "communication", "search", "events"}
# Folders that hold units; every other folder at the top is one unit itself.
GROUPS = {"api", "nova", "services"}
# What may lie below a unit besides its own files.
BELOW = {"schema", "testdata"}
# Folders whose files are free in what they use; no product file may use them.
FREE = {"tests", "bench", "tools"}
# Units are the parts of the product: those need a row.
UNIT_ROOTS = TOP_FOLDERS - FREE - {"k8s", "docs", "cmake", ".ci"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
IMPORT = re.compile(r'^[ \t]*import[ \t]+(?:public[ \t]+)?"([^"\n]+)"', re.MULTILINE)
COMMAND = re.compile(r"\b(nova_library|nova_service|nova_executable|nova_test|nova_proto_library|add_executable|"
                     r"add_library|target_link_libraries)\s*\(([^()]*)\)", re.DOTALL)
# What nova_service links besides what it is told, and its contract.
SERVICE_DEPS = re.compile(r"\bset\s*\(\s*NOVA_SERVICE_DEPS\b([^()]*)\)", re.DOTALL)
NAMESPACE = re.compile(r"\b(?:inline\s+)?namespace\b\s*(?:\[\[[^\]]*\]\]\s*)?([\w:]*)\s*\{|[{}]")


def unit_of(path):
    """The unit a path belongs to ("nova/rpc", "app"), or None: it stands at the top or directly in a group."""
    parts = pathlib.PurePosixPath(path).parts
    if parts[0] in GROUPS:
        return "/".join(parts[:2]) if len(parts) > 2 else None
    return parts[0] if len(parts) > 1 else None


def namespace_of(unit):
    """nova/redis is nova::redis, services/user is nova::user, app is nova::app; the base is nova itself."""
    return "nova" if unit == "nova/base" else "nova::" + unit.split("/")[-1]


def target_of(unit):
    """One name everywhere: nova_redis, nova_user, nova_app, and nova_api_user for a contract."""
    return "nova_" + (unit.replace("/", "_") if unit.startswith("api/") else unit.split("/")[-1])


def is_test(path):
    return sources.is_test(path) or path.stem.startswith("test_")


class Row(typing.NamedTuple):
    line: int
    folder: str
    uses: tuple


class Use(typing.NamedTuple):
    """One place where a unit uses another."""
    path: str
    line: int
    unit: str
    used: str
    how: str


class Target(typing.NamedTuple):
    path: str
    line: int
    kind: str
    name: str
    units: tuple
    links: tuple
    files: tuple


def read_table(root):
    """The rows of the layer table, and findings about their form."""
    rows, findings = [], []
    try:
        text = (root / TABLE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return rows, [Finding(TABLE, 1, "no layer table", FORM)]
    section = re.search(r"^## Layers\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = list(re.finditer(r"^\|(.*)\|[ \t]*$", section.group(1), re.MULTILINE)) if section else []
    for match in lines[2:]:  # after the heading and the rule below it
        cells = [re.findall(r"`([^`]+)`", cell) for cell in match.group(1).split("|")]
        line = sources.line_of(text, section.start(1) + match.start())
        if len(cells) < 2 or not cells[0]:
            findings.append(Finding(TABLE, line, "not a row of the layer table", FORM))
        rows += [Row(line, folder, tuple(cells[1])) for folder in cells[0] if len(cells) > 1]
    if not rows and not findings:
        findings.append(Finding(TABLE, 1, "no layer table under `## Layers`", FORM))
    return rows, findings


class House:
    def __init__(self, root):
        self.root = root
        self.paths = sources.files(root)
        self.findings = []
        self.rows, table_findings = read_table(root)
        self.findings += table_findings
        self.units = {unit for path in self.paths if (unit := unit_of(path)) and path.parts[0] in UNIT_ROOTS}
        self.targets = self.read_cmake()
        self.uses = []

    def text(self, path):
        return (self.root / path).read_text(encoding="utf-8")

    def find(self, path, line, problem, remedy):
        self.findings.append(Finding(str(path), line, problem, remedy))

    def row_of(self, unit):
        fitting = [row for row in self.rows if fnmatch.fnmatchcase(unit, row.folder)]
        return min(fitting, key=lambda row: "*" in row.folder, default=None)

    # --- Folders ---

    def check_folders(self):
        for path in self.paths:
            top = path.parts[0]
            if len(path.parts) == 1:
                if top not in TOP_FILES:
                    self.find(path, 1, "a file at the top that the house does not know", "move it into its folder")
                continue
            if top not in TOP_FOLDERS:
                self.find(path, 1, f"unknown folder {top}/", f"move it to where the house has it ({TABLE}, Layers)")
                continue
            if top not in UNIT_ROOTS:
                continue
            unit = unit_of(path)
            if unit is None:
                if path.name != "CMakeLists.txt":
                    self.find(path, 1, f"a file directly in {top}/", f"move it into a folder of {top}/")
            elif (top == "services" and unit.split("/")[1] not in SERVICES) or (self.rows and not self.row_of(unit)):
                self.find(path, 1, f"unknown folder {unit}/",
                          f"give it a row in the layer table of {TABLE}, or move it to where it belongs")
            else:
                below = path.parts[len(pathlib.PurePosixPath(unit).parts):-1]
                if below and below[0] not in BELOW and not (top == "api" and re.fullmatch(r"v\d\w*", below[0])):
                    self.find(path, 1, f"unknown folder {unit}/{below[0]}/",
                              "one folder is one namespace and one target: make it one of its own, or part of this")

    # --- The table itself ---

    def check_table(self):
        known = set()
        for row in self.rows:
            if not any(fnmatch.fnmatchcase(unit, row.folder) for unit in self.units):
                self.find(TABLE, row.line, f"a row for `{row.folder}`, which is not there", "remove the row")
            if row.folder in known:
                self.find(TABLE, row.line, f"a second row for `{row.folder}`", "keep one")
            for used in row.uses:
                if used not in known and not any(
                        fnmatch.fnmatchcase(above, used) or fnmatch.fnmatchcase(used, above) for above in known):
                    self.find(TABLE, row.line, f"`{row.folder}` may use `{used}`, which has no row above it",
                              "order the rows bottom up; a folder may use only what stands above it")
                elif not any(self.row_of(use.unit) == row and fnmatch.fnmatchcase(use.used, used)
                             for use in self.uses):
                    self.find(TABLE, row.line, f"`{row.folder}` may use `{used}`, and does not",
                              "remove it from the row: the table says what is so")
            known.add(row.folder)

    # --- Includes, imports and links ---

    def read_cmake(self):
        texts = {path: re.sub(r"#[^\n]*", lambda comment: " " * len(comment.group()), self.text(path))
                 for path in self.paths if path.name == "CMakeLists.txt" or path.suffix == ".cmake"}
        service_deps = [word for text in texts.values() for match in SERVICE_DEPS.finditer(text)
                        for word in match.group(1).split()]
        targets = []
        for path, text in texts.items():
            for match in COMMAND.finditer(text):
                words = match.group(2).split()
                if not words or "$" in words[0]:
                    continue
                kind, name, section, parts = match.group(1), words[0], "SOURCES", {}
                for word in words[1:]:
                    if word in ("SOURCES", "DEPS", "PROTOS", "TIMEOUT", "GRPC", "PUBLIC", "PRIVATE", "INTERFACE"):
                        section = word
                    else:
                        parts.setdefault(section, []).append(word)
                files = [str(path.parent / word) for word in parts.get("SOURCES", ())] + parts.get("PROTOS", [])
                if kind == "target_link_libraries":
                    parts["DEPS"] = words[1:]
                if kind == "nova_service":
                    name = "nova_" + words[0]
                    parts["DEPS"] = ["nova_api_" + words[0], *service_deps, *parts.get("DEPS", ())]
                if kind == "nova_proto_library":
                    units = {unit for file in parts.get("PROTOS", ()) if (unit := unit_of(file))}
                else:
                    units = {unit_of(path)} - {None}
                targets.append(Target(str(path), sources.line_of(text, match.start()), kind, name,
                                      tuple(sorted(units)), tuple(parts.get("DEPS", ())), tuple(files)))
        return targets

    def read_uses(self):
        declared = {target.name: target.units for target in self.targets if target.kind != "target_link_libraries"}
        tests = {target.name for target in self.targets if target.kind == "nova_test"}
        for target in self.targets:
            if target.name in tests:
                continue
            for unit in target.units:
                for link in target.links:
                    if link.startswith("nova_") and link not in declared:
                        self.find(target.path, target.line,
                                  f"{target.name} links {link}, which no CMakeLists.txt makes",
                                  "name the target after its folder")
                    for used in declared.get(link, ()):
                        self.uses.append(Use(target.path, target.line, unit, used, f"{target.name} links {link}"))
        for path in self.paths:
            unit = unit_of(path)
            if path.suffix == ".proto":
                pattern = IMPORT
            elif path.suffix in sources.CPP_SUFFIXES and path.parts[0] != "cmake" and not is_test(path):
                pattern = INCLUDE
            else:
                continue
            text = sources.blank(self.text(path), keep_strings=True)
            for match in pattern.finditer(text):
                used, line = unit_of(match.group(1)), sources.line_of(text, match.start())
                if pattern is INCLUDE and is_test(pathlib.PurePosixPath(match.group(1))):
                    self.find(path, line, f'includes "{match.group(1)}", which is there for tests',
                              "what the product needs stands in a file of the product")
                elif used and used.split("/")[0] in TOP_FOLDERS:
                    self.uses.append(Use(str(path), line, unit, used, f'includes "{match.group(1)}"'))
                elif pattern is INCLUDE:
                    self.find(path, line, f'"{match.group(1)}" is no path from the top of the tree',
                              "spell an include of ours from the top (\"nova/rpc/server.h\"), others with <>")

    def check_uses(self):
        unlinked = {}  # the first use of each pair that no link backs
        links = {(use.unit, use.used) for use in self.uses if " links " in use.how}
        for use in self.uses:
            if use.unit == use.used or use.unit.split("/")[0] not in UNIT_ROOTS:
                continue
            row = self.row_of(use.unit)
            if not row:
                continue  # an unknown folder; check_folders says so
            if (use.unit, use.used) not in links and use.path.endswith(sources.CPP_SUFFIXES):
                unlinked.setdefault((use.unit, use.used), use)
            if use.unit.startswith("services/") and use.used.startswith("services/"):
                self.find(use.path, use.line, f"{use.how}: no service uses another service",
                          f"call it through its contract (api/{use.used.split('/')[1]}), or let an event tell it")
            elif not any(fnmatch.fnmatchcase(use.used, allowed) for allowed in row.uses):
                allowed = ", ".join(row.uses) or "nothing"
                self.find(use.path, use.line, f"{use.how}: {use.unit} may not use {use.used}",
                          f"turn the dependency round, or move the code down; {use.unit} may use: {allowed} "
                          f"({TABLE}, Layers)")
                unlinked.pop((use.unit, use.used), None)
        for (unit, used), use in unlinked.items():
            self.find(use.path, use.line, f"{use.how} without linking {target_of(used)}",
                      f"add {target_of(used)} to the DEPS in {unit}/CMakeLists.txt")

    # --- Names ---

    def check_names(self):
        for target in self.targets:
            for unit in target.units:
                name = unit.split("/")[-1]
                if unit.split("/")[0] not in UNIT_ROOTS:
                    continue
                if (target.kind in ("nova_library", "nova_service", "nova_proto_library")
                        and target.name != target_of(unit)):
                    self.find(target.path, target.line, f"{target.name} is not named after its folder", target_of(unit))
                if target.kind == "nova_test" and not re.fullmatch(rf"{name}_(\w+_)?test", target.name):
                    self.find(target.path, target.line, f"{target.name} is not named after its folder",
                              f"{name}_test, or {name}_<what>_test")
        for path in self.paths:
            unit = unit_of(path)
            checked = path.suffix in sources.CPP_SUFFIXES and path.parts[0] in UNIT_ROOTS - {"api"}
            if checked and unit and not is_test(path):
                self.check_namespaces(path, namespace_of(unit))

    def check_namespaces(self, path, expected):
        """Names of ours stand in the namespace of their folder. Others' (std, fmt) may be opened to specialise."""
        text, stack = sources.blank(self.text(path)), []
        for match in NAMESPACE.finditer(text):
            if match.group() == "}":
                if stack:
                    stack.pop()
                continue
            stack.append(match.group(1))  # None for a brace that opens no namespace
            if None in stack or not match.group(1):
                continue
            name = "::".join(part for part in stack if part)
            inside = (name + "::").startswith(expected + "::") or (expected + "::").startswith(name + "::")
            if name.split("::")[0] == "nova" and not inside:
                self.find(path, sources.line_of(text, match.start()), f"namespace {name} in the folder of {expected}",
                          f"declare it in {expected}, or move the file; include a header instead of declaring ahead")

    def check_sources_are_built(self):
        """A source that no target names is never compiled; a test, never run."""
        built = {file for target in self.targets for file in target.files}
        patterns = [re.compile(re.sub(r"\\\$\\\{\w+\\\}", r"\\w+", re.escape(file))) for file in built if "$" in file]
        for path in self.paths:
            if path.suffix in (".cc", ".proto") and path.parts[:2] != ("tests", "negative"):
                if str(path) not in built and not any(pattern.fullmatch(str(path)) for pattern in patterns):
                    self.find(path, 1, "no target builds this file",
                              f"add it in {path.parent}/CMakeLists.txt, or remove it")

    def check(self):
        self.read_uses()
        self.check_folders()
        self.check_table()
        self.check_uses()
        self.check_names()
        self.check_sources_are_built()
        return self.findings


def main():
    house = House(sources.arguments(__doc__).parse_args().root)
    return sources.report(house.check(), f"{len(house.units)} folders keep their layers")


if __name__ == "__main__":
    sys.exit(main())
