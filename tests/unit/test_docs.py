"""Generated pages are complete, true, and noticed when stale."""

import re
from pathlib import Path

import pytest
import yaml

from inpaint_eacps.cli import app
from inpaint_eacps.docs import PAGES, ROOT, configuration_page, default_yaml, write_docs
from shared.errors import ExitCode
from shared.settings import Settings
from shared.settings.fields import leaves
from shared.settings.load import load_settings


def test_every_setting_is_on_the_page() -> None:
    page = configuration_page()
    for leaf in leaves():
        assert f"| `{leaf.path[-1]}` |" in page
        assert f"## {'.'.join(leaf.path[:-1])}\n" in page


def test_the_default_file_with_its_comments_removed_is_the_defaults(tmp_path: Path) -> None:
    lines = (line.removeprefix("#") for line in default_yaml().splitlines() if not line.startswith("# "))
    file = tmp_path / "all.yaml"
    file.write_text("\n".join(lines), encoding="utf-8")
    assert len(yaml.safe_load(file.read_text(encoding="utf-8"))) == len(Settings.model_fields)
    assert load_settings([file]).settings == Settings()


def test_the_default_file_as_it_is_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "default.yaml"
    file.write_text(default_yaml(), encoding="utf-8")
    assert not load_settings([file]).sources


def test_stale_pages_are_noticed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_docs(check=True, root=tmp_path) is ExitCode.SOME_FAILED
    assert all(page in capsys.readouterr().err for page in PAGES[:1])
    assert not list(tmp_path.iterdir())
    assert write_docs(check=False, root=tmp_path) is ExitCode.OK
    assert write_docs(check=True, root=tmp_path) is ExitCode.OK
    (tmp_path / PAGES[0]).write_text("old", encoding="utf-8")
    assert write_docs(check=True, root=tmp_path) is ExitCode.SOME_FAILED


def test_the_readme_is_short_and_names_what_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    links = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert links
    assert [target for target in links if not (ROOT / target).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", text)) <= targets
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    groups = {group.name for group in app.registered_groups}
    assert set(re.findall(r"inpaint-eacps ([a-z]+)\b", text)) <= commands | groups
