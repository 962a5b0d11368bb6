"""`pathways-lite evaluate RUN --tasks` for tasks of lm-evaluation-harness (extra `lm-eval`), without a network."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.extras import install_command

if TYPE_CHECKING:
    from pathways_lite.cli.evaluate_tasks import TaskChoice
    from pathways_lite.training.load import TrainedModel

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1",
    "DISABLE_MULTIPROC": "1",  # bootstraps would fork this process, whose threads JAX has
}  # fmt: skip
_HUBS = ("huggingface_hub", "datasets", "requests", "httpx", "httpcore")  # libraries whose errors are a hub's


def is_installed() -> bool:
    """Return whether lm-evaluation-harness is there."""
    return importlib.util.find_spec("lm_eval") is not None


def require_task_names(names: Sequence[str], include: Path | None) -> None:
    """Raise UserError for a task that no file of the harness names; the harness, which takes long, is not imported.

    Tasks are `task:`, `group:` or `tag:` of YAML files, or in lists there. What is found may still be something else.
    """
    from pathways_lite.tasks import FAMILIES

    if not names or not is_installed():
        return
    spec = importlib.util.find_spec("lm_eval")
    roots = [Path(place) / "tasks" for place in (spec.submodule_search_locations or ())] if spec else []
    missing = {name: re.compile(rb"(?m)[\s:\"'-]" + re.escape(name.encode()) + rb"[\"']?\s*$") for name in names}
    files = [file for root in (*roots, *filter(None, [include])) for file in root.rglob("*.y*ml")]
    for file in files:
        content = file.read_bytes()
        for name in [name for name, pattern in missing.items() if name.encode() in content and pattern.search(content)]:
            del missing[name]
        if not missing:
            return
    name = next(iter(missing))
    raise _no_such_task(name, [*FAMILIES, *dict.fromkeys(file.stem for file in files)])


def _no_such_task(name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown task; of thousands known ones only the most similar is named."""
    return UserError(
        f"there is no task {name!r}.{did_you_mean(name, known, listed=False)} Families are listed by "
        "`pathways-lite tasks list`, other tasks by `lm_eval ls tasks`; a file is named by its path"
    )


class HarnessTasks:
    """Tasks of lm-evaluation-harness, loaded once, for any number of checkpoints.

    Raises UserError for an unknown task, and for one whose data are on a hub.
    """

    def __init__(self, names: Sequence[str], choice: TaskChoice) -> None:
        self._choice = choice
        with _quiet():
            tasks, self._manager = _load_tasks(names, choice.include)
        self.tasks = {task.task_name: task for task in tasks}

    def run(
        self, model: TrainedModel, names: Collection[str] | None = None, *, samples: bool = False
    ) -> dict[str, Any]:
        """Evaluate a checkpoint; return the harness' own results, and our seconds.

        Args:
          names: of the tasks to evaluate; None: all.
          samples: with what the model was asked and has answered.
        """
        begin, choice = time.monotonic(), self._choice
        tasks = [task for name, task in self.tasks.items() if names is None or name in names]
        with _quiet():
            from lm_eval import simple_evaluate

            from pathways_lite.harness import PathwaysLM

            results = simple_evaluate(
                PathwaysLM(model, mode=choice.mode), tasks=tasks, num_fewshot=choice.shots or None, limit=choice.limit,
                log_samples=samples, bootstrap_iters=1000, task_manager=self._manager,
                apply_chat_template=choice.chat, fewshot_as_multiturn=choice.multiturn,
            )  # fmt: skip
        assert results is not None
        kept = ("results", "groups", "n-shot", "n-samples", "versions", "higher_is_better", "configs", "samples")
        return {name: results[name] for name in kept if name in results} | {"seconds": time.monotonic() - begin}

    def requests(self, model: TrainedModel) -> dict[str, list[Any]]:
        """Return what is asked of models of the tokenizer of `model`, by task: the harness' requests."""
        choice = self._choice
        with _quiet():
            render = None
            if choice.chat:
                from pathways_lite.harness import ChatRenderer

                render = ChatRenderer.of_model(model).render
            for task in self.tasks.values():
                # As lm_eval's simple_evaluate sets them up.
                if choice.shots and task.get_config("num_fewshot") != 0:
                    task.set_config(key="num_fewshot", value=choice.shots)
                elif task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=1234)
                task.build_all_requests(
                    limit=choice.limit, rank=0, world_size=1, apply_chat_template=choice.chat,
                    fewshot_as_multiturn=choice.multiturn, chat_template=render,
                )  # fmt: skip
        return {name: list(task.instances) for name, task in self.tasks.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness off the network and off the standard output."""
    with _environment(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextmanager
def _environment() -> Iterator[None]:
    """Keep the harness' libraries off the network, and quiet; they read this when they are first imported."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _load_tasks(names: Sequence[str], include: Path | None) -> tuple[list[Any], Any]:
    """Load tasks by name: those below `include` alone where it has them all, as the harness's own take long to index.

    Returns the tasks, and the harness' manager that has loaded them.

    Raises UserError for an unknown one, one that needs a hub, and one that needs a package that is not there.
    """
    if not is_installed():
        raise UserError(f"task {names[0]} is of lm-evaluation-harness, which is an extra: {install_command('lm-eval')}")
    if include is not None and not include.is_dir():
        raise UserError(f"--include {include} is no directory; name one with the YAML files of tasks")
    from lm_eval.tasks import TaskManager

    from pathways_lite.tasks import FAMILIES

    own = None if include is None else TaskManager(include_path=str(include), include_defaults=False)
    has_all = own is not None and set(names) <= set(own.all_tasks)
    manager = (
        own if own is not None and has_all else TaskManager(include_path=None if include is None else str(include))
    )
    tasks: list[Any] = []
    known = [*FAMILIES, *manager.all_tasks]  # there are thousands
    for name in names:
        if name not in manager.all_tasks:
            raise _no_such_task(name, known)
        try:
            tasks += manager.load(name)["tasks"].values()
        except ModuleNotFoundError as error:
            raise UserError(
                f"task {name} needs the package {error.name}, which is not installed; leave the task out, or install it"
            ) from error
        except Exception as error:
            if not _is_of_hub(error):
                raise
            raise UserError(
                f"task {name} needs data from a hub ({_data_set(manager, name)}), and nothing is downloaded here; "
                "write a task with dataset_path: json and your data_files, and name its directory with --include"
            ) from error
    return tasks, manager


def _is_of_hub(error: BaseException) -> bool:
    """Return whether an error, or one that it comes from, says that a hub cannot be reached or lacks the data."""
    seen: BaseException | None = error
    while seen is not None:
        module = type(seen).__module__.partition(".")[0]
        if module in _HUBS or isinstance(seen, ConnectionError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _data_set(manager: Any, name: str) -> str:
    """Return the data set of a task, as its file names it."""
    entry = manager.task_index[name]
    config: Mapping[str, Any] = entry.cfg or {}
    if "dataset_path" not in config and entry.yaml_path is not None:
        from lm_eval.tasks._yaml_loader import load_yaml

        config = load_yaml(entry.yaml_path, resolve_func=False)
    return str(config.get("dataset_path", "not named in its file"))


def result_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of text per task and metric: task, items, shots, metric, value with its standard error."""
    rows = []
    for task, values in results["results"].items():
        items = results.get("n-samples", {}).get(task, {}).get("effective")
        shots = results.get("n-shot", {}).get(task)
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr") or not isinstance(value, int | float) or not filtered:
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            shown = f"{value:.4f}" + (f" ± {error:.4f}" if isinstance(error, float) else "")
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            rows.append(
                [task, "-" if items is None else f"{items:,}", "-" if shots is None else f"{shots}", name, shown]
            )
    return rows
