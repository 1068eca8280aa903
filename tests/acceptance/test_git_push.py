"""`--git-push`: results reach a remote, and a remote that is away fails nothing."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPORT = ROOT / "examples" / "project-label.json"


def git(folder: Path, *words: str) -> str:
    env = {**os.environ, "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org"}
    env |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org"}
    return subprocess.run(["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True).stdout


def inpaint(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "inpaint_eacps", "run", "--tasks", str(EXPORT), "--task-id", "71651078"]
    argv += ["--k-global", "1", "--m-global", "1", "--k-local", "1", "--workers", "1", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org"}
    env |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org"}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=150, check=False)


def test_results_are_pushed_and_the_checkout_stays_as_it_was(tmp_path: Path) -> None:
    git(tmp_path, "init", "--bare", "-b", "main", "remote.git")
    git(tmp_path, "init", "-b", "main", "work")
    work = tmp_path / "work"
    git(work, "commit", "--allow-empty", "-m", "first")
    git(work, "remote", "add", "origin", "../remote.git")
    git(work, "push", "origin", "main")

    done = inpaint(work, "--git-push", "--output-dir", str(tmp_path / "out"))

    assert done.returncode == 0, done.stderr
    assert "1 tasks pushed" in done.stderr
    remote = tmp_path / "remote.git"
    assert "Inpaint EACPS result: task 71651078 (Eileen Collins)" in git(remote, "log", "-1", "--format=%s", "main")
    assert "outputs/inpaint_eacps/task_71651078/result.png" in git(remote, "ls-tree", "-r", "--name-only", "main")
    assert git(work, "log", "--format=%s") == "first\n"

    git(work, "remote", "set-url", "origin", "../nowhere.git")
    again = inpaint(work, "--git-push", "--force", "--output-dir", str(tmp_path / "out"))
    assert again.returncode == 0, again.stderr
    assert "Not pushed" in again.stderr
