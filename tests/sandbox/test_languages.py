"""Proves for each language of the table: a right program, a wrong one, each limit, and what it may leave behind."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import (
    LANGUAGES,
    BadTestCase,
    EngineUnavailable,
    ImageMissing,
    LanguageMissing,
    Limits,
    Sandbox,
    TestCase,
    extract_code,
)
from sandbox.image.languages import java_names, javascript_names
from sandbox.selftest import RIGHT as ADD
from sandbox.verdict import MIB

SUM = [TestCase("stdin", f"{n} {n + 1}\n", str(2 * n + 1)) for n in range(3)]
LIMITS = Limits(time_s=1.0, wall_s=10.0, memory_bytes=128 * MIB, output_bytes=2 * MIB)

LOOP = {
    "python": "while True: pass",
    "c": "int main(void) { for (volatile int i = 0;; i++); }",
    "cpp": "int main() { for (volatile int i = 0;; i = i + 1); }",
    "javascript": "for (;;);",
    "java": "class Main { static int n; public static void main(String[] args) { while (true) n++; } }",
    "go": "package main\nvar n int\nfunc main() { for { n++ } }",
    "rust": "fn main() { let mut n = 0u64; loop { unsafe { std::ptr::write_volatile(&mut n, 1) } } }",
    "bash": "while :; do :; done",
}
HOG = {
    "python": "kept = []\nwhile True: kept.append(bytearray(b'x') * 1_000_000)",
    "c": "#include <stdlib.h>\n#include <string.h>\nint main(void) { for (;;) { char *p = malloc(1 << 20); if (!p) abort(); memset(p, 1, 1 << 20); } }",
    "cpp": "#include <vector>\nint main() { std::vector<std::vector<int>> kept; for (;;) kept.emplace_back(1 << 18, 1); }",
    "javascript": "const kept = []; for (;;) kept.push(new Float64Array(1 << 17).fill(1));",
    "java": "import java.util.*;\nclass Main { public static void main(String[] args) { List<int[]> kept = new ArrayList<>(); while (true) { int[] a = new int[1 << 18]; Arrays.fill(a, 1); kept.add(a); } } }",
    "go": "package main\nvar kept [][]byte\nfunc main() { for { b := make([]byte, 1<<20); for i := range b { b[i] = 1 }; kept = append(kept, b) } }",
    "rust": "fn main() { let mut kept = Vec::new(); loop { kept.push(vec![1u8; 1 << 20]); } }",
    "bash": "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done",
}
FLOOD = {
    "python": "while True: print('x' * 4096)",
    "c": '#include <stdio.h>\nint main(void) { for (;;) puts("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"); }',
    "cpp": '#include <iostream>\nint main() { for (;;) std::cout << "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\\n"; }',
    "javascript": "const x = 'x'.repeat(4096); for (;;) require('fs').writeSync(1, x);",
    "java": 'class Main { public static void main(String[] args) { String x = "x".repeat(4096); while (true) System.out.println(x); } }',
    "go": 'package main\nimport ("os"; "strings")\nfunc main() { x := strings.Repeat("x", 4096); for { os.Stdout.WriteString(x) } }',
    "rust": 'fn main() { let x = "x".repeat(4096); loop { println!("{}", x); } }',
    "bash": "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
}
BAD_EXIT = {
    "python": "print(1); raise SystemExit(3)",
    "c": '#include <stdio.h>\nint main(void) { puts("1"); return 3; }',
    "cpp": "#include <iostream>\nint main() { std::cout << 1 << std::endl; throw 1; }",
    "javascript": "console.log(1); throw new Error('late');",
    "java": 'class Main { public static void main(String[] args) { System.out.println(1); throw new RuntimeException("late"); } }',
    "go": 'package main\nimport "fmt"\nfunc main() { fmt.Println(1); panic("late") }',
    "rust": 'fn main() { println!("1"); panic!("late"); }',
    "bash": "echo 1; exit 3",
}


@pytest.fixture(scope="module")
def full() -> Iterator[Sandbox]:
    """All languages, in one container, so that each solution follows another into it."""
    try:
        made = Sandbox(image="stillhouse-sandbox:full", limits=LIMITS, containers=1)
    except (EngineUnavailable, ImageMissing) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{error}; deploy/sandbox_image.sh full")
    with made:
        yield made


def test_the_full_image_speaks_the_whole_table(full: Sandbox) -> None:
    assert set(full.languages()) == set(LANGUAGES) == set(ADD)
    for name in LANGUAGES:
        assert f"{name}=" in full.version()


@pytest.mark.parametrize("language", LANGUAGES)
def test_right_and_wrong_programs(full: Sandbox, language: str) -> None:
    verdict = full.judge(ADD[language], SUM, language=language)
    assert (verdict.status, verdict.passed, verdict.detail) == ("accepted", 3, "")
    assert verdict.peak_memory_bytes > 0 and verdict.tests[0].exit_code == 0
    wrong = ADD[language].replace("a + b", "a - b").replace("v[0] + v[1]", "v[0] - v[1]")
    wrong = wrong.replace("in.nextInt() + in.nextInt()", "in.nextInt() - in.nextInt()")
    assert wrong != ADD[language]
    assert full.judge(wrong, SUM, language=language).status == "wrong_answer"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_that_does_not_compile(full: Sandbox, language: str) -> None:
    verdict = full.judge("@(" + ADD[language], SUM, language=language, limits=Limits(stop_at_first_failure=False))
    assert verdict.status == "compile_error" and verdict.run == 3 and verdict.detail
    assert full.judge(ADD[language], SUM, language=language).status == "accepted"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("programs", "status"),
    [(LOOP, "time_limit"), (HOG, "memory_limit"), (FLOOD, "output_limit"), (BAD_EXIT, "runtime_error")],
    ids=["loop", "hog", "flood", "bad-exit"],
)
def test_limits(full: Sandbox, language: str, programs: dict[str, str], status: str) -> None:
    verdict = full.judge(programs[language], [TestCase("stdin", "", "1")], language=language)
    assert verdict.status == status, verdict
    assert full.judge(ADD[language], SUM, language=language).status == "accepted"


@pytest.mark.parametrize(
    ("language", "code", "given", "expected"),
    [
        ("java", "package a.b;\nimport java.util.*;\n// public class Wrong {}\ninterface Shape { int area(); }\nrecord Box(int w, int h) implements Shape { public int area() { return w * h; } }\nclass Runner { public static void main(String... args) { System.out.println(new Box(2, 3).area()); } }", "", "6"),
        ("java", "class Main { static int depth(int n) { return n == 0 ? 0 : 1 + depth(n - 1); } public static void main(String[] a) { System.out.println(depth(100000)); } }", "", "100000"),
        ("java", "class Main { public static void main(String[] a) throws Exception { Thread[] t = new Thread[20]; for (int i = 0; i < 20; i++) { t[i] = new Thread(() -> {}); t[i].start(); } for (Thread x : t) x.join(); System.out.println(\"é漢\"); } }", "", "é漢"),
        ("javascript", "import fs from 'fs';\nexport const x = 1;\nconsole.log(fs.readFileSync('/dev/stdin', 'utf8').trim());", "hi", "hi"),
        ("javascript", "const rl = require('readline').createInterface({ input: process.stdin });\nlet n = 0; rl.on('line', () => n++); rl.on('close', () => console.log(n));", "a\nb\nc", "3"),
        ("javascript", "const f = n => n === 0 ? 0 : 1 + f(n - 1); console.log(f(100000));", "", "100000"),
        ("cpp", "#include <bits/stdc++.h>\nint f(int n) { volatile char pad[64] = {}; return n ? f(n - 1) + 1 + pad[n % 64] : 0; }\nint main() { std::cout << f(1000000); }", "", "1000000"),
        ("cpp", "#include <bits/stdc++.h>\nint main() { std::vector<std::thread> t; std::atomic<int> n{0}; for (int i = 0; i < 30; i++) t.emplace_back([&] { n++; }); for (auto& x : t) x.join(); std::cout << n; }", "", "30"),
        ("cpp", "#include <cstdio>\n#include <algorithm>\n#include <ranges>\nint main() { int a[] = {3, 1, 2}; std::ranges::sort(a); for (int x : a) std::printf(\"%d \", x); }", "", "1 2 3"),
        ("c", "#include <stdio.h>\n#include <math.h>\nint main(void) { printf(\"%.3f\\n\", sqrt(2.0)); }", "", "1.414"),
        ("go", "package main\nimport (\"bufio\"; \"fmt\"; \"os\"; \"sync\")\nfunc main() { var wg sync.WaitGroup; var mu sync.Mutex; n := 0; for i := 0; i < 1000; i++ { wg.Add(1); go func() { mu.Lock(); n++; mu.Unlock(); wg.Done() }() }; wg.Wait(); w := bufio.NewWriter(os.Stdout); defer w.Flush(); fmt.Fprintln(w, n) }", "", "1000"),
        ("rust", "use std::thread;\nfn main() { let h: Vec<_> = (0..20).map(|i| thread::spawn(move || i)).collect(); let s: i32 = h.into_iter().map(|t| t.join().unwrap()).sum(); println!(\"{}\", s); }", "", "190"),
        ("bash", "while read -r line; do printf '%s\\n' \"$line\" | tr a-z A-Z | sort; done; echo $((2**40)) > /tmp/x; cat /tmp/x", "b\na\n", "B\nA\n1099511627776"),
    ],
)  # fmt: skip
def test_what_programs_of_a_language_may_do(full: Sandbox, language: str, code: str, given: str, expected: str) -> None:
    verdict = full.judge(code, [TestCase("stdin", given, expected)], language=language, limits=Limits(time_s=4))
    assert (verdict.status, verdict.detail) == ("accepted", "")


def test_a_program_cannot_change_what_was_built(full: Sandbox) -> None:
    code = """
#include <bits/stdc++.h>
#include <unistd.h>
#include <sys/stat.h>
int main() {
    for (auto path : {"/build/solution", "/build/solution.cpp"}) {
        if (!chmod(path, 0777) || !unlink(path) || fopen(path, "r+")) std::puts("changed");
    }
    if (fopen("/build/new", "w") || !mkdir("/build/folder", 0777) || !chmod("/build", 0777)) std::puts("written");
    if (fopen("/work/seen", "r")) std::puts("kept");
    fclose(fopen("/work/seen", "w"));
}
"""
    assert full.judge(code, [TestCase("stdin", "", "")] * 3, language="cpp").status == "accepted"


def test_the_next_solution_finds_nothing_that_was_built(full: Sandbox) -> None:
    assert full.judge(ADD["java"], SUM, language="java").status == "accepted"
    look = "import os\nprint(os.listdir('/build') if os.access('/build', os.R_OK) else 'closed')"
    assert full.judge(look, [TestCase("stdin", "", "[]")]).status == "accepted"


def test_the_core_image_names_the_full_one(sandbox: Sandbox) -> None:
    assert sandbox.judge(ADD["c"], SUM, language="c").status == "accepted"
    with pytest.raises(LanguageMissing, match=r"bash, c, cpp, python, not rust; build the full one"):
        sandbox.judge(ADD["rust"], SUM, language="rust")
    with pytest.raises(ValueError, match="language must be one of python"):
        sandbox.judge("x", SUM, language="cobol")


def test_calls_and_asserts_are_for_python(sandbox: Sandbox) -> None:
    with pytest.raises(BadTestCase, match="a c program is judged by stdin tests"):
        sandbox.judge(ADD["c"], [TestCase("call", "[1]", "1")], language="c", entry_point="f")


@pytest.mark.parametrize(
    ("code", "source", "main"),
    [
        ("public class A { public static void main(String[] a) {} }", "A.java", "A"),
        ("class B {} class C { static void main() {} public static void main(String[] a) {} }", "Main.java", "C"),
        ("package x.y; class D { static final void main(String[] a) {} }", "Main.java", "x.y.D"),
        ("/* public class No {} */ // class Nor\nclass E { String s = \"class F {\"; public static void main(String[] a) {} }", "Main.java", "E"),
        ("class Helper { } public final class G { public static void main(String[] a) { } class Inner { } }", "G.java", "G"),
        ("no java at all", "Main.java", "Main"),
    ],
)  # fmt: skip
def test_java_names(code: str, source: str, main: str) -> None:
    assert java_names(code) == (source, main)


@pytest.mark.parametrize("text", ["/*", "//", '"\\', '"a', "\n", "public ", " ", "class A ", "static void main("])
def test_names_are_read_in_linear_time(text: str) -> None:
    code = text * (4_000_000 // len(text))  # quadratic, one of these would run into the suite's time limit
    java_names(code)
    javascript_names(code)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_is_found_in_an_answer(language: str) -> None:
    for tag in LANGUAGES[language].tags:
        answer = f"```text\nno\n```\nSo:\n```{tag.upper()}\n{ADD[language]}\n```\nIt prints the sum."
        assert (extract_code(answer, language) or "").strip() == ADD[language]


def test_an_image_script_that_knows_its_variants() -> None:
    script = Path(__file__).parents[2] / "deploy" / "sandbox_image.sh"
    done = subprocess.run([script, "fuller"], capture_output=True, text=True)
    assert done.returncode == 2 and "expected core or full, got fuller" in done.stderr
