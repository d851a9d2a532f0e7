#!/usr/bin/env python3
"""Checks that every C++ file is formatted by clang-format 19 and .clang-format; --fix formats them."""

import concurrent.futures
import os
import shutil
import subprocess
import sys

import sources

CLANG_FORMAT = "clang-format-19"
# Files per process: enough that starting it costs nothing, few enough that every core has work.
BATCH = 8


def main():
    parser = sources.arguments(__doc__)
    parser.add_argument("--fix", action="store_true", help="rewrite the files instead of complaining")
    options = parser.parse_args()
    if not shutil.which(CLANG_FORMAT):
        print(f"{CLANG_FORMAT} is not installed; ./dev build installs it", file=sys.stderr)
        return 3

    paths = [path for path in sources.files(options.root) if path.suffix in sources.CPP_SUFFIXES]
    mode = ["-i"] if options.fix else ["--dry-run", "-Werror"]

    def run(batch):
        return subprocess.run([CLANG_FORMAT, *mode, *batch], cwd=options.root, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(run, (paths[i:i + BATCH] for i in range(0, len(paths), BATCH))))
    for result in results:
        print(result.stdout, end="")
    if any(result.returncode for result in results):
        print("remedy: tools/format.py --fix")
        return 1
    print(f"{len(paths)} files are formatted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
