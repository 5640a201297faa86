"""Run it: fit one story by one method, or compare several on the same rows."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from xarray import DataTree

from storyzoo.binding import Bound, bind
from storyzoo.coded_scores import coded_scores
from storyzoo.datasets import load
from storyzoo.datasets.dataset import Dataset
from storyzoo.errors import RefusedError, RunFolderError, SettingError, StoryzooError
from storyzoo.fit import Fit, describe_method, describe_story, describe_units, units_of
from storyzoo.folder import FORMAT, RunFolder, versions
from storyzoo.inference import load_method
from storyzoo.inference.engine.checkpoint import write_atomically
from storyzoo.inference.engine.estimated import why_unknown
from storyzoo.inference.engine.groups import complete, merged, with_deterministic
from storyzoo.inference.engine.heldout import (
    Completed,
    Predictive,
    Sequential,
    averaged_by_step,
    fitted_scores,
    log_completion,
    log_left_to_right,
    log_predictive,
)
from storyzoo.inference.engine.method import Method
from storyzoo.inference.engine.progress import Progress
from storyzoo.inference.engine.relabelling import relabel
from storyzoo.inference.engine.target import Stream, Target, make_target
from storyzoo.inference.engine.tree import RESTARTS, draws_of
from storyzoo.models import load_story
from storyzoo.reports.compare import choose_best, compare_table, summary_of, to_csv
from storyzoo.reports.page import compare_page
from storyzoo.reports.verdict import judge
from storyzoo.story import Story
from storyzoo.units import Units

SPLIT_SEED = 0
"""Seed of the fixed permutation that splits data without a split of their own."""
HELDOUT_SHARE = 0.2


@dataclass(frozen=True)
class Task:
    """A story with the rows to fit and the rows to score."""

    story: Story
    bound: Bound
    units: Units
    train: Target
    test: Target | None
    labels: Sequence[Any] | None


def fit(
    story: Story | str,
    data: Dataset | Mapping[str, Any] | pd.DataFrame | str,
    method: Method | str,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "cpu",
    holdout: float = 0.0,
    target: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """Fit a story to data by a method, judge the answer and, with ``out``, write a run folder.

    ``data`` is the name of a data set, a file, a frame or a mapping from the arguments of the
    model to arrays. ``holdout`` keeps that share of the examples for scoring. With ``resume`` an
    interrupted run goes on from its checkpoint and ends as if it had never stopped.

    Raises RefusedError where the method can't fit the story, DataError, SettingError and
    RunFolderError where something that went in is wrong; then nothing is left behind.
    """
    method = load_method(method)() if isinstance(method, str) else method
    task = prepare(story, data, holdout=holdout, device=device, target=target)
    refuse(method, task)
    return fit_task(task, method, seed, out, holdout, resume=resume, progress=progress)


def prepare(
    story: Story | str,
    data: Dataset | Mapping[str, Any] | pd.DataFrame | str,
    *,
    holdout: float | None = 0.0,
    device: str = "cpu",
    target: str | None = None,
) -> Task:
    """Load and bind the data, split them, and scale the story's priors to what is fitted.

    ``holdout`` None takes the data's own split, else one in five.
    """
    story = load_story(story)() if isinstance(story, str) else story
    dataset = load(data) if isinstance(data, str) else data
    bound = bind(story, dataset, target)
    units = units_of(story, bound)
    whole = make_target(story, bound.arrays, device=device, coords=bound.coords)
    whole = replace(whole, stream=_stream(bound, holdout))
    if bound.dataset is not None:
        own = bound.dataset.validation_rows
        whole = replace(whole, validation_rows=own, redraw=bound.dataset.redraw)
    train_rows, test_rows = _split(whole, bound, holdout)
    train = whole if test_rows is None else whole.rows(train_rows)
    story = story.scaled_to(train.data)
    train = train.told_by(story)
    story.check(train.data)
    test = None if test_rows is None else whole.rows(test_rows).told_by(story)
    labels = None if bound.labels is None else list(bound.labels.iloc[train_rows])
    return Task(story, bound, replace(units, story=story), train, test, labels)


def _stream(bound: Bound, holdout: float | None) -> Stream | None:
    """Where all examples come from, if not from memory."""
    stream = bound.dataset.stream if bound.dataset else None
    if stream is not None and holdout != 0:
        raise SettingError(
            f"{bound.name} is streamed, and none of it can be held out: keep documents to score in "
            "a file of their own, for `zoo score`"
        )
    return stream


def _split(
    whole: Target, bound: Bound, holdout: float | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows to fit and rows to score: the set's own split, else a fixed permutation's."""
    everything = np.arange(whole.n_examples)
    share = HELDOUT_SHARE if holdout is None else holdout
    if not 0 <= share < 1:
        raise SettingError(f"holdout={holdout} is impossible; it must be at least 0 and below 1")
    if share == 0:
        return everything, None
    if whole.story.examples is None or whole.n_examples < 3:
        if holdout is None:
            return everything, None
        raise SettingError(f"{whole.story.name} has no independent examples to hold out")
    if whole.structure.local and not whole.story.has("fold_in") and holdout is None:
        return everything, None
    if holdout is None and bound.test_rows is not None:
        return np.setdiff1d(everything, bound.test_rows), bound.test_rows
    order = np.random.default_rng(SPLIT_SEED).permutation(whole.n_examples)
    count = max(1, round(share * whole.n_examples))
    return np.sort(order[count:]), np.sort(order[:count])


def refuse(method: Method, task: Task) -> None:
    """Raise RefusedError where the method can't fit the story."""
    reason = method.refuses(task.story, task.train.structure)
    if reason is None and task.train.stream is not None and not method.streams(task.story):
        reason = "it needs all data in memory; leave stream out, or use svi with guide=natural"
    if reason is not None:
        raise RefusedError(f"{method.name} can't fit {task.story.name}: {reason}")


def describe(task: Task, method: Method, seed: int, holdout: float | None) -> dict[str, Any]:
    """All that goes into a run, as ``fit.json`` keeps it."""
    dataset = task.bound.dataset
    read: dict[str, Any] = {}
    if dataset is not None and dataset.reading is not None:
        read = {"reading": dataset.reading.as_record()}
    if dataset is not None and dataset.codec is not None:
        read = {"codec": dataset.codec.as_record()}
    stream = task.train.stream
    return {
        "format": FORMAT,
        "story": describe_story(task.story),
        "data": {
            "name": task.bound.name,
            "sha256": task.bound.sha256,
            "target": task.bound.target,
            "standardised": describe_units(task.units),
            "rows": task.train.n_examples if stream is None else stream.n_examples,
            "streamed": stream is not None,
            "heldout_rows": 0 if task.test is None else task.test.n_examples,
            "holdout": holdout,
        },
        "method": describe_method(method),
        "seed": seed,
        "device": task.train.device,
        "versions": versions(),
        **read,  # last, for its vocabulary is long
    }


def fit_task(
    task: Task,
    method: Method,
    seed: int,
    out: str | Path | None,
    holdout: float | None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> Fit:
    """Run a method on a prepared task; see :func:`fit`."""
    description = describe(task, method, seed, holdout)
    if out is None:
        return _fitted(task, method, seed, description, None, progress)
    files = RunFolder(Path(out))
    new = not files.path.exists()
    if files.claim(description, resume):
        return Fit.load(files.path, story=task.story)
    try:
        files.write_description(description)
        if not resume:
            files.checkpoint.remove()
        answer = _fitted(task, method, seed, description, files, progress)
        answer.save(files.path)
    except StoryzooError:
        if new and not files.holds_checkpoint():  # finished chains are worth a --resume
            shutil.rmtree(files.path, ignore_errors=True)
        raise
    return answer


def _fitted(
    task: Task,
    method: Method,
    seed: int,
    description: dict[str, Any],
    files: RunFolder | None,
    progress: bool,
) -> Fit:
    begun = time.perf_counter()
    bar = Progress(f"{task.story.name} by {method.name}", quiet=not progress)
    checkpoint = None if files is None else files.checkpoint
    tree, info = method.run(task.train, seed=seed, progress=bar, checkpoint=checkpoint)
    seconds = time.perf_counter() - begun
    labelled = relabel(tree, task.train)
    notes = [
        f"labels of '{group}' were left as they are: {reason}"
        for group, reason in labelled.refused.items()
    ]
    tree = with_deterministic(labelled.tree, task.train)
    tree, said = complete(tree, task.train, seed)
    draws = draws_of(task.train.structure, tree["posterior"])
    heldout, completed = _score(task, draws, seed), _completed(task, draws)
    sequential, scores = _sequential(task, draws), _story_scores(task.train, tree)
    tree = task.units.shown(tree)
    codec = None if task.bound.dataset is None else task.bound.dataset.codec
    remark = (codec.remark,) if codec is not None and codec.remark else ()
    answer = Fit(
        story=task.story,
        method=method,
        seed=seed,
        info=info,
        judged=judge(tree, info, kind=method.kind, story=task.story),
        tree=tree,
        summary={},
        description=description,
        target=task.train,
        units=task.units,
        seconds=seconds,
        labels=task.labels,
        heldout=heldout,
        fitted=fitted_scores(tree, task.train),
        completed=completed,
        sequential=sequential,
        notes=(*task.bound.notes, *task.story.remarks(task.train.data), *remark, *notes, *said),
    )
    answer.summary = summary_of(answer)
    told = coded_scores(codec, task.test, heldout)
    answer.summary["metrics"] |= scores | {f"heldout_{name}": v for name, v in told.items()}
    return answer


def _story_scores(target: Target, tree: DataTree) -> dict[str, float]:
    """What the story itself scores a point by, in the units of the fit: the mean of draws.

    And how far chains agree, each by the mean of its own, or the restarts of an ascent.
    """
    draws = draws_of(target.structure, tree["posterior"])
    if not draws:
        return {}
    by_chain = {name: torch.as_tensor(value.mean(1)) for name, value in draws.items()}
    point = {name: value.mean(0) for name, value in by_chain.items()}
    count = len(next(iter(by_chain.values())))
    runs = [{n: value[i] for n, value in by_chain.items()} for i in range(count)]
    if RESTARTS in tree.children:
        ends = tree[RESTARTS].to_dataset()
        runs = [
            {str(n): torch.as_tensor(v.values) for n, v in ends.isel(restart=i).data_vars.items()}
            for i in range(ends.sizes["restart"])
        ]
    found = target.story.scores(point, target.data)
    return found if len(runs) < 2 else {**found, **target.story.agreement(runs)}


def _score(task: Task, draws: Mapping[str, np.ndarray], seed: int) -> Predictive | None:
    """Log predictive density of the held-out rows, in the data's own units."""
    if task.test is None or why_unknown(task.story) is not None:
        return None
    every = merged(draws)
    found = log_predictive(task.test, every, seed)
    if len(next(iter(every.values()))) > 1:
        found = found._replace(nats_by_step=averaged_by_step(task.test, every))
    observed = {n: np.asarray(task.test.data[n].cpu()) for n in task.test.structure.outcomes}
    return found.moved(task.units.log_volume(observed))


def _completed(task: Task, draws: Mapping[str, np.ndarray]) -> Completed | None:
    """How well halves of the held-out rows foretell the others; the same halves in every fit."""
    if task.test is None or not draws:
        return None
    return log_completion(task.test, merged(draws), SPLIT_SEED)


def _sequential(task: Task, draws: Mapping[str, np.ndarray]) -> Sequential | None:
    """Log probability of held-out rows read from left to right; the same rows in every fit."""
    if task.test is None or not draws:
        return None
    return log_left_to_right(task.test, merged(draws), SPLIT_SEED)


# -- comparison --------------------------------------------------------------------------------


@dataclass
class Comparison:
    """Several fits on the same rows, side by side."""

    fits: list[Fit]
    table: pd.DataFrame
    best: int | None
    """Place of the fit to trust; None where none is."""
    reason: str
    """Which answer to trust, and why, in one sentence."""
    title: str
    refused: list[str] = field(default_factory=list)
    """What could not be fitted, a line each with the reason."""
    folder: Path | None = None
    page: Path | None = None


def compare(
    stories: Sequence[Story | str],
    data: Dataset | Mapping[str, Any] | pd.DataFrame | str,
    methods: Sequence[Method | str],
    *,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "cpu",
    target: str | None = None,
    jobs: int = 1,
    progress: bool = True,
) -> Comparison:
    """Fit every story by every method to the same rows, score the others, say which to trust.

    Rows are split as the data set says, else 80/20 by a fixed permutation. With ``out`` each
    fit's run folder is made under it, with ``report.html`` and ``table.csv`` beside them.
    """
    chosen = [load_method(m)() if isinstance(m, str) else m for m in methods]
    told = [load_story(s)() if isinstance(s, str) else s for s in stories]
    if not chosen or not told:
        raise SettingError("nothing to compare: name at least one story and one method")
    dataset = load(data) if isinstance(data, str) else data
    tasks = [prepare(s, dataset, holdout=None, device=device, target=target) for s in told]
    plans, refused = _plans(tasks, chosen)
    if not plans:
        raise RefusedError("; ".join(refused))
    folder = None if out is None else _compare_folder(Path(out))
    fits = []
    for plan, answer in run_all(plans, seed, folder, jobs, progress):
        if isinstance(answer, Fit):
            fits.append(answer)
        else:
            refused.append(f"{plan.label}: {answer}")
    if not fits:
        raise RefusedError("; ".join(refused))
    return compared(fits, refused, folder)


@dataclass(frozen=True)
class Plan:
    """One fit of a comparison."""

    task: Task
    method: Method
    label: str


def _plans(tasks: Sequence[Task], methods: Sequence[Method]) -> tuple[list[Plan], list[str]]:
    """What can be fitted, labelled by what tells it apart; and what can't, with the reason."""
    plans, refused = [], []
    for task, story in zip(tasks, _labels([task.story for task in tasks]), strict=True):
        for method in methods:
            label = f"{story}-{method.name}"
            reason = method.refuses(task.story, task.train.structure)
            if reason is None:
                plans.append(Plan(task, method, label))
            else:
                refused.append(f"{label}: {reason}")
    return plans, refused


def _labels(stories: Sequence[Story]) -> list[str]:
    """Names of stories, with the fields in which those of one name differ."""
    labels = []
    for story in stories:
        others = [other for other in stories if type(other) is type(story)]
        fields = describe_story(story)["fields"]
        telling = [
            f"{name}={value}"
            for name, value in fields.items()
            if isinstance(value, int | str) and any(getattr(o, name) != value for o in others)
        ]
        labels.append("-".join([story.name, *telling]))
    return labels


def _compare_folder(path: Path) -> Path:
    """A folder that is new, empty or holds a comparison; RunFolderError where it holds a run."""
    if RunFolder(path).description.exists():
        raise RunFolderError(f"{path}: holds a single run; choose another --out")
    return path


def run_all(
    plans: Sequence[Plan],
    seed: int,
    folder: Path | None,
    jobs: int,
    progress: bool,
) -> Iterator[tuple[Plan, Fit | StoryzooError]]:
    """Every plan with its fit, or with the error that stopped it, in order."""
    if jobs > 1 and folder is not None and hasattr(os, "fork"):
        _run_beside(plans, seed, folder, jobs)
    for plan in plans:
        out = None if folder is None else folder / plan.label
        resume = out is not None and RunFolder(out).description.exists()
        try:
            yield (
                plan,
                fit_task(
                    plan.task,
                    plan.method,
                    seed,
                    out,
                    None,
                    resume=resume,
                    progress=progress,
                ),
            )
        except StoryzooError as error:
            yield plan, error


def _run_beside(plans: Sequence[Plan], seed: int, folder: Path, jobs: int) -> None:
    """Fit several plans at once, each in a process of its own that writes its run folder.

    What a process leaves unfinished or refuses is met again, with its message, by the caller.
    """
    waiting = list(plans)
    running: list[multiprocessing.process.BaseProcess] = []
    context = multiprocessing.get_context("fork")
    while waiting or running:
        while waiting and len(running) < jobs:
            process = context.Process(
                target=_fit_alone, args=(waiting.pop(0), seed, folder), daemon=False
            )
            process.start()
            running.append(process)
        multiprocessing.connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.is_alive()]


def _fit_alone(plan: Plan, seed: int, folder: Path) -> None:
    """The body of one process; its answer is the run folder."""
    torch.set_num_threads(1)
    with contextlib.suppress(StoryzooError):
        fit_task(plan.task, plan.method, seed, folder / plan.label, None, progress=False)


def compared(
    fits: list[Fit], refused: Sequence[str] = (), folder: Path | None = None
) -> Comparison:
    """Fits side by side; with ``folder`` the page and the table are written there."""
    best, reason = choose_best(fits)
    told = dict.fromkeys(f"{fit.story.name} on {fit.data_name}" for fit in fits)
    comparison = Comparison(
        fits=fits,
        table=compare_table(fits, align=align),
        best=best,
        reason=reason,
        title="; ".join(told),
        refused=list(refused),
        folder=folder,
    )
    if folder is not None:
        comparison.page = folder / "report.html"
        write_atomically(folder / "table.csv", to_csv(comparison.table).encode())
        write_atomically(comparison.page, compare_page(comparison).encode())
    return comparison


def align(fit: Fit, reference: Fit) -> DataTree:
    """The fit's tree with its labels matched to those of another fit of the same story."""
    fitted = fit.units.fitted(fit.tree)
    against = reference.units.fitted(reference.tree)["posterior"].to_dataset()
    return fit.units.shown(relabel(fitted, fit.target, reference=against).tree)
