"""The languages: how each is compiled and run. To add one, add an entry here and its package to the image.

Both sides read this table: the host to know what to ask of a container, and the image, while it is built
(`python3 -m sandbox.image.languages FILE`), to prepare what can be prepared and to note which of them it can
speak, in which version. A command is a tuple of arguments, never a line for a shell; the words in braces are filled
in for each solution: {source}, its file; {main}, the class to run, where a language needs one; {memory_mb}, its memory
limit. Sources and what is compiled from them lie in /build, where a running program can change nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
BUILD = "/build"
PROGRAM = f"{BUILD}/solution"
PREPARED = "/opt/stillhouse/prepared"
_JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto")
_CPP = ("g++", "-O2", "-std=gnu++20", "-pipe")


@dataclass(frozen=True)
class Language:
    """One language. `tags` are the names that a fenced block may bear; an empty `compile` means nothing to do."""

    tags: tuple[str, ...]
    source: str | Callable[[str], tuple[str, str]]
    """Name of the source file; or a function of the program that gives (source, main)."""
    version: tuple[str, ...]
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    """Run once, when the image is built, with {prepared} as a folder to fill."""
    runtime_mb: int = 0
    """Memory that the runtime takes for itself, allowed beyond the program's limit."""
    out_of_memory: str = ""
    """What the runtime says on stderr when memory is refused to a program."""
    environment: dict[str, str] = field(default_factory=dict)


def javascript_names(code: str) -> tuple[str, str]:
    """Node takes `import` and `export` only in a file that ends in .mjs."""
    module = re.search(r"^[ \t]*(import\s*['\"{*\w]|export\s)", code, re.MULTILINE) and "require(" not in code
    return ("solution.mjs" if module else "solution.js"), ""


def java_names(code: str) -> tuple[str, str]:
    """A public class must lie in a file of its name; the class to run is the one that holds main."""
    # Each part always matches, closed or not: a scan that fails would begin anew at every sign of 10 MB.
    plain = re.sub(r'//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*+"?', " ", code, flags=re.DOTALL)
    plain = plain.encode("ascii", "replace").decode()  # \w is ASCII then: the name becomes a file's name
    public = re.search(
        r"\bpublic\s+(?:(?:final|abstract|strictfp|sealed)\s+)*(?:class|record|enum|interface)\s+(\w+)", plain
    )
    main = re.search(r"\bstatic\s+(?:final\s+)?void\s+main\s*\(", plain)
    before = re.findall(r"\b(?:class|record|enum|interface)\s+(\w+)", plain[: main.start()]) if main else []
    source = public[1] if public else "Main"
    holder = source if public and source in before else (before[-1] if before else source)
    package = re.search(r"^[ \t]*package\s+([\w.]+)\s*;", plain, re.MULTILINE)
    return f"{source[:200]}.java", (f"{package[1]}." if package else "") + holder


LANGUAGES: dict[str, Language] = {
    "python": Language(  # run by the warm interpreter (zygote.py), not by this command
        tags=("python", "py", "python3", "python2", "py3", "pypy", "pypy3"),
        source="solution.py",
        version=("python3", "--version"),
        run=("python3", "{source}"),
    ),
    "c": Language(
        tags=("c", "c99", "c11", "c17"),
        source="solution.c",
        version=("gcc", "--version"),
        compile=("gcc", "-O2", "-std=gnu17", "-pipe", "-o", PROGRAM, "{source}", "-lm", "-pthread"),
        run=(PROGRAM,),
    ),
    "cpp": Language(
        tags=("cpp", "c++", "cc", "cxx", "c++11", "c++14", "c++17", "c++20", "cpp11", "cpp14", "cpp17", "cpp20"),
        source="solution.cpp",
        version=("g++", "--version"),
        compile=(*_CPP, f"-I{PREPARED}", "-o", PROGRAM, "{source}", "-pthread"),
        run=(PROGRAM,),
        # Precompiled, this header takes 0.2 s instead of 1.0 s; it counts only with the same options.
        prepare=("sh", "-c", f"mkdir -p {{prepared}}/bits && {' '.join(_CPP)} -pthread -x c++-header "
                 '"$(find /usr/include -path "*/bits/stdc++.h" | head -1)" -o {prepared}/bits/stdc++.h.gch'),
        out_of_memory="std::bad_alloc",
    ),
    "javascript": Language(
        tags=("javascript", "js", "node", "nodejs", "mjs"),
        source=javascript_names,
        version=("node", "--version"),
        compile=("node", "--check", "{source}"),
        run=("node", "--stack-size=65500", "--max-old-space-size={memory_mb}", "{source}"),
        runtime_mb=96,
        out_of_memory="JavaScript heap out of memory",
    ),
    "java": Language(
        tags=("java",),
        source=java_names,
        version=("java", "-version"),
        compile=("javac", *(f"-J{option}" for option in _JVM), "-J-XX:TieredStopAtLevel=1", "-J-Xmx512m", "-J-Xss16m",
                 "-encoding", "UTF-8", "-proc:none", "-nowarn", "-d", BUILD, "{source}"),
        run=("java", *_JVM, "-Xmx{memory_mb}m", "-Xss256m", "-Dfile.encoding=UTF-8", "-cp", BUILD, "{main}"),
        runtime_mb=192,
        out_of_memory="java.lang.OutOfMemoryError",
    ),
    "go": Language(
        tags=("go", "golang"),
        source="solution.go",
        version=("go", "version"),
        compile=("go", "build", "-o", PROGRAM, "{source}"),
        run=(PROGRAM,),
        runtime_mb=32,
        out_of_memory="runtime: out of memory",
        environment={"GOCACHE": "/tmp/go", "GOPATH": "/tmp/gopath", "GO111MODULE": "off", "CGO_ENABLED": "0",
                     "GOMAXPROCS": "2"},
    ),
    "rust": Language(
        tags=("rust", "rs"),
        source="solution.rs",
        version=("rustc", "--version"),
        compile=("rustc", "--edition", "2021", "-O", "--cap-lints", "allow", "-o", PROGRAM, "{source}"),
        run=(PROGRAM,),
        out_of_memory="memory allocation of",
    ),
    "bash": Language(
        tags=("bash", "sh", "shell"),
        source="solution.sh",
        version=("bash", "--version"),
        compile=("bash", "-n", "{source}"),
        run=("bash", "{source}"),
        out_of_memory="cannot allocate",
    ),
}  # fmt: skip


def language_named(name: str) -> str | None:
    """The language that goes by this name or tag (C++, golang, py, …), or None."""
    name = name.strip().lower()
    return next((key for key, language in LANGUAGES.items() if name in language.tags), None)


@dataclass(frozen=True)
class Commands:
    """What is asked of a container for one program."""

    source: str
    compile: list[str]
    run: list[str]
    environment: dict[str, str]


def commands(language: Language, code: str, memory_bytes: int) -> Commands:
    """The table's commands with the words in braces filled in."""
    source, main = (language.source, "") if isinstance(language.source, str) else language.source(code)
    words = {"source": f"{BUILD}/{source}", "main": main, "memory_mb": str(memory_bytes // MIB)}
    compile_, run = ([part.format(**words) for part in command] for command in (language.compile, language.run))
    return Commands(source, compile_, run, language.environment)


def spoken() -> dict[str, str]:
    """The languages of this image, with their versions. Runs inside the image."""
    found = {}
    for name, language in LANGUAGES.items():
        if shutil.which((language.compile or language.run)[0]) and shutil.which(language.version[0]):
            done = subprocess.run(language.version, capture_output=True, text=True, check=True)
            number = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
            found[name] = number[0] if number else "?"
    return found


def prepare(file: str) -> None:
    """Fill PREPARED, and note in `file` which languages this image speaks. Runs once, as the image is built."""
    versions = spoken()
    for name in versions:
        words = [part.format(prepared=PREPARED) for part in LANGUAGES[name].prepare]
        if words:
            subprocess.run(words, check=True)
    Path(file).write_text(json.dumps(versions))


if __name__ == "__main__":
    prepare(sys.argv[1])
