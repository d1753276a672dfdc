"""The extensions; everything else stands in pyproject.toml.

Switches, read from the environment:
    FASTPERSIST_NO_EXTENSIONS  build without the compiled modules, on purpose
    FASTPERSIST_DEBUG          -O0 and assertions
    FASTPERSIST_SANITIZE       AddressSanitizer and UndefinedBehaviorSanitizer
    FASTPERSIST_TRACE          line tracing, for coverage
    FASTPERSIST_ANNOTATE       an HTML page for each module that shows what is compiled
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError

FAMILIES = ("keys", "idcache", "codec", "bson", "columns")


def is_on(switch: str) -> bool:
    return os.environ.get(switch, "").strip().lower() in ("1", "true", "yes", "on")


def say(*lines: str) -> None:
    width = max(map(len, lines))
    for line in ("*" * width, *lines, "*" * width):
        print(line, file=sys.stderr)


class BuildOrExplain(build_ext):
    """Compiles, or says what is missing."""

    def run(self) -> None:
        # Timestamps do not show that a switch has changed since the last build.
        self.force = True
        try:
            super().run()
        except (CCompilerError, CompileError, ExecError, PlatformError, OSError):
            say(
                "fastpersist: the compiled modules could not be built.",
                "A C compiler and the headers of this Python are needed:",
                "  Debian, Ubuntu:  apt-get install gcc python3-dev",
                "  Fedora:          dnf install gcc python3-devel",
                "  macOS:           xcode-select --install",
                "  Windows:         the C++ build tools of Visual Studio",
                "Or build without them, correct but slower:",
                "  FASTPERSIST_NO_EXTENSIONS=1 pip install ...",
            )
            raise


def extensions() -> list[Extension]:
    if is_on("FASTPERSIST_NO_EXTENSIONS"):
        say("fastpersist: building WITHOUT the compiled modules (FASTPERSIST_NO_EXTENSIONS)")
        return []
    from Cython.Build import cythonize

    compile_flags, link_flags = [], []
    if is_on("FASTPERSIST_DEBUG"):
        compile_flags += ["-O0", "-UNDEBUG", "-g"]
    elif sys.platform != "win32":
        compile_flags += ["-O3"]
    if is_on("FASTPERSIST_SANITIZE"):
        sanitizers = "-fsanitize=address,undefined"
        compile_flags += [sanitizers, "-fno-omit-frame-pointer", "-g"]
        link_flags += [sanitizers]
    trace = is_on("FASTPERSIST_TRACE")
    kind = "traced" if trace else "debug" if is_on("FASTPERSIST_DEBUG") else "release"
    if is_on("FASTPERSIST_SANITIZE"):
        kind += "-sanitized"
    say(f"fastpersist: building the compiled modules ({kind})")
    modules = [
        Extension(
            f"fastpersist.hot._{family}_c",
            [f"src/fastpersist/hot/_{family}_c.pyx"],
            # Brings the source into the sdist, where cythonize has put the C in its place.
            depends=[f"src/fastpersist/hot/_{family}_c.pyx"],
            extra_compile_args=compile_flags,
            extra_link_args=link_flags,
            define_macros=[("CYTHON_TRACE_NOGIL", "1")] if trace else [],
        )
        for family in FAMILIES
    ]
    built = cythonize(
        modules,
        build_dir=str(Path("build") / f"cython-{kind}"),
        annotate=is_on("FASTPERSIST_ANNOTATE"),
        compiler_directives={
            "language_level": "3",
            "embedsignature": True,
            "emit_code_comments": True,
            "linetrace": trace,
        },
    )
    return list(built)


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildOrExplain})
