"""The command line as users meet it: a subprocess, its exit code, its stdout and its stderr."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "AIzaTestKeyThatIsNoKey0123456789"


def clean_env(**extra: str) -> dict[str, str]:
    """The environment without settings and keys of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INPAINT_EACPS", "GEMINI"))}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def cli(
    words: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inpaint_eacps", *words]
    return subprocess.run(
        command,
        cwd=cwd,
        env=dict(env or clean_env()),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_is_fast_and_imports_nothing_heavy(tmp_path: Path) -> None:
    times = []
    for _ in range(5):
        # Processor time: it is the same on a busy machine.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = cli(["--help"], tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert done.returncode == 0
    assert "Exit codes: 0 all done" in done.stdout
    assert min(times) < 0.4
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from inpaint_eacps.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'celery', 'redis', 'skimage', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["inpaint_eacps.cli", "inpaint_eacps.commands.run", "orchestrator.collect"])
def test_front_door_and_orchestrator_import_neither_torch_nor_opencv(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; sys.exit(str({{'torch', 'cv2', 'skimage', 'diffusers'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_env(), capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command"),
        (["run", "--nonsense"], "No such option"),
        (["run", "--k_global", "many"], "Invalid value for '--k-global'"),
        (
            ["run", "--k_global", "0", "--tasks", "x.json"],
            "search.k_global (--k-global) must be a whole number, 1 to 4096",
        ),
        (["run", "--set", "search.k_globl=3"], "did you mean search.k_global?"),
        (["run", "--set", "search.k_global"], "write it as section.field=value"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["run"], "--tasks EXPORT.json, or --init"),
        (["run", "--tasks", "nowhere.json"], "nowhere.json"),
        (["run", "--tasks", "half.json"], "half.json is no valid JSON"),
        (["run", "--from-file", "nowhere.txt"], "cannot read nowhere.txt: No such file"),
        (["run", "--init", "a.png"], "needs --mask, --character, --name too"),
        (["run", "--init", "a.png", "--mask", "b.png", "--character", "c.png", "--name", "M"], "there is no file"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "half.json").write_text('[{"data": ')
    done = cli(words, tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "because:" not in done.stderr
    assert done.stdout == ""


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    done = cli(["config", "show"], tmp_path, clean_env(INPAINT_EACPS_SEARCH__K_GLOBAL="many"))
    assert done.returncode == 2
    assert "INPAINT_EACPS_SEARCH__K_GLOBAL" in done.stderr


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    done = cli(["config", "show", "-v", "--set", "search.k_global=0"], tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_config_show_names_every_source(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/default.yaml").write_text("search: {k_global: 5}\n")
    (tmp_path / "mine.yaml").write_text("search:\n  m_global: 1\n")
    words = [
        "config",
        "show",
        "--json",
        "--config",
        "mine.yaml",
        "--k_local",
        "7",
        "--judge",
        "local",
        "--alpha",
        "0.5",
    ]
    env = clean_env(INPAINT_EACPS_DISPATCH__DEPTH="3", INPAINT_EACPS_BROKER__URL="redis://:hunter22@host/0")
    done = cli(words, tmp_path, env)
    assert done.returncode == 0, done.stderr
    shown = {name: (entry["value"], entry["source"]) for name, entry in json.loads(done.stdout).items()}
    assert shown["search.k_global"] == ("5", "configs/default.yaml:1")
    assert shown["search.m_global"] == ("1", "mine.yaml:2")
    assert shown["search.k_local"] == ("7", "--k-local")
    assert shown["search.name"] == ("eacps", "default")
    assert shown["scoring.judges"] == ("local", "--judge")
    assert shown["scoring.potential"] == ("consistency=0.5, quality=1.0, identity=2.0", "--alpha")
    assert shown["dispatch.depth"] == ("3", "INPAINT_EACPS_DISPATCH__DEPTH")
    assert shown["broker.url"] == ("**********", "INPAINT_EACPS_BROKER__URL")
    assert "hunter22" not in done.stdout + done.stderr


def test_doctor_as_json_and_its_exit_code(tmp_path: Path) -> None:
    done = cli(["doctor", "--json"], tmp_path)
    assert done.returncode == 0, done.stdout
    names = [finding["name"] for finding in json.loads(done.stdout)]
    assert {"python", "broker", "cuda", "gemini key", "cache", "results"} <= set(names)
    done = cli(["doctor", "--broker_url", "redis://127.0.0.1:1/0"], tmp_path)
    assert done.returncode == 2
    assert "missing" in done.stdout


@pytest.mark.parametrize("script", [False, True])
def test_a_key_on_the_command_line_leaves_it(tmp_path: Path, script: bool) -> None:
    """The process shows no key in its arguments while it waits for task ids on stdin, and has it where it belongs."""
    front = [str(ROOT / "inpaint_eacps/run.py")] if script else ["-m", "inpaint_eacps", "run"]
    command = [sys.executable, *front, "--gemini_api_key", KEY, "--tasks", "nowhere.json", "-"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=clean_env(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 20
        arguments = [KEY]
        while (KEY in arguments or "--tasks" not in arguments) and time.monotonic() < deadline:
            time.sleep(0.02)
            arguments = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        variables = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        out, err = process.communicate("7\n", timeout=30)
    assert KEY not in arguments
    assert "--tasks" in arguments
    assert f"GEMINI_API_KEY={KEY}" in variables
    assert err.count("Warning: --gemini-api-key was given on the command line") == 1
    assert KEY not in out + err
    assert process.returncode == 2


def test_the_script_works_from_anywhere_without_installation(tmp_path: Path) -> None:
    env = clean_env()
    del env["PYTHONPATH"]
    command = [sys.executable, str(ROOT / "inpaint_eacps/run.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: inpaint-eacps run" in done.stdout


def test_an_interpreter_without_packages_says_what_to_do(tmp_path: Path) -> None:
    """A checkout that has no environment of its own, under an interpreter that has nothing installed."""
    (tmp_path / "inpaint_eacps").mkdir()
    for name in ("__init__.py", "run.py", "argv.py"):
        (tmp_path / "inpaint_eacps" / name).write_bytes((ROOT / "inpaint_eacps" / name).read_bytes())
    env = clean_env()
    del env["PYTHONPATH"]
    command = [sys.executable, "-I", "-S", str(tmp_path / "inpaint_eacps/run.py"), "--task_id", "7"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "make install" in done.stderr
    assert "Traceback" not in done.stderr


def test_version(tmp_path: Path) -> None:
    done = cli(["--version"], tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip().count(".") == 2
