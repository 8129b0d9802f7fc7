from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from plm_scaling.training.slots import take_device

HOLD = "import sys, pathlib; from plm_scaling.training.slots import take_device\n\
print(take_device(['a', 'b'], pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"


def test_processes_spread_over_the_devices_and_give_them_back_when_they_end(tmp_path: Path) -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    taken = [int(process.stdout.readline()) for process in others if process.stdout]
    assert sorted(taken) in ([0, 0, 1], [0, 1, 1])  # two on one of them, for there are three
    ended = others[taken.index(1)]
    for process in others:
        if taken[others.index(process)] == 1:
            process.kill()
            process.communicate()
    assert ended.returncode == -9
    assert take_device(["a", "b"], tmp_path) == 1  # as good as free: its holder was killed
    for process in others:
        process.kill()
        process.communicate()


def test_one_device_is_shared(tmp_path: Path) -> None:
    assert [take_device(["only"], tmp_path) for _ in range(3)] == [0, 0, 0]
