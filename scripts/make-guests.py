#!/usr/bin/env python3
"""Makes whole guests for the fuzzing target of modules: binaryen's generator (wasm-opt --translate-to-fuzz) writes functions that call every import.

    scripts/make-guests.py COUNT FOLDER [FIRST_SEED]      needs wasm-opt, wasm-as and wasm-dis (Debian's package binaryen)

The same seed gives the same guest with the same version of binaryen. The imports are read from src/abi/imports.c.
"""

import os
import random
import re
import subprocess
import sys
import tempfile

LOGS = {"log-i32": "i32", "log-i64": "i64", "log-f32": "f32", "log-f64": "f64", "log-v128": "v128"}


def imports():
    """Name, number of parameters, type of the result."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "..", "src", "abi", "imports.c"), encoding="utf-8") as file:
        table = re.findall(r'^    \{"(\w+)", (\d+), (true|false), \w+\},$', file.read(), re.MULTILINE)
    return [(name, int(count), "i64" if wide == "true" else "i32") for name, count, wide in table]


def skeleton(table):
    """What the generator begins with: it writes other functions, and other bodies for these."""
    lines = ["(module"]
    for name, count, result in table:
        params = f" (param{' i32' * count})" if count else ""
        lines.append(f'(import "samepage" "{name}" (func ${name}{params} (result {result})))')
    lines.append(
        """(memory (export "memory") 2 64) (global $g (mut i32) (i32.const 1024))
        (func $step (export "sp_step") (result i32) (drop (call $region_open (i32.const 65536) (i32.const 65536))) (i32.const 1))
        (func $resumed (export "sp_resumed") (param i64 i32) (drop (call $last_error (i32.const 0) (i32.const 64)))))"""
    )
    return "\n".join(lines)


def end_of(text, at):
    """Behind the expression that begins at `at`; strings may hold parentheses."""
    depth = 0
    for match in re.compile(r'"(?:[^"\\]|\\.)*"|[()]').finditer(text, at):
        depth += {"(": 1, ")": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end()
    raise ValueError("unbalanced")


def call_all(text):
    """A step calls every function that the generator exports."""
    body = ""
    for name in re.findall(r'\(export "func\w*" \(func (\$\w+)\)\)', text):
        head = re.search(r"\(func %s((?: \(param [^)]*\))*)(?: \(result (.*)\))?\n" % re.escape(name), text)
        arguments = " ".join(f"({kind}.const {7 * i + 1})" for i, kind in enumerate(re.findall(r"\(param \S+ (\w+)\)", head.group(1))))
        call = f"(call {name} {arguments})"
        if "v128" not in head.group(1):
            body += f"(drop {call})\n" if head.group(2) else f"{call}\n"
    at = re.search(r"\(func \$step \(result i32\)\n", text).start()
    return text[:at] + f"(func $step (result i32)\n{body}(i32.const 1))" + text[end_of(text, at) :]


def mend(text, table):
    """The generator gives imports bodies, and has some of its own: the other way round."""
    for name, count, result in table:
        match = re.search(r"\(func \$%s[ \n]" % name, text)
        if match:
            text = text[: match.start()] + text[end_of(text, match.start()) :]
            params = f" (param{' i32' * count})" if count else ""
            line = f'(import "samepage" "{name}" (func ${name}{params} (result {result})))'
            text = text.replace("(module", "(module\n" + line, 1)
    for name, kind in LOGS.items():
        pattern = r'\(import "fuzzing-support" "%s" \(func (\$\S+) \(param %s\)\)\)' % (name, kind)
        match = re.search(pattern, text)
        if match:
            text = re.sub(pattern, "", text)
            text = text[: text.rindex(")")] + f"(func {match.group(1)} (param {kind})))"
    text = call_all(text)
    # It stops after ten calls and rounds of loops.
    return text.replace("(global $hangLimit (mut i32) (i32.const 10))", "(global $hangLimit (mut i32) (i32.const 1000))")


def make(seed, start, out, table, folder):
    noise = os.path.join(folder, "noise")
    with open(noise, "wb") as file:
        file.write(random.Random(seed).randbytes(1000 + seed * 977 % 9000))
    raw = os.path.join(folder, "raw.wasm")
    features = ["--disable-tail-call", "--disable-exception-handling", "--disable-threads", "--disable-gc", "--disable-reference-types"]
    subprocess.run(["wasm-opt", noise, "-ttf", "-g", f"--initial-fuzz={start}", *features, "-o", raw], check=True, capture_output=True, text=True)
    text = subprocess.run(["wasm-dis", raw], check=True, capture_output=True, text=True).stdout
    wat = os.path.join(folder, "mended.wat")
    with open(wat, "w", encoding="utf-8") as file:
        file.write(mend(text, table))
    subprocess.run(["wasm-as", "--enable-simd", "--enable-bulk-memory", wat, "-o", out], check=True, capture_output=True, text=True)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    count, out, first = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1
    table = imports()
    os.makedirs(out, exist_ok=True)
    made = 0
    with tempfile.TemporaryDirectory() as folder:
        start = os.path.join(folder, "start.wasm")
        with open(os.path.join(folder, "start.wat"), "w", encoding="utf-8") as file:
            file.write(skeleton(table))
        subprocess.run(["wasm-as", "-g", os.path.join(folder, "start.wat"), "-o", start], check=True)
        for seed in range(first, first + count):
            try:
                make(seed, start, os.path.join(out, f"guest-{seed}"), table, folder)
                made += 1
            except subprocess.CalledProcessError as error:  # now and then it writes what its own assembler refuses
                print(f"seed {seed}: {(error.stderr or '').splitlines()[:1]}", file=sys.stderr)
    print(f"{made} guests of {count}")


if __name__ == "__main__":
    main()
