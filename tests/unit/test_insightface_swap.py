"""The generator `insightface-swap` on small ONNX models of the real kinds (tests.tiny_faces)."""

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from skimage import data

from inpaint_eacps.choice import Choice, Order, choose_here, submit
from inpaint_eacps.plans import device_plans
from orchestrator.client import Client, Submitted
from shared.errors import (
    Cancelled,
    ConfigurationError,
    DeviceError,
    DeviceLost,
    MissingDependency,
    Permanent,
    Retryable,
)
from shared.settings import Settings
from shared.types import CandidateSpec, Start
from tests.tiny_faces import EMBEDDING, POINTS, detector, recogniser, save_pack, save_swapper, swapper
from tests.unit.composite_support import Watcher
from workers import onnx_models
from workers.faces import TEMPLATE, Face, FaceFinder, similarity
from workers.generation.base import GeneratedImage, GenerationRequest, Parent, TaskImages
from workers.generation.insightface_swap import LICENCE, InsightFaceSwapGenerator, nearest
from workers.generation.inswapper import InSwapper
from workers.generation.registry import make_generator

RGB = NDArray[np.uint8]
SIZE = 256
BLUE, GREEN = (40, 60, 220), (40, 220, 60)
Make = Callable[..., InsightFaceSwapGenerator]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pack(tmp_path_factory.mktemp("faces") / "buffalo_l")


@pytest.fixture
def make(pack: Path, tmp_path: Path) -> Make:
    """Makes a loaded generator around a face swapper."""

    def made(model: Any = None, **changes: Any) -> InsightFaceSwapGenerator:
        generator = unloaded(pack, save_swapper(tmp_path / "inswapper.onnx", model), **changes)
        generator.load()
        return generator

    return made


def unloaded(folder: Path, file: Path, device: str = "cpu", **changes: Any) -> InsightFaceSwapGenerator:
    section = {
        "accept_noncommercial": True,
        "detector_model": str(folder),
        "swapper_model": str(file),
        "detection_size": SIZE,
        **changes,
    }
    settings = Settings.model_validate({"generation": {"insightface": section}})
    generator = make_generator("insightface-swap", settings, device)
    assert isinstance(generator, InsightFaceSwapGenerator)
    return generator


def scene(*places: tuple[int, int], side: int = 32, size: tuple[int, int] = (SIZE, SIZE)) -> RGB:
    """Soft noise with a face at each place (column, row): what the detector calls one is a red square below it."""
    noise = np.random.default_rng(3).integers(60, 200, (*size, 3)).astype(np.uint8)
    picture: RGB = np.asarray(cv2.GaussianBlur(noise, (9, 9), 0), np.uint8)
    for column, row in places:
        picture[row : row + side, column : column + side] = (255, 0, 0)
    return picture


def character(colour: tuple[int, int, int]) -> RGB:
    """One face, all of one colour but for the red square."""
    picture = np.full((SIZE, SIZE, 4), 255, np.uint8)
    picture[..., :3] = colour
    picture[128:160, 128:160, :3] = (255, 0, 0)
    return picture


def task(init: RGB, box: tuple[int, int, int, int], who: RGB | None = None) -> TaskImages:
    left, top, right, bottom = box
    mask = np.zeros(init.shape[:2], np.uint8)
    mask[top:bottom, left:right] = 255
    return TaskImages("1", "Mira", init, mask, character(BLUE) if who is None else who, key="k")


def spec(seed: int = 1, **changes: Any) -> CandidateSpec:
    return CandidateSpec.model_validate({"id": "g00", "phase": "global", "seed": seed, "order": (0, 0), **changes})


def swap(generator: InsightFaceSwapGenerator, images: TaskImages, seed: int = 1) -> GeneratedImage:
    return generator.generate(GenerationRequest(images, spec(seed)), Watcher())


def centre(made: GeneratedImage) -> tuple[float, float]:
    box = made.params["face"]
    assert isinstance(box, list)
    left, top, right, bottom = (float(str(edge)) for edge in box)
    return (left + right) / 2, (top + bottom) / 2


ALL = (0, 0, SIZE, SIZE)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("shrink", [1, 2])
def test_faces_of_every_stride_are_found_where_they_are(tmp_path: Path, stride: int, shrink: int) -> None:
    folder = save_pack(tmp_path / "pack", firing=stride)
    finder = FaceFinder(folder, "setting", "cpu", SIZE, 0.5)
    column, row = 5 * stride, 3 * stride
    picture = np.full((SIZE // 2, SIZE, 3), 128, np.uint8)
    picture[row : row + stride, column : column + stride] = (255, 0, 0)
    (face,) = finder.find(np.ascontiguousarray(picture[::shrink, ::shrink]))
    assert face.score > 0.99
    assert np.array(face.box) * shrink == pytest.approx(
        [column - 1.5 * stride, row - 1.5 * stride, column + 1.5 * stride, row + 1.5 * stride]
    )
    assert face.points * shrink == pytest.approx(np.array([column, row]) + np.array(POINTS) * stride, abs=1e-3)


def test_a_face_is_found_once(tmp_path: Path) -> None:
    finder = FaceFinder(save_pack(tmp_path / "pack", firing=8), "setting", "cpu", SIZE, 0.5)
    picture = np.full((SIZE, SIZE, 3), 128, np.uint8)
    picture[80:88, 80:96] = (255, 0, 0)
    picture[160:168, 40:48] = (255, 0, 0)
    faces = finder.find(picture)
    assert sorted(face.centre for face in faces) in ([(40, 160), (80, 80)], [(40, 160), (88, 80)])


def test_the_transform_is_the_least_squares_similarity() -> None:
    angle, scale = 0.4, 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (TEMPLATE @ turn.T + [12, -5]).astype(np.float32)
    assert similarity(TEMPLATE, moved) == pytest.approx(np.column_stack([turn, [12, -5]]), abs=1e-4)
    shaken = moved + np.random.default_rng(0).normal(0, 3, moved.shape).astype(np.float32)
    best = similarity(TEMPLATE, shaken)

    def error(matrix: NDArray[np.float64]) -> float:
        return float(((TEMPLATE @ matrix[:, :2].T + matrix[:, 2] - shaken) ** 2).sum())

    a, b = best[0, 0], best[1, 0]
    for da, db, shift in ((0.01, 0, 0), (-0.01, 0, 0), (0, 0.01, 0), (0, -0.01, 0), (0, 0, 0.1), (0, 0, -0.1)):
        other = np.array([[a + da, -b - db, best[0, 2] + shift], [b + db, a + da, best[1, 2]]])
        assert error(other) > error(best)


@pytest.mark.parametrize(("place", "side"), [((96, 128), 32), ((160, 96), 32), ((112, 96), 16), ((64, 160), 16)])
def test_the_swapped_face_lands_on_the_face(tmp_path: Path, place: tuple[int, int], side: int) -> None:
    file = save_swapper(tmp_path / "inswapper.onnx", swapper(keep=1, tint=0, marks=True))
    generator = unloaded(save_pack(tmp_path / "pack", firing=side), file, feather=0)
    generator.load()
    # The character's face is of the same kind, so it must be found at the same stride.
    who = np.dstack([scene((128, 128), side=side), np.full((SIZE, SIZE), 255, np.uint8)])
    made = swap(generator, task(scene(place, side=side), ALL, who))
    green = (made.image[..., 1] > 200) & (made.image[..., 0] < 60) & (made.image[..., 2] < 60)
    count, _, _, centroids = cv2.connectedComponentsWithStats(green.astype(np.uint8))
    assert count - 1 == 5
    expected = np.array(place) + np.array(POINTS) * side
    for point in expected:
        assert np.hypot(*(centroids[1:] - point).T).min() < 0.06 * side


def test_a_face_redrawn_as_it_was_goes_back_where_it_was(tmp_path: Path) -> None:
    picture = np.ascontiguousarray(data.astronaut())
    points = np.array([[207, 110], [246, 111], [229, 135], [211, 155], [245, 156]], np.float32)
    model = InSwapper(save_swapper(tmp_path / "s.onnx", swapper(keep=1, tint=0)), "setting", "cpu")
    back = model.swap(picture, points, np.eye(EMBEDDING, dtype=np.float32)[0])
    face = slice(90, 170), slice(190, 260)

    def error(right: int, down: int) -> float:
        """Mean difference to the picture when that is moved; being drawn twice costs some sharpness."""
        return float(np.abs(back[face].astype(int) - np.roll(picture, (down, right), (0, 1))[face]).mean())

    moved = [error(right, down) for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    assert error(0, 0) < 4
    assert error(0, 0) < 0.6 * min(moved)
    assert (back[300:] == picture[300:]).all()


def test_outside_the_mask_nothing_changes_and_at_its_edge_nothing_jumps(make: Make) -> None:
    init = scene((96, 96))
    images = task(init, (70, 70, 150, 150))
    made = swap(make(), images)
    outside = images.mask == 0
    assert (made.image[outside] == init[outside]).all()
    change = np.abs(made.image.astype(int) - init).max(axis=2)
    depth = cv2.distanceTransform(images.mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    assert change[depth > 10].max() > 100
    assert change[depth == 1].max() <= 12
    hard = np.abs(swap(make(feather=0), images).image.astype(int) - init).max(axis=2)
    assert hard[depth == 1].max() > 50


def test_the_swapped_square_fades_into_the_picture(make: Make) -> None:
    """Where the mask goes on beyond the face, the square's own border is not seen."""
    init = np.full((SIZE, SIZE, 3), 128, np.uint8)
    init[128:160, 128:160] = (255, 0, 0)
    made = swap(make(), task(init, ALL))
    change = np.abs(made.image.astype(int) - init).max(axis=2)
    steps = np.abs(np.diff(change[180]))
    assert change[180].max() > 100
    assert steps.max() < 25


def test_the_character_s_identity_is_what_is_drawn(make: Make) -> None:
    generator = make()
    for colour, channel in ((BLUE, 2), (GREEN, 1)):
        made = swap(generator, task(scene((128, 128)), ALL, character(colour)))
        assert int(np.argmax(made.image[150, 110])) == channel
        assert made.image[150, 110, channel] > 100


def test_the_identity_goes_through_emap(make: Make) -> None:
    third = EMBEDDING // 3
    blue_is_green = np.roll(np.eye(EMBEDDING, dtype=np.float32), -third, axis=1)
    made = swap(make(swapper(emap=blue_is_green)), task(scene((128, 128)), ALL, character(BLUE)))
    assert int(np.argmax(made.image[150, 110])) == 1
    # Whatever the size of emap's numbers: the identity is brought back to length 1.
    large = swap(make(swapper(emap=5 * blue_is_green)), task(scene((128, 128)), ALL, character(BLUE)))
    assert (large.image == made.image).all()


@pytest.mark.parametrize(("box", "meant"), [((40, 40, 90, 90), (64, 64)), ((150, 150, 220, 220), (192, 192))])
def test_of_two_faces_the_one_in_the_mask_is_swapped(
    make: Make, box: tuple[int, int, int, int], meant: tuple[int, int]
) -> None:
    made = swap(make(), task(scene((64, 64), (192, 192)), box))
    assert centre(made) == pytest.approx(meant, abs=0.5)


def _face(left: int, top: int, side: int) -> Face:
    return Face((left, top, left + side, top + side), 0.9, TEMPLATE)


@pytest.mark.parametrize(
    ("faces", "meant"),
    [
        pytest.param((_face(0, 0, 30), _face(110, 110, 30)), 1, id="within it, not far from it"),
        pytest.param((_face(40, 100, 50), _face(20, 100, 60)), 0, id="the nearer one of two outside"),
        pytest.param((_face(155, 110, 10), _face(140, 100, 100)), 1, id="one that it overlaps, though another is near"),
        pytest.param((_face(90, 90, 120), _face(110, 110, 30)), 1, id="of two within, the one covered most"),
        pytest.param((_face(110, 110, 20), _face(105, 105, 40)), 1, id="of two covered wholly, the larger"),
    ],
)
def test_which_face_a_mask_means(faces: tuple[Face, ...], meant: int) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[100:150, 100:150] = 255
    assert nearest(faces, mask) is faces[meant]
    assert nearest(faces[::-1], mask) is faces[meant]


def test_no_face_fails_the_candidate_and_says_where(make: Make) -> None:
    generator = make()
    with pytest.raises(Permanent, match=r"the picture to be edited.*detection_threshold"):
        swap(generator, task(scene(), ALL))
    nobody = np.full((SIZE, SIZE, 4), 255, np.uint8)
    with pytest.raises(Permanent, match="the character's picture"):
        swap(generator, task(scene((128, 128)), ALL, nobody))
    with pytest.raises(Permanent, match="outside it"):
        swap(generator, task(scene((64, 64)), (200, 200, 250, 250)))


def test_a_face_that_the_mask_cuts_is_told(make: Make) -> None:
    whole = swap(make(), task(scene((128, 128)), ALL))
    half = swap(make(), task(scene((128, 128)), (0, 0, 128, SIZE)))
    assert not any("covers" in note for note in whole.notes)
    assert "the mask covers only 50% of the face" in half.notes
    assert half.params["mask_covers"] == pytest.approx(0.5, abs=0.01)


def test_the_same_request_gives_the_same_picture_whatever_the_seed(make: Make) -> None:
    images = task(scene((128, 128)), (60, 60, 200, 200))
    first, second = swap(make(), images, 5000), swap(make(), images, 5031)
    assert (first.image == second.image).all()
    assert first.params["depends_on_seed"] is False
    assert any("seed" in note for note in first.notes)


def test_a_refinement_swaps_in_its_parent_s_picture(make: Make) -> None:
    generator = make(swapper(keep=0.5, tint=0.5))
    images = task(scene((128, 128)), (60, 60, 200, 200))
    parent = swap(generator, images)
    shown = parent.image.copy()
    # What a parent drew away from the face stays.
    shown[195, 195] = (1, 2, 3)
    shown[128:160, 128:160] = (255, 0, 0)
    child = spec(id="l00.0", phase="local", parent="g00", start=Start.REFINE, strength=0.55)
    origin = Parent(spec(), shown, parent.params, {})
    made = generator.generate(GenerationRequest(images, child, origin), Watcher())
    assert (made.image[150, 110] != parent.image[150, 110]).any()
    assert made.image[150, 110, 0] < 0.7 * parent.image[150, 110, 0]
    assert tuple(made.image[195, 195]) == (1, 2, 3)
    outside = images.mask == 0
    assert (made.image[outside] == images.init[outside]).all()
    with pytest.raises(Permanent, match="none was given"):
        generator.generate(GenerationRequest(images, child), Watcher())


def test_it_cannot_stop_or_resume(make: Make) -> None:
    generator, images = make(), task(scene((128, 128)), ALL)
    origin = Parent(spec(), images.init, {}, {})
    for asked in (spec(stop_at=0.3), spec(start=Start.RESUME, parent="p00")):
        with pytest.raises(Permanent, match="turn pruning off"):
            generator.generate(GenerationRequest(images, asked, origin), Watcher())


def test_a_candidate_that_is_not_wanted_is_let_go(make: Make) -> None:
    class Unwanted:
        def step(self, done: int, total: int) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        make().generate(GenerationRequest(task(scene((128, 128)), ALL), spec()), Unwanted())


def test_the_licence_is_said_aloud(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        generator = make()
    records = {record.__dict__.get("action"): record for record in caplog.records}
    assert records["generator.noncommercial"].levelno == logging.WARNING
    assert "generator.loaded" in records
    assert LICENCE in swap(generator, task(scene((128, 128)), ALL)).notes
    assert "non-commercial" in LICENCE


def test_without_the_opt_in_nothing_is_loaded(tmp_path: Path) -> None:
    generator = unloaded(tmp_path / "none", tmp_path / "none.onnx", accept_noncommercial=False)
    with pytest.raises(ConfigurationError, match=r"generation\.insightface\.accept_noncommercial .*non-commercial"):
        generator.load()


def test_the_front_door_asks_for_the_opt_in_before_anything_starts() -> None:
    def settings(accepted: bool, **search: Any) -> Settings:
        generation = {"generator": "composite", "insightface": {"accept_noncommercial": accepted}}
        return Settings.model_validate({"generation": generation, "search": search})

    with pytest.raises(ConfigurationError, match="accept_noncommercial"):
        choose_here(settings(False, include_raw_swap=True), {})
    assert choose_here(settings(True, include_raw_swap=True), {}).generator == "composite"
    assert choose_here(settings(False), {}).generator == "composite"
    (plan,) = device_plans(settings(True, include_raw_swap=True), "composite", ("cpu",), 1)
    assert plan.generators == ("composite", "insightface-swap")


@pytest.mark.parametrize(
    ("search", "said"),
    [({}, "up to 8 candidates"), ({"k_global": 1, "m_global": 0}, None), ({"name": "best-of-n"}, "8")],
)
def test_the_front_door_says_when_the_same_picture_is_asked_for_again(
    capsys: pytest.CaptureFixture[str], search: dict[str, Any], said: str | None
) -> None:
    class Cluster:
        def submit(self, *what: Any, **more: Any) -> Submitted:
            return Submitted(run="run", accepted=("1",), refused={})

    def heard(generator: str) -> str:
        settings = Settings.model_validate({"search": search})
        submit(cast(Client, Cluster()), (), settings, Choice(generator, {}), Order())
        return capsys.readouterr().err

    words = heard("insightface-swap")
    assert (said in words and "--k-global 1" in words) if said else words == ""
    assert heard("composite") == ""


@pytest.mark.parametrize("package", ["onnxruntime", "onnx", "cv2"])
def test_a_missing_package_is_named_with_its_extra(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    generator = unloaded(pack, save_swapper(tmp_path / "s.onnx"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"{package}: pip install 'inpaint-eacps\[insightface\]'"):
        generator.load()


def test_missing_models_are_named_with_their_setting_and_the_fix(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"insightface\.detector_model: no ONNX models in .*none.*non-comm"):
        unloaded(tmp_path / "none", tmp_path / "none.onnx").load()
    with pytest.raises(ConfigurationError, match=r"insightface\.swapper_model: there is no .*none\.onnx.*non-comm"):
        unloaded(pack, tmp_path / "none.onnx").load()


def _pack_of(folder: Path, **models: Any) -> Path:
    folder.mkdir()
    for name, model in models.items():
        onnx.save(model, str(folder / f"{name}.onnx"))
    return folder


def test_a_pack_that_lacks_a_model_or_has_another_s_is_refused(tmp_path: Path) -> None:
    file = save_swapper(tmp_path / "s.onnx")
    with pytest.raises(ConfigurationError, match="holds no face recogniser"):
        unloaded(_pack_of(tmp_path / "a", det=detector()), file).load()
    with pytest.raises(ConfigurationError, match="holds no face detector"):
        unloaded(_pack_of(tmp_path / "b", rec=recogniser()), file).load()
    with pytest.raises(ConfigurationError, match=r"embeddings of 147 numbers, .* takes 48"):
        unloaded(_pack_of(tmp_path / "c", det=detector(), rec=recogniser(7)), file).load()


def _without_emap() -> Any:
    model = swapper()
    del model.graph.initializer[-1]
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(detector, "is no matrix", id="a detector"),
        pytest.param(recogniser, "is no matrix", id="a recogniser"),
        pytest.param(_without_emap, "is no matrix", id="a swapper without emap"),
        pytest.param(lambda: swapper(emap=np.eye(48, 40, dtype=np.float32)), "identity of 40", id="of another size"),
    ],
)
def test_another_model_than_a_face_swapper_is_refused(make: Make, model: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"swapper_model: .* is no inswapper_128: .*{reason}"):
        make(model())


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_a_file_that_is_no_model_is_refused(make: Make, tmp_path: Path, pack: Path, content: bytes | None) -> None:
    make()
    file = tmp_path / "inswapper.onnx"
    file.write_bytes(file.read_bytes()[:3000] if content is None else content)
    with pytest.raises(ConfigurationError, match=r"swapper_model: .*inswapper\.onnx is no ONNX model"):
        unloaded(pack, file).load()


def test_a_detector_of_one_size_asks_for_that_size(tmp_path: Path) -> None:
    fixed = detector()
    for dimension in fixed.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 320
    folder = _pack_of(tmp_path / "pack", det=fixed, rec=recogniser())
    file = save_swapper(tmp_path / "s.onnx")
    with pytest.raises(ConfigurationError, match=r"320 pixels only: set detection_size"):
        unloaded(folder, file).load()
    unloaded(folder, file, detection_size=320).load()


def test_onnx_runtime_is_pinned_to_the_device(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_models.provider("cpu") == ("CPUExecutionProvider", {})
    session = onnx_models.open_session(pack / "det.onnx", "setting", "cpu")
    assert session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(DeviceError, match="onnxruntime-gpu"):
        onnx_models.provider("cuda")
    with pytest.raises(ConfigurationError, match="mps"):
        onnx_models.provider("mps")
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    for device, number in (("cuda", "0"), ("cuda:0", "0"), ("cuda:3", "3")):
        name, options = onnx_models.provider(device)
        assert (name, options["device_id"]) == ("CUDAExecutionProvider", number)


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_gpu_that_cannot_be_used_is_an_error_and_not_the_cpu(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = unloaded(pack, save_swapper(tmp_path / "s.onnx"), device="cuda:0")
    with pytest.raises(DeviceError, match="knows no CUDA"):
        generator.load()
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    with pytest.raises(DeviceError, match=r"cuda:0"):
        generator.load()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("BFCArena: Failed to allocate memory for requested buffer of size 1", Retryable),
        ("CUDA failure 2: out of memory ; GPU=0", Retryable),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("Got invalid dimensions for input", RuntimeError),
    ],
)
def test_failures_of_the_device_are_told_apart(words: str, kind: type[Exception]) -> None:
    class Session:
        def run(self, outputs: None, feeds: dict[str, Any]) -> None:
            raise RuntimeError(words)

    with pytest.raises(kind, match=words.partition(":")[0]):
        onnx_models.run(Session(), {}, "cuda:0")


def test_the_fingerprint_holds_what_changes_a_pixel_and_nothing_else(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> object:
        return unloaded(tmp_path, tmp_path / "s.onnx", **changes).fingerprint()

    assert fingerprint() == fingerprint(accept_noncommercial=False) == fingerprint(device="cuda")
    for changes in ({"feather": 3}, {"detection_size": 640}, {"detection_threshold": 0.4}):
        assert fingerprint(**changes) != fingerprint()


def test_it_must_be_loaded_first(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="load"):
        swap(unloaded(pack, tmp_path / "s.onnx"), replace(task(scene((128, 128)), ALL)))
