"""Exit with 0 if extensions of this Python can be compiled here."""

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
headers = Path(sysconfig.get_path("include")) / "Python.h"
sys.exit(not (headers.is_file() and (shutil.which(compiler) or shutil.which("cc"))))
