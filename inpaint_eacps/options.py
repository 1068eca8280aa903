"""Flags that several commands share, and which setting each stands for. Light: read before any command runs."""

from pathlib import Path
from typing import Annotated

import typer

#: A flag's parameter name, and the setting it overrides.
SETTING_OF_FLAG = {
    "search": "search.name",
    "k_global": "search.k_global",
    "m_global": "search.m_global",
    "k_local": "search.k_local",
    "strength": "search.strength",
    "alpha": "scoring.potential.consistency",
    "beta": "scoring.potential.quality",
    "gamma": "scoring.potential.identity",
    "output_dir": "publish.output_dir",
    "cache_dir": "input.cache_dir",
    "generator": "generation.generator",
    "judge": "scoring.judges",
    "broker_url": "broker.url",
    "git_push": "publish.git",
}

TaskIds = Annotated[
    list[str] | None, typer.Argument(metavar="[TASK]...", help="Ids of tasks; `-` reads them from stdin.")
]
TaskIdFlags = Annotated[list[str] | None, typer.Option("--task-id", help="Id of a task; repeatable.", metavar="ID")]
Tasks = Annotated[Path | None, typer.Option(help="Label Studio JSON export.", metavar="EXPORT")]
AllTasks = Annotated[bool, typer.Option("--all", help="Every task of the export.")]
FromFile = Annotated[Path | None, typer.Option(help="File with one task id per line.", metavar="FILE")]
Init = Annotated[str | None, typer.Option(help="Single task: the image to inpaint (path or URL).", metavar="IMAGE")]
Mask = Annotated[str | None, typer.Option(help="Single task: the mask, white where to edit.", metavar="IMAGE")]
Character = Annotated[str | None, typer.Option(help="Single task: the character's reference.", metavar="IMAGE")]
Name = Annotated[str | None, typer.Option(help="Single task: the character's name.")]
Id = Annotated[str | None, typer.Option(help="Single task: its id.", show_default="from the image's name")]

Search = Annotated[str | None, typer.Option(help="eacps, best-of-n or zero-order.", show_default="eacps")]
KGlobal = Annotated[int | None, typer.Option(help="Candidates of the global phase.", show_default="4")]
MGlobal = Annotated[int | None, typer.Option(help="Best candidates that are refined.", show_default="2")]
KLocal = Annotated[int | None, typer.Option(help="Refinements of each of them.", show_default="2")]
Strength = Annotated[float | None, typer.Option(help="How far a refinement moves, 0 to 1.", show_default="0.55")]
Alpha = Annotated[float | None, typer.Option(help="Weight of consistency.", show_default="1")]
Beta = Annotated[float | None, typer.Option(help="Weight of quality.", show_default="1")]
Gamma = Annotated[float | None, typer.Option(help="Weight of identity.", show_default="2")]
OutputDir = Annotated[
    str | None, typer.Option(help="Results: a folder or fsspec URL.", show_default="outputs/inpaint_eacps")
]
CacheDir = Annotated[Path | None, typer.Option(help="Downloads.", show_default="data/cache")]
GeneratorFlag = Annotated[str | None, typer.Option("--generator", help="What makes the images.", show_default="auto")]
Judge = Annotated[list[str] | None, typer.Option(help="Who judges, best first; repeatable.", show_default="auto")]
BrokerUrl = Annotated[
    str | None, typer.Option(help="Valkey or Redis; a password belongs in INPAINT_EACPS_BROKER__URL.", metavar="URL")
]
GeminiKey = Annotated[
    str | None,
    typer.Option(help="Works, but shows in your shell's history: set GEMINI_API_KEY instead.", metavar="KEY"),
]
Config = Annotated[list[Path] | None, typer.Option(help="YAML settings; repeatable, the later wins.", metavar="FILE")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, as `section.field=value`; repeatable.", metavar="NAME=VALUE"),
]
Force = Annotated[bool, typer.Option("--force", help="Run tasks again that are done already.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would come to.")]
GitPush = Annotated[
    bool | None,
    typer.Option("--git-push", help="Commit results of finished tasks and push them (see publish.git_* settings)."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; errors only.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv says everything.", metavar="")]
Priority = Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Device workers on a CPU.", show_default="number of cores, at most 4")
]
Device = Annotated[
    list[str] | None,
    typer.Option(help="cuda:N, cpu or all; repeatable.", show_default="cuda:0 if there is one, else cpu"),
]
