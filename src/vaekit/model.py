"""`Model`: a trained VAE with its schema, and the jobs as its methods; `train` makes one, `load` reads one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vaekit import storage
from vaekit.component import Component, check_device
from vaekit.data import loading
from vaekit.data.dataset import Dataset
from vaekit.data.schema import Schema
from vaekit.errors import ConfigError
from vaekit.inference import Progress
from vaekit.jobs.anomaly import with_reference
from vaekit.jobs.blocks import Spelling
from vaekit.jobs.encode import decode, read_latents
from vaekit.jobs.generate import Generated, generate
from vaekit.jobs.interpolate import interpolate
from vaekit.jobs.reconstruct import reconstruct
from vaekit.jobs.traverse import Traversal, traverse
from vaekit.model_augment import AugmentJobs
from vaekit.model_conditions import ConditionJobs
from vaekit.model_directions import DirectionJobs
from vaekit.model_latents import LatentJobs
from vaekit.storage import Bundle
from vaekit.types import Json
from vaekit.vae import HierarchicalVAE, LatentModel

if TYPE_CHECKING:
    from vaekit.data.transforms import Transform
    from vaekit.objectives import Objective
    from vaekit.priors import Prior

_TRAINED_ON = (
    "These are the data that the model was trained on: the part that was held out is read; `split='all'` (`--split all`) "
    "for everything."
)


class Model(AugmentJobs, ConditionJobs, DirectionJobs, LatentJobs):
    """A trained VAE and what it is for.

    Data is given as a path, an array, a tensor or a `Dataset`, in the form that the model was trained on, and is checked
    against the model's schema. Of data that come split, methods read the split `test` where there is one; of the data that
    the model was trained on, `evaluate`, `score` and `reconstruct` read the part that was held out (the split `valid`);
    `encode` reads everything. `split` chooses another (`all` for everything). Examples that come out have the source's
    layout, scale and dtype. Everything that draws takes a `seed` and leaves the global random state as it was.

    Attributes:
        bundle: the record that holds everything.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @property
    def schema(self) -> Schema:
        """What the data is."""
        return self.bundle.schema

    @property
    def vae(self) -> LatentModel:
        """The module, in evaluation mode."""
        return self.bundle.vae

    def __repr__(self) -> str:
        """One line: kind, shape, latents and likelihood."""
        schema, vae = self.schema, self.vae
        shape = "x".join(map(str, schema.shape))
        likelihood = vae.likelihood.registered_name.rpartition(".")[2]
        return f"Model({schema.kind} {shape}, {vae.num_latents} latents, {likelihood})"

    def info(self) -> Json:
        """What the model is and how good it is, as a JSON object."""
        schema, vae = self.schema, self.vae
        parts = {name: part for name, part in vae.named_children() if isinstance(part, Component) and name != "condition"}
        return {
            "kind": schema.kind,
            "shape": list(schema.shape),
            "values": schema.values,
            "levels": schema.levels,
            "columns": {
                column.name: [column.low, column.high] if column.kind == "number" else list(column.categories)
                for column in schema.columns
            },
            "conditions": [] if vae.condition is None else list(vae.condition.names),
            "num_latents": vae.num_latents,
            **({"latent_shapes": [list(s) for s in vae.ladder.latent_shapes]} if isinstance(vae, HierarchicalVAE) else {}),
            **{name: part.registered_name for name, part in parts.items()},
            "transform": self.bundle.transform.registered_name,
            "num_parameters": sum(p.numel() for p in vae.parameters()),
            "num_examples": schema.num_examples,
            **({"directions": list(self.bundle.directions)} if self.bundle.directions else {}),
            "training": self.bundle.training,
            "metrics": self.bundle.metrics,
        }

    def save(self, folder: str | Path, force: bool = False) -> Path:
        """Writes the model folder.

        Args:
            folder: made if missing.
            force: replace a model that is there, and its run unless it is this model's own.

        Returns:
            The folder.

        Raises:
            ConfigError: if there is a model or a run already and `force` is not set, or the folder cannot be written.
        """
        from vaekit.training.folder import holds_run, make_way

        folder = Path(folder)
        if not force and ((folder / storage.CONFIG_FILE).exists() or holds_run(folder)):
            what = "model" if (folder / storage.CONFIG_FILE).exists() else "run"
            raise ConfigError(
                f"The folder must hold no {what}, found one in {folder}. Choose another name, or replace it with `force=True`."
            )
        make_way(self.bundle, folder)
        return storage.save(self.bundle, folder)

    def read(self, data: Any, split: str | None = None, *, default: str = "test", **options: Any) -> Dataset:
        """Data as a `Dataset` that fits the model's schema.

        Args:
            data: a path, an array, a tensor, or a `Dataset`.
            split: which part of data that come split; `all` for everything. The data that the model was trained on have the
                splits `train` and `valid` where a part of them was held out.
            default: what is read where no split is asked for: `test`, the split of that name, or everything where there is
                none; `held_out`, the split `test` or else `valid`; `all`, everything.
            **options: of `vaekit.data.loading.conform`.

        Returns:
            The data. A note says so where the held-out part was chosen by default.

        Raises:
            DataError: if the data do not fit the schema, or have no such split.
        """
        dataset = loading.conform(data, self.schema, **options)
        if split is not None:
            return dataset if split == "all" else self.with_splits(dataset).split(split)
        if default == "all" or (default == "test" and "test" not in dataset.splits):
            return dataset
        if "test" in dataset.splits:
            return dataset.split("test")
        known = self.with_splits(dataset)
        if "valid" not in known.splits:
            return dataset
        part = known.split("valid")
        return part if known is dataset else replace(part, notes=(*part.notes, _TRAINED_ON))

    def generate(
        self,
        num: int = 16,
        *,
        where: Any = None,
        temperature: float = 1.0,
        draw: str = "auto",
        seed: int = 0,
        progress: Progress | None = None,
        **tokens: Any,
    ) -> Any:
        """New examples, (num, ...) in the source's form: z ~ p(z|c), x ~ p(x|z, c).

        Args:
            num: how many.
            where: the category or the number of each condition, by column, as in `{"label": 3, "angle": 0.5}`, or a range of
                numbers, as in `{"angle": (0.2, 0.5)}`; those not given are drawn as often as in training.
                `generate_labelled` also tells which. Of a table, what any columns must be, as in
                `["age>=30", "income=>50K"]`: rows are drawn from the model's conditional distribution.
            temperature: factor on the prior's scales, > 0.
            draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images, a sample for vectors.
            seed: of all draws.
            progress: called with (done, total).
            **tokens: of text: `token_temperature`, `top_k`, `top_p` or `beams`, see `vaekit.jobs.blocks.Spelling.of`.

        Raises:
            ConfigError: if an argument cannot be.
            DataError: if a category is unknown.
        """
        how = {"where": where, "temperature": temperature, "draw": draw, "seed": seed, "progress": progress}
        return self.rows(generate(self.bundle, num, **how, spelling=Spelling.of(**tokens)).x, seed)

    def generate_labelled(self, num: int = 16, **options: Any) -> Generated:
        """As `generate`, with the categories that each example was made for."""
        return generate(self.bundle, num, **options)

    def reconstruct(
        self,
        data: Any,
        *,
        draw: str = "mean",
        beams: int | None = None,
        seed: int = 0,
        split: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Any:
        """E p(x|z, c) at z = E q(z|x, c), (N, ...) in the source's form; of a table, medians and likeliest categories; of text,
        the likeliest tokens, one after another.

        Args:
            data: N examples.
            draw: `mean` of p(x|z, c), or a `sample` of it.
            beams: of text: seek the likeliest, keeping so many beginnings at a time.
            seed: of the samples.
            split: which part of data that come split.
            progress: called with (done, total).
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = self.read(data, split, default="held_out", **options)
        how = {"draw": draw, "seed": seed, "progress": progress, "spelling": Spelling(beams=beams)}
        return self.rows(reconstruct(self.bundle, dataset, **how), seed)

    def decode(
        self,
        latents: Any,
        *,
        draw: str = "auto",
        where: Mapping[str, str | float] | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        **tokens: Any,
    ) -> Any:
        """Examples in the source's form from latents.

        Args:
            latents: (N, D) numbers, an `Encoding`, or a file that `encode` wrote, whose columns are then used as conditions.
            draw: `mean` of p(x|z, c), a `sample` of it, or `auto`: the mean for images, a sample for vectors.
            where: the category or the number of each condition, by column; unknown where not given.
            seed: of the samples.
            progress: called with (done, total).
            **tokens: of text, as in `generate`.

        Raises:
            DataError: if the latents are not (N, D) or not finite, or a category is unknown.
        """
        z, columns = read_latents(self.bundle, latents)
        how = {"draw": draw, "where": where, "columns": columns, "seed": seed, "progress": progress}
        return self.rows(decode(self.bundle, z, **how, spelling=Spelling.of(**tokens)), seed)

    def interpolate(
        self,
        data: Any,
        start: int = 0,
        end: int = 1,
        *,
        num_steps: int = 9,
        path: str = "linear",
        beams: int | None = None,
        split: str | None = None,
        **options: Any,
    ) -> Any:
        """Examples on a path between the posterior means of two; the ends are exactly their reconstructions.

        Args:
            data: the examples.
            start: index of the first.
            end: index of the last.
            num_steps: how many, both ends included.
            path: `linear` or `spherical`.
            beams: of text, as in `reconstruct`.
            split: which part of data that come split.
            **options: of `vaekit.data.loading.conform`.
        """
        how = {"num_steps": num_steps, "path": path, "spelling": Spelling(beams=beams)}
        return self.rows(interpolate(self.bundle, self.read(data, split, **options), start, end, **how))

    def traverse(
        self,
        data: Any = None,
        *,
        units: Sequence[int | str] | None = None,
        example: int | None = None,
        where: Mapping[str, str | float] | None = None,
        num_units: int = 10,
        num_steps: int = 11,
        reach: float = 3.0,
        split: str | None = None,
        **options: Any,
    ) -> Traversal:
        """One latent unit at a time moved over `reach` deviations of the prior: a row a unit, the most active first; of a
        table `x` is a list of frames, one a unit.

        Args:
            data: examples that rank the units; None to rank them by what they change.
            units: rows, by index or by name, in place of the most active.
            example: index of the example at whose latents the others are held; at the prior's centre if None.
            where: the category or the number of each condition, by column.
            num_units: rows.
            num_steps: columns.
            reach: how far, in standard deviations of the prior either way.
            split: which part of data that come split.
            **options: of `vaekit.data.loading.conform`.
        """
        dataset = None if data is None else self.read(data, split, **options)
        how = {"num_units": num_units, "num_steps": num_steps, "reach": reach}
        made = traverse(self.bundle, dataset, units=units, example=example, where=where, **how)
        return replace(made, x=[self.rows(cells) for cells in made.x]) if self.schema.kind == "table" else made

    def refit_prior(
        self,
        data: Any,
        kind: str | Prior = "mixture",
        *,
        split: str | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        data_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Model:
        """The model with a prior that is fitted to its latents; encoder and decoder stay as they are.

        What is generated gets better where the latents of data are not distributed as the prior was.

        Args:
            data: the training data.
            kind: `mixture`, `mixture-full`, `flow`, `flow-matching`, `vae`, `autoregressive`, `codes`, or a prior.
            split: which part of data that come split; `train` if None.
            seed: of everything random.
            progress: called with (done, total).
            data_options: of `vaekit.data.loading.conform`.
            **settings: of `vaekit.training.refit.refit_prior`: `components`, `hidden`, `draws`, and a budget in `steps`,
                `epochs` or `minutes`.

        Returns:
            A new model, to be saved elsewhere. Its training summary holds the bound before and after under `prior_fit`, and
            notes, such as that the new prior is worse.
        """
        from vaekit.training.refit import refit_prior
        from vaekit.training.run import split as parts_of

        dataset = self.read(data, split, default="all", **(data_options or {}))
        found = refit_prior(self.bundle, dataset, kind, seed=seed, progress=progress, **settings)
        return Model(with_reference(found, *parts_of(dataset)))


def load(folder: str | Path, device: str = "cpu") -> Model:
    """Reads a model folder; no code is run from it.

    Args:
        folder: what `vaekit train` or `Model.save` wrote.
        device: where the weights go: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for the best that is there.

    Raises:
        ModelFormatError: if it is no model folder, of a later format, or damaged.
        ConfigError: if there is no such device.
    """
    return Model(storage.load(folder, check_device(device)))


def train(
    data: Any,
    out: str | Path | None = None,
    *,
    recipe: str = "auto",
    latent: int | None = None,
    likelihood: str | None = None,
    condition: Sequence[str] = (),
    beta: float | None = None,
    free_bits: float | None = None,
    warm_up: int | None = None,
    capacity: float | None = None,
    prior: str | None = None,
    objective: Objective | str | None = None,
    vae: LatentModel | None = None,
    transform: Transform | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    num_samples: int | None = None,
    patience: int | None = None,
    ema: float | None = None,
    precision: Literal["auto", "float32", "bf16"] | None = None,
    device: str = "auto",
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    checkpoint_seconds: float | None = None,
    data_options: Mapping[str, Any] | None = None,
    display: Literal["auto", "live", "plain", "quiet"] = "auto",
    **settings: Any,
) -> Model:
    """Trains a VAE on data.

    The schema of the data chooses the parts, unless they are given. Where an argument is None, the recipe chooses.

    Args:
        data: a folder or zip of images, an array file, an array, or a `Dataset`. Of data that come split, `train` is read.
        out: the folder of the run and the model; None to keep the model in memory.
        recipe: `auto`, or the kind of network: `mlp`, `conv`, `conv-large`, or `ladder` for a hierarchy of latents; or `map`
            for two units in which neighbours stay neighbours (see `Model.reduce`).
        latent: D, the number of latent units.
        likelihood: the family of p(x|z, c); chosen by the values of the data if None.
        condition: columns to condition on, such as `["label"]`.
        beta: weight of the rate, >= 0; 1 if None, or 6 for `total-correlation`.
        free_bits: nats a unit that are not charged, >= 0; 0 if None.
        warm_up: steps over which beta rises from 0; 0 if None.
        capacity: nats that the rate is drawn to; None for the bound itself.
        prior: `standard`, `mixture`, `vamp`, `flow` or `autoregressive`; learned with the rest but for the first.
        objective: what is minimised, in place of the `ELBO` that the four before describe: an objective, or `iwae`, `dreg`,
            `stl`, `total-correlation`, `neighbours`, or `semi-supervised` for data of which few examples have a label.
        vae: a model of one's own, with its `transform`.
        transform: stored values to the support of the likelihood; with `vae`.
        epochs: budget in passes over the data. Give one of the three.
        steps: budget in optimiser steps.
        minutes: budget in minutes.
        batch_size: examples a step.
        learning_rate: its peak.
        num_samples: K, samples of the latent an example.
        patience: validations without a better bound after which training stops; 0 for never.
        ema: decay of the average of the weights that is kept; 0 for none.
        precision: `float32`, `bf16`, or `auto`, which is bf16 where that is clearly faster here.
        device: `auto`, `cpu`, `cuda`, or one such as `cuda:1`.
        seed: of everything random.
        resume: go on with the run in `out`.
        force: replace what `out` holds.
        checkpoint_seconds: seconds between checkpoints.
        data_options: how to read the data, as in `{"size": 64, "fit": "crop"}` for images, or `{"y": labels}` for an array: see
            `vaekit.data.loading.open`.
        display: progress on standard error: `live`, `plain`, `quiet`, or `auto` for what fits.
        **settings: further ones of `vaekit.training.config.TrainConfig`, such as `weight_decay`, `pretrain` and `aggressive`
            against a latent that is not used, or `dp_epsilon`, `dp_delta` and `dp_clip` for training with differential privacy
            (see docs/privacy.md); and `cycles` and `free_bits_per` of the `ELBO`.

    Returns:
        The model with the best weights by the bound on held-out examples.

    Raises:
        ConfigError: for an argument that cannot be, or an `out` that exists.
        DataError: for data that cannot be read or do not fit.
        TrainingError: if the run diverges or its folder cannot be written.

    Example:
        model = vaekit.train("photos/", latent=32, minutes=10)
    """
    from vaekit.training import run

    parts = {"recipe": recipe, "latent": latent, "likelihood": likelihood, "condition": condition, "prior": prior}
    bound = {"beta": beta, "free_bits": free_bits, "warm_up": warm_up, "capacity": capacity}
    own = {"objective": objective, "vae": vae, "transform": transform}
    settings |= {
        "epochs": epochs,
        "steps": steps,
        "minutes": minutes,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "num_samples": num_samples,
        "patience": patience,
        "ema": ema,
        "precision": precision,
        "seed": seed,
        "checkpoint_seconds": checkpoint_seconds,
    }
    how = {"device": device, "resume": resume, "force": force, "data_options": data_options, "display_as": display}
    return Model(run.train(data, out, **parts, **bound, **own, **how, finish=with_reference, **settings))
