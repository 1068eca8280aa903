"""The report: every link leads somewhere, every picture is described, and no text from outside becomes markup."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.charts import search_curve, timeline
from orchestrator.metrics_file import metrics_of
from orchestrator.publish import publish, publish_index
from orchestrator.thumbnails import region
from shared.artifacts import ArtifactStore
from shared.outcome import TaskOutcome
from shared.settings import Settings
from shared.types import Failure, Judgement
from tests.unit.publish_support import Scores, defaulted, failed, generated, history, only, scored, spec

HOSTILE = """"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}</style></pre>&lt;"""
VOID = {"meta", "img", "input", "br", "line", "link"}


@dataclass
class Page(HTMLParser):
    """A page, taken apart."""

    html: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, f"</{tag}> is not the tag that is open"

    def handle_data(self, data: str) -> None:
        (self.scripts if self.stack and self.stack[-1] == "script" else self.text).append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


def read(store: ArtifactStore, name: str = "task_7/report.html") -> Page:
    page = Page(store.read(name).decode())
    assert page.stack == []
    return page


def check_links(page: Page, store: ArtifactStore, folder: str) -> None:
    """Pictures and links are data, anchors of this page, or files that exist; nothing comes from the network."""
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert page.all("link") == []
    for _, attributes in page.tags:
        for name in ("src", "href", "data-image"):
            target = attributes.get(name)
            if target is None or target.startswith("data:image/webp;base64,"):
                continue
            if target.startswith("#"):
                assert target[1:] in anchors
                continue
            assert "//" not in target
            path = store.local_path("x")
            assert path is not None
            resolved = Path(os.path.normpath(path.parent / folder / target))
            assert resolved.is_file() or target == "../index.html", target
    for image in page.all("img"):
        assert "alt" in image
        assert image["alt"] or image["class"] == "over"


def test_everything_the_page_points_at_exists(store: ArtifactStore) -> None:
    base = history(store)
    outcome = publish(store, base)
    publish_index(store, "run-1", [outcome])
    check_links(read(store), store, "task_7")
    check_links(read(store, "index.html"), store, "")


def test_all_candidates_are_shown_with_their_reasons(store: ArtifactStore) -> None:
    publish(store, history(store))
    page = read(store)
    cards = {attributes["data-id"]: attributes for attributes in page.all("article")}
    assert list(cards) == ["l01.1", "g01", "l01.0", "g00", "g02", "g03"]
    assert cards["g03"]["data-kind"] == "failed"
    assert cards["g02"]["data-kind"] == "unscored"
    assert cards["l01.1"]["data-potential"] == "34.00"
    assert "data-image" not in cards["g03"]
    for words in ("out of memory", "identity, quality: no face", "well placed", "refined ×2", "winner", "34.00 / 40"):
        assert words in page.words


def test_text_from_outside_stays_text(store: ArtifactStore) -> None:
    base = history(store)
    winner = base.candidates[5]
    judgement = winner.judgements[0].model_copy(update={"words": HOSTILE, "judge": HOSTILE, "model": HOSTILE})
    made = winner.generated
    assert made is not None
    winner = winner.model_copy(
        update={
            "judgements": (judgement, Judgement(judge="x", missing={"identity": HOSTILE})),
            "generated": made.model_copy(
                update={"params": {HOSTILE: HOSTILE}, "notes": (HOSTILE,), "timings": {HOSTILE: 1.0}, "device": HOSTILE}
            ),
        }
    )
    broken = failed(spec("g03", 5093, (0, 3)), HOSTILE)
    task = base.task.model_copy(update={"character_name": HOSTILE, "init": HOSTILE})
    outcome = publish(store, replace(only(base, *base.candidates[:3], broken, winner), task=task))
    page = read(store)
    assert len(page.scripts) == 1
    assert "alert" not in page.scripts[0]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words.count("<script>alert(1)</script>") >= 6
    assert "{{ 7*7 }}" in page.words
    check_links(page, store, "task_7")
    listed = [outcome, outcome.model_copy(update={"failure": Failure(kind="internal", message=HOSTILE)})]
    publish_index(store, "run-1", listed)
    index = read(store, "index.html")
    assert len(index.scripts) == 1
    assert index.words.count("<script>alert(1)</script>") == 3


@pytest.mark.parametrize("name", ["task_7/report.html", "index.html"])
def test_the_policy_lets_only_our_script_run(store: ArtifactStore, name: str) -> None:
    publish_index(store, "run-1", [publish(store, history(store))])
    page = read(store, name)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    hashed = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'" in policy
    assert "default-src 'none'" in policy
    assert len(page.scripts[0]) < 10_000


def test_a_task_without_inputs_has_a_page(store: ArtifactStore) -> None:
    failure = Failure(kind="input", message="task 7: mask.png is empty; draw the region to edit in white.")
    publish(store, replace(history(store), prepared=None, candidates=(), failure=failure))
    page = read(store)
    assert "draw the region to edit in white" in page.words
    assert page.all("img") == []


def test_a_task_without_a_winner_has_a_page(store: ArtifactStore) -> None:
    publish(store, only(history(store), failed(spec("g00", 5000, (0, 0)), "the model answered with a flat image")))
    page = read(store)
    assert "the model answered with a flat image (1 of 1)" in page.words
    check_links(page, store, "task_7")


def test_no_potential_beyond_the_scale_of_scores_is_claimed(store: ArtifactStore) -> None:
    settings = Settings.model_validate({"scoring": {"potential": {"clip_text": 1, "lpips": -3}}})
    publish(store, replace(history(store), settings=settings))
    assert "/ 40" not in read(store).words


def test_many_candidates_keep_the_page_light(store: ArtifactStore) -> None:
    base = history(store)
    one = base.candidates[0]
    many = [one.model_copy(update={"spec": spec(f"g{n:03d}", 5000 + n, (0, n))}) for n in range(400)]
    publish(store, only(base, *many))
    page = read(store)
    assert len(page.all("article")) == 400
    assert sum(image["src"].startswith("data:") for image in page.all("img")) < 110
    assert all(image.get("loading") == "lazy" for image in page.all("img") if image["src"].startswith("candidates/"))
    assert len(page.html) < 4_000_000


def test_the_curve_climbs_and_marks_what_has_no_potential(store: ArtifactStore) -> None:
    curve = search_curve(metrics_of(history(store)))
    assert curve is not None
    kinds = {dot.id: dot.kind for dot in curve.dots}
    assert kinds == {
        "g00": "scored",
        "g01": "scored",
        "g02": "unscored",
        "g03": "failed",
        "l01.0": "scored",
        "l01.1": "scored",
    }
    height = {dot.id: dot.y for dot in curve.dots}
    assert height["l01.1"] < height["g01"] == height["l01.0"] < height["g00"] < height["g03"] == curve.bottom
    assert [dot.id for dot in curve.dots if dot.best] == ["l01.1"]
    steps = [float(number) for number in re.findall(r"V([\d.]+)", curve.best_path)]
    assert steps == sorted(steps, reverse=True)
    assert len(steps) == 2


def test_a_default_score_does_not_lift_the_curve(store: ArtifactStore) -> None:
    base = history(store)
    curve = search_curve(
        metrics_of(
            only(
                base,
                scored(generated(store, spec("g00", 5000, (0, 0))), Scores(5, 5, 5)),
                defaulted(generated(store, spec("g01", 5031, (0, 1))), 39.0),
            )
        )
    )
    assert curve is not None
    assert "V" not in curve.best_path
    assert search_curve(metrics_of(only(base, base.candidates[3]))) is None


@pytest.mark.parametrize("potentials", [(0.0,), (10.0, 10.0), (-3.0, 40.0), (1e-9, 2e-9), (24.5, 24.51)])
def test_the_scale_holds_any_potentials(store: ArtifactStore, potentials: tuple[float, ...]) -> None:
    base = history(store)
    candidates = [
        one.model_copy(update={"combined": one.combined.model_copy(update={"potential": potential})})
        for number, potential in enumerate(potentials)
        if (
            one := scored(generated(store, spec(f"g{number:02d}", 5000 + number, (0, number))), Scores(1, 1, 1))
        ).combined
    ]
    curve = search_curve(metrics_of(only(base, *candidates)))
    assert curve is not None
    assert all(0 <= dot.y <= curve.height for dot in curve.dots)
    assert 2 <= len(curve.ticks) <= 8


def test_the_timeline_orders_by_device(store: ArtifactStore) -> None:
    drawn = timeline(metrics_of(history(store)))
    assert drawn is not None
    assert "g03" not in [row.id for row in drawn.rows]
    for row in drawn.rows:
        assert [segment.kind for segment in row.segments][:3] == ["wait", "make", "store"]
        assert all(drawn.left <= part.x and part.x + part.width <= drawn.width for part in row.segments)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 20, 70, 50), (22, 2, 88, 68)),
        ((0, 0, 10, 10), (0, 0, 21, 21)),
        ((5, 5, 110, 85), (0, 0, 120, 90)),
    ],
)
def test_the_region_surrounds_the_mask(box: tuple[int, int, int, int], expected: tuple[int, int, int, int]) -> None:
    assert region(box, (120, 90)) == expected


def test_an_index_of_thousands_is_quick_to_open(store: ArtifactStore) -> None:
    outcome = publish(store, history(store))
    many: list[TaskOutcome] = [outcome.model_copy(update={"task_id": str(number)}) for number in range(3000)]
    publish_index(store, "run-1", many)
    page = store.read("index.html")
    assert page.count(b"<tr ") == 3000
    assert len(page) / 3000 < 1500


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_the_page_without_complaint(store: ArtifactStore, tmp_path: Path) -> None:
    publish(store, history(store))
    page = store.local_path("task_7/report.html")
    command = (
        "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --enable-logging=stderr --dump-dom"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [*command.split(), profile, "--virtual-time-budget=3000", f"file://{page}"],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert '<html lang="en" class="js">' in done.stdout
    assert 'style="' in done.stdout
    assert "--cut: " in done.stdout
    assert "CONSOLE" not in done.stderr
