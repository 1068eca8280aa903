"""Generated pages are complete, true, and noticed when stale."""

from pathlib import Path

import pytest
import yaml

from inpaint_eacps.docs import PAGES, configuration_page, default_yaml, write_docs
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
