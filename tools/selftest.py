#!/usr/bin/env python3
"""The checkers' tests: each must pass on a tiny clean tree and name the fault in a broken one."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import count_tests
import sources

TOOLS = pathlib.Path(__file__).resolve().parent
REPOSITORY = TOOLS.parent

ARCHITECTURE = """# Architecture

## Layers

| Folder | May use | What it is |
|---|---|---|
| `api/*` | – | contracts |
| `nova/base` | – | results |
| `nova/rpc` | `nova/base` | server |
| `services/*` | `api/*`, `nova/*` | services |

## After
| not | a row |
"""

CLEAN = {
    "ARCHITECTURE.md": ARCHITECTURE,
    "CMakeLists.txt": "add_subdirectory(nova)\n",
    "api/CMakeLists.txt": "nova_proto_library(nova_api_user PROTOS api/user/v2/user.proto)\n",
    "api/user/v2/user.proto": 'syntax = "proto3";\n',
    "nova/base/CMakeLists.txt": "nova_library(nova_base SOURCES result.cc DEPS PkgConfig::SODIUM)\n"
                                "nova_test(base_test SOURCES result_test.cc DEPS nova_base nova_rpc)\n",
    "nova/base/result.h": "// A result.\n#pragma once\n\nnamespace nova {\nstruct Result {};\n}  // namespace nova\n",
    "nova/base/result.cc": '#include "nova/base/result.h"\n',
    "nova/base/result_test.cc": '#include "nova/base/result.h"\n#include "nova/rpc/server.h"\n',
    "nova/rpc/CMakeLists.txt": "nova_library(nova_rpc\n  SOURCES server.cc  # the server\n  DEPS nova_base)\n",
    "nova/rpc/server.h": '#pragma once\n\n#include "nova/base/result.h"\n\n'
                         "namespace nova::rpc {\nnamespace internal {\nstruct Server {};\n}  // namespace internal\n"
                         "}  // namespace nova::rpc\n",
    "nova/rpc/server.cc": '#include "nova/rpc/server.h"\n\n#include <string>\n',
    "services/user/CMakeLists.txt": "nova_library(nova_user SOURCES rpc.cc DEPS nova_api_user nova_base nova_rpc)\n",
    "services/user/rpc.cc": '#include "api/user/v2/user.pb.h"\n#include "nova/base/result.h"\n'
                            '#include "nova/rpc/server.h"\n\n'
                            "namespace nova::user {\nint a = 1;\n}  // namespace nova::user\n",
    "services/user/schema/0001.sql": "SELECT 1;\n",
}


class CheckerTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="nova-selftest-")
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for path, text in CLEAN.items():
            self.write(path, text)

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def edit(self, path, old, new):
        text = (self.root / path).read_text(encoding="utf-8")
        self.assertIn(old, text)
        self.write(path, text.replace(old, new))

    def run_tool(self, tool, *arguments):
        return subprocess.run([TOOLS / tool, "--root", self.root, *arguments], text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def assert_passes(self, tool, *arguments):
        result = self.run_tool(tool, *arguments)
        self.assertEqual((result.returncode, result.stdout.count("remedy")), (0, 0), result.stdout)

    def assert_fails(self, tool, *expected):
        result = self.run_tool(tool)
        self.assertEqual(result.returncode, 1, result.stdout)
        for text in expected:
            self.assertIn(text, result.stdout)


class LayersTest(CheckerTest):
    def assert_finds_only(self, expected):
        self.assert_fails("layers.py", expected)
        self.assertEqual(self.run_tool("layers.py").stdout.count("remedy:"), 1, self.run_tool("layers.py").stdout)

    def test_clean_tree_passes(self):
        self.assert_passes("layers.py")

    def test_same_answer_when_git_knows_the_tree(self):
        subprocess.run(["git", "init", "-q", self.root], check=True)
        self.write(".gitignore", "build/\n")
        self.write("build/nova/other/ignored.h", "")
        self.assert_passes("layers.py")
        self.write("sandbox/try.cc", "")
        self.assert_fails("layers.py", "sandbox/try.cc:1: unknown folder sandbox/")

    def test_include_against_the_layers(self):
        self.edit("nova/base/result.h", "#pragma once\n", '#pragma once\n#include "nova/rpc/server.h"\n')
        self.assert_finds_only('nova/base/result.h:3: includes "nova/rpc/server.h": nova/base may not use nova/rpc')

    def test_include_in_a_comment_is_none(self):
        self.edit("nova/base/result.h", "// A result.\n", '/*\n#include "nova/rpc/server.h"\n*/\n')
        self.assert_passes("layers.py")

    def test_link_against_the_layers(self):
        self.edit("nova/base/CMakeLists.txt", "PkgConfig::SODIUM", "nova_rpc")
        self.assert_finds_only("nova/base/CMakeLists.txt:1: nova_base links nova_rpc: nova/base may not use nova/rpc")

    def test_target_link_libraries_counts_as_a_link(self):
        self.write("nova/base/CMakeLists.txt", CLEAN["nova/base/CMakeLists.txt"] +
                   "target_link_libraries(nova_base PUBLIC nova_rpc)\n")
        self.assert_finds_only("nova/base/CMakeLists.txt:3: nova_base links nova_rpc")

    def test_include_without_a_link(self):
        self.edit("nova/rpc/CMakeLists.txt", "DEPS nova_base", "DEPS PkgConfig::GRPC")
        self.assert_finds_only("nova/rpc/server.h:3: includes \"nova/base/result.h\" without linking nova_base")

    def test_link_of_a_target_nobody_makes(self):
        self.edit("nova/rpc/CMakeLists.txt", "DEPS nova_base", "DEPS nova_base nova_redis")
        self.assert_finds_only("nova_rpc links nova_redis, which no CMakeLists.txt makes")

    def test_service_that_uses_a_service(self):
        self.write("services/social/CMakeLists.txt", "nova_library(nova_social SOURCES rpc.cc DEPS nova_user)\n")
        self.write("services/social/rpc.cc", "")
        self.assert_finds_only("services/social/CMakeLists.txt:1: nova_social links nova_user: no service uses another")

    def test_service_links_what_nova_service_says(self):
        self.write("cmake/NovaTargets.cmake", "set(NOVA_SERVICE_DEPS\n  nova_base nova_rpc)\n")
        self.write("services/user/CMakeLists.txt", "nova_service(user SOURCES rpc.cc)\n")
        self.assert_passes("layers.py")
        self.write("services/user/CMakeLists.txt", "nova_service(users SOURCES rpc.cc)\n")
        self.assert_fails("layers.py", "services/user/CMakeLists.txt:1: nova_users is not named after its folder")
        self.write("services/user/CMakeLists.txt", "nova_service(user SOURCES rpc.cc DEPS nova_redis)\n")
        self.assert_finds_only("services/user/CMakeLists.txt:1: nova_user links nova_redis, which no CMakeLists.txt")
        self.write("services/user/CMakeLists.txt", "nova_service(user SOURCES rpc.cc)\n")
        self.edit("cmake/NovaTargets.cmake", " nova_rpc", "")
        self.assert_finds_only('services/user/rpc.cc:3: includes "nova/rpc/server.h" without linking nova_rpc')

    def test_proto_import_against_the_layers(self):
        self.write("api/CMakeLists.txt", "nova_proto_library(nova_api_user PROTOS api/user/v2/user.proto)\n"
                                         "nova_proto_library(nova_api_media PROTOS api/media/v2/media.proto)\n")
        self.write("api/media/v2/media.proto", 'syntax = "proto3";\nimport "api/user/v2/user.proto";\n')
        self.assert_finds_only("api/media/v2/media.proto:2: includes \"api/user/v2/user.proto\": api/media may not use")

    def test_product_that_includes_a_tests_header(self):
        self.write("nova/rpc/test_peer.h", "#pragma once\n")
        self.edit("nova/rpc/server.cc", "#include <string>\n", '#include "nova/rpc/test_peer.h"\n')
        self.assert_finds_only('nova/rpc/server.cc:3: includes "nova/rpc/test_peer.h", which is there for tests')

    def test_include_that_is_no_path_from_the_top(self):
        self.edit("nova/rpc/server.cc", "#include <string>\n", '#include "server_stack.h"\n')
        self.assert_finds_only('nova/rpc/server.cc:3: "server_stack.h" is no path from the top')

    def test_unknown_folders(self):
        for path in ("sandbox/readme.md", "nova/utils/text.h", "services/billing/schema/0001.sql",
                     "nova/rpc/internal/frame.h"):
            with self.subTest(path):
                self.write(path, "")
                folder = "sandbox" if path.startswith("sandbox") else path.rsplit("/", 1)[0].removesuffix("/schema")
                self.assert_finds_only(f"{path}:1: unknown folder {folder}/")
                (self.root / path).unlink()

    def test_files_where_only_folders_belong(self):
        self.write("nova/version.h", "")
        self.assert_finds_only("nova/version.h:1: a file directly in nova/")
        (self.root / "nova/version.h").unlink()
        self.write("notes.md", "")
        self.assert_finds_only("notes.md:1: a file at the top that the house does not know")

    def test_row_that_says_what_is_not_so(self):
        self.edit("ARCHITECTURE.md", "| `nova/rpc` | `nova/base` |", "| `nova/rpc` | `nova/base`, `api/*` |")
        self.assert_finds_only("ARCHITECTURE.md:9: `nova/rpc` may use `api/*`, and does not")
        self.edit("ARCHITECTURE.md", ", `api/*` | server |\n", " | server |\n| `nova/redis` | – | Redis |\n")
        self.assert_finds_only("ARCHITECTURE.md:10: a row for `nova/redis`, which is not there")

    def test_row_that_uses_what_stands_below_it(self):
        self.edit("ARCHITECTURE.md", "| `nova/base` | – |", "| `nova/base` | `nova/rpc` |")
        self.assert_finds_only("ARCHITECTURE.md:8: `nova/base` may use `nova/rpc`, which has no row above it")

    def test_no_table(self):
        self.edit("ARCHITECTURE.md", "## Layers", "## Strata")
        self.assert_fails("layers.py", "ARCHITECTURE.md:1: no layer table")
        (self.root / "ARCHITECTURE.md").unlink()
        self.assert_fails("layers.py", "ARCHITECTURE.md:1: no layer table")

    def test_names_that_do_not_follow_the_folder(self):
        self.edit("nova/rpc/server.h", "namespace nova::rpc {", "namespace nova::grpc {")
        self.assert_fails("layers.py", "nova/rpc/server.h:5: namespace nova::grpc in the folder of nova::rpc")
        self.write("nova/rpc/server.h", CLEAN["nova/rpc/server.h"] + "namespace nova::base {\nclass A;\n}\n")
        self.assert_finds_only("nova/rpc/server.h:10: namespace nova::base in the folder of nova::rpc")
        self.write("nova/rpc/server.h", CLEAN["nova/rpc/server.h"] + "namespace std {\nclass A;\n}\n")
        self.assert_passes("layers.py")
        self.edit("nova/base/CMakeLists.txt", "nova_test(base_test", "nova_test(result_test")
        self.assert_finds_only("nova/base/CMakeLists.txt:2: result_test is not named after its folder")

    def test_library_not_named_after_its_folder(self):
        for path in ("services/user/CMakeLists.txt", "services/user/CMakeLists.txt"):
            self.edit(path, "nova_user", "user_service")
            self.assert_finds_only(f"{path}:1: user_service is not named after its folder")
            self.write(path, CLEAN[path])

    def test_source_that_nobody_builds(self):
        self.write("nova/rpc/server_test.cc", "")
        self.assert_finds_only("nova/rpc/server_test.cc:1: no target builds this file")


class TextRulesTest(CheckerTest):
    def assert_refuses(self, path, text, *expected):
        with self.subTest(text):
            self.write(path, text)
            self.assert_fails("text_rules.py", *expected)
            (self.root / path).unlink()

    def test_clean_tree_passes(self):
        self.write("nova/postgres/connection.cc", "void F() { PQfinish(nullptr); }\n")
        self.write("nova/redis/parser.cc", "void F() { redisReaderFree(nullptr); }\n")
        self.write("nova/redis/pipeline.cc", "void F() { co_spawn(io, work); }\n")  # by exemption
        self.write("nova/runtime/scope.cc", "void F() { co_spawn(io, work); }\n")
        self.write("nova/auth/password_test.cc", "void F() { co_spawn(io, work); }\n")
        self.write("nova/base/text.cc", '// sleep_for, asio::detached and PQexec() in a comment\nauto x = "usleep";\n'
                                        "Started<Rows> sleep(work); timer.sleep(1); Sleep(call, 1s);\n")
        self.write("tools/run.sh", "sleep 1; mktemp nova.XXXXXX\n")
        self.assert_passes("text_rules.py")

    def test_what_is_refused(self):
        code = "nova/base/x.cc"
        self.assert_refuses(code, "void F() { std::this_thread::sleep_for(s); }\n", "x.cc:1:", "runtime::Sleep")
        self.assert_refuses(code, "int a;\nvoid F() { ::sleep(1); }\n", "x.cc:2:", "runtime::Sleep")
        self.assert_refuses(code, "int a;\nvoid F() { sleep(1); }\n", "x.cc:2:", "runtime::Sleep")
        self.assert_refuses("nova/base/x_test.cc", "void F() { ::usleep(2); }\n", "x_test.cc:1:", "runtime::Sleep")
        self.assert_refuses(code, "auto token = asio::detached;\n", "runtime::Scope")
        self.assert_refuses(code, "void F() { asio::co_spawn(a, b, c); }\n", "runtime::Scope")
        self.assert_refuses(code, "void F() { PQexec(c, q); }\n", "postgres::Pool")
        self.assert_refuses(code, "void F() { redisCommand(c, q); }\n", "redis::Client")
        self.assert_refuses(code, "auto s = v1::Health::NewStub(c);\n", "rpc::Client")
        self.assert_refuses(code, "auto c = grpc::CreateCustomChannel(t, k, a);\n", "rpc::Client")
        self.assert_refuses(code, "using namespace std;\n", "[using-namespace]")
        self.assert_refuses(code, "int a;  \n", "x.cc:1: white space")
        self.assert_refuses("nova/base/x.h", "// no guard\nint a;\n", "x.h:1: a header without `#pragma once`")
        for word in ("TO" "DO", "FIX" "ME", "X" "XX"):
            self.assert_refuses(code, f"int a;\n// {word}: later\n", "x.cc:2: a note that something is unfinished")
            self.assert_refuses("docs/guide.md", f"{word}\n", "guide.md:1:")
            self.assert_refuses("dev", f"# {word}\n", "dev:1:")


@unittest.skipUnless(shutil.which("clang-format-19"), "clang-format-19 is not installed")
class FormatTest(CheckerTest):
    def test_badly_formatted_file_is_named_and_mended(self):
        shutil.copy(REPOSITORY / ".clang-format", self.root)
        self.write("nova/base/x.cc", "int  a ;\n")
        self.assert_fails("format.py", "nova/base/x.cc:1:", "tools/format.py --fix")
        self.assert_passes("format.py", "--fix")
        self.assert_passes("format.py")
        self.assertEqual((self.root / "nova/base/x.cc").read_text(encoding="utf-8"), "int a;\n")


@unittest.skipUnless(shutil.which("clang++-19"), "clang++-19 is not installed")
class NegativeTest(CheckerTest):
    def setUp(self):
        super().setUp()
        model = self.root / "nova/runtime/runtime.cc"
        command = f"ccache clang++-19 -std=c++23 -Werror -Xclang -include-pch -Xclang none.pch -o runtime.o -c {model}"
        self.write("build/compile_commands.json", json.dumps([{"file": str(model), "command": command}]))

    def case(self, first_line, right, wrong):
        self.write("tests/negative/x.cc", f"{first_line}\n[[nodiscard]] int F();\nvoid G() {{\n#ifdef WRONG\n{wrong}\n"
                                          f"#else\n{right}\n#endif\n}}\n")

    def test_refused_case_passes(self):
        self.case("// must not compile: ignoring return value", "(void)F();", "F();")
        self.assert_passes("negative.py")

    def test_case_that_compiles(self):
        self.case("// must not compile: ignoring return value", "(void)F();", "(void)F();")
        self.assert_fails("negative.py", "x.cc:1: compiles, and must not", "[  FAILED  ] 1 tests.")

    def test_case_that_fails_for_another_reason(self):
        self.case("// must not compile: ignoring return value", "(void)F();", "H();")
        self.assert_fails("negative.py", "not because of 'ignoring return value'")

    def test_case_that_is_wrong_without_the_wrong_line(self):
        self.case("// must not compile: ignoring return value", "H();", "F();")
        self.assert_fails("negative.py", "does not compile even without the wrong line")

    def test_case_that_expects_nothing(self):
        self.case("// a case", "(void)F();", "F();")
        self.assert_fails("negative.py", "its first line does not say")

    def test_no_cases(self):
        self.assert_fails("negative.py")


class CountTest(unittest.TestCase):
    def test_counts_cases_not_programs(self):
        for status, output, expected in (
                ("run", "[  PASSED  ] 12 tests.\n[  SKIPPED ] 1 test, listed below:\n", (12, 0, 1)),
                ("fail", "[  PASSED  ] 2 tests.\n[  FAILED  ] 3 tests, listed below:\n", (2, 3, 0)),
                ("fail", "[  PASSED  ] 2 tests.\nERROR: LeakSanitizer: detected memory leaks\n", (2, 1, 0)),
                ("fail", "[ RUN      ] A.B\n", (0, 1, 0)),
                ("notrun", "Unable to find executable\n", (0, 1, 0)),
                ("disabled", "", (0, 0, 1)),
                ("run", "", (1, 0, 0)),
                ("run", "Ran 7 tests in 0.1s\n\nOK (skipped=2)\n", (5, 0, 2)),
                ("fail", "Ran 7 tests in 0.1s\n\nFAILED (failures=1, errors=2)\n", (4, 3, 0))):
            with self.subTest(output):
                self.assertEqual(count_tests.count(status, output), expected)

    def test_says_what_failed(self):
        gtest = ("[ RUN      ] A.B\n[       OK ] A.B (1 ms)\n[ RUN      ] P/A.C/Direct\nc.cc:7: Failure\nExpected: 1\n"
                 "[  FAILED  ] P/A.C/Direct, where GetParam() = 0 (2 ms)\n[ RUN      ] A.D\n[       OK ] A.D (1 ms)\n"
                 "[  PASSED  ] 2 tests.\n[  FAILED  ] 1 test, listed below:\n[  FAILED  ] P/A.C/Direct\n")
        unittest_output = (f"test_a (T) ... ok\ntest_b (T) ... FAIL\n\n{'=' * 70}\nFAIL: test_b (T)\n{'-' * 70}\nTraceback:\n"
                           f"AssertionError: 1 != 2\n\n{'-' * 70}\nRan 2 tests in 0.1s\n\nFAILED (failures=1)\n")
        crash = "[ RUN      ] A.B\n" + "".join(f"frame {i}\n" for i in range(100))
        for status, output, expected in (
                ("run", "[  PASSED  ] 12 tests.\n", []),
                ("fail", gtest, ["P/A.C/Direct\nc.cc:7: Failure\nExpected: 1"]),
                ("fail", unittest_output, [f"FAIL: test_b (T)\n{'-' * 70}\nTraceback:\nAssertionError: 1 != 2"]),
                ("fail", crash, ["\n".join(f"frame {i}" for i in range(60, 100))])):
            with self.subTest(output):
                self.assertEqual(count_tests.failures(status, output), expected)


class BlankTest(unittest.TestCase):
    def test_comments_and_strings_go_lines_stay(self):
        text = 'int a = 1\'000;  // x\nconst char* s = "// y";\nauto r = R"q(\n")q"; /* z\n*/ char c = \'"\';\n'
        blanked = sources.blank(text)
        self.assertEqual([len(line) for line in blanked.splitlines()], [len(line) for line in text.splitlines()])
        self.assertEqual(blanked.split(), "int a = 1'000; const char* s = ; auto r = ; char c = ;".split())
        self.assertIn('"// y"', sources.blank(text, keep_strings=True))


class DevTest(unittest.TestCase):
    def run_dev(self, *arguments, script="exec ./dev \"$@\""):
        return subprocess.run(["bash", "-c", script, "bash", *arguments], cwd=REPOSITORY, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def test_help_for_everything_and_for_each_verb(self):
        everything = self.run_dev("help").stdout
        for verb in ("up", "build", "test", "check", "bench", "secrets-manager", "help"):
            with self.subTest(verb):
                one = self.run_dev("help", verb)
                self.assertEqual((one.returncode, one.stderr), (0, ""))
                self.assertTrue(one.stdout.startswith(f"./dev {verb}"))
                self.assertIn(one.stdout, everything)
                self.assertEqual(self.run_dev(verb, "--help").stdout, one.stdout)

    def test_usage_errors_are_one_line_and_status_2(self):
        for arguments in (["bogus"], ["test", "--bogus"], ["test", "a", "b"], ["check", "--fast"], ["build", "nova"],
                          ["secrets-manager", "nonsense"]):
            with self.subTest(arguments):
                result = self.run_dev(*arguments)
                self.assertEqual((result.returncode, result.stdout), (2, ""))
                self.assertEqual(result.stderr.count("\n"), 1)

    def test_stdin_may_be_closed(self):
        result = self.run_dev(script="exec ./dev help <&-")
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_no_colours_without_a_terminal(self):
        self.assertNotIn("\x1b", self.run_dev("help").stdout)


if __name__ == "__main__":
    unittest.main()
