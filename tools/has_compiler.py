"""Exit with 0 if extensions of this Python can be compiled here, which a small one shows."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
headers = sysconfig.get_path("include")
with TemporaryDirectory() as folder:
    source = Path(folder) / "probe.c"
    source.write_text("#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n")
    command = [*compiler, "-fPIC", "-I", headers, "-c", str(source), "-o", f"{source}.o"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        sys.exit(1)
    sys.exit(done.returncode)
