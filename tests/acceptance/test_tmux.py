"""start_tmux.sh in a real tmux, with a server of the test's own."""

import os
import pty
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "inpaint_eacps" / "start_tmux.sh"
KEY = "AIzaNoKeyAtAll-0123456789_0123456789"
TASK = "71651078"

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="there is no tmux (apt-get install tmux)")


class Tmux:
    """A tmux server for one test, whose environment was set before anybody spoke of keys."""

    def __init__(self, folder: Path, sockets: str) -> None:
        self.folder = folder
        dropped = ("INPAINT_EACPS", "GEMINI", "GOOGLE", "TMUX", "SESSION")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.env |= {"TMUX_TMPDIR": sockets, "SHELL": "/bin/bash", "TERM": "xterm", "LANG": "C.UTF-8"}
        self("new-session", "-d", "-s", "bystander", "sleep 600")

    def __call__(self, *words: str) -> str:
        return subprocess.run(
            ["tmux", *words], env=self.env, capture_output=True, text=True, check=True, timeout=20
        ).stdout

    def start(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        more = {
            "TASKS": str(ROOT / "examples/project-label.json"),
            "RUN_ARGS": "--judge local --k-global 2 --m-global 1",
        }
        return subprocess.run(
            [str(SCRIPT), *words],
            cwd=self.folder,
            env={**self.env, **more, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def shown(self, window: str) -> str:
        """What a window shows, with all that has scrolled away; lines that were broken are whole."""
        return self("capture-pane", "-p", "-J", "-S", "-", "-t", f"=inpaint-eacps:{window}")

    def until(self, true: Callable[[], bool], timeout: float = 90) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            windows = {name: self.shown(name) for name in ("pipeline", "gpus", "logs")}
            assert time.monotonic() < deadline, windows
            time.sleep(0.2)


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="tmux") as sockets:
        made = Tmux(tmp_path, sockets)
        yield made
        made("kill-server")


def command_lines() -> str:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@pytest.mark.valkey
@pytest.mark.slow
def test_a_run_in_three_windows_goes_on_when_its_watcher_leaves(tmux: Tmux) -> None:
    done = tmux.start(TASK, KEY)
    assert done.returncode == 0, done.stderr
    assert "tmux attach -t inpaint-eacps" in done.stdout
    windows = tmux("list-windows", "-t", "=inpaint-eacps", "-F", "#{window_name} #{window_active}").splitlines()
    assert windows == ["pipeline 1", "gpus 0", "logs 0"]

    watcher, terminal = pty.fork()
    if watcher == 0:
        os.execvpe("tmux", ["tmux", "attach", "-t", "inpaint-eacps"], tmux.env)
    tmux.until(lambda: "inpaint-eacps" in tmux("list-clients", "-F", "#{session_name}"))
    tmux.until(lambda: any(word in tmux.shown("gpus") for word in ("device.", "MiB")))
    # The terminal goes away, as when a connection breaks.
    os.kill(watcher, signal.SIGHUP)
    os.close(terminal)
    os.waitpid(watcher, 0)
    tmux.until(lambda: tmux("list-clients") == "")

    assert KEY not in command_lines()
    assert f"GEMINI_API_KEY={KEY}" in tmux("show-environment", "-t", "=inpaint-eacps")
    assert KEY not in tmux("show-environment", "-t", "=bystander")
    tmux.until(lambda: '"action": "candidate_scored"' in tmux.shown("logs"))
    tmux.until(lambda: "The run ended with exit code 0." in tmux.shown("pipeline"))
    assert (tmux.folder / f"outputs/inpaint_eacps/task_{TASK}/result.png").is_file()
    for window in ("pipeline", "gpus", "logs"):
        assert KEY not in tmux.shown(window)


@pytest.mark.valkey
@pytest.mark.slow
def test_the_key_comes_from_the_environment_and_a_second_session_is_refused(tmux: Tmux) -> None:
    odd = 'it\'s "$HOME" ; `x` \\ #{pane_id}'
    done = tmux.start(TASK, "71651079", GEMINI_API_KEY=KEY, INPAINT_EACPS_ODD=odd)
    assert done.returncode == 0, done.stderr
    told = tmux("show-environment", "-t", "=inpaint-eacps").splitlines()
    assert f"GEMINI_API_KEY={KEY}" in told
    assert f"INPAINT_EACPS_ODD={odd}" in told
    again = tmux.start(TASK)
    assert again.returncode == 2
    assert "SESSION=" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Usage: start_tmux.sh"),
        (("--help",), "Usage: start_tmux.sh"),
        (("../secret",), "no task id"),
        (("71651078; reboot",), "no task id"),
        ((TASK, "$(reboot)"), "no task id"),
    ],
)
def test_it_starts_nothing_it_was_not_asked_for(tmux: Tmux, words: tuple[str, ...], message: str) -> None:
    done = tmux.start(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert tmux("list-sessions", "-F", "#{session_name}") == "bystander\n"
