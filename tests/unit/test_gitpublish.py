"""Publishing to git, against real bare repositories: what arrives, what is left alone, and what a failure does."""

import os
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.gitpublish import GitPublisher, GitQueue
from orchestrator.publish import publish
from shared.artifacts import ArtifactStore
from shared.outcome import TaskOutcome, TaskState
from shared.settings.publish import PublishSettings
from tests.unit.publish_support import history, only


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


@dataclass(frozen=True)
class World:
    """A remote, the user's checkout of it, and an artifact store."""

    remote: Path
    checkout: Path
    store: ArtifactStore

    def publisher(self, **settings: Any) -> GitPublisher:
        chosen = {"git": True, "git_repository": self.checkout, "git_timeout": 30.0} | settings
        return GitPublisher(PublishSettings.model_validate(chosen), self.store)

    def outcome(self, task_id: str = "7", name: str = "Mira") -> TaskOutcome:
        return publish(self.store, history(self.store, task_id, name))

    def files(self, branch: str = "main") -> list[str]:
        return git(self.remote, "ls-tree", "-r", "--name-only", branch).splitlines()

    def subjects(self, branch: str = "main") -> list[str]:
        return git(self.remote, "log", "--format=%s", branch).splitlines()

    def user_state(self) -> tuple[str, ...]:
        """All that the user sees of the checkout; only `origin/main` moves on, as after any push."""
        commands = (
            "status --porcelain=v2",
            "ls-files --stage",
            "diff",
            "worktree list",
            "stash list",
            "rev-parse HEAD",
            "for-each-ref refs/heads refs/tags",
        )
        return tuple(git(self.checkout, *command.split()) for command in commands)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "gitconfig").write_text("[user]\n name = Somebody\n email = somebody@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    remote, checkout = tmp_path / "remote.git", tmp_path / "checkout"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    git(tmp_path, "clone", "--quiet", str(remote), str(checkout))
    git(checkout, "switch", "--quiet", "--create", "main")
    (checkout / "notes.txt").write_text("first\n")
    (checkout / ".gitignore").write_text("outputs/\n*.png\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "-m", "Begin")
    git(checkout, "push", "--quiet", "--set-upstream", "origin", "main")
    return World(remote, checkout, ArtifactStore(str(tmp_path / "store")))


def hook(world: World, name: str, script: str) -> None:
    path = world.remote / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def elsewhere(world: World, text: str) -> None:
    """Somebody else pushes to the branch."""
    other = world.remote.parent / "other"
    if not other.exists():
        git(world.remote.parent, "clone", "--quiet", str(world.remote), str(other))
    git(other, "pull", "--quiet", "--rebase")
    (other / "theirs.txt").write_text(text)
    git(other, "add", "theirs.txt")
    git(other, "commit", "--quiet", "-m", f"Theirs: {text}")
    git(other, "push", "--quiet")


def test_a_task_arrives_as_one_commit(world: World) -> None:
    publication = world.publisher().publish(world.outcome())
    assert publication.state == "pushed"
    assert world.subjects() == ["Inpaint EACPS result: task 7 (Mira)", "Begin"]
    assert git(world.remote, "rev-parse", "main") == publication.commit
    assert git(world.remote, "log", "-1", "--format=%an <%ae>", "main") == "Somebody <somebody@example.org>"
    folder = "outputs/inpaint_eacps/task_7"
    assert set(world.files()) == {
        ".gitignore",
        "notes.txt",
        *(f"{folder}/{name}.png" for name in ("init", "mask", "character", "result")),
        *(f"{folder}/{name}" for name in ("metrics.json", "report.html", "preview.webp")),
        f"{folder}/candidate_1_seed50312.png",
        f"{folder}/candidate_2_seed5031.png",
        f"{folder}/candidate_3_seed50311.png",
        f"{folder}/candidate_4_seed5000.png",
    }
    blob = subprocess.run(
        ["git", "cat-file", "blob", f"main:{folder}/result.png"], cwd=world.remote, capture_output=True, check=True
    ).stdout
    assert blob == world.store.read("task_7/result.png")


def test_the_user_s_checkout_is_left_alone(world: World) -> None:
    (world.checkout / "notes.txt").write_text("half a thought")
    (world.checkout / "staged.txt").write_text("staged")
    git(world.checkout, "add", "staged.txt")
    (world.checkout / "untracked.txt").write_text("mine")
    git(world.checkout, "status")
    before = world.user_state()
    publisher = world.publisher()
    assert publisher.publish(world.outcome("7")).state == "pushed"
    elsewhere(world, "other")
    assert publisher.publish(world.outcome("8")).state == "pushed"
    assert world.user_state() == before
    assert (world.checkout / "untracked.txt").read_text() == "mine"
    assert not (world.checkout / "outputs").exists()


def test_publishing_again_makes_no_empty_commit(world: World) -> None:
    publisher, outcome = world.publisher(), world.outcome()
    publisher.publish(outcome)
    assert publisher.publish(outcome).state == "unchanged"
    assert len(world.subjects()) == 2


def test_another_result_replaces_the_earlier_one(world: World) -> None:
    publisher = world.publisher()
    publisher.publish(world.outcome())
    base = history(world.store)
    publisher.publish(publish(world.store, only(base, base.candidates[0])))
    candidates = [name for name in world.files() if "candidate_" in name]
    assert candidates == ["outputs/inpaint_eacps/task_7/candidate_1_seed5000.png"]
    assert len(world.subjects()) == 3


def test_a_remote_that_moved_on_is_built_upon(world: World) -> None:
    publisher = world.publisher()
    publisher.publish(world.outcome("7"))
    elsewhere(world, "other work")
    assert publisher.publish(world.outcome("8")).state == "pushed"
    assert world.subjects()[:2] == ["Inpaint EACPS result: task 8 (Mira)", "Theirs: other work"]
    assert {"theirs.txt", "outputs/inpaint_eacps/task_7/result.png"} <= set(world.files())


def test_a_local_branch_that_diverged_is_neither_pushed_nor_changed(world: World) -> None:
    (world.checkout / "notes.txt").write_text("a commit of mine\n")
    git(world.checkout, "commit", "--quiet", "-am", "Mine, not pushed")
    elsewhere(world, "meanwhile")
    before = world.user_state()
    assert world.publisher().publish(world.outcome()).state == "pushed"
    assert world.subjects() == ["Inpaint EACPS result: task 7 (Mira)", "Theirs: meanwhile", "Begin"]
    assert world.user_state() == before


def test_a_lost_race_is_run_again(world: World) -> None:
    hook(
        world,
        "pre-receive",
        'n=$(cat "$GIT_DIR/pushes" 2>/dev/null || echo 0); echo $((n + 1)) > "$GIT_DIR/pushes"\n'
        '[ "$n" -ge 1 ] && exit 0\n'
        "unset GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES\n"
        "tree=$(git rev-parse 'main^{tree}')\n"
        'new=$(git commit-tree "$tree" -p main -m "Slipped in")\n'
        "git update-ref refs/heads/main $new",
    )
    publication = world.publisher().publish(world.outcome())
    assert publication.state == "pushed", publication.message
    assert world.subjects() == ["Inpaint EACPS result: task 7 (Mira)", "Slipped in", "Begin"]
    assert (world.remote / "pushes").read_text().strip() == "2"


def test_a_rejected_push_is_told_and_not_tried_again_and_again(world: World) -> None:
    hook(world, "pre-receive", 'echo x >> "$GIT_DIR/pushes"; echo "no pictures here, please" >&2; exit 1')
    publication = world.publisher().publish(world.outcome())
    assert publication.state == "failed"
    assert publication.commit is None
    assert "no pictures here, please" in publication.message
    assert publication.message.startswith("Task 7 was not pushed: git push failed")
    assert (world.remote / "pushes").read_text().count("x") == 1
    assert world.subjects() == ["Begin"]


def test_after_three_failures_a_run_is_no_longer_held_up(world: World) -> None:
    hook(world, "pre-receive", 'echo x >> "$GIT_DIR/pushes"; exit 1')
    publisher = world.publisher()
    outcomes = [world.outcome(str(number)) for number in range(5)]
    assert [publisher.publish(outcome).state for outcome in outcomes] == ["failed"] * 5
    assert (world.remote / "pushes").read_text().count("x") == 3
    (world.remote / "hooks" / "pre-receive").unlink()
    assert [publication.state for publication in publisher.retry(outcomes)] == ["pushed"] * 5
    assert len(world.subjects()) == 6


def test_a_remote_that_is_gone_is_told(world: World) -> None:
    outcome = world.outcome()
    world.remote.rename(world.remote.with_name("gone.git"))
    publication = world.publisher().publish(outcome)
    assert publication.state == "failed"
    assert "does not appear to be a git repository" in publication.message


@pytest.mark.parametrize(("setting", "value", "told"), [
    ("git_repository", "/nowhere", "/nowhere is not a folder; set publish.git_repository"),
    ("git_remote", "upstream", "upstream"),
])  # fmt: skip
def test_wrong_settings_are_named(world: World, setting: str, value: str, told: str) -> None:
    publication = world.publisher(**{setting: value}).publish(world.outcome())
    assert publication.state == "failed"
    assert told in publication.message


def test_a_folder_without_a_repository_is_told(world: World, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    publication = world.publisher(git_repository=tmp_path / "plain").publish(world.outcome())
    assert publication.state == "failed"
    assert "is in no git repository; set publish.git_repository" in publication.message


def test_without_git_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = world.outcome()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "git is not installed" in world.publisher().publish(outcome).message


def test_a_missing_branch_is_made(world: World) -> None:
    publication = world.publisher(git_branch="results/today").publish(world.outcome())
    assert publication.state == "pushed"
    assert world.subjects("results/today") == ["Inpaint EACPS result: task 7 (Mira)"]
    assert world.subjects("main") == ["Begin"]


def test_an_empty_remote_and_no_identity_are_enough(world: World, tmp_path: Path) -> None:
    (tmp_path / "gitconfig").write_text("")
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "empty.git"))
    git(world.checkout, "remote", "add", "empty", str(tmp_path / "empty.git"))
    publication = world.publisher(git_remote="empty").publish(world.outcome())
    assert publication.state == "pushed", publication.message
    assert git(tmp_path / "empty.git", "log", "--format=%an", "main") == "Inpaint EACPS"


def test_a_relative_remote_means_what_it_means_to_its_owner(world: World) -> None:
    git(world.checkout, "remote", "set-url", "origin", "../remote.git")
    assert world.publisher().publish(world.outcome()).state == "pushed"


def test_candidates_travel_only_when_asked_for(world: World) -> None:
    world.store.write("task_7/candidates/g00.latents.safetensors", b"large")
    world.publisher(git_candidates=True, git_folder="results").publish(world.outcome())
    files = world.files()
    assert "results/task_7/candidates/g01-2.png" in files
    assert not any(name.endswith("safetensors") for name in files)


def test_a_name_with_line_breaks_stays_one_line(world: World) -> None:
    outcome = world.outcome().model_copy(update={"character_name": "Mira\n\nSigned-off-by: someone"})
    world.publisher().publish(outcome)
    assert world.subjects()[0] == "Inpaint EACPS result: task 7 (Mira Signed-off-by: someone)"


def test_a_remote_that_asks_for_a_password_fails_at_once(world: World, unauthorized: str) -> None:
    git(world.checkout, "remote", "set-url", "origin", f"http://someone:secret-word@{unauthorized}/r.git")
    started = time.monotonic()
    publication = world.publisher().publish(world.outcome())
    assert publication.state == "failed"
    assert time.monotonic() - started < 15
    assert "secret-word" not in publication.message
    git(world.checkout, "remote", "set-url", "origin", f"http://{unauthorized}/r.git")
    publication = world.publisher().publish(world.outcome())
    assert publication.state == "failed"
    assert time.monotonic() - started < 25


@pytest.fixture
def unauthorized() -> Any:
    """A server that wants a password."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_remote_that_hangs_is_given_up(world: World) -> None:
    hook(world, "pre-receive", "sleep 60")
    started = time.monotonic()
    publication = world.publisher(git_timeout=2.0).publish(world.outcome())
    assert publication.state == "failed"
    assert "git push took longer than 2 s (publish.git_timeout)" in publication.message
    assert time.monotonic() - started < 20


def test_publishers_at_the_same_time_lose_nothing(world: World) -> None:
    outcomes = [world.outcome(str(number)) for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda outcome: world.publisher().publish(outcome), outcomes))
    assert [publication.state for publication in done] == ["pushed"] * 6
    assert len(world.subjects()) == 7
    assert sum(name.endswith("result.png") for name in world.files()) == 6


def test_a_queue_publishes_finished_tasks_and_tries_failed_ones_again(world: World) -> None:
    hook(world, "pre-receive", 'echo x >> "$GIT_DIR/pushes"; [ $(wc -l < "$GIT_DIR/pushes") -gt 1 ]')
    queue = GitQueue(world.publisher())
    for number in range(3):
        queue.submit(world.outcome(str(number)))
    queue.submit(world.outcome("9").model_copy(update={"state": TaskState.FAILED}))
    done = queue.close(60)
    assert sorted((publication.task_id, publication.state) for publication in done) == [
        ("0", "pushed"),
        ("1", "pushed"),
        ("2", "pushed"),
    ]
    assert len(world.subjects()) == 4
