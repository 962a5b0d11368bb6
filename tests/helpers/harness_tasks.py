"""Tasks of lm-evaluation-harness whose items are in a file beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {rows}, train: {rows}}}}}
validation_split: validation
training_split: train
metadata: {{version: 1.0}}
"""
MULTIPLE_CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
"""What a task of questions, choices and the label of the right one has beside its name and items."""


def write_tasks(folder: Path, rows: Sequence[Mapping[str, Any]], tasks: Mapping[str, str]) -> Path:
    """Write tasks by name, each with what it has beside its items `rows`; return their directory, for --include."""
    items = folder / "rows.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    for name, rest in tasks.items():
        (folder / "tasks" / f"{name}.yaml").write_text(_HEAD.format(name=name, rows=items) + rest)
    return folder / "tasks"
