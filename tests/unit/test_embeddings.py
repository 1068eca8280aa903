"""The judges clip (a tiny CLIP with random weights) and lpips (its bookkeeping; the network needs torchvision)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.errors import ConfigurationError, MissingDependency
from shared.settings import Settings
from tests.judge_support import context, request
from workers.scoring.clip import ClipScorer
from workers.scoring.perceptual import LpipsScorer
from workers.scoring.registry import criteria_of, make_scorer

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of a few thousand random weights, saved as transformers saves one."""
    try:
        from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    except ImportError as error:
        pytest.skip(f"a torchvision is installed that does not fit torch: {error}")

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    config = CLIPConfig(
        text_config={**layers, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": len(words) - 1},
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def clip(folder: Path) -> ClipScorer:
    scorer = make_scorer("clip", Settings.model_validate({"scoring": {"clip": {"model": str(folder)}}}), context())
    assert isinstance(scorer, ClipScorer)
    return scorer


@pytest.mark.torch
def test_clip_measures_agreement_with_text_and_character(checkpoint: Path) -> None:
    scorer = clip(checkpoint)
    asked = request(3)
    first, again, other = scorer.score(asked), scorer.score(asked), scorer.score(request(4))
    assert set(first.measures) == set(criteria_of("clip", Settings()))
    assert all(-1 <= value <= 1 for value in first.measures.values())
    assert first.measures == again.measures != other.measures
    assert not first.scores
    assert not first.missing


@pytest.mark.torch
def test_all_runs_share_one_model(checkpoint: Path) -> None:
    first, second = clip(checkpoint), clip(checkpoint)
    first.load()
    second.load()
    assert first._loaded is second._loaded


@pytest.mark.torch
def test_clip_finds_the_character_itself_most_like_the_character(checkpoint: Path) -> None:
    asked = request(3)
    mask = np.zeros_like(asked.mask)
    mask[13:77, 13:77] = 255
    result = asked.init.copy()
    result[0:96, 0:96] = np.asarray(_scaled(asked.character[..., :3], 96))
    same = clip(checkpoint).score(replace(asked, mask=mask, result=result)).measures["clip_image"]
    assert same > 0.98
    assert same > clip(checkpoint).score(asked).measures["clip_image"]


def _scaled(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side)))


@pytest.mark.torch
def test_a_clip_that_is_not_there_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"scoring\.clip\.model"):
        clip(tmp_path / "nothing").load()


def test_lpips_is_averaged_inside_and_outside_the_mask() -> None:
    def difference(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray((before != after).any(axis=2), np.float32)

    asked = request(3)
    judgement = LpipsScorer(Settings(), context(), difference).score(asked)
    inside = (asked.init != asked.result).any(axis=2)[asked.mask > 0].mean()
    assert set(judgement.measures) == set(criteria_of("lpips", Settings()))
    assert judgement.measures["lpips_inside"] == pytest.approx(inside)
    assert judgement.measures["lpips_outside"] == 0
    assert judgement.measures["lpips"] == pytest.approx(inside * (asked.mask > 0).mean())


# The package asks torchvision for its backbone in words of 2022.
@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
@pytest.mark.torch
def test_the_network_of_lpips_finds_the_same_image_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real network with a backbone of random weights, found where torchvision keeps those that it downloaded."""
    try:
        import lpips  # noqa: F401
        from torchvision.models import squeezenet1_1
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs lpips, and a torchvision that fits torch: {error}")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    torch.save(squeezenet1_1(weights=None).state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    judge = make_scorer("lpips", Settings.model_validate({"scoring": {"lpips": {"net": "squeeze"}}}), context())
    asked = request(3)
    assert set(judge.score(replace(asked, result=asked.init)).measures.values()) == {0.0}
    found = judge.score(asked).measures
    assert found["lpips_inside"] > found["lpips"] > found["lpips_outside"] >= 0


def test_lpips_without_its_packages_says_which() -> None:
    try:
        import lpips  # noqa: F401
    except (ImportError, RuntimeError):
        with pytest.raises(MissingDependency, match="lpips"):
            LpipsScorer(Settings(), context()).load()
    else:
        pytest.skip("lpips is installed")
