"""``zoo new NAME``: a story and its test, which pass as they lie."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

from storyzoo.errors import SettingError
from storyzoo.models import story_entries

STORY = '''\
"""{title}: say in one line what the data are and how they came about."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor

import storyzoo as sz


@dataclass(frozen=True)
class {cls}(sz.Story):
    """Each value falls around a common mean.

    ::

        loc    ~ Normal(0, spread)
        scale  ~ HalfNormal(spread)
        y_n    ~ Normal(loc, scale)

    Data: ``y`` (row).
    """

    spread: float = 10.0  # prior sd of the mean, in units of y

    data_dims = {{"y": ("row",)}}
    examples = "row"

    def model(self, y: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, self.spread))
        scale = pyro.sample("scale", dist.HalfNormal(self.spread))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(loc, scale), obs=y)


# To fit it:
#
#     from {module} import {cls}
#     fit = sz.fit({cls}(), {{"y": values}}, sz.NUTS(), out="runs/{name}")
#     print(fit.verdict.headline)
#
# To have `zoo fit {name}` know it, let your package name it in its pyproject.toml:
#
#     [project.entry-points."storyzoo.stories"]
#     {name} = "{module}:{cls}"
'''

TEST = '''\
"""{title} finds again what its data were drawn from."""

from __future__ import annotations

import numpy as np
from {module} import {cls}

import storyzoo as sz

LOC, SCALE = 3.0, 2.0
DATA = {{"y": np.random.default_rng(0).normal(LOC, SCALE, size=400)}}


def test_truth_is_recovered() -> None:
    fit = sz.fit({cls}(), DATA, sz.MAP(), progress=False)
    posterior = fit.tree["posterior"]
    assert abs(float(posterior["loc"].mean()) - LOC) < 0.3
    assert abs(float(posterior["scale"].mean()) - SCALE) < 0.3


def test_simulated_data_look_like_the_data() -> None:
    fit = sz.fit({cls}(), DATA, sz.MAP(), progress=False)
    simulated = fit.simulate(2000)["y"]
    assert abs(simulated.mean() - LOC) < 0.3
    assert abs(simulated.std() - SCALE) < 0.3
'''


def new(options: argparse.Namespace) -> int:
    """Write both files; SettingError where the name is no name or something would be lost."""
    name = options.name.lower().replace("_", "-")
    module = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(module):
        raise SettingError(f"{options.name!r} can't name a story: use letters, digits and hyphens")
    if name in story_entries():
        raise SettingError(f"the zoo has a story {name!r} already: choose another name")
    words = {
        "name": name,
        "module": module,
        "cls": "".join(part.capitalize() for part in name.split("-")),
        "title": name.replace("-", " ").capitalize(),
    }
    files = {Path(f"{module}.py"): STORY, Path(f"test_{module}.py"): TEST}
    for path in files:
        if path.exists():
            raise SettingError(f"{path} exists: choose another name, or move it away")
    for path, template in files.items():
        path.write_text(template.format(**words), encoding="utf-8")
    sys.stdout.write(f"wrote {' and '.join(map(str, files))}; try: python -m pytest\n")
    return 0
