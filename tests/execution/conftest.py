"""Targets for tasks live in a module of their own, importable by the task server through `sys.path`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TARGETS = '''
import gc, os, signal, subprocess, sys, time
from pathlib import Path

LOADED_IN = os.getpid()

def touch(path):
    Path(path).touch()

def append(path, text):
    with open(path, "a") as handle:
        handle.write(text + "\\n")

def exit_code(code):
    return code

def leave(code):
    raise SystemExit(code)

def fail(text):
    raise ValueError(text)

def complain(what, why="why"):
    from plm_scaling.core.errors import CorpusError
    raise CorpusError(what, where="a.fasta:3", why=why, hint="hint")

def complain_specially(name):
    from plm_scaling.core.errors import CheckpointError
    def init(self, number):
        CheckpointError.__init__(self, f"number {number}")
    raise type(name, (CheckpointError,), {"__init__": init})(7)

def interrupt():
    raise KeyboardInterrupt

def shout(size):
    raise RuntimeError("\\u00e9" * size)

def killed(number):
    os.kill(os.getpid(), number)
    time.sleep(60)

def killed_twice(path):
    append(path, "start")
    if len(Path(path).read_text().split()) < 3:
        killed(signal.SIGKILL)

def meet(folder, name, others):
    """Succeeds only if the named others run at the same time."""
    Path(folder, name).touch()
    end = time.monotonic() + 30
    while not all(Path(folder, other).exists() for other in others):
        if time.monotonic() > end:
            raise TimeoutError(name)
        time.sleep(0.005)

def sleep_for_ever(path, stubborn=False):
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path + ".tmp").write_text(str(os.getpid()))
    os.rename(path + ".tmp", path)
    while True:
        time.sleep(60)

def polite(path):
    def leave(number, frame):
        Path(path + ".left").touch()
        sys.exit(3)
    signal.signal(signal.SIGTERM, leave)
    sleep_for_ever(path)

def stop_with(path, code):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(code))
    sleep_for_ever(path)

def terminate_job(path):
    server = os.getppid()
    caller = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    def leave(number, frame):
        Path(path + ".left").touch()
        sys.exit(3)
    signal.signal(signal.SIGTERM, leave)
    os.kill(caller, signal.SIGTERM)
    time.sleep(60)

def with_helper(path):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(path).write_text(str(helper.pid))
    os.kill(os.getpid(), signal.SIGKILL)

def facts(path):
    import json
    Path(path).write_text(json.dumps({
        "loaded_in": LOADED_IN, "pid": os.getpid(), "omp": os.environ["OMP_NUM_THREADS"],
        "stdin": sys.stdin.read(), "main": sys.modules["__main__"].__dict__.get("__file__"),
        "frozen": gc.get_freeze_count(),
    }))
    print("text on stdout")

def kill_server():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
'''


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of the module of test targets."""
    folder: Path = tmp_path_factory.mktemp("targets")
    (folder / "pool_targets.py").write_text(TARGETS)
    sys.path.append(str(folder))
    return "pool_targets"
