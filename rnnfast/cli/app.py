"""The commands: train, sample, info, bench.

Mistakes of the user end in one line and an exit code, never in a traceback. On a terminal there is a progress bar;
elsewhere (a file, a pipe, CI) plain lines, one per evaluation.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from .. import checkpoint, config
from ..bench import report as bench_report
from ..bench.measure import measure
from ..bench.rows import GROUPS, plan, select
from ..distributed import world
from . import tasks
from .corpus import Corpus, load
from .sample import sample as draw
from .tasks import TaskSettings
from .train import CELLS, CHARACTER_MODEL, PRESETS, Report, Training, load_model

__all__ = ["app"]

_AT_LEAST_1 = click.IntRange(min=1)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_FILE = click.Path(dir_okay=False, path_type=Path)
_SETTINGS = [
    click.option("--cell", type=click.Choice(list(CELLS)), help="Kind of cell."),
    click.option("--hidden", type=_AT_LEAST_1, help="Units per layer."),
    click.option("--layers", type=_AT_LEAST_1, help="Layers."),
    click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="Dropout between layers."),
    click.option("--steps", type=_AT_LEAST_1, help="Updates in all; the learning rate's schedule ends with them."),
    click.option("--batch-size", type=_AT_LEAST_1, help="Places of the text read side by side."),
    click.option("--window", type=_AT_LEAST_1, help="Characters per row and update (k1)."),
    click.option("--truncation", type=_AT_LEAST_1, help="Characters that gradients flow back (k2 >= k1)."),
    click.option("--lr", type=_POSITIVE, help="Highest learning rate."),
    click.option("--clip", type=_POSITIVE, help="Bound for the gradient's norm."),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of weights and dropout."),
]
_TASKS = {
    "text": "rnnfast-char.safetensors",
    "classification": "rnnfast-classes.safetensors",
    "forecasting": "rnnfast-series.safetensors",
}
"""The tasks, and where their models go by default."""
_ONLY = {
    "table": ("data", "target", "sequence", "horizon", "epochs"),
    "text": ("text", "preset", "steps", "truncation", "checkpoint_every", "eval_every", "resume", "curve",
             "sample_length", "mpi", "shards"),
}  # fmt: skip
"""Options that only one kind of task has."""
_threads = click.option("--threads", type=_AT_LEAST_1, help="Most threads to use; results do not depend on it.")


def _settings(command: Any) -> Any:
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@contextmanager
def _one_line() -> Iterator[None]:
    """What the user got wrong, in one line."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error
    except (ValueError, TypeError, FloatingPointError) as error:
        raise click.ClickException(str(error)) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="rnnfast")
def app() -> None:
    """Recurrent networks for NumPy."""


@app.command()
@click.argument("surplus", nargs=-1, metavar="")
@click.option("--task", type=click.Choice(list(_TASKS)), default="text", help="What is to be learned.")
@click.option("--text", type=_FILE, help="UTF-8 text to learn.  [default: Python's help topics]")
@click.option("--data", type=_FILE, help="CSV or .npz file to learn, of the other tasks.")
@click.option("--target", help="Column of classes, or the one to forecast.  [default: label, class, ...; all numbers]")
@click.option("--sequence", help="Column that says which sequence a line is of.  [default: sequence, series or id]")
@click.option("--horizon", type=_AT_LEAST_1, default=10, help="Steps to forecast after the end of a series.")
@click.option("--epochs", type=_AT_LEAST_1, help="Passes over the data of the other tasks.  [default: 30]")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Settings to begin with.  [default: default]")
@_settings
@click.option("--checkpoint", "path", type=_FILE, help="File to write and resume.  [default: rnnfast-char.safetensors]")
@click.option("--checkpoint-every", type=_AT_LEAST_1, default=200, help="Updates between checkpoints.")
@click.option("--eval-every", type=_AT_LEAST_1, default=200, help="Updates between evaluations.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@click.option("--overwrite", is_flag=True, help="Begin anew though the checkpoint exists.")
@click.option("--curve", type=_FILE, help="CSV file to write the evaluations to.")
@click.option("--sample-length", type=click.IntRange(min=0), default=300, help="Characters to draw at the end.")
@click.option("--mpi", is_flag=True, help="Share the work with the ranks of mpiexec; needs the extra mpi.")
@click.option("--shards", type=_AT_LEAST_1, help="Parts of a batch that ranks share, with --mpi.  [default: 4]")
@_threads
def train(
    surplus: tuple[str, ...],
    task: str,
    mpi: bool,
    path: Path | None,
    resume: bool,
    overwrite: bool,
    shards: int | None,
    data: Path | None,
    target: str | None,
    sequence: str | None,
    horizon: int,
    epochs: int | None,
    **given: Any,
) -> None:
    """Train a model of a text, of classes of sequences, or of a series.

    The task "text" is a character model, by truncated backpropagation through time. Prints bits per character on
    training and held-out text, characters per second and the gradient's norm, and at the end a sample. A run that was
    stopped, however, goes on with --resume and ends with bitwise the same weights. With --mpi the same weights come
    from any number of ranks.

    The task "classification" reads --data: a CSV file with a line of names, a column of classes, and a column that says
    which sequence a line is of (or, without it, a sequence in each line); or a .npz file with x [N, T, I] and y [N].
    The task "forecasting" reads a CSV file with a step in each line, or a .npz file with x [N, I], and prints a
    forecast. Both hold a fifth out, print what they reach on it, and keep the best epoch.
    """
    if surplus:
        option = "--text" if task == "text" and not surplus[0].endswith((".csv", ".npz")) else "--data"
        raise click.UsageError(f"Got the argument {surplus[0]!r}. A file to learn is an option: {option} {surplus[0]}")
    path = Path(_TASKS[task]) if path is None else path
    _refuse_options("text" if task == "text" else "table", task)
    if task != "text":
        options = {"epochs": epochs, **{name: given[name] for name in asdict(TaskSettings()) if name in given}}
        _learn(task, data, path, overwrite, target, sequence, horizon, options, given["threads"])
        return
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other.")
    if shards is not None and not mpi:
        raise click.UsageError("--shards goes with --mpi.")
    if not mpi:
        _train(path, resume, overwrite, None, None, **given)
        return
    try:
        comm = world()
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    try:
        _train(path, resume, overwrite, comm, shards, **given)
    except BaseException as error:  # the other ranks would wait for this one for ever
        text = error.format_message() if isinstance(error, click.ClickException) else repr(error)
        click.echo(f"Error on rank {comm.Get_rank()}: {text}", err=True)
        sys.stderr.flush()
        comm.Abort(1)
        raise


def _refuse_options(kind: str, task: str) -> None:
    """A UsageError for an option that the task would pass over."""
    context = click.get_current_context()
    for name in _ONLY["table" if kind == "text" else "text"]:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --task {task}.")


def _learn(
    task: str,
    data: Path | None,
    path: Path,
    overwrite: bool,
    target: str | None,
    sequence: str | None,
    horizon: int,
    options: dict[str, Any],
    threads: int | None,
) -> None:
    """The tasks on tables."""
    if data is None:
        raise click.UsageError(f"--task {task} needs --data, a CSV or .npz file.")
    if path.exists() and not overwrite:
        raise click.ClickException(f"--checkpoint: {path} exists; replace it with --overwrite")
    settings = replace(TaskSettings(), **{name: value for name, value in options.items() if value is not None})
    with _one_line():
        if task == "classification":
            sequences, labels, names = tasks.read_sequences(data, sequence, target)
            click.echo(f"{len(sequences)} sequences of {', '.join(names)}; {len(set(labels))} classes")
            outcome = tasks.learn_classes(sequences, labels, settings, click.echo, num_threads=threads)
        else:
            series, names = tasks.read_series(data, target)
            click.echo(f"{len(series)} steps of {', '.join(names)}")
            outcome = tasks.learn_series(series, names, settings, click.echo, horizon=horizon, num_threads=threads)
        tasks.save(path, outcome)
        click.echo("\n".join(outcome.lines))


def _train(
    path: Path,
    resume: bool,
    overwrite: bool,
    comm: Any,
    shards: int | None,
    *,
    text: Path | None,
    preset: str | None,
    checkpoint_every: int,
    eval_every: int,
    curve: Path | None,
    sample_length: int,
    threads: int | None,
    **given: Any,
) -> None:
    first = comm is None or comm.Get_rank() == 0
    exists = path.exists() if comm is None else comm.bcast(path.exists() if first else None)
    if exists and not (resume or overwrite):
        raise click.ClickException(f"--checkpoint: {path} exists; go on with --resume, or begin anew with --overwrite")
    given = {name: value for name, value in given.items() if value is not None}
    with _one_line():
        corpus = load(text)
        options: dict[str, Any] = {"num_threads": threads, "comm": comm, "shards": shards}
        training = _begin(path, corpus, preset, given, resume, options)
        if first:
            _describe(training)
            # Whether this and the checkpoint can be written shows now, not at the end.
            _write_curve(curve, training.history)
        if not resume:
            training.save(path)
        try:
            _run(training, path, checkpoint_every, eval_every, curve, first)
        except KeyboardInterrupt:
            raise click.ClickException(f"stopped after step {training.step}; go on from {path} with --resume") from None
        if first:
            click.echo(f"\n{_sample(training, sample_length, threads)}")


def _begin(
    path: Path, corpus: Corpus, preset: str | None, given: dict[str, Any], resume: bool, options: dict[str, Any]
) -> Training:
    """A new run, or the one in the checkpoint if it has the settings that are given."""
    if resume:
        expected = asdict(PRESETS[preset]) | given if preset else given
        return Training.resume(path, corpus, expected, **options)
    return Training(corpus, replace(PRESETS[preset or "default"], **given), **options)


def _describe(training: Training) -> None:
    corpus, settings = training.corpus, training.settings
    click.echo(
        f"{len(corpus.train):,} characters to learn, {len(corpus.held_out):,} held out, "
        f"{len(corpus.vocabulary)} distinct; {settings.layers} x {settings.cell} of {settings.hidden}, "
        f"{training.model.params.size:,} parameters; step {training.step} of {settings.steps}"
    )


def _run(
    training: Training, path: Path, checkpoint_every: int, eval_every: int, curve: Path | None, first: bool
) -> None:
    """All steps that are left. Evaluations come before checkpoints, which hold them; the first rank makes them."""
    # disable=None: no bar where standard error is no terminal.
    hidden = None if first else True
    with tqdm(total=training.settings.steps, initial=training.step, unit="step", disable=hidden, leave=False) as bar:
        while not training.done:
            training.advance()
            bar.update()
            if first and (training.step % eval_every == 0 or training.done):
                bar.clear()
                click.echo(_line(training.report()))
                _write_curve(curve, training.history)
            if training.step % checkpoint_every == 0 or training.done:
                training.save(path)


def _line(report: Report) -> str:
    return (
        f"step {report.step:6d}  train {report.train_bpc:.3f}  held out {report.held_out_bpc:.3f} bits per character  "
        f"{report.chars_per_second:9,.0f} characters/s  gradient norm {report.grad_norm:.3f}"
    )


def _write_curve(curve: Path | None, history: list[Report]) -> None:
    if curve is None:
        return
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(Report._fields)
    writer.writerows(history)
    checkpoint.write_atomically(curve, table.getvalue().encode())


def _sample(training: Training, length: int, threads: int | None) -> str:
    """A prompt from the held-out text and what the model makes of it."""
    vocabulary = training.corpus.vocabulary
    prompt = "".join(vocabulary[i] for i in training.corpus.held_out[:40])
    options: dict[str, Any] = {"temperature": 0.7, "rng": training.settings.seed, "num_threads": threads}
    return f"{prompt}|{draw(training.model, vocabulary, prompt, length, **options)}"


@app.command()
@click.argument("path", metavar="CHECKPOINT", type=_FILE)
@click.option("--prompt", default="\n", show_default="a new line", help="Text to continue.")
@click.option("--length", type=click.IntRange(min=0), default=500, help="Characters to draw.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, help="0 takes the likeliest character.")
@click.option("--top-k", type=_AT_LEAST_1, help="Draw from so many of the likeliest characters.  [default: from all]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws.  [default: another each time]")
@_threads
def sample(
    path: Path, prompt: str, length: int, temperature: float, top_k: int | None, seed: int | None, threads: int | None
) -> None:
    """Let the model of CHECKPOINT continue a prompt."""
    with _one_line():
        model, extra = load_model(path)
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "rng": seed, "num_threads": threads}
        click.echo(prompt + draw(model, extra["vocabulary"], prompt, length, **options))


@app.command()
@click.argument("path", metavar="[CHECKPOINT]", type=_FILE, required=False)
def info(path: Path | None) -> None:
    """Show the build and its configuration, or what CHECKPOINT holds."""
    if path is None:
        config.show_config()
        return
    with _one_line():
        loaded = checkpoint.load(path)
    model, extra = loaded.model, loaded.extra
    for name, part in getattr(model, "parts", {"layer": model}).items():
        click.echo(f"{name}: {part!r}")
    click.echo(f"parameters: {model.params.size:,} of {model.params.dtype}")
    settings = extra.get("settings")
    shown = {**settings} if isinstance(settings, dict) else {}
    if extra.get("kind") == CHARACTER_MODEL:
        with _one_line():
            _, extra = load_model(path)  # which knows what must be in it
        click.echo(f"vocabulary: {len(extra['vocabulary'])} characters {extra['vocabulary']!r}")
        shown["step"] = extra["step"]
    else:
        shown |= {name: value for name, value in extra.items() if isinstance(value, str | int | float)}
    for name, value in shown.items():
        click.echo(f"{name}: {value}")
    for row in extra["history"] if extra.get("kind") == CHARACTER_MODEL else ():
        click.echo(_line(Report(*row)))


@app.command(epilog=f"Groups of rows: {', '.join(GROUPS)}.")
@click.argument("names", metavar="[ROW]...", nargs=-1)
@click.option("--threads", type=_AT_LEAST_1, multiple=True, default=[1], help="Threads; may be given several times.")
@click.option("--rounds", type=_AT_LEAST_1, default=9, help="Turns of each contestant, of which the median is taken.")
@click.option("--json", "json_file", type=_FILE, help="File to write everything to, after every row.")
@click.option("--plot", "plot_file", type=_FILE, help="File to draw the ratios to the best peer in (needs matplotlib).")
@click.option("--list", "only_list", is_flag=True, help="Show the rows and what they must reach, and measure nothing.")
def bench(
    names: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    json_file: Path | None,
    plot_file: Path | None,
    only_list: bool,
) -> None:
    """Measure speed against PyTorch, ONNX Runtime, NumPy and this machine's ceilings.

    ROW is a row's name, a leading part of names (forward, forward/lstm) or a glob ('*/gru/*'); all rows by default.
    Every answer is compared with the oracle's before it is timed.
    """
    with _one_line():
        if only_list:
            click.echo(bench_report.listing(select(names)))
            return
        planned = plan(names, threads)
        results: list[Any] = []
        facts = bench_report.facts(rounds)
        if plot_file is not None:  # whether the files can be written shows now, not at the end
            bench_report.plot(plot_file, facts, results)
        click.echo(bench_report.heading(facts))
        table = bench_report.Table(row for row, _ in planned)
        for row, count in planned:
            if json_file is not None:
                bench_report.save(json_file, facts, results)
            results.append(measure(row, count, rounds))
            for line in table.lines(results[-1]):
                click.echo(line)
        if json_file is not None:
            bench_report.save(json_file, facts, results)
        if plot_file is not None:
            bench_report.plot(plot_file, facts, results)
        click.echo(bench_report.summary(results))
        if said := bench_report.sentence(facts, results):
            click.echo(f"\n{said}")
