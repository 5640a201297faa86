"""Back to the data's own units: what was fitted to standardised data is shown as if it were not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from xarray import DataArray, Dataset, DataTree

from storyzoo.datasets.standardise import Standardised
from storyzoo.inference.engine.estimated import BOUNDS
from storyzoo.story import Story

DATA_GROUPS = ("observed_data", "constant_data", "posterior_predictive", "prior_predictive")
PARAMETER_GROUPS = ("posterior", "prior")


@dataclass(frozen=True)
class Units:
    """How arguments of a story's model were standardised, if they were."""

    story: Story
    by_argument: Mapping[str, Standardised]

    def __bool__(self) -> bool:
        return bool(self.by_argument)

    def values(self, argument: str, values: np.ndarray) -> np.ndarray:
        """Values of an argument, ``(..., D)`` or ``(..., N)``, in the data's units."""
        scale = self.by_argument.get(argument)
        return values if scale is None else scale.inverse(values)

    def standard(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays in the data's units, by argument, as the model takes them."""
        return {
            name: self.by_argument[name].forward(np.asarray(value))
            if name in self.by_argument
            else value
            for name, value in arrays.items()
        }

    def log_volume(self, observed: Mapping[str, np.ndarray]) -> np.ndarray | float:
        """What a log density per example gains from standard to original units, nats, (N,).

        ``-sum log sd`` over what is observed of the example: densities have units.
        """
        total: np.ndarray | float = 0.0
        for name, scale in self.by_argument.items():
            if name in observed:
                present = ~np.isnan(observed[name])
                loss = (present * np.log(scale.sd)).reshape(len(present), -1).sum(-1)
                total = total - loss
        return total

    def shown(self, tree: DataTree) -> DataTree:
        """The tree in the data's units."""
        return self._moved(tree, forward=False)

    def fitted(self, tree: DataTree) -> DataTree:
        """The tree in the units of the fit."""
        return self._moved(tree, forward=True)

    def _moved(self, tree: DataTree, forward: bool) -> DataTree:
        if not self.by_argument:
            return tree
        groups: dict[str, Dataset] = {}
        for name, child in tree.children.items():
            values = child.to_dataset()
            if name in PARAMETER_GROUPS:
                values = self._parameters(values, forward)
            elif name in DATA_GROUPS:
                values = self._data(values, forward)
            elif name == "log_likelihood":
                gain = self.log_volume(_observed(tree))
                values = values - gain if forward else values + gain
            elif name == BOUNDS:
                gain = self.log_volume(_observed(tree)) * (-1 if forward else 1)
                values = values.assign({end: values[end] + gain for end in ("lower", "upper")})
            groups[name] = values
        moved = DataTree.from_dict({f"/{name}": values for name, values in groups.items()})
        moved.attrs.update(tree.attrs)
        return moved

    def _data(self, values: Dataset, forward: bool) -> Dataset:
        changed = {}
        for name, scale in self.by_argument.items():
            if name in values:
                move = scale.forward if forward else scale.inverse
                changed[name] = values[name].copy(data=move(values[name].values))
        return values.assign(changed)

    def _parameters(self, values: Dataset, forward: bool) -> Dataset:
        scale = next(iter(self.by_argument.values()))
        changed = {}
        for site, kind in self.story.units.items():
            if site in values:
                changed[site] = _convert(values[site], kind, scale, forward)
        return values.assign(changed)


def _observed(tree: DataTree) -> dict[str, np.ndarray]:
    data = tree["observed_data"].to_dataset()
    return {str(name): np.asarray(data[name].values, dtype=float) for name in data.data_vars}


def _convert(values: DataArray, kind: str, scale: Standardised, forward: bool) -> DataArray:
    """A parameter that is a location, scale, variance or covariance along the features."""
    sd = scale.sd if np.size(scale.sd) > 1 else np.ravel(scale.sd)[0]
    mean = scale.mean if np.size(scale.mean) > 1 else np.ravel(scale.mean)[0]
    array = np.asarray(values.values)
    if kind == "location":
        return values.copy(data=(array - mean) / sd if forward else array * sd + mean)
    factor = {
        "scale": sd,
        "variance": np.square(sd),
        "covariance": np.multiply.outer(sd, sd),
    }[kind]
    return values.copy(data=array / factor if forward else array * factor)
