"""A fit: one answer of one method for one story, with its verdict and all it can be asked."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from xarray import DataTree

from storyzoo.binding import Bound, bind
from storyzoo.datasets.codecs import Codec, TextCodec
from storyzoo.datasets.codecs import from_record as codec_of
from storyzoo.datasets.dataset import Dataset
from storyzoo.datasets.gaps import GAP
from storyzoo.datasets.raster import Raster
from storyzoo.datasets.standardise import Standardised
from storyzoo.datasets.vocabulary import Reading
from storyzoo.documents import foretold_frame, names_of
from storyzoo.errors import DataError, RefusedError, RunFolderError
from storyzoo.folder import RunFolder
from storyzoo.inference import load_method
from storyzoo.inference.engine.continuation import AS_TOLD, Sampling
from storyzoo.inference.engine.gaps import fill, has_gaps
from storyzoo.inference.engine.groups import each_draw, thinned
from storyzoo.inference.engine.heldout import (
    MOST_FOLDED,
    Completed,
    Predictive,
    Sequential,
    log_predictive,
)
from storyzoo.inference.engine.hidden import discrete_posterior, hidden_means, impute
from storyzoo.inference.engine.method import Info, Kind, Method
from storyzoo.inference.engine.mixing import Mixing, mixing
from storyzoo.inference.engine.one_more import one_more
from storyzoo.inference.engine.simulation import Simulator
from storyzoo.inference.engine.structure import Structure
from storyzoo.inference.engine.target import Target, make_target
from storyzoo.inference.engine.tree import draws_of
from storyzoo.models import load_story, story_entries
from storyzoo.reports.page import fit_page
from storyzoo.reports.verdict import Verdict, judge
from storyzoo.settings import with_settings
from storyzoo.story import Story
from storyzoo.units import Units

MOST_DRAWS = 400
"""Draws that scores, imputations and hidden sites are averaged over, evenly thinned."""


class Imputed(NamedTuple):
    """Data without holes: what was observed as it was, the rest by its posterior predictive."""

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    """Zero where the value was observed."""


@dataclass
class Fit:
    """What :func:`storyzoo.fit` returns; everything is in the data's own units."""

    story: Story
    method: Method
    seed: int
    info: Info
    judged: Verdict | None
    """None of a fit that was loaded, until its verdict is asked for."""
    tree: DataTree
    """ArviZ groups: posterior, sample_stats, log_likelihood, log_prior, prior, …"""
    summary: dict[str, Any]
    """Verdict, checks and metrics, as in ``summary.json``."""
    description: dict[str, Any]
    """All that went in, as in ``fit.json``."""
    target: Target
    units: Units
    seconds: float
    labels: Sequence[Any] | None = None
    """Known classes of the rows fitted, where the data set has some; never given to a method."""
    heldout: Predictive | None = None
    """Log predictive density of the rows held out; of a fit that was loaded see the summary."""
    fitted: Predictive | None = None
    """The same of the rows fitted."""
    completed: Completed | None = None
    sequential: Sequential | None = None
    """How well halves of the held-out examples foretell their other halves, where they can."""
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    _draws: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> Verdict:
        """What to think of the answer. Judging many draws takes a while, so a loaded fit does it
        only when asked."""
        if self.judged is None:
            kind = self.method.kind
            self.judged = judge(self.tree, self.info, kind=kind, story=self.story)
        return self.judged

    @property
    def kind(self) -> Kind:
        """Draws of the posterior, draws of an approximation to it, or one point."""
        return self.method.kind

    @property
    def data_name(self) -> str:
        """Name of the data set or file."""
        return str(self.description["data"]["name"])

    @property
    def reading(self) -> Reading | None:
        """How text became counts, where it was text: ``load(file, fit.reading)`` does the same."""
        record = self.description.get("reading")
        return None if record is None else Reading.from_record(record)

    @property
    def codec(self) -> Codec | None:
        """How text, images or graphs became tokens: ``load(file, fit.codec)`` does the same."""
        record = self.description.get("codec")
        return None if record is None else codec_of(record)

    @property
    def way(self) -> Reading | Codec | None:
        """How the data were read, where there is more than one way: ``load(file, fit.way)``."""
        return self.reading or self.codec

    @property
    def structure(self) -> Structure:
        """The story's sites as the data shape them."""
        return self.target.structure

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Coordinates by dim."""
        return self.target.structure.coords

    # -- what a density is for -----------------------------------------------------------

    def simulate(
        self, n: int, seed: int = 0, sampling: Sampling = AS_TOLD
    ) -> dict[str, np.ndarray]:
        """``n`` new examples by argument of the model, each from some draw of the parameters.

        ``sampling`` is for sequences: a prefix to go on from, a temperature. A story without
        independent examples gives ``n`` whole data sets along a first axis. Raises RefusedError
        with the reason where it can't be simulated.
        """
        if n < 1:
            raise DataError(f"n={n}: ask for at least one example")
        rng = np.random.default_rng(seed)
        simulator = Simulator(self.target)
        whole = simulator.reads_past and not self.story.ragged
        examples = self.story.examples is not None and not whole
        draws = self.latents(min(n, MOST_DRAWS))
        size = len(next(iter(draws.values())))
        sizes = [len(part) for part in np.array_split(np.arange(n), size)]
        pieces: list[dict[str, Any]] = []
        for count, latents in zip(sizes, each_draw(draws), strict=True):
            if examples:
                pieces.append(simulator.data(latents, rng, count, sampling))
            else:
                pieces.extend(simulator.data(latents, rng, None, sampling) for _ in range(count))
        join = np.concatenate if examples else np.stack
        return {
            name: self.units.values(name, join([np.asarray(piece[name]) for piece in pieces]))
            for name in pieces[0]
            if np.ndim(pieces[0][name]) or not examples
        }

    def mixing(self, seed: int = 0) -> Mixing | None:
        """How well the chains of :meth:`simulate` mix, at one draw of the parameters.

        None where the story is simulated without a Markov chain.
        """
        (latents,) = each_draw(self.latents(1))
        return mixing(self.target, latents, np.random.default_rng([seed, 1]))

    def log_density(self, data: Any = None) -> Predictive:
        """Log predictive density of each example, ``log mean_s p(x_n | draw_s)``, nats.

        Low values are anomalies. For a point estimate it is the plug-in density. ``data`` may be
        a data set or mapping in the data's own units; by default the data fitted. Where the
        likelihood is an estimate, so is every value, with its error and bounds.
        """
        target = self._target_of(data)
        found = log_predictive(target, self.latents(MOST_DRAWS), seed=self.seed)
        observed = {n: np.asarray(target.data[n].cpu()) for n in target.structure.outcomes}
        return found.moved(self.units.log_volume(observed))

    def impute(self, data: Any = None, draws: int = 100, seed: int = 0) -> Imputed:
        """The data with every missing value filled by its posterior predictive mean and sd.

        A gap in a sequence of symbols gets the one drawn most often, and for the sd the share of
        draws that were another.
        """
        if has_gaps(self.story):
            return self._fill_gaps(data, draws, seed)
        if self.story.ragged:
            instead = ": ask `foretell` for words in gaps" if self.story.has("one_more") else ""
            raise RefusedError(
                f"{self.story.name} counts what there is: nothing can be missing{instead}"
            )
        target = self._target_of(data)
        rng = np.random.default_rng(seed)
        parameters = self.latents(draws)
        repeats = max(1, draws // len(next(iter(parameters.values()))))
        filled = [
            impute(target, latents, rng)
            for latents in each_draw(parameters)
            for _ in range(repeats)
        ]
        mean, sd = {}, {}
        for name in target.structure.outcomes:
            values = np.stack([np.asarray(one[name].cpu()) for one in filled])
            values = self.units.values(name, values)
            missing = np.asarray(target.data[name].isnan().cpu())
            mean[name] = np.where(missing, values.mean(0), values[0])
            sd[name] = np.where(missing, values.std(0), 0.0)
        return Imputed(mean, sd)

    def _fill_gaps(self, data: Any, draws: int, seed: int) -> Imputed:
        target, rng = self._target_of(data), np.random.default_rng(seed)
        parameters = self.latents(draws)
        repeats = max(1, draws // len(next(iter(parameters.values()))))
        never = self.codec.marks if isinstance(self.codec, TextCodec) else ()
        filled = [
            fill(target, latents, rng, never=never)
            for latents in each_draw(parameters)
            for _ in range(repeats)
        ]
        mean, sd = {}, {}
        for name in dict.fromkeys((*target.structure.outcomes, *self.story.ragged.values())):
            drawn = np.stack([np.asarray(one[name].cpu()) for one in filled])
            mean[name] = drawn[0]
            if name not in self.story.ragged.values():
                mean[name] = np.array([np.bincount(column).argmax() for column in drawn.T])
            sd[name] = (drawn != mean[name]).mean(0)
        return Imputed(mean, sd)

    def foretell(self, data: Any = None, most: int = 5, draws: int = MOST_FOLDED) -> pd.DataFrame:
        """The most probable words of each gap of a text, given the rest of its document.

        A row for each of ``most`` words of a gap: document and gap, counted from 1, the word, its
        probability averaged over draws of the topics, and the standard deviation over them where
        there are draws. Counts have no gaps: then it is one more word of each document. The gaps of
        a document are alike, as the order of words means nothing. Raises DataError where a text has
        no gap, RefusedError where the story has no such words.
        """
        if not self.story.has("one_more"):
            raise RefusedError(f"{self.story.name} can't tell one more observation of an example")
        target = self._target_of(data)
        dataset = data if isinstance(data, Dataset) else None
        gaps = dataset.unread.gaps if dataset is not None and dataset.unread else None
        if dataset is not None and gaps is not None and not gaps.any():
            raise DataError(
                f"{dataset.name}: no document has a gap: write {GAP} where a word is missing"
            )
        chosen = np.arange(target.n_examples) if gaps is None else np.flatnonzero(gaps)
        latents = self.latents(draws)
        found = one_more(target, latents, chosen, most)
        name = self.story.observation
        return foretold_frame(
            found,
            [names_of(dataset, target.n_examples)[n] for n in chosen.tolist()],
            None if gaps is None else gaps[chosen],
            list(target.structure.coords[name]),
            name,
            several=len(next(iter(latents.values()))) > 1,
        )

    def latent(self, data: Any = None) -> pd.DataFrame:
        """What is hidden: probabilities of every label, or mean and sd of continuous sites.

        Discrete sites are exact given each draw and averaged over draws; latents of single
        examples are the fit's own draws, else those of the story's fold-in given the shared
        latents. Raises RefusedError where the story hides nothing of single examples.
        """
        target = self._target_of(data)
        if self.story.has("fold_in"):
            kept = all(name in self.tree["posterior"] for name in target.structure.local)
            own = data is None and self.kind != "point" and kept
            return self._local_frame() if own else self._folded_frame(target)
        if target.structure.discrete:
            found = discrete_posterior(target, self.latents(MOST_DRAWS))
            frames = [_label_frame(name, p, target) for name, p in found.items()]
            return pd.concat(frames) if len(frames) > 1 else frames[0].drop(columns="site")
        if self.story.has("hidden_units"):
            return self._hidden_frame(target)
        if target.structure.local and data is None:
            return self._local_frame()
        what = "only fitted examples have" if target.structure.local else "has no"
        raise RefusedError(f"{self.story.name} {what} hidden values of single examples")

    def _hidden_frame(self, target: Target) -> pd.DataFrame:
        """What the story itself tells of each example, averaged over draws."""
        found = hidden_means(target, self.latents(MOST_DRAWS))
        columns = {
            name if values.ndim == 1 else f"{name}_{k}": column
            for name, values in found.items()
            for k, column in enumerate(values.reshape(len(values), -1).T)
        }
        rows = target.structure.coords.get(str(self.story.examples))
        return pd.DataFrame(columns, index=None if rows is None else pd.Index(rows))

    def _local_frame(self) -> pd.DataFrame:
        values = {name: self.tree["posterior"][name] for name in self.structure.local}
        moments = {
            name: (np.asarray(v.mean(["chain", "draw"])), np.asarray(v.std(["chain", "draw"])))
            for name, v in values.items()
        }
        return _moments_frame(moments, self.target)

    def _folded_frame(self, target: Target) -> pd.DataFrame:
        """Means and deviations given each draw of the shared latents, put together over draws."""
        means: dict[str, list[np.ndarray]] = {}
        squares: dict[str, list[np.ndarray]] = {}
        draws = self.latents(MOST_FOLDED)
        with target.context():
            for latents in each_draw(draws):
                found = self.story.fold_in(latents, target.data)
                for name, q in (found or {}).items():
                    means.setdefault(name, []).append(q.mean.cpu().numpy())
                    second = q.variance + q.mean.square()
                    squares.setdefault(name, []).append(second.cpu().numpy())
        moments = {}
        for name, of_draws in means.items():
            mean = np.mean(of_draws, 0)
            variance = np.mean(squares[name], 0) - mean**2
            moments[name] = mean, np.sqrt(variance.clip(min=0))
        return _moments_frame(moments, target)

    def latents(self, most: int) -> dict[str, np.ndarray]:
        """At most so many draws ``(S, *shape)`` of the parameters, in the units of the fit."""
        if not self._draws:
            fitted = self.units.fitted(self.tree)
            self._draws = draws_of(self.structure, fitted["posterior"])
        return thinned(self._draws, most)

    def _target_of(self, data: Any) -> Target:
        if data is None and self.description["data"].get("streamed"):
            raise RefusedError(f"{self.data_name} was streamed, and is not kept: name the data")
        if data is None:
            return self.target
        if isinstance(data, Dataset):
            data = self.with_fitted_columns(data)
        bound = bind(self.story, data, self.description["data"].get("target"))
        self._check_columns(bound)
        self._check_vocabulary(bound)
        arrays = bound.arrays if bound.standardised else self.units.standard(bound.arrays)
        target = make_target(
            self.story, arrays, device=self.target.device, coords=bound.coords, to_fit=False
        )
        self._check_shared(target, bound.name)
        return target

    def with_fitted_columns(self, data: Dataset) -> Dataset:
        """New data with those of their empty columns that the fit knows, every value missing."""
        target = self.description["data"].get("target")
        names = [] if target is None else [target]
        for name, dims in self.story.data_dims.items():
            names += [name] if len(dims) == 1 else []
            names += [str(label) for dim in dims[1:] for label in self.coords.get(dim, ())]
        return data.with_empty(dict.fromkeys(names))

    def _check_shared(self, target: Target, name: str) -> None:
        """What all examples share must be of the same things: the same vocabulary."""
        for site, own in target.structure.sites.items():
            known = self.structure.sites[site]
            if own.kind != "latent" or own.local:
                continue
            for dim, size, wanted in zip(own.dims, own.sizes, known.sizes, strict=True):
                if size != wanted:
                    raise DataError(f"{name}: it has {size} {dim}s, but the fit was to {wanted}")
                given, had = target.structure.coords[dim], self.coords[dim]
                if given.dtype.kind == had.dtype.kind and not np.array_equal(given, had):
                    place = int((given != had).argmax())
                    raise DataError(
                        f"{name}: {dim} {place} is {str(given[place])!r}, but {str(had[place])!r} "
                        "in the fit: read the data in the same way"
                    )

    def _check_columns(self, bound: Bound) -> None:
        for name, dims in self.story.data_dims.items():
            for dim in dims[1:]:
                known = self.coords.get(dim)
                given = bound.coords.get(dim)
                if known is None or name not in bound.arrays:
                    continue
                size = np.shape(bound.arrays[name])[dims.index(dim)]
                if size != len(known) or (given and list(map(str, known)) != list(given)):
                    raise DataError(
                        f"{bound.name}: '{name}' has {dim}s {given or size}, but the fit was to "
                        f"{list(map(str, known))}"
                    )

    def _check_vocabulary(self, bound: Bound) -> None:
        coded = bound.dataset.codec if bound.dataset else None
        if self.codec is not None and coded is not None and coded != self.codec:
            raise DataError(
                f"{bound.name}: was not made tokens by the codec of the fit: use load(file, "
                "fit.codec)"
            )
        given = bound.dataset.reading if bound.dataset else None
        if self.reading is None or given is None:
            return
        if (given.vocabulary, given.n_words) != (self.reading.vocabulary, self.reading.n_words):
            raise DataError(
                f"{bound.name}: was not read by the vocabulary of the fit: use load(file, "
                "fit.reading)"
            )

    # -- files and pages -----------------------------------------------------------------

    def report(self) -> str:
        """The report, a single HTML page."""
        return fit_page(self)

    def save(self, folder: str | Path) -> Path:
        """Write the run folder; returns its path. RunFolderError where it can't be written."""
        files = RunFolder(Path(folder))
        self.folder = files.path
        files.write_description(self.description)
        tree = self.tree.copy()
        tree.attrs["info"] = json.dumps(self.info.as_dict())
        tree.attrs["seconds"] = self.seconds
        tree.attrs["notes"] = json.dumps(self.notes)
        tree.attrs["labels"] = json.dumps(
            None if self.labels is None else list(map(str, self.labels))
        )
        files.write_tree(tree)
        files.write_summary(self.summary)
        files.write_report(self.report())
        return files.path

    @classmethod
    def load(cls, folder: str | Path, story: Story | None = None) -> Fit:
        """The fit that a run folder holds.

        A story that isn't registered must be given. Raises RunFolderError where the folder holds
        no run, one of an unknown format, or damaged files.
        """
        files = RunFolder(Path(folder))
        description = files.read_description()
        tree = files.read_tree()
        story = story or stored_story(description, files.path)
        method = with_settings(
            load_method(description["method"]["name"]), description["method"]["settings"]
        )
        units = _stored_units(story, description)
        target = _stored_target(story, tree, units, description["device"])
        info = method.info_type.from_dict(json.loads(tree.attrs.pop("info")))
        labels = json.loads(tree.attrs.pop("labels"))
        return cls(
            story=story,
            method=method,
            seed=description["seed"],
            info=info,
            judged=None,
            seconds=float(tree.attrs.pop("seconds")),
            notes=tuple(json.loads(tree.attrs.pop("notes"))),
            tree=tree,
            summary=files.read_summary(),
            description=description,
            target=target,
            units=units,
            labels=labels,
            folder=files.path,
        )

    def _repr_html_(self) -> str:
        verdict = html.escape(self.verdict.verdict)
        headline = html.escape(self.verdict.headline)
        title = html.escape(f"{self.story.name} on {self.data_name} by {self.method.name}")
        return f"<p><strong>{title}: {verdict}</strong><br>{headline}</p>"

    def __repr__(self) -> str:
        what = f"{self.story.name} on {self.data_name} by {self.method.name}"
        return f"Fit({what}, seed {self.seed}: {self.verdict.verdict})"


def stored_story(description: Mapping[str, Any], path: Path) -> Story:
    """The registered story that a run was of; RunFolderError where it isn't registered."""
    name = description["story"]["name"]
    entry = story_entries().get(name)
    if entry is None or entry.location != description["story"]["class"]:
        raise RunFolderError(
            f"{path}: story '{name}' is not registered here; load it in Python by "
            "Fit.load(folder, story)"
        )
    return with_settings(load_story(name), description["story"]["fields"])


def describe_story(story: Story) -> dict[str, Any]:
    """A story as ``fit.json`` keeps it: its name, where its class is, and its fields."""
    return {
        "name": story.name,
        "class": f"{type(story).__module__}:{type(story).__qualname__}",
        "fields": {f.name: getattr(story, f.name) for f in fields(story)},
    }


def describe_method(method: Method) -> dict[str, Any]:
    """A method as ``fit.json`` keeps it."""
    return {"name": method.name, "settings": asdict(method)}


def units_of(story: Story, bound: Bound) -> Units:
    """How the arguments of a story were standardised."""
    if bound.standardised is None:
        return Units(story, {})
    known = bound.standardised.columns
    return Units(
        story,
        {
            name: bound.standardised.select(list(columns))
            for name, columns in bound.columns.items()
            if set(columns) <= set(known)
        },
    )


def describe_units(units: Units) -> dict[str, Any]:
    """The units as ``fit.json`` keeps them."""
    return {
        name: {"columns": list(s.columns), "mean": s.mean.tolist(), "sd": s.sd.tolist()}
        for name, s in units.by_argument.items()
    }


def _stored_units(story: Story, description: Mapping[str, Any]) -> Units:
    stored = description["data"].get("standardised") or {}
    return Units(
        story,
        {
            name: Standardised(tuple(s["columns"]), np.array(s["mean"]), np.array(s["sd"]))
            for name, s in stored.items()
        },
    )


def _stored_target(story: Story, tree: DataTree, units: Units, device: str) -> Target:
    """The data fitted, from the groups of the tree that hold them."""
    arrays: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for group in ("observed_data", "constant_data"):
        if group in tree.children:
            values = tree[group].to_dataset()
            for name in values.data_vars:
                array = values[name].values
                arrays[str(name)] = array.item() if array.ndim == 0 else array
            coords |= {str(dim): list(c.values) for dim, c in values.coords.items()}
    shared = {str(dim): list(c.values) for dim, c in tree["posterior"].coords.items()}
    ordered = {name: arrays[name] for name in story.arguments() if name in arrays}
    return make_target(story, units.standard(ordered), device=device, coords=shared | coords)


def _moments_frame(
    moments: Mapping[str, tuple[np.ndarray, np.ndarray]], target: Target
) -> pd.DataFrame:
    """A row per example: mean and sd of its latents, a column for each element of a vector."""
    examples, columns = str(target.story.examples), {}
    for name, (mean, sd) in moments.items():
        others = [dim for dim in target.structure.sites[name].dims if dim != examples]
        if len(others) > 1:
            continue
        if not others:
            columns[name], columns[f"{name}_sd"] = mean, sd
            continue
        labels = target.structure.coords[others[0]]
        columns |= {f"{name}[{k}]": mean[:, i] for i, k in enumerate(labels)}
        columns |= {f"{name}_sd[{k}]": sd[:, i] for i, k in enumerate(labels)}
    return pd.DataFrame(columns, index=pd.Index(target.structure.coords[examples], name=examples))


def _label_frame(name: str, probabilities: np.ndarray, target: Target) -> pd.DataFrame:
    """A row per label: its site, its most probable value and the probability of each."""
    site = target.structure.sites[name]
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    axes = [target.structure.coords[dim] for dim in site.dims] or [np.array([name])]
    index = pd.MultiIndex.from_product(axes, names=site.dims or ("site_name",))
    frame = pd.DataFrame(
        flat, columns=[f"P({name}={k})" for k in range(flat.shape[1])], index=index
    )
    frame.insert(0, name, flat.argmax(1))
    frame.insert(0, "site", name)
    return frame.droplevel(0) if not site.dims else frame


def as_frame(values: Mapping[str, np.ndarray], fit: Fit) -> pd.DataFrame:
    """Arrays by argument as one table: a column per argument, or per feature of it.

    What is ragged has a row per entry, with the number of its example, counted from 1; an argument
    called like a dim (``word``) is shown by that dim's names. Tokens of text are text again, those
    of images the values of their pixels, a row for every sequence.
    """
    codec = fit.codec
    if isinstance(codec, TextCodec) and "token" in values:
        texts = (codec.decode(piece.tolist()) for piece in _parted(values))
        return pd.DataFrame({"text": [text.encode(errors="replace").decode() for text in texts]})
    if isinstance(codec, Raster) and (values["length"] == len(codec.columns)).all():
        pixels = codec.decode(values["token"].reshape(-1, len(codec.columns)))
        return pd.DataFrame(pixels, columns=list(codec.columns))
    if fit.story.ragged:
        return _entries(values, fit)
    columns: dict[str, np.ndarray] = {}
    for name, value in values.items():
        dims = fit.story.data_dims.get(name, ())
        if value.ndim == 1:
            columns[name] = value
        elif value.ndim == 2 and len(dims) == 2:
            for label, column in zip(fit.coords[dims[1]], value.T, strict=True):
                columns[str(label)] = column
        else:
            flat = value.reshape(len(value), -1)
            columns |= {f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    return pd.DataFrame(columns)


def spread_frame(found: Imputed, fit: Fit) -> pd.DataFrame:
    """The sds as a table that stands beside that of the means.

    Where tokens were filled in: the share of draws that were another, of a text the sum of them,
    which is how many of its gaps a draw is expected to fill otherwise.
    """
    codec = fit.codec
    if isinstance(codec, TextCodec):
        shares = _parted({**found.mean, "token": found.sd["token"]})
        return pd.DataFrame({"text": [float(share.sum()) for share in shares]})
    if isinstance(codec, Raster):
        pixels = found.sd["token"].reshape(-1, len(codec.columns))
        return pd.DataFrame(pixels, columns=list(codec.columns))
    return as_frame(found.sd, fit)


def _parted(values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Tokens of each sequence."""
    return np.split(values["token"], np.cumsum(values["length"])[:-1])


def _entries(values: Mapping[str, np.ndarray], fit: Fit) -> pd.DataFrame:
    """A row for every entry of the examples' pieces."""
    dim, length = next(iter(fit.story.ragged.items()))
    numbers = np.arange(1, len(values[length]) + 1).repeat(values[length])
    columns = {str(fit.story.examples): numbers}
    for name, value in values.items():
        if fit.story.data_dims.get(name) == (dim,):
            columns[name] = fit.coords[name][value] if name in fit.coords else value
        elif fit.story.data_dims.get(name, ())[:1] == (dim,):
            labels = fit.coords[fit.story.data_dims[name][1]]
            whole = bool((value == np.floor(value)).all())  # a key is 1, not 1.0
            cells = value.T.astype(np.int64) if whole else value.T
            columns |= {str(k): column for k, column in zip(labels, cells, strict=True)}
    return pd.DataFrame(columns)
