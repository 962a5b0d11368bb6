"""Read public measurements: the data that published scaling laws were fitted to.

Each `read_*` function takes the folder with the measurements and returns a table in the units of `table.COLUMNS`. The
files are not part of the project; `tools/reproduce_scaling.py` lists their sources. Learning-rate schedules and their
areas, which are the inputs of the annealing laws, come first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.scaling.laws.annealing import fall_columns
from pathways_lite.scaling.laws.vocabulary import tokens_per_character
from pathways_lite.scaling.table import Table, derive_columns, read_table

# ---- schedules ----

ScheduleShape = Literal["constant", "cosine", "wsd", "wsdld", "wsdcon"]


def make_schedule(
    shape: ScheduleShape, steps: int, *, peak: float, end: float = 0.0, warmup: int = 0, stable: int | None = None
) -> np.ndarray:
    """Return the learning rates [steps] of a schedule with a linear warm-up of `warmup` steps.

    cosine decays from peak to end after the warm-up; wsd decays exponentially and wsdld linearly from step `stable` on;
    wsdcon drops to `end` at step `stable`. Raises UserError for an unknown shape.
    """
    step = np.arange(steps, dtype=np.float64)
    rates = np.full(steps, peak)
    decay_start = warmup if shape == "cosine" else steps if stable is None else stable
    progress = np.clip((step - decay_start) / max(steps - decay_start, 1), 0, 1)
    is_decaying = step >= decay_start
    match shape:
        case "cosine":
            rates = np.where(is_decaying, end + 0.5 * (peak - end) * (1 + np.cos(np.pi * progress)), peak)
        case "wsd":
            rates = np.where(is_decaying, peak * (end / peak) ** progress, peak)
        case "wsdld":
            rates = np.where(is_decaying, peak + (end - peak) * progress, peak)
        case "wsdcon":
            rates = np.where(is_decaying, end, peak)
        case "constant":
            pass
        case _:
            known = ("constant", "cosine", "wsd", "wsdld", "wsdcon")
            raise UserError(f"there is no schedule {shape!r}.{did_you_mean(shape, known)}")
    return np.where(step < warmup, peak * step / max(warmup, 1), rates)


def forward_area(rates: np.ndarray) -> np.ndarray:
    """Return S1(s), the sum of learning rates up to and including step s, [steps]."""
    return np.cumsum(rates)


def annealing_area(rates: np.ndarray, momentum: float = 0.999) -> np.ndarray:
    """Return S2(s) of Tissue et al., [steps]: the sum of m_i = momentum m_{i-1} + (eta_{i-1} - eta_i), m_0 = 0.

    The recurrence is linear, so it is computed by two linear filters.
    """
    from scipy import signal

    falls = np.concatenate([[0.0], -np.diff(rates)])
    return np.cumsum(signal.lfilter([1.0], [1.0, -momentum], falls))


# ---- measurements ----


def select_rows(table: Table, rows: np.ndarray) -> Table:
    """Select rows of a table, given indices or a mask."""
    return {name: column[rows] for name, column in table.items()}


def read_chinchilla_epoch(folder: Path) -> Table:
    """Read the points of Hoffmann et al., figure 4, digitized by Besiroglu et al., without the five highest losses."""
    columns = {"N": "Model Size", "C": "Training FLOP", "L": "loss"}
    table = derive_columns(read_table(folder / "chinchilla_epoch/svg_extracted_data.csv", columns), ("D",))
    return select_rows(table, table["L"] < np.sort(table["L"])[-5])


def read_gemstones(folder: Path, name: str, *, embeddings: bool = True) -> Table:
    """Read a width-by-depth grid of McLeish et al. 2025, e.g. "hot"; `embeddings`: whether N counts them."""
    columns = {"N": "params_active_precise", "D": "tokens", "L": "final_loss"}
    table = read_table(folder / f"gemstones/wandb_dfs__wandb_df_for_fitting_{name}.jsonl", columns)
    return table if embeddings else {**table, "N": table["N"] - 50_304 * table["width"]}


def read_gadre(folder: Path, dataset: str) -> Table:
    """Read all models of Gadre et al. 2024 trained on "c4_original", "rpj" or "rw_original"."""
    columns = {"M": "tok_mult", "L": "loss_c4_val", "error": "err_avg_subset"}
    table = derive_columns(read_table(folder / "gadre/gadre_104_models.csv", columns), ("C",))
    table["C"] = 6 * table["N"] * table["M"] * table["N"]
    return select_rows(table, table["dataset_name"] == dataset)


def gadre_fit_masks(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the rows that the authors fitted, for the loss and for the error.

    The loss: four small models at M = 20 and the smallest at M = 320.
    """
    small = (np.round(table["M"]) == 20) & (table["N"] < 5e8)
    smallest = (np.round(table["M"]) == 320) & (table["N"] < 2e7)
    middle = (np.round(table["M"]) == 20) & (table["N"] > 1e9) & (table["N"] < 2e9)
    return small | smallest, small | smallest | middle


def read_tissue(folder: Path, momentum: float = 0.999) -> Table:
    """Read the 40 points of the authors' example: a cosine and a constant schedule, at the peak during warm-up."""
    table = read_table(folder / "tissue/tissue_40_points.csv", {"L": "loss"})
    step, S1, S2 = table["step"].astype(int), np.zeros(len(table["L"])), np.zeros(len(table["L"]))
    cosine = make_schedule("cosine", 20_001, peak=2e-4, warmup=500)
    cosine[:500] = 2e-4
    for name, rates in (("cosine", cosine), ("constant", np.full(20_001, 2e-4))):
        rows = table["schedule"] == name
        S1[rows], S2[rows] = forward_area(rates)[step[rows]], annealing_area(rates, momentum)[step[rows]]
    return {**table, "S1": S1, "S2": S2}


MULTI_POWER_TRAINED = ("cosine_24000", "constant_24000", "wsdcon_9")
MULTI_POWER_HELD_OUT = (
    "constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18",
)  # fmt: skip


def read_multi_power(folder: Path, size: int, names: tuple[str, ...], max_groups: int | None = None) -> Table:
    """Read loss curves of Luo et al. 2025 at 25 or 100 (million parameters), under the named schedules."""
    curves, losses = [], []
    for name in names:
        table = read_table(folder / f"multi_power_law/loss_curve_repo__csv_{size}__{name}.csv")
        table = select_rows(table, table["step"] != 24_000)
        curves.append((_multi_power_schedule(name, int(table["step"].max()) + 1), table["step"].astype(int)))
        losses.append(table["loss"])
    return {**fall_columns(curves, max_groups=max_groups), "L": np.concatenate(losses)}


def _multi_power_schedule(name: str, min_steps: int) -> np.ndarray:
    kind, *numbers = name.split("_")
    peak, end = 3e-4, 3e-5
    if kind == "wsdcon":
        return make_schedule("wsdcon", min_steps, peak=peak, end=int(numbers[0]) * 1e-5, warmup=2160, stable=8000)
    stable = int(numbers[0]) if kind.startswith("wsd") else None
    return make_schedule(kind, int(numbers[-1]), peak=peak, end=end, warmup=2160, stable=stable)  # type: ignore[arg-type]


def read_data_constrained(folder: Path) -> Table:
    """Read the runs of Muennighoff et al. 2023 on C4 with repeated data."""
    columns = {"N": "params", "D": "tokens", "U": "unique_tokens", "L": "loss"}
    return read_table(folder / "data_constrained/data_constrained.csv", columns)


def read_vocabulary(folder: Path) -> Table:
    """Read the runs of Tao et al. 2024 above 2.18e17 FLOPs; tokens as the authors count them, f of V in thousands."""
    columns = {"Nnv": "Non_vocab_parameters", "H": "num_characters", "V": "vocab_size", "Lu": "Lossu", "C": "FLOPs"}
    table = read_table(folder / "vocabulary/exp_data.csv", columns)
    table["Nv"] = table["V"] * table["embed_dim"]
    table["D"] = table["H"] * tokens_per_character(table["V"] / 1e3)
    return select_rows(table, table["C"] >= 2.18e17)


def read_isoflops(folder: Path, config: str) -> Table:
    """Read losses by model size at fixed compute, Porian et al. 2024."""
    table = read_table(folder / "porian/isoflop_points.csv", {"N": "n", "C": "flops", "L": "loss", "D": "tokens"})
    return select_rows(table, table["config"] == config)


def read_coverage(folder: Path, model: str) -> Table:
    """Read unbiased pass@k, averaged over problems, of Pythia on MATH: Schaeffer et al. 2025."""
    table = read_table(folder / "monkeys/pythia_math_pass_at_k.csv.gz")
    table = select_rows(table, table["model"] == model)
    k = np.unique(table["k"])
    return {"k": k, "coverage": np.array([table["pass_at_k"][table["k"] == n].mean() for n in k])}


def read_coverage_by_problem(folder: Path, model: str) -> Table:
    """Read the same before averaging: a row per problem and k, with the column `problem` as text."""
    table = read_table(folder / "monkeys/pythia_math_pass_at_k.csv.gz", {"coverage": "pass_at_k"})
    table = select_rows(table, table["model"] == model)
    return {"problem": table["problem"].astype(int).astype(str), "k": table["k"], "coverage": table["coverage"]}


def coverage_models(folder: Path) -> list[str]:
    """Return the models of `read_coverage`."""
    return sorted(set(read_table(folder / "monkeys/pythia_math_pass_at_k.csv.gz")["model"]))


def read_routed(folder: Path, router: str) -> Table:
    """Read final losses of Clark et al. 2022: "S-Base", "RL-R" or "Hash" in every second layer, and dense."""
    columns = {"N": "dense_parameter_count", "experts": "num_experts", "L": "loss_validation"}
    table = read_table(folder / "routing/curves.csv.gz", columns)
    is_compared = np.isin(table["router_type"], (router, "Dense")) & (table["flop_increase"] == 1)
    table = select_rows(table, is_compared & (table["k"] == 1) & (table["routing_frequency"] == 0.5))
    last_rows = {run: i for i, run in sorted(enumerate(table["hyper_id"]), key=lambda row: table["step"][row[0]])}
    return select_rows(table, np.array(sorted(last_rows.values())))


def read_fine_tuning(folder: Path, task: str) -> dict[str, Table]:
    """Read by model the loss after fine-tuning on numbers of examples of "flan" or "wikiword": Lin et al. 2024."""
    table = read_table(folder / f"sft/{task}.csv")
    counts = sorted((name for name in table if name.isdigit() and int(name)), key=int)
    D = np.array([float(count) for count in counts])
    rows = zip(table["model"], *(table[count] for count in counts), strict=True)
    return {str(model): {"D_examples": D, "L": np.array(losses)} for model, *losses in rows}


def read_addition(folder: Path, split: str) -> Table:
    """Read the loss of four-digit addition over examples, Caballero et al. 2022: "train" or "extrapolate"."""
    table = read_table(folder / "broken_neural_scaling/four_digit_addition.csv", {"x": "dataset_size", "y": "loss"})
    return select_rows(table, table["split"] == split)


def read_step_law(folder: Path) -> Table:
    """Read the published dense runs of Li et al. 2025: N without embeddings, tokens, learning rate, batch in tokens."""
    return read_table(folder / "step_law/dense_lr_bs_loss.csv", {"L": "smooth loss", "B": "bs*2048"})


def select_near_best(table: Table, tolerance: float = 0.0025) -> Table:
    """Select the rows whose loss is within `tolerance` of the lowest at their N and D, to fit the Step Law to."""
    cells = np.unique(np.stack([table["N"], table["D"]], axis=1), axis=0, return_inverse=True)[1].ravel()
    best = np.array([table["L"][cells == cell].min() for cell in range(cells.max() + 1)])
    return select_rows(table, table["L"] <= (1 + tolerance) * best[cells])


def read_regmix(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read shares of 17 domains [runs, 17] and losses on Pile-CC [runs] of RegMix's 1M models: "train" or "test"."""
    shares = read_table(folder / f"regmix/data__{split}_mixture_1m.csv")
    losses = read_table(folder / f"regmix/data__{split}_pile_loss_1m.csv")
    names = [name for name in shares if name != "index"]
    return np.stack([shares[name] for name in names], axis=1), losses["metric/the_pile_pile_cc_val_loss"]
