"""A process of ``multiprocessing`` does not outlive its parent."""

import subprocess
import sys

import pytest

PARENT = """
import multiprocessing, signal
from lcl_core.common.processes import exit_with_parent

def wait():
    exit_with_parent()
    print("started", flush=True)
    signal.pause()

if __name__ == "__main__":
    multiprocessing.get_context(CONTEXT).Process(target=wait).start()
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_process_ends_when_its_parent_is_killed(tmp_path, context):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.replace("CONTEXT", repr(context)), encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        parent.kill()
        assert parent.stdout.read() == "", "the pipe is closed when the last process that has it open has ended"
