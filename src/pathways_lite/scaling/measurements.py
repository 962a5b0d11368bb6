"""Public measurements of others, read from a folder that has them: what published fits were made to.

Each function takes the folder and returns a table in the units of `table.COLUMNS`. The files are not part of the
project; `tools/reproduce_scaling.py` says where each comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from scipy import signal

from pathways_lite.errors import UserError
from pathways_lite.scaling.laws.annealing import fall_columns
from pathways_lite.scaling.laws.vocabulary import tokens_per_character
from pathways_lite.scaling.table import Table, read_table, with_derived

# What a learning-rate schedule has done up to a step: the inputs of the annealing laws.


ScheduleShape = Literal["constant", "cosine", "wsd", "wsdld", "wsdcon"]


def make_schedule(
    shape: ScheduleShape, steps: int, *, peak: float, end: float = 0.0, warmup: int = 0, stable: int | None = None
) -> np.ndarray:
    """Learning rates of steps 0 .. steps-1 after a linear warm-up of `warmup` steps, [steps].

    cosine falls from peak to end over what follows the warm-up; wsd exponentially and wsdld linearly from `stable`;
    wsdcon drops to `end` there at once.
    """
    step = np.arange(steps, dtype=np.float64)
    rates = np.full(steps, peak)
    begin = warmup if shape == "cosine" else steps if stable is None else stable
    share = np.clip((step - begin) / max(steps - begin, 1), 0, 1)
    after = step >= begin
    match shape:
        case "cosine":
            rates = np.where(after, end + 0.5 * (peak - end) * (1 + np.cos(np.pi * share)), peak)
        case "wsd":
            rates = np.where(after, peak * (end / peak) ** share, peak)
        case "wsdld":
            rates = np.where(after, peak + (end - peak) * share, peak)
        case "wsdcon":
            rates = np.where(after, end, peak)
        case "constant":
            pass
        case _:
            raise UserError(f"schedule {shape!r} is not known; give constant, cosine, wsd, wsdld or wsdcon")
    return np.where(step < warmup, peak * step / max(warmup, 1), rates)


def forward_area(rates: np.ndarray) -> np.ndarray:
    """S1(s), the sum of learning rates up to and with step s, [steps]."""
    return np.cumsum(rates)


def annealing_area(rates: np.ndarray, momentum: float = 0.999) -> np.ndarray:
    """S2(s) of Tissue et al., [steps]: the sum of m_i = momentum m_{i-1} + (eta_{i-1} - eta_i), m_0 = 0.

    A linear recurrence, so two linear filters.
    """
    falls = np.concatenate([[0.0], -np.diff(rates)])
    return np.cumsum(signal.lfilter([1.0], [1.0, -momentum], falls))


def select_rows(table: Table, rows: np.ndarray) -> Table:
    """The rows of a table."""
    return {name: column[rows] for name, column in table.items()}


def read_chinchilla_epoch(folder: Path) -> Table:
    """Points of Hoffmann et al., figure 4, as digitised by Besiroglu et al. 2024, without the five highest losses."""
    columns = {"N": "Model Size", "C": "Training FLOP", "L": "loss"}
    table = with_derived(read_table(folder / "chinchilla_epoch/svg_extracted_data.csv", columns), ("D",))
    return select_rows(table, table["L"] < np.sort(table["L"])[-5])


def read_gemstones(folder: Path, name: str, *, embeddings: bool = True) -> Table:
    """Models of the width-by-depth grid of McLeish et al. 2025, e.g. "hot"; `embeddings`: whether N counts them."""
    columns = {"N": "params_active_precise", "D": "tokens", "L": "final_loss"}
    table = read_table(folder / f"gemstones/wandb_dfs__wandb_df_for_fitting_{name}.jsonl", columns)
    return table if embeddings else {**table, "N": table["N"] - 50_304 * table["width"]}


def read_gadre(folder: Path, dataset: str) -> Table:
    """Models of Gadre et al. 2024 trained on "c4_original", "rpj" or "rw_original", all of them."""
    columns = {"M": "tok_mult", "L": "loss_c4_val", "error": "err_avg_subset"}
    table = with_derived(read_table(folder / "gadre/gadre_104_models.csv", columns), ("C",))
    table["C"] = 6 * table["N"] * table["M"] * table["N"]
    return select_rows(table, table["dataset_name"] == dataset)


def gadre_fit_masks(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Which rows the authors fitted the loss to (four small models at M = 20, the smallest at 320), and the error."""
    small = (np.round(table["M"]) == 20) & (table["N"] < 5e8)
    smallest = (np.round(table["M"]) == 320) & (table["N"] < 2e7)
    middle = (np.round(table["M"]) == 20) & (table["N"] > 1e9) & (table["N"] < 2e9)
    return small | smallest, small | smallest | middle


def read_tissue(folder: Path, momentum: float = 0.999) -> Table:
    """The 40 points of the authors' example: a cosine and a constant schedule, their warm-up as at the peak."""
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
    """Loss curves of Luo et al. 2025 at 25 or 100 (million parameters), under the named schedules."""
    curves, losses = [], []
    for name in names:
        table = read_table(folder / f"multi_power_law/loss_curve_repo__csv_{size}__{name}.csv")
        table = select_rows(table, table["step"] != 24_000)
        curves.append((_multi_power_schedule(name, int(table["step"].max()) + 1), table["step"].astype(int)))
        losses.append(table["loss"])
    return {**fall_columns(curves, max_groups=max_groups), "L": np.concatenate(losses)}


def _multi_power_schedule(name: str, at_least: int) -> np.ndarray:
    kind, *numbers = name.split("_")
    peak, end = 3e-4, 3e-5
    if kind == "wsdcon":
        return make_schedule("wsdcon", at_least, peak=peak, end=int(numbers[0]) * 1e-5, warmup=2160, stable=8000)
    stable = int(numbers[0]) if kind.startswith("wsd") else None
    return make_schedule(kind, int(numbers[-1]), peak=peak, end=end, warmup=2160, stable=stable)  # type: ignore[arg-type]


def read_data_constrained(folder: Path) -> Table:
    """Runs of Muennighoff et al. 2023 on C4 with repeated data."""
    columns = {"N": "params", "D": "tokens", "U": "unique_tokens", "L": "loss"}
    return read_table(folder / "data_constrained/data_constrained.csv", columns)


def read_vocabulary(folder: Path) -> Table:
    """Runs of Tao et al. 2024 above 2.18e17 FLOPs. Tokens as the authors count them: f of V in thousands."""
    columns = {"Nnv": "Non_vocab_parameters", "H": "num_characters", "V": "vocab_size", "Lu": "Lossu", "C": "FLOPs"}
    table = read_table(folder / "vocabulary/exp_data.csv", columns)
    table["Nv"] = table["V"] * table["embed_dim"]
    table["D"] = table["H"] * tokens_per_character(table["V"] / 1e3)
    return select_rows(table, table["C"] >= 2.18e17)


def read_isoflops(folder: Path, config: str) -> Table:
    """Losses by model size at fixed compute, Porian et al. 2024."""
    table = read_table(folder / "porian/isoflop_points.csv", {"N": "n", "C": "flops", "L": "loss", "D": "tokens"})
    return select_rows(table, table["config"] == config)


def read_coverage(folder: Path, model: str) -> Table:
    """Unbiased pass@k, averaged over problems, of Pythia on MATH: Schaeffer et al. 2025."""
    table = read_table(folder / "monkeys/pythia_math_pass_at_k.csv.gz")
    table = select_rows(table, table["model"] == model)
    k = np.unique(table["k"])
    return {"k": k, "coverage": np.array([table["pass_at_k"][table["k"] == each].mean() for each in k])}


def read_routed(folder: Path, router: str) -> Table:
    """Final validation losses of Clark et al. 2022 with "S-Base", "RL-R" or "Hash" in every second layer, and dense."""
    columns = {"N": "dense_parameter_count", "experts": "num_experts", "L": "loss_validation"}
    table = read_table(folder / "routing/curves.csv.gz", columns)
    compared = np.isin(table["router_type"], (router, "Dense")) & (table["flop_increase"] == 1)
    table = select_rows(table, compared & (table["k"] == 1) & (table["routing_frequency"] == 0.5))
    ends = {run: i for i, run in sorted(enumerate(table["hyper_id"]), key=lambda row: table["step"][row[0]])}
    return select_rows(table, np.array(sorted(ends.values())))


def read_fine_tuning(folder: Path, task: str) -> dict[str, Table]:
    """By model, loss after fine-tuning on numbers of examples of "flan" or "wikiword": Lin et al. 2024."""
    table = read_table(folder / f"sft/{task}.csv")
    counts = sorted((name for name in table if name.isdigit() and int(name)), key=int)
    D = np.array([float(count) for count in counts])
    rows = zip(table["model"], *(table[count] for count in counts), strict=True)
    return {str(model): {"D_examples": D, "L": np.array(losses)} for model, *losses in rows}


def read_addition(folder: Path, split: str) -> Table:
    """Loss of four-digit addition over examples, Caballero et al. 2022: "train" or "extrapolate"."""
    table = read_table(folder / "broken_neural_scaling/four_digit_addition.csv", {"x": "dataset_size", "y": "loss"})
    return select_rows(table, table["split"] == split)


def read_step_law(folder: Path) -> Table:
    """The published dense runs of Li et al. 2025: N without embeddings, tokens, learning rate, batch in tokens."""
    return read_table(folder / "step_law/dense_lr_bs_loss.csv", {"L": "smooth loss", "B": "bs*2048"})


def select_near_best(table: Table, share: float = 0.0025) -> Table:
    """The rows whose loss is within `share` of the lowest at their N and D: what the Step Law is fitted to."""
    cells = np.unique(np.stack([table["N"], table["D"]], axis=1), axis=0, return_inverse=True)[1].ravel()
    best = np.array([table["L"][cells == cell].min() for cell in range(cells.max() + 1)])
    return select_rows(table, table["L"] <= (1 + share) * best[cells])


def read_regmix(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Shares of 17 domains [runs, 17], and the loss on Pile-CC [runs], of RegMix's 1M models: "train" or "test"."""
    shares = read_table(folder / f"regmix/data__{split}_mixture_1m.csv")
    losses = read_table(folder / f"regmix/data__{split}_pile_loss_1m.csv")
    names = [name for name in shares if name != "index"]
    return np.stack([shares[name] for name in names], axis=1), losses["metric/the_pile_pile_cc_val_loss"]
