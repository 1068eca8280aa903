"""Commit the results of finished tasks to a git branch and push it, without touching anybody's checkout.

Each commit is made in a work tree and an index of its own, on top of what the remote has at that moment, so that there
is nothing to merge: a push that lost a race is simply made again. One lock per repository keeps publishers in a row.
git never asks anything, and a failure is a value that says why; it is never raised.
"""

import contextlib
import fcntl
import logging
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.publish import METRICS, PREVIEW, REPORT, RESULT
from shared.artifacts import ArtifactStore, task_folder
from shared.errors import InpaintError
from shared.outcome import TaskOutcome, TaskState
from shared.settings.publish import PublishSettings

logger = logging.getLogger(__name__)

_PUSHES = 6
_GIVE_UP_AFTER = 3
_PUBLISHED = re.compile(
    rf"(init|mask|character)\.png|{re.escape(RESULT)}|{re.escape(METRICS)}|{re.escape(REPORT)}|{re.escape(PREVIEW)}"
    r"|candidate_[0-9]+_seed[0-9]+\.png"
)
_CANDIDATE = re.compile(r"candidates/[^/]+\.(png|json)")
_LOST_RACE = ("[rejected]", "non-fast-forward", "fetch first", "cannot lock ref", "failed to update ref")
_DECLINED = ("hook declined", "protected branch", "prohibited")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class GitPublication:
    """What became of one task's commit. `message` is a sentence for people."""

    task_id: str
    state: Literal["pushed", "unchanged", "failed"]
    message: str
    commit: str | None = None


class _GitError(Exception):
    """git did not do what it should; the message is a sentence without credentials."""


class _LostRace(_GitError):
    """The branch moved between fetch and push."""


class GitPublisher:
    """Publishes tasks one after the other. Any number may exist, also in other processes: they wait for each other."""

    def __init__(self, settings: PublishSettings, store: ArtifactStore) -> None:
        self._settings = settings
        self._store = store
        self._failures = 0

    def publish(self, outcome: TaskOutcome) -> GitPublication:
        """Commit and push one finished task's files.

        After three failures in a row nothing is tried any more: a remote that is down must not hold up a long run.
        """
        if self._failures >= _GIVE_UP_AFTER:
            return self._report(
                outcome, "failed", f"Task {outcome.task_id} was not pushed: the last {self._failures} pushes failed."
            )
        try:
            commit = self._publish(outcome)
        except (_GitError, InpaintError, OSError) as error:
            self._failures += 1
            return self._report(outcome, "failed", f"Task {outcome.task_id} was not pushed: {error}")
        self._failures = 0
        where = f"{self._settings.git_remote}/{self._settings.git_branch}"
        if commit is None:
            return self._report(outcome, "unchanged", f"Task {outcome.task_id} is on {where} already.")
        return self._report(outcome, "pushed", f"Task {outcome.task_id} was pushed to {where}.", commit)

    def retry(self, outcomes: Sequence[TaskOutcome]) -> tuple[GitPublication, ...]:
        """Try again what failed before, say at the end of a run; stops at the first failure."""
        self._failures = 0
        tried: list[GitPublication] = []
        for outcome in outcomes:
            tried.append(self.publish(outcome))
            if tried[-1].state == "failed":
                self._failures = _GIVE_UP_AFTER
        return tuple(tried)

    def _report(
        self,
        outcome: TaskOutcome,
        state: Literal["pushed", "unchanged", "failed"],
        message: str,
        commit: str | None = None,
    ) -> GitPublication:
        level = logging.WARNING if state == "failed" else logging.INFO
        logger.log(level, "%s", message, extra={"action": f"git_{state}", "task": outcome.task_id, "commit": commit})
        return GitPublication(outcome.task_id, state, message, commit)

    def _publish(self, outcome: TaskOutcome) -> str | None:
        folder = (self._settings.git_repository or Path.cwd()).absolute()
        with tempfile.TemporaryDirectory(prefix="inpaint-eacps-git-") as scratch:
            git = _Git(folder, Path(scratch), self._settings.git_timeout)
            with _locked(git.common_dir / "inpaint-eacps.lock", self._settings.git_timeout):
                for attempt in range(_PUSHES):
                    try:
                        return self._push(git, outcome)
                    except _LostRace:
                        time.sleep(0.2 * attempt)
        raise _GitError(f"the branch {self._settings.git_branch} moved during each of {_PUSHES} attempts.")

    def _push(self, git: "_Git", outcome: TaskOutcome) -> str | None:
        remote, branch = self._settings.git_remote, self._settings.git_branch
        tip = git.fetch(remote, branch)
        place = f"{self._settings.git_folder}/{task_folder(outcome.task_id)}"
        name = " ".join(outcome.character_name.split())
        message = f"Inpaint EACPS result: task {outcome.task_id} ({name})"
        commit = git.commit(tip, place, self._files(outcome), message)
        if commit is None:
            return None
        git.push(remote, commit, branch)
        return commit

    def _files(self, outcome: TaskOutcome) -> Mapping[str, bytes]:
        """Names below the task's folder, and the bytes."""
        folder = task_folder(outcome.task_id)
        names = [name.removeprefix(f"{folder}/") for name in self._store.list(folder)]
        wanted = [
            name
            for name in names
            if _PUBLISHED.fullmatch(name) or (self._settings.git_candidates and _CANDIDATE.fullmatch(name))
        ]
        return {name: self._store.read(f"{folder}/{name}") for name in wanted}


class GitQueue:
    """A publisher in a thread of its own, so that nobody waits for a remote."""

    def __init__(self, publisher: GitPublisher) -> None:
        self._publisher = publisher
        self._waiting: queue.SimpleQueue[TaskOutcome | None] = queue.SimpleQueue()
        self._done: list[GitPublication] = []
        self._thread = threading.Thread(target=self._work, name="git-publish", daemon=True)
        self._thread.start()

    def submit(self, outcome: TaskOutcome) -> None:
        """Publish a task soon, if it has a result; else do nothing."""
        if outcome.state in (TaskState.DONE, TaskState.UNCHANGED):
            self._waiting.put(outcome)

    def close(self, timeout: float | None = None) -> tuple[GitPublication, ...]:
        """Wait until all is published (failed ones are tried once more), at most `timeout` seconds."""
        self._waiting.put(None)
        self._thread.join(timeout)
        return tuple(self._done)

    def _work(self) -> None:
        failed: dict[str, TaskOutcome] = {}
        while (outcome := self._waiting.get()) is not None:
            publication = self._publisher.publish(outcome)
            if publication.state == "failed":
                failed[outcome.task_id] = outcome
            else:
                failed.pop(outcome.task_id, None)
                self._done.append(publication)
        self._done.extend(self._publisher.retry(tuple(failed.values())))


class _Git:
    """git on one repository, with a work tree and an index of its own."""

    def __init__(self, folder: Path, scratch: Path, timeout: float) -> None:
        if not folder.is_dir():
            raise _GitError(f"{folder} is not a folder; set publish.git_repository.")
        self._folder = folder
        self._timeout = timeout
        self._env = _environment()
        try:
            git_dir = self._run("rev-parse", "--absolute-git-dir")
        except _GitError as error:
            raise _GitError(f"{folder} is in no git repository; set publish.git_repository ({error}).") from error
        self.common_dir = Path(self._run("rev-parse", "--path-format=absolute", "--git-common-dir"))
        self._env["GIT_SSH_COMMAND"] = self._ssh()
        self._tree = scratch / "tree"
        self._tree.mkdir()
        self._tree_env = self._env | {
            "GIT_DIR": git_dir,
            "GIT_WORK_TREE": str(self._tree),
            "GIT_INDEX_FILE": str(scratch / "index"),
        }

    def fetch(self, remote: str, branch: str) -> str | None:
        """The remote branch's commit, brought here under a ref of ours; `None` when there is no such branch."""
        listed = self._run("ls-remote", "--heads", remote, f"refs/heads/{branch}")
        if not listed:
            return None
        ours = f"refs/inpaint-eacps/{branch}"
        self._run(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap=",
            "--no-recurse-submodules", remote, f"+refs/heads/{branch}:{ours}",
        )  # fmt: skip
        return self._run("rev-parse", "--verify", f"{ours}^{{commit}}")

    def commit(self, tip: str | None, place: str, files: Mapping[str, bytes], message: str) -> str | None:
        """Id of a new commit on no branch: the tip, with the folder `place` replaced by `files`.

        `None` when that changes nothing.
        """
        self._run_apart("read-tree", *([tip] if tip else ["--empty"]))
        self._run_apart("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", "--", place)
        for name, data in files.items():
            path = self._tree / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if files:
            self._run_apart("add", "--force", "--", place)
        tree = self._run_apart("write-tree")
        if tip is not None and tree == self._run("rev-parse", f"{tip}^{{tree}}"):
            return None
        known = os.environ.get("GIT_COMMITTER_EMAIL") or self._run("config", "--default", "", "--get", "user.email")
        identity = () if known else ("-c", "user.name=Inpaint EACPS", "-c", "user.email=inpaint-eacps@localhost")
        return self._run(*identity, "commit-tree", tree, *(("-p", tip) if tip else ()), "-m", message)

    def push(self, remote: str, commit: str, branch: str) -> None:
        """Move the remote branch on to `commit`, never by force. Raises _LostRace when it has moved meanwhile."""
        try:
            self._run("push", "--quiet", "--porcelain", remote, f"{commit}:refs/heads/{branch}")
        except _GitError as error:
            text = str(error)
            if any(word in text for word in _LOST_RACE) and not any(word in text for word in _DECLINED):
                raise _LostRace(text) from error
            raise

    def _run(self, *arguments: str) -> str:
        """What git prints, started in the repository as its owner would."""
        return self._start(arguments, self._folder, self._env)

    def _run_apart(self, *arguments: str) -> str:
        """What git prints, started in our own work tree and index."""
        return self._start(arguments, self._tree, self._tree_env)

    def _start(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> str:
        command = ["git", "-c", "core.askPass=", "-c", "gc.auto=0", *arguments]
        verb = next(word for word in arguments if not word.startswith("-") and "=" not in word)
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise _GitError("git is not installed.") from error
        with process:
            try:
                out, complaint = process.communicate(timeout=self._timeout)
            except subprocess.TimeoutExpired as error:
                raise _GitError(f"git {verb} took longer than {self._timeout:g} s (publish.git_timeout).") from error
            finally:
                _end(process)
        if process.returncode != 0:
            words = " ".join(f"{complaint} {out}".split()) or f"exit code {process.returncode}"
            raise _GitError(_CREDENTIALS.sub("", f"git {verb} failed: {words[:600]}"))
        return out.strip()

    def _ssh(self) -> str:
        """The user's own ssh command, told to fail where it would ask."""
        configured = self._run("config", "--default", "", "--get", "core.sshCommand")
        command = os.environ.get("GIT_SSH_COMMAND") or configured or "ssh"
        return f"{command} -o BatchMode=yes -o ConnectTimeout=20"


def _environment() -> dict[str, str]:
    """Ours, without what would point git elsewhere, and with everything that keeps it from asking."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"}
    }
    return inherited | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "SSH_ASKPASS_REQUIRE": "never",
        "GCM_INTERACTIVE": "never",
        "GIT_EDITOR": "true",
        "LC_ALL": "C",
    }


def _end(process: "subprocess.Popen[str]") -> None:
    """End git and all that it started, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold a lock among all publishers of a repository on this machine. Raises _GitError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise _GitError(f"another publisher has held {path} for {timeout:g} s.") from error
                time.sleep(0.05)
        yield
