"""Where settings come from, and what is said about a wrong one."""

from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.settings.broker import BrokerSettings
from shared.settings.fields import leaves
from shared.settings.load import Override, load_settings


def write(folder: Path, text: str, name: str = "settings.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_without_sources_everything_is_default() -> None:
    resolved = load_settings()
    assert resolved.settings == Settings()
    assert {row.source for row in resolved.rows()} == {"default"}


def test_later_sources_win_and_are_named(tmp_path: Path) -> None:
    first = write(tmp_path, "search:\n  k_global: 8\n  k_local: 3\n", "first.yaml")
    second = write(tmp_path, "\nsearch: {k_local: 5}\ndispatch: {depth: 4}\n", "second.yaml")
    resolved = load_settings(
        [first, second], {"INPAINT_EACPS_DISPATCH__DEPTH": "6"}, [Override("dispatch.max_attempts", 9, "--set")]
    )
    assert (resolved.settings.search.k_global, resolved.settings.search.k_local) == (8, 5)
    assert (resolved.settings.dispatch.depth, resolved.settings.dispatch.max_attempts) == (6, 9)
    assert resolved.source("search.k_global") == f"{first}:2"
    assert resolved.source("search.k_local") == f"{second}:2"
    assert resolved.source("dispatch.depth") == "INPAINT_EACPS_DISPATCH__DEPTH"
    assert resolved.source("dispatch.max_attempts") == "--set"
    assert resolved.source("search.m_global") == "default"


def test_a_mapping_is_replaced_whole_but_a_single_key_only_itself(tmp_path: Path) -> None:
    file = write(tmp_path, "scoring: {potential: {clip_text: 1, lpips: -3}}")
    assert dict(load_settings([file]).settings.scoring.potential) == {"clip_text": 1.0, "lpips": -3.0}
    gamma = Override("scoring.potential.identity", "5", "--gamma")
    resolved = load_settings([], {"INPAINT_EACPS_SCORING__POTENTIAL__QUALITY": "3"}, [gamma])
    assert dict(resolved.settings.scoring.potential) == {"consistency": 1.0, "quality": 3.0, "identity": 5.0}
    assert resolved.source("scoring.potential") == "INPAINT_EACPS_SCORING__POTENTIAL__QUALITY, --gamma"


@pytest.mark.parametrize("text", ["gemini,local", " gemini , local ", '["gemini", "local"]'])
def test_lists_in_the_environment(text: str) -> None:
    assert load_settings([], {"INPAINT_EACPS_SCORING__JUDGES": text}).settings.scoring.judges == ("gemini", "local")


@pytest.mark.parametrize("text", ["init=picture,mask=area", '{"init": "picture", "mask": "area"}'])
def test_mappings_in_the_environment(text: str) -> None:
    fields = load_settings([], {"INPAINT_EACPS_INPUT__FIELDS": text}).settings.input.fields
    assert dict(fields) == {"init": "picture", "mask": "area"}


def test_an_empty_variable_is_unset_and_none_unsets_an_optional_one(tmp_path: Path) -> None:
    file = write(tmp_path, "search: {prune_at: 0.3}")
    env = {"INPAINT_EACPS_SEARCH__K_GLOBAL": "", "INPAINT_EACPS_SEARCH__PRUNE_AT": "none"}
    resolved = load_settings([file], env)
    assert resolved.settings.search.k_global == 4
    assert resolved.settings.search.prune_at is None


def test_the_single_underscore_spelling_of_a_variable_counts() -> None:
    resolved = load_settings([], {"INPAINT_EACPS_BROKER_URL": "redis://host/0"})
    assert resolved.settings.broker.connection_url() == "redis://host/0"


def test_variables_of_our_own_processes_are_left_alone() -> None:
    assert load_settings([], {"INPAINT_EACPS_LOG": "json", "PATH": "/bin"}).settings == Settings()


def test_an_empty_or_commented_file_changes_nothing(tmp_path: Path) -> None:
    empty = write(tmp_path, "", "empty.yaml")
    commented = write(tmp_path, "# search:\n#   k_global: 9\nsearch:\n", "commented.yaml")
    assert load_settings([empty, commented]).settings == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serach: {k_global: 3}", ["settings.yaml:1", "no setting serach", "did you mean search?"]),
        ("search:\n  k_globl: 3", ["settings.yaml:2", "did you mean search.k_global"]),
        ("search:\n  k_global: many", ["search.k_global", "settings.yaml:2", "a whole number, 1 to 4096", "'many'"]),
        ("search: {k_global: 0}", ["1 to 4096, not 0"]),
        ("search: {strength: 1.5}", ["a number, above 0 to 1, not 1.5"]),
        ("search: {name: greedy}", ["search.name", "one of eacps, best-of-n, zero-order"]),
        ("search: 4", ["settings.yaml:1", "search must be a mapping"]),
        ("- search", ["the file must be a mapping"]),
        ("search: {k_global: 1}\nsearch: {k_local: 1}", ["settings.yaml:2", "set twice"]),
        ("search: {k_global: [", ["settings.yaml:1", "not valid YAML"]),
        ("broker: {url: 'http://secret@host'}", ["broker.url", "redis://"]),
        ("input: {fields: {picture: x}}", ["input.fields", "unknown field picture"]),
    ],
)
def test_a_wrong_file_is_named_with_the_line_and_the_fix(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings([write(tmp_path, text)])
    for word in words:
        assert word in str(caught.value)
    assert "secret" not in str(caught.value)


def test_every_wrong_value_is_reported_at_once() -> None:
    env = {"INPAINT_EACPS_SEARCH__K_GLOBAL": "0", "INPAINT_EACPS_DISPATCH__DEPTH": "x"}
    with pytest.raises(ConfigurationError) as caught:
        load_settings([], env)
    assert all(name in str(caught.value) for name in env)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("INPAINT_EACPS_SEARCH__KGLOBAL", "did you mean search.k_global"),
        ("INPAINT_EACPS_BROKER_ULR", "did you mean INPAINT_EACPS_BROKER__URL"),
        ("INPAINT_EACPS_SCORING__GEMINI", "scoring.gemini is a section"),
    ],
)
def test_a_misspelt_variable_is_an_error(name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_settings([], {name: "3"})


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: No such file"):
        load_settings([tmp_path / "nowhere.yaml"])


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    file = write(tmp_path, "search: {name: !!python/object/apply:os.getcwd []}")
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        load_settings([file])


def test_secrets_are_masked() -> None:
    resolved = load_settings([], {"INPAINT_EACPS_BROKER__URL": "redis://:hunter22@host/0"})
    (row,) = (row for row in resolved.rows() if row.name == "broker.url")
    assert "hunter22" not in repr(resolved)
    assert (row.value, row.secret) == ("**********", True)


def test_every_setting_explains_itself() -> None:
    silent = [leaf.name for leaf in leaves() if not (leaf.info.description or "").strip()]
    assert not silent
    assert all(leaf.type_words for leaf in leaves())


class TestConnectionUrl:
    def test_from_a_file_and_a_password_file(self, tmp_path: Path) -> None:
        url_file = write(tmp_path, "rediss://me@host:6380/2\n", "url")
        password_file = write(tmp_path, "p@ss/word\n", "password")
        broker = BrokerSettings(url_file=url_file, password_file=password_file)
        assert broker.connection_url() == "rediss://me:p%40ss%2Fword@host:6380/2"

    def test_unset_means_embedded(self) -> None:
        assert BrokerSettings().connection_url() is None

    def test_a_url_with_a_password_keeps_it(self, tmp_path: Path) -> None:
        password_file = write(tmp_path, "other", "password")
        broker = BrokerSettings.model_validate({"url": "redis://:own@host", "password_file": password_file})
        assert broker.connection_url() == "redis://:own@host"

    @pytest.mark.parametrize("text", ["", "  \n"])
    def test_an_empty_file_is_an_error(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ConfigurationError, match=r"broker\.url_file.*empty"):
            BrokerSettings(url_file=write(tmp_path, text, "url")).connection_url()

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"broker\.url_file: cannot read"):
            BrokerSettings(url_file=tmp_path / "nowhere").connection_url()
