"""What the commands do that need more than static tables: fits, run folders, data."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyzoo.datasets import load
from storyzoo.datasets.gaps import GAP
from storyzoo.errors import DataError, RunFolderError, SettingError, nearest
from storyzoo.inference import find_method, load_method
from storyzoo.models import find_story, load_story

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from storyzoo.calibrate import Calibration
    from storyzoo.datasets.dataset import Dataset
    from storyzoo.datasets.unread import Unread
    from storyzoo.fit import Fit
    from storyzoo.inference.engine.method import Method
    from storyzoo.run import Comparison
    from storyzoo.story import Story

NOT_TRUSTED, INTERRUPTED = 3, 130
COMPRESSED = ".zoo"
"""How the name of a compressed file ends."""
UNTRUSTED = ("do not trust", "too short")
"""Verdicts that end a strict command with an exit code of its own."""


def fit(options: argparse.Namespace) -> int:
    """``zoo fit``."""
    find_story(options.story)  # a wrong name should not wait for torch
    find_method(options.method)
    dataset = _load(options.data)
    story = _one_story(options.story, _pairs("--set", options.set))
    method = _method(options.method, _pairs("--with", getattr(options, "with")))
    from storyzoo import run

    folder = options.out or _default_folder(
        options.story, options.data, options.method, options.seed
    )
    answer = run.fit(
        story,
        dataset,
        method,
        seed=options.seed,
        out=folder,
        device=options.device,
        holdout=options.holdout,
        target=options.target,
        resume=options.resume,
    )
    if options.json:
        _print_json(answer.summary)
    else:
        _print_fit(answer)
    if answer.info.cut_short:
        return INTERRUPTED
    return _strict(options, answer.verdict.verdict in UNTRUSTED)


def compare(options: argparse.Namespace) -> int:
    """``zoo compare``."""
    names, methods = _names(options.story), _names(options.methods)
    for name in names:
        find_story(name)
    for name in methods:
        find_method(name)
    if options.jobs < 1:
        raise SettingError(f"--jobs {options.jobs}: at least 1")
    dataset = _load(options.data)
    stories = _stories(names, _pairs("--set", options.set))
    chosen = _methods(methods, _pairs("--with", getattr(options, "with")))
    from storyzoo import run

    folder = options.out or _default_folder("+".join(names), options.data, "compare", options.seed)
    found = run.compare(
        stories,
        dataset,
        chosen,
        seed=options.seed,
        out=folder,
        device=options.device,
        target=options.target,
        jobs=options.jobs,
    )
    _print_comparison(found, options.json)
    if any(answer.info.cut_short for answer in found.fits):
        return INTERRUPTED
    return _strict(options, found.best is None)


def calibrate(options: argparse.Namespace) -> int:
    """``zoo calibrate``."""
    find_story(options.story)
    find_method(options.method)
    for option in ("simulations", "jobs"):
        if getattr(options, option) < 1:
            raise SettingError(f"--{option} {getattr(options, option)}: at least 1")
    dataset = _load(options.data)
    story = _one_story(options.story, _pairs("--set", options.set), "calibrate")
    method = _method(options.method, _pairs("--with", getattr(options, "with")))
    from storyzoo.calibrate import calibrate as run
    from storyzoo.reports.calibration import CALIBRATED

    label = f"calibrate-{options.method}"
    answer = run(
        story,
        dataset,
        method,
        simulations=options.simulations,
        seed=options.seed,
        out=options.out or _default_folder(options.story, options.data, label, options.seed),
        device=options.device,
        target=options.target,
        jobs=options.jobs,
        resume=options.resume,
    )
    _print_calibration(answer, options.json)
    if answer.cut_short:
        return INTERRUPTED
    return _strict(options, answer.verdict != CALIBRATED)


def report(options: argparse.Namespace) -> int:
    """``zoo report``: the page of one run, or of several beside each other."""
    from storyzoo.inference.engine.checkpoint import write_atomically

    fits = [_load_fit(folder) for given in options.folders for folder in _runs_in(Path(given))]
    page = Path(options.out) if options.out else Path(options.folders[0]) / "report.html"
    content = fits[0].report() if len(fits) == 1 else _page_of_several(fits)
    write_atomically(page, content.encode())
    print_line(str(page))
    return 0


def _page_of_several(fits: list[Fit]) -> str:
    from storyzoo.reports.page import compare_page
    from storyzoo.run import compared

    return compare_page(compared(fits))


def simulate(options: argparse.Namespace) -> int:
    """``zoo simulate``: new rows as CSV; how well chains mix that draw them is said on stderr."""
    from storyzoo.fit import as_frame
    from storyzoo.inference.engine.continuation import Sampling

    answer = _load_fit(Path(options.folder))
    sampling = Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        nucleus=options.nucleus,
        prefix=() if options.prefix is None else _symbols(options.prefix, answer),
        most=options.most,
    )
    if not sampling.plain:
        sys.stderr.write("zoo: sharpened sequences are no draws of the story\n")
    frame = as_frame(answer.simulate(options.n, options.seed, sampling), answer)
    chains = answer.mixing(options.seed)
    if chains is not None:
        sys.stderr.write(f"zoo: {chains}\n")
    _write_csv(frame, options.out)
    return 0


def _symbols(text: str, answer: Fit) -> tuple[int, ...]:
    """A prefix as symbols: text by the codec of the fit, else numbers with commas between."""
    from storyzoo.datasets.codecs import TextCodec

    if isinstance(answer.codec, TextCodec):
        return tuple(answer.codec.encode(text))
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise SettingError(
            f"--prefix {text!r}: write numbers of symbols with commas between, as 3,1,2"
        ) from None


def score(options: argparse.Namespace) -> int:
    """``zoo score``: log density per row, nats, with its error and bounds where it is an estimate.

    What the numbers are is said on stderr.
    """
    import pandas as pd

    answer = _load_fit(Path(options.folder))
    dataset = _new_data(options.data, answer)
    found = answer.log_density(dataset)
    columns = {"log_density_nats": found.nats}
    if found.lower is not None and found.upper is not None:
        ends = {"se": found.se, "lower": found.lower, "upper": found.upper}
        columns |= {f"log_density_nats_{end}": values for end, values in ends.items()}
    if found.sizes is not None:
        columns[f"log_density_nats_per_{answer.story.observation}"] = found.nats / found.sizes
    sys.stderr.write(f"zoo: log_density_nats: {found.nature}\n")
    if answer.codec is not None and answer.codec.remark:
        sys.stderr.write(f"zoo: {answer.codec.remark}\n")
    if found.sizes is not None and answer.story.has("step"):
        _tell_of_longer(found.sizes, answer)
    frame = pd.DataFrame(columns)
    if dataset is not None and dataset.unread is not None and found.sizes is not None:
        frame = frame.join(_unread(dataset.unread, found.sizes, answer))
    frame.index = _rows(dataset, len(frame))
    _write_csv(frame, options.out, index=True)
    return 0


def _tell_of_longer(sizes: np.ndarray, answer: Fit) -> None:
    """A line on stderr where sequences are longer than any of the fit."""
    known = answer.story.sizes(answer.target.data)
    assert known is not None
    longest, most = int(known.max()), int(sizes.max())
    if most > longest:
        sys.stderr.write(
            f"zoo: {int((sizes > longest).sum())} of {len(sizes)} sequences are longer than any of "
            f"the fit (row {int(sizes.argmax()) + 1} has {most:,} steps, the longest of the fit "
            f"{longest:,}): how well it tells steps so late was never tried\n"
        )


def _unread(unread: Unread, sizes: np.ndarray, answer: Fit) -> pd.DataFrame:
    from storyzoo.documents import told_of_unknown, unread_frame

    usual = None if answer.reading is None else answer.reading.usual_unknown
    sys.stderr.write(f"zoo: {told_of_unknown(usual)}\n")
    return unread_frame(unread, sizes.astype(int), usual)


def _rows(dataset: Dataset | None, count: int) -> pd.Index:
    """Numbers from 1; where documents have names, those."""
    import pandas as pd

    from storyzoo.documents import names_of

    names = names_of(dataset, count)
    found: pd.Index = pd.Index(names, name="row" if isinstance(names, range) else "document")
    return found


def impute(options: argparse.Namespace) -> int:
    """``zoo impute``: the data with every hole filled by its posterior predictive mean.

    Of a text the most probable words of every gap; of counts those of one more word.
    """
    from storyzoo.fit import as_frame, spread_frame

    answer = _load_fit(Path(options.folder))
    dataset = _new_data(options.data, answer, gaps=True)
    for name in ("draws", "words"):
        if getattr(options, name) < 1:
            raise SettingError(f"--{name} {getattr(options, name)}: at least 1")
    if answer.story.has("one_more"):
        words = answer.foretell(dataset, options.words, options.draws)
        _say_what_has_gaps(dataset)
        _write_csv(words, options.out)
        return 0
    found = answer.impute(dataset, draws=options.draws, seed=options.seed)
    frame = as_frame(found.mean, answer)
    if options.sd:
        frame = frame.join(spread_frame(found, answer).add_suffix("_sd"))
    _write_csv(frame, options.out)
    return 0


def _say_what_has_gaps(dataset: Dataset | None) -> None:
    if dataset is None or dataset.unread is None or dataset.unread.gaps is None:
        sys.stderr.write("zoo: no gaps are known of: told is one more word of each document\n")
        return
    without = int((dataset.unread.gaps == 0).sum())
    if without:
        count = len(dataset.unread.gaps)
        sys.stderr.write(
            f"zoo: {without} of {count} documents have no gap ({GAP}), and are left out\n"
        )


def latent(options: argparse.Namespace) -> int:
    """``zoo latent``: what is hidden behind each row."""
    answer = _load_fit(Path(options.folder))
    _write_csv(answer.latent(_new_data(options.data, answer)), options.out, index=True)
    return 0


def compress(options: argparse.Namespace) -> int:
    """``zoo compress``: a file by a fit, without loss."""
    if options.draws < 1:
        raise SettingError(f"--draws {options.draws}: at least 1")
    source = _file(options.file)
    out = _new_file(options.out, f"{options.file}{COMPRESSED}")
    from storyzoo.compress import Compressor
    from storyzoo.inference.engine.checkpoint import write_atomically

    content = source.read_bytes()
    found = Compressor(_load_fit(Path(options.folder)), options.draws).compress(
        source.name, content
    )
    write_atomically(out, found)
    bits = 8 * len(found) / len(content)
    print_line(f"{out}: {len(content):,} bytes to {len(found):,} ({bits:.3f} bits per byte)")
    return 0


def decompress(options: argparse.Namespace) -> int:
    """``zoo decompress``: the file that :func:`compress` was given."""
    source = _file(options.file)
    if options.out is None and source.suffix != COMPRESSED:
        raise SettingError(f"{source.name} does not end in {COMPRESSED}: name a file with --out")
    out = _new_file(options.out, str(source.with_suffix("")))
    from storyzoo.compress import Compressor, read
    from storyzoo.inference.engine.checkpoint import write_atomically

    content = source.read_bytes()
    read(source.name, content)  # a damaged file should not wait for the fit
    found = Compressor(_load_fit(Path(options.folder))).decompress(source.name, content)
    write_atomically(out, found)
    print_line(f"{out}: {len(found):,} bytes")
    return 0


def _file(name: str) -> Path:
    if not Path(name).is_file():
        raise DataError(f"no file {name!r}: name one that is there")
    return Path(name)


def _new_file(given: str | None, default: str) -> Path:
    """Where to write; a file of the default name is not overwritten."""
    if given is None and Path(default).exists():
        raise SettingError(f"{default} is there already: remove it, or name another with --out")
    return Path(given or default)


def cache(options: argparse.Namespace) -> int:
    """``zoo cache``: what is kept for later; ``--clear`` removes what can be compiled again."""
    import shlex

    from storyzoo.datasets.remote import cache_folder
    from storyzoo.inference.engine.lowering import cache as compiled

    code, data = compiled.compiled_folder(), cache_folder()
    sizes = [path.stat().st_size for path in data.rglob("*") if path.is_file()]
    done = "removed " if options.clear else ""
    usage = compiled.clear() if options.clear else compiled.usage()
    print_line(f"compiled code: {done}{_size(*usage)} in {code}")
    print_line(f"data sets: {_size(len(sizes), sum(sizes))} in {data}")
    if options.clear and sizes:
        print_line(f"data were fetched, and stay; to remove them: rm -r {shlex.quote(str(data))}")
    return 0


def _size(files: int, n_bytes: int) -> str:
    """``1 file, 15,224 bytes``."""
    return f"{files} file{'' if files == 1 else 's'}, {n_bytes:,} bytes"


# -- what went in ------------------------------------------------------------------------------


def _load(spec: str) -> Dataset:
    """Data, with a line on stderr for whatever was left out."""
    return _told(load(spec))


def _new_data(spec: str | None, answer: Fit, gaps: bool = False) -> Dataset | None:
    """Data for a fit, read as the fit's were; no column of the fit is left out."""
    if spec is None:
        return None
    return _told(answer.with_fitted_columns(load(spec, answer.way, gaps)))


def _told(dataset: Dataset) -> Dataset:
    for note in dataset.notes:
        sys.stderr.write(f"zoo: {note}\n")
    return dataset


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """``["a=1", "b=2"]`` by name."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"{option} {text!r}: write NAME=VALUE")
        if name in pairs:
            raise SettingError(f"{option} {name} is given twice: once is enough")
        pairs[name.strip()] = value.strip()
    return pairs


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if names.count(name) > 1:
            raise SettingError(f"{name!r} is named twice: once is enough")
    return names


def _one_story(name: str, settings: Mapping[str, str], command: str = "fit") -> Story:
    found = _stories([name], settings)
    if len(found) > 1:
        instead = "use zoo compare" if command == "fit" else "give one value"
        raise SettingError(f"zoo {command} fits one story, but --set means {len(found)}: {instead}")
    return found[0]


def _stories(names: Sequence[str], settings: Mapping[str, str]) -> list[Story]:
    """Every story with every combination of the values that ranges and lists mean."""
    import itertools

    from storyzoo.settings import expand, field_types, with_settings

    kinds = {name: load_story(name) for name in names}
    fields = {name: field_types(kind) for name, kind in kinds.items()}
    shares = _share("--set", settings, fields)
    stories: list[Story] = []
    for name, kind in kinds.items():
        values = {key: expand(key, text, fields[name][key]) for key, text in shares[name].items()}
        for choice in itertools.product(*values.values()):
            stories.append(with_settings(kind, dict(zip(values, choice, strict=True))))
    return stories


def _method(name: str, settings: Mapping[str, str]) -> Method:
    return _methods([name], settings)[0]


def _methods(names: Sequence[str], settings: Mapping[str, str]) -> list[Method]:
    from storyzoo.settings import field_types, with_settings

    kinds = {name: load_method(name) for name in names}
    shares = _share("--with", settings, {name: field_types(kinds[name]) for name in names})
    return [with_settings(kinds[name], shares[name]) for name in names]


def _share(
    option: str, settings: Mapping[str, str], fields: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Settings by what they are for: ``nuts.draws`` is for nuts, ``draws`` for all that have it."""
    shares: dict[str, dict[str, str]] = {name: {} for name in fields}
    for key, value in settings.items():
        owner, dot, field = key.rpartition(".")
        if dot and owner not in fields:
            raise SettingError(f"{option} {key}: {nearest(owner, fields)}")
        owners = [owner] if dot else [name for name in fields if field in fields[name]]
        known = dict.fromkeys(f for name in ([owner] if dot else fields) for f in fields[name])
        if field not in known:
            whose = owner or " and ".join(fields)
            hint = nearest(field, known) if known else "it has none"
            raise SettingError(f"{option}: {whose} has no setting {field!r}: {hint}")
        for name in owners:
            shares[name][field] = value
    return shares


def _default_folder(story: str, data: str, method: str, seed: int) -> str:
    """``runs/gmm-iris-em-0``."""
    name = Path(data).name if Path(data.partition(":")[0]).suffix else data
    return "runs/" + re.sub(r"[^\w.+=-]+", "-", f"{story}-{name}-{method}-{seed}")


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the runs of a comparison in it."""
    if (folder / "fit.json").exists():
        return [folder]
    runs = sorted(found.parent for found in folder.glob("*/fit.json"))
    if not runs:
        raise RunFolderError(
            f"{folder}: holds no run (fit.json is missing): see what lies in runs/"
        )
    return runs


def _load_fit(folder: Path) -> Fit:
    from storyzoo.fit import Fit

    return Fit.load(folder)


# -- what comes out ----------------------------------------------------------------------------


def print_line(text: str = "") -> None:
    """One line on stdout."""
    sys.stdout.write(text + "\n")


def _print_json(content: Any) -> None:
    from storyzoo.folder import as_json

    sys.stdout.write(as_json(content).decode())


def _print_fit(answer: Fit) -> None:
    from storyzoo.reports.quantities import likelihoods

    verdict = answer.verdict
    what = f"{answer.story.name} on {answer.data_name} by {answer.method.name}"
    print_line(f"{what}, seed {answer.seed}: {verdict.verdict.upper()}")
    print_line(verdict.headline)
    for score in likelihoods(answer.summary["metrics"], verdict.likelihood_known):
        print_line(f"{score.label.lower()}: {score.value} {score.unit} ({score.nature})")
    for note in (*answer.notes, *verdict.notes):
        print_line(f"note: {note}")
    for step in verdict.do_next:
        print_line(f"next: {step}")
    if answer.folder is not None:
        print_line(str(answer.folder / "report.html"))


def _print_comparison(found: Comparison, as_json: bool) -> None:
    from storyzoo.reports.compare import terminal_table

    if as_json:
        rows = found.table.to_dict(orient="records")
        _print_json({"reason": found.reason, "refused": found.refused, "table": rows})
        return
    print_line(found.title)
    print_line(terminal_table(found.table))
    print_line()
    print_line(found.reason)
    for line in found.refused:
        print_line(f"not fitted: {line}")
    if found.page is not None:
        print_line(str(found.page))


def _print_calibration(answer: Calibration, as_json: bool) -> None:
    if as_json:
        _print_json(answer.summary)
        return
    what = f"{answer.story.name} on data like {answer.data_name} by {answer.method.name}"
    print_line(f"{what}, seed {answer.seed}: {answer.verdict.upper()}")
    print_line(answer.judged.headline)
    for note in answer.judged.notes:
        print_line(f"note: {note}")
    for step in answer.judged.do_next:
        print_line(f"next: {step}")
    if answer.folder is not None:
        print_line(str(answer.folder / "report.html"))


def _write_csv(frame: pd.DataFrame, out: str | None, index: bool = False) -> None:
    text = frame.to_csv(index=index)
    if out is None:
        sys.stdout.write(text)
        return
    from storyzoo.inference.engine.checkpoint import write_atomically

    write_atomically(Path(out), text.encode())


def _strict(options: argparse.Namespace, untrusted: bool) -> int:
    return NOT_TRUSTED if options.strict and untrusted else 0
