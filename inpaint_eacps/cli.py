"""The commands and their flags. Bodies are in `inpaint_eacps.commands`, imported when a command runs."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from inpaint_eacps import options as o
from inpaint_eacps.interrupts import interruptible

EPILOG = """Exit codes: 0 all done; 1 some tasks failed; 2 usage, configuration or input; 3 broker unreachable; 4 device
unusable; 130 interrupted. Results go to stdout, everything else to stderr. Flags may be written with underscores."""

app = typer.Typer(
    help="Inference-time scaling for character inpainting: search, judge, refine, publish.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")


def _perform(ctx: typer.Context, module: str, function: str) -> int:
    """Import a command's body, which is what costs time, and run it."""
    from inpaint_eacps.arguments import Arguments

    return int(getattr(import_module(f"inpaint_eacps.commands.{module}"), function)(Arguments.of(ctx.params)))


def _show_version(wanted: bool) -> None:
    if wanted:
        from inpaint_eacps import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def front_door(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Inference-time scaling for character inpainting: search, judge, refine, publish."""


@app.command(epilog=EPILOG)
def run(
    ctx: typer.Context,
    tasks_wanted: o.TaskIds = None,
    tasks: o.Tasks = None,
    task_id: o.TaskIdFlags = None,
    from_file: o.FromFile = None,
    init: o.Init = None,
    mask: o.Mask = None,
    character: o.Character = None,
    name: o.Name = None,
    id: o.Id = None,
    search: o.Search = None,
    k_global: o.KGlobal = None,
    m_global: o.MGlobal = None,
    k_local: o.KLocal = None,
    strength: o.Strength = None,
    alpha: o.Alpha = None,
    beta: o.Beta = None,
    gamma: o.Gamma = None,
    generator: o.GeneratorFlag = None,
    judge: o.Judge = None,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    device: o.Device = None,
    workers: o.Workers = None,
    broker_url: o.BrokerUrl = None,
    gemini_api_key: o.GeminiKey = None,
    priority: o.Priority = 0,
    force: o.Force = False,
    git_push: o.GitPush = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Inpaint tasks now and wait for them.

    On this machine, or on a cluster with --broker-url. Without tasks, ./project-label.json is taken if it is there."""
    with interruptible():
        raise typer.Exit(_perform(ctx, "run", "run"))


@app.command(epilog=EPILOG)
def submit(
    ctx: typer.Context,
    tasks_wanted: o.TaskIds = None,
    tasks: o.Tasks = None,
    task_id: o.TaskIdFlags = None,
    from_file: o.FromFile = None,
    all: o.AllTasks = False,
    init: o.Init = None,
    mask: o.Mask = None,
    character: o.Character = None,
    name: o.Name = None,
    id: o.Id = None,
    search: o.Search = None,
    k_global: o.KGlobal = None,
    m_global: o.MGlobal = None,
    k_local: o.KLocal = None,
    strength: o.Strength = None,
    alpha: o.Alpha = None,
    beta: o.Beta = None,
    gamma: o.Gamma = None,
    generator: o.GeneratorFlag = None,
    judge: o.Judge = None,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    broker_url: o.BrokerUrl = None,
    gemini_api_key: o.GeminiKey = None,
    priority: o.Priority = 0,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    git_push: o.GitPush = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Hand tasks to a cluster and return at once."""
    raise typer.Exit(_perform(ctx, "submit", "submit"))


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, as `submit` printed it.")]


@app.command()
def status(
    ctx: typer.Context,
    run_id: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show it live.")] = False,
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Show how far a run is."""
    raise typer.Exit(_perform(ctx, "follow", "status"))


@app.command(epilog=EPILOG)
def wait(
    ctx: typer.Context,
    run_id: RunArgument,
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Wait for a run; Ctrl-C stops the waiting, not the run."""
    with interruptible():
        raise typer.Exit(_perform(ctx, "follow", "wait"))


@app.command()
def cancel(
    ctx: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN|TASK", help="Id of a run, or of a task in any run.")],
    task_id: o.TaskIdFlags = None,
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Stop a run, or some of its tasks.

    What waits stops at once, what runs at its next step."""
    raise typer.Exit(_perform(ctx, "follow", "cancel"))


@app.command()
def retry(
    ctx: typer.Context,
    run_id: RunArgument,
    failed: Annotated[bool, typer.Option("--failed", help="Tasks that failed (the default).")] = True,
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Run a run's failed tasks again."""
    raise typer.Exit(_perform(ctx, "follow", "retry"))


@app.command()
def resume(
    ctx: typer.Context,
    run_id: RunArgument,
    output_dir: o.OutputDir = None,
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Take a run up again from its record on disk.

    After the broker lost it; finished candidates are reused."""
    raise typer.Exit(_perform(ctx, "follow", "resume"))


@app.command(epilog=EPILOG)
def worker(
    ctx: typer.Context,
    device: o.Device = None,
    workers: o.Workers = None,
    queue: Annotated[
        str | None, typer.Option(help="`score`, or a judge's own `score.<judge>`, instead of a device.")
    ] = None,
    drain: Annotated[
        str | None, typer.Option(help="Tell the workers of this host to finish and leave.", metavar="HOST")
    ] = None,
    generator: o.GeneratorFlag = None,
    judge: o.Judge = None,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    broker_url: o.BrokerUrl = None,
    gemini_api_key: o.GeminiKey = None,
    config: o.Config = None,
    set_: o.Set = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Join a cluster with this machine's devices or judges."""
    raise typer.Exit(_perform(ctx, "serve", "worker"))


@app.command(epilog=EPILOG)
def orchestrator(
    ctx: typer.Context,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Run an orchestrator of a cluster.

    Two or more may run at once."""
    raise typer.Exit(_perform(ctx, "serve", "orchestrator"))


@app.command()
def flower(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 5555,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Serve Flower for this cluster.

    FLOWER_BASIC_AUTH=user:password protects it."""
    raise typer.Exit(_perform(ctx, "flower", "flower"))


@app.command()
def metrics(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 9808,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    broker_url: o.BrokerUrl = None,
    config: o.Config = None,
    set_: o.Set = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Serve this cluster's numbers for Prometheus.

    Queues, devices, candidates, latencies, judge cost."""
    raise typer.Exit(_perform(ctx, "metrics", "metrics"))


@app.command()
def doctor(
    ctx: typer.Context,
    online: Annotated[bool, typer.Option("--online", help="Also ask Gemini whether the key is valid.")] = False,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    broker_url: o.BrokerUrl = None,
    gemini_api_key: o.GeminiKey = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Check this machine, and name the fix for what is missing.

    Python, packages, CUDA, broker, key, disk, cache."""
    raise typer.Exit(_perform(ctx, "doctor", "doctor"))


@app.command()
def report(
    ctx: typer.Context,
    tasks_wanted: o.TaskIds = None,
    output_dir: o.OutputDir = None,
    config: o.Config = None,
    set_: o.Set = None,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Write report.html again from what is on disk."""
    raise typer.Exit(_perform(ctx, "report", "report"))


@app.command()
def calibrate(
    ctx: typer.Context,
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="Label Studio export with human choices.")],
    judge: o.Judge = None,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    gemini_api_key: o.GeminiKey = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Compare a judge with human choices.

    Agreement, spread, and the smallest potential difference worth trusting."""
    raise typer.Exit(_perform(ctx, "calibrate", "calibrate"))


@config_app.command("show")
def config_show(
    ctx: typer.Context,
    search: o.Search = None,
    k_global: o.KGlobal = None,
    m_global: o.MGlobal = None,
    k_local: o.KLocal = None,
    strength: o.Strength = None,
    alpha: o.Alpha = None,
    beta: o.Beta = None,
    gamma: o.Gamma = None,
    generator: o.GeneratorFlag = None,
    judge: o.Judge = None,
    output_dir: o.OutputDir = None,
    cache_dir: o.CacheDir = None,
    broker_url: o.BrokerUrl = None,
    gemini_api_key: o.GeminiKey = None,
    config: o.Config = None,
    set_: o.Set = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
) -> None:
    """Print every setting with its source, secrets masked."""
    raise typer.Exit(_perform(ctx, "config", "show"))


@config_app.command("docs", hidden=True)
def config_docs(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if something is stale.")] = False,
) -> None:
    """Write docs/configuration.md and configs/default.yaml from the settings."""
    from inpaint_eacps.docs import write_docs

    raise typer.Exit(write_docs(check))
