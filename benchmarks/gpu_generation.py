"""Time of Qwen-Image-Edit generation on a GPU: the full-size architecture with random weights.

Time does not depend on what the weights are, so it is real; the pictures are not. Run

    python -m benchmarks.gpu_generation --out benchmarks/results        # one GPU with at least 96 GiB
    python -m benchmarks.gpu_generation --tiny --device cpu --out /tmp  # the same code on almost nothing

Every ratio compares measurements of this one run. Nothing is downloaded.
"""

import argparse
import gc
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_models import ceiling_tflops, forward_tflop, full_pipeline
from shared.errors import ConfigurationError, MissingDependency
from shared.settings.qwen import QwenSettings
from shared.types import CandidateSpec, Start
from tests.tiny_qwen import TinyProcessor, psnr, spec, tiny_pipeline
from workers.generation import qwen_loading
from workers.generation.base import GeneratedImage, GenerationRequest, Parent, TaskImages, Unwatched
from workers.generation.conditions import ConditionCache, reference_pixels, takes_several_pictures
from workers.generation.qwen import QwenImageEditGenerator

log = logging.getLogger("benchmark")
FULL_STEPS = 40


@dataclass(frozen=True)
class Row:
    """One measurement. Seconds are of a candidate of `steps` steps; `per_task` is of a whole 4/2/2 task."""

    option: str
    candidate_seconds: float | None = None
    step_seconds: float | None = None
    per_task_seconds: float | None = None
    ratio: float | None = None
    psnr_db: float | None = None
    note: str = ""


class Ready(QwenImageEditGenerator):
    """The generator over a pipeline that is already in memory."""

    def __init__(self, pipe: Any, settings: QwenSettings, device: str) -> None:
        super().__init__(settings, device)
        self._pipe = qwen_loading.prepared(pipe, settings)
        self._kept = ConditionCache(settings.condition_cache)


class Bench:
    """All measurements of one pipeline on one device."""

    def __init__(self, pipe: Any, device: str, side: int, steps: int) -> None:
        self.pipe, self.device, self.side, self.steps = pipe, device, side, steps
        self.rows: list[Row] = []
        self.images = scene(side)
        self._baseline: Row | None = None

    def generator(self, **changes: Any) -> Ready:
        settings = {"model": "random", "steps": self.steps, "crop": "never", "max_pixels": self.side**2}
        settings |= {"reference_pixels": self.side**2, **changes}
        return Ready(self.pipe, QwenSettings.model_validate(settings), self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of `work` with the device's queue empty before and after."""
        self.wait()
        started = time.perf_counter()
        result = work()
        self.wait()
        return time.perf_counter() - started, result

    def wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    def add(self, row: Row) -> Row:
        """Keep a row, with its ratio to the baseline if it has none."""
        base = self._baseline
        if base and row.ratio is None and row.candidate_seconds and base.candidate_seconds:
            row = Row(**{**asdict(row), "ratio": base.candidate_seconds / row.candidate_seconds})
        self.rows.append(row)
        log.info("%s", row)
        return row

    def stock(self, option: str) -> None:
        """Stock diffusers as its documentation calls it: prompt encoded in each call, no mask.

        The first one is the baseline; a later one shows how far the device itself drifts.
        """
        first = Image.fromarray(self.images.init)
        second = Image.fromarray(np.ascontiguousarray(self.images.character[..., :3]))
        calls = [0]
        handle = self.pipe.transformer.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))

        def drawn(steps: int) -> Any:
            with reference_pixels(self.side**2):
                return self.pipe(
                    image=[first, second],
                    prompt="Put the character of Picture 2 into Picture 1.",
                    negative_prompt=" ",
                    true_cfg_scale=4.0,
                    num_inference_steps=steps,
                    width=self.side,
                    height=self.side,
                    generator=torch.Generator("cpu").manual_seed(5000),
                    output_type="np",
                ).images[0]

        drawn(2)
        short, _ = self.timed(lambda: drawn(2))
        calls[0] = 0
        long, _ = self.timed(lambda: drawn(self.steps))
        handle.remove()
        step = (long - short) / (self.steps - 2)
        fixed = long - step * self.steps
        whole = fixed + step * FULL_STEPS
        row = Row(
            option,
            candidate_seconds=long,
            step_seconds=step,
            per_task_seconds=8 * whole,
            ratio=None if self._baseline else 1.0,
            note=f"{calls[0]} transformer calls; {fixed:.2f} s outside the loop (prompt, VAE)",
        )
        self._baseline = self._baseline or row
        self.add(row)

    def candidate(
        self, option: str, generator: Ready, reference: GeneratedImage | None, note: str = ""
    ) -> GeneratedImage:
        """Time a fresh candidate with its task's conditions already kept."""
        request = GenerationRequest(self.images, spec("g00", 5000))
        generator.generate(GenerationRequest(self.images, spec("g09", 1, stop_at=2 / self.steps)), Unwatched())
        made: GeneratedImage
        seconds, made = self.timed(lambda: generator.generate(request, Unwatched()))
        step = made.timings["denoise"] / self.steps
        whole = seconds + step * (FULL_STEPS - self.steps)
        same = psnr(made.image, reference.image) if reference else None
        self.add(Row(option, seconds, step, 8 * whole, psnr_db=same, note=note))
        return made

    def trajectories(self) -> None:
        """Refinement and pruning, and that resuming equals an uninterrupted run."""
        generator = self.generator()
        whole = self.candidate("embeddings and mask shared (ours)", generator, None, "the mask is held in every step")
        root = Parent(spec("g00", 5000), whole.image, whole.params, whole.extras)
        child = spec("l00.0", 7, start=Start.REFINE, parent="g00", strength=0.55)
        seconds, refined = self.timed(
            lambda: generator.generate(GenerationRequest(self.images, child, root), Unwatched())
        )
        self.add(Row("refine 0.55", seconds, note=f"{refined.model_evaluations} of {whole.model_evaluations} calls"))
        early = spec("g00", 5000, stop_at=0.3)
        seconds, paused = self.timed(lambda: generator.generate(GenerationRequest(self.images, early), Unwatched()))
        self.add(Row("preview at 0.3", seconds, note=f"{paused.model_evaluations} calls, then x0 decoded"))
        back = Parent(early, paused.image, paused.params, paused.extras)
        go_on = spec("g01", 5000, start=Start.RESUME, parent="g00")
        seconds, resumed = self.timed(
            lambda: generator.generate(GenerationRequest(self.images, go_on, back), Unwatched())
        )
        equal = resumed.extras["latents"] == whole.extras["latents"]
        note = f"latents bit-equal to the uninterrupted run: {equal}"
        self.add(Row("resume from 0.3", seconds, psnr_db=psnr(resumed.image, whole.image), note=note))

    def batches(self, sizes: tuple[int, ...]) -> None:
        generator = self.generator()
        single = generator.generate(GenerationRequest(self.images, spec("g00", 5000)), Unwatched())
        for size in sizes:
            requests = [GenerationRequest(self.images, spec(f"g{i:02d}", 5000 + 31 * i)) for i in range(size)]
            seconds, made = self.timed(partial(generator.generate_many, requests, Unwatched()))
            step = made[0].timings["denoise"] / self.steps / size
            note = f"per candidate of a batch of {size}"
            self.add(
                Row(f"batch of {size}", seconds / size, step, psnr_db=psnr(made[0].image, single.image), note=note)
            )

    def attempt(self, option: str, reference: GeneratedImage | None, **changes: Any) -> None:
        """A candidate with a speed option; one that is not there is reported, not hidden."""
        generator = self.generator(**changes)
        try:
            qwen_loading.speed_up(self.pipe, generator._settings, self.device)
            self.candidate(option, generator, reference)
        except (ConfigurationError, MissingDependency, RuntimeError, NotImplementedError, ImportError) as error:
            self.add(Row(option, note=f"not available: {str(error).strip().splitlines()[0][:160]}"))

    def task(self, option: str, side: int, steps: int, *, prune: bool, refine: bool) -> float:
        """A whole 4/2/2 task, really run, at `side` pixels and `steps` steps."""
        generator = self.generator(steps=steps, max_pixels=side**2, reference_pixels=side**2)
        images = scene(side)

        def search() -> int:
            calls = 0
            made: list[tuple[CandidateSpec, GeneratedImage]] = []
            for index in range(4):
                one = spec(f"g{index:02d}", 5000 + 31 * index, stop_at=0.3 if prune else None)
                made.append((one, generator.generate(GenerationRequest(images, one), Unwatched())))
            kept = made[:2]
            if prune:
                kept = [
                    (one, generator.generate(GenerationRequest(images, resumed(one), parent(one, image)), Unwatched()))
                    for one, image in kept
                ]
            calls += sum(image.model_evaluations for _, image in made) + sum(
                image.model_evaluations for _, image in kept if prune
            )
            for index, (one, image) in enumerate(kept):
                for child in range(2):
                    name, seed = f"l{index:02d}.{child}", 90 + child
                    wanted = refinement(name, seed, one) if refine else spec(name, seed)
                    request = GenerationRequest(images, wanted, parent(one, image) if refine else None)
                    calls += generator.generate(request, Unwatched()).model_evaluations
            return calls

        generator.generate(GenerationRequest(images, spec("g09", 1, stop_at=2 / steps)), Unwatched())
        seconds, calls = self.timed(search)
        note = f"measured: {side} x {side}, {steps} steps, {calls} transformer calls"
        self.add(Row(option, per_task_seconds=seconds, ratio=None, note=note))
        return seconds


def parent(one: CandidateSpec, image: GeneratedImage) -> Parent:
    return Parent(one, image.image, image.params, image.extras)


def resumed(one: CandidateSpec) -> CandidateSpec:
    return spec(f"g1{one.id[-1]}", one.seed, start=Start.RESUME, parent=one.id)


def refinement(name: str, seed: int, one: CandidateSpec) -> CandidateSpec:
    return spec(name, seed, start=Start.REFINE, parent=one.id, strength=0.55)


def scene(side: int) -> TaskImages:
    """A square scene of smooth noise with a mask in its middle, and a character of the same size."""
    random = np.random.default_rng(0)

    def picture() -> np.ndarray[Any, Any]:
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).copy()

    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 255
    character = np.dstack([picture(), np.full((side, side), 255, np.uint8)])
    return TaskImages("bench", "Ana", picture(), mask, character, f"bench-{side}")


@contextmanager
def attention(pipe: Any) -> Iterator[None]:
    """Restores the attention backend at the end; setting one sets it for the whole process as well."""
    try:
        yield
    finally:
        pipe.transformer.set_attention_backend("native")
        pipe.transformer.reset_attention_backend()


def measure(bench: Bench, *, tiny: bool) -> None:
    """All options, cheap and exact ones first; those that change the transformer for good come last."""
    pipe = bench.pipe
    bench.stock("stock diffusers, one by one")
    bench.trajectories()
    reference = bench.generator().generate(GenerationRequest(bench.images, spec("g00", 5000)), Unwatched())
    bench.stock("stock diffusers, again")
    bench.candidate("embeddings and mask shared (ours), again", bench.generator(), reference)
    bench.batches((2,) if tiny else (2, 4))
    for backend in ("_native_cudnn", "_native_flash"):
        with attention(pipe):
            bench.attempt(f"attention {backend}", reference, attention_backend=backend)
    bench.attempt("first-block cache 0.1", reference, first_block_cache=0.1)
    if pipe.transformer.is_cache_enabled:
        pipe.transformer.disable_cache()
    bench.add(text_kv_row(pipe))
    small, steps = (64, 5) if tiny else (512, FULL_STEPS // 2)
    plain = bench.task("task 4/2/2, local = fresh seeds", small, steps, prune=False, refine=False)
    for option, prune in (("task 4/2/2, refine 0.55", False), ("task 4/2/2, refine 0.55 and prune 0.3", True)):
        seconds = bench.task(option, small, steps, prune=prune, refine=True)
        bench.rows[-1] = Row(**{**asdict(bench.rows[-1]), "ratio": plain / seconds})
    if not tiny:
        bench.attempt("regional compile", reference, compile=True)
        with attention(pipe):
            bench.attempt("compile + attention _native_cudnn", reference, attention_backend="_native_cudnn")
        bench.attempt("compile + fp8 (torchao)", reference, fp8=True)


def text_kv_row(pipe: Any) -> Row:
    """TextKVCache on this architecture: how many blocks it hooks."""
    from diffusers import TextKVCacheConfig

    transformer = pipe.transformer
    transformer.enable_cache(TextKVCacheConfig())
    registries = [getattr(block, "_diffusers_hook", None) for block in transformer.transformer_blocks]
    hooked = sum(
        registry is not None and registry.get_hook("text_kv_cache_block") is not None for registry in registries
    )
    # diffusers has no way to take this cache off again.
    transformer._diffusers_hook.remove_hook("text_kv_cache_transformer", recurse=True)
    transformer._cache_config = None
    return Row("TextKVCache", note=f"hooks {hooked} blocks of this architecture in this diffusers: no effect")


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """The report in Markdown."""

    def cell(value: float | None, digits: int) -> str:
        return "" if value is None else "equal" if value == float("inf") else f"{value:.{digits}f}"

    head = [f"- {key}: {value}" for key, value in about.items()]
    lines = ["", f"| option | s/candidate ({about['steps']} steps) | s/step | s/task 4/2/2 | ratio | PSNR dB | note |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    lines += [
        f"| {row.option} | {cell(row.candidate_seconds, 2)} | {cell(row.step_seconds, 3)} | "
        f"{cell(row.per_task_seconds, 1)} | {cell(row.ratio, 2)} | {cell(row.psnr_db, 1)} | {row.note} |"
        for row in rows
    ]
    return "\n".join(["# Generation on a GPU", "", *head, *lines, ""])


def main() -> None:
    """Run, print the table, and write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="a tiny architecture, to try the benchmark itself")
    parser.add_argument("--steps", type=int, default=8, help="steps of the measured candidates")
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    side = 64 if options.tiny else options.side
    cuda = options.device.startswith("cuda")
    started = time.perf_counter()
    pipe = tiny_pipeline() if options.tiny else full_pipeline(options.device)
    pipe.processor = TinyProcessor()
    pipe.set_progress_bar_config(disable=True)
    pipe.to(options.device)
    built = time.perf_counter() - started
    assert takes_several_pictures(pipe)
    bench = Bench(pipe, options.device, side, options.steps)
    ceiling = ceiling_tflops(options.device)
    work = forward_tflop(pipe, side)
    about: dict[str, Any] = {
        "command": "python -m benchmarks.gpu_generation " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "software": f"torch {torch.__version__}, diffusers {__import__('diffusers').__version__}",
        "weights": f"random, {sum(p.numel() for p in pipe.transformer.parameters()) / 1e9:.1f} B parameters in the "
        f"transformer; built in {built:.0f} s",
        "picture": f"{side} x {side}, two references of that size, true_cfg_scale 4 (two calls per step)",
        "steps": options.steps,
        "per task": f"8 candidates of {FULL_STEPS} steps, extrapolated from s/step where no row says measured",
    }
    try:
        measure(bench, tiny=options.tiny)
    finally:
        best = min((row.step_seconds for row in bench.rows if row.step_seconds), default=None)
        stock = next((row.step_seconds for row in bench.rows if row.step_seconds), None)
        about["matrix ceiling"] = f"{ceiling:.0f} TFLOP/s (bf16 8192^3, random data, this run)"
        if stock and best:
            about["achieved"] = (
                f"{2 * work / stock:.0f} TFLOP/s stock ({200 * work / stock / ceiling:.0f} % of the ceiling), "
                f"{2 * work / best:.0f} TFLOP/s best; one call is {work:.0f} TFLOP"
            )
        if cuda:
            about["peak memory"] = f"{torch.cuda.max_memory_allocated() / 1024**3:.1f} GiB"
        options.out.mkdir(parents=True, exist_ok=True)
        text = table(bench.rows, about)
        (options.out / "gpu_generation.md").write_text(text)
        rows = [asdict(row) for row in bench.rows]
        (options.out / "gpu_generation.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1))
        print(text)
        del pipe, bench
        gc.collect()


if __name__ == "__main__":
    main()
