from pathlib import Path

import pytest
import yaml

from pathways_lite.errors import UserError
from pathways_lite.studies.jobset import TEMPLATE, make_jobsets, to_yaml
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Study, build_nodes


@pytest.fixture
def fresh(study: Study, tmp_path: Path) -> StudyStore:
    return StudyStore(tmp_path, build_nodes(study.recipes))


def test_nodes_that_share_a_stage_are_one_jobset_in_which_children_wait(fresh: StudyStore) -> None:
    trunk, slow, fast = fresh.nodes
    (manifest,) = yaml.safe_load_all(to_yaml(make_jobsets(fresh, "Rates_of.x", TEMPLATE)))
    assert manifest["metadata"]["name"] == f"rates-of-x-{trunk[:8]}"
    jobs = manifest["spec"]["replicatedJobs"]
    assert [job["name"] for job in jobs] == [f"n{identity[:12]}" for identity in (trunk, slow, fast)]
    after = [{"name": f"n{trunk[:12]}", "status": "Complete"}]
    assert [job.get("dependsOn") for job in jobs] == [None, after, after]


def test_a_job_is_one_train_of_one_node_and_all_else_is_the_templates(fresh: StudyStore) -> None:
    pattern = yaml.safe_load(TEMPLATE.read_text())
    (manifest,) = make_jobsets(fresh, "rates", TEMPLATE)
    for identity, job in zip(fresh.nodes, manifest["spec"]["replicatedJobs"], strict=True):
        run = fresh.run_directory(identity)
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        assert container["command"][:5] == ["pathways-lite", "train", str(run.recipe_path), "--out", str(run.path)]
        assert run.recipe_path.is_file(), "what the job is to train is written"
        (was,) = pattern["spec"]["replicatedJobs"]
        (their,) = was["template"]["spec"]["template"]["spec"]["containers"]
        container["command"] = their["command"]
        assert job["template"] == was["template"]
    assert manifest["spec"]["failurePolicy"] == pattern["spec"]["failurePolicy"]


def test_finished_nodes_are_not_exported(store: StudyStore) -> None:
    assert make_jobsets(store, "rates", TEMPLATE) == []


def test_an_invalid_template_is_refused(fresh: StudyStore, tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text("kind: Pod\nspec: {}\n")
    with pytest.raises(UserError, match="is not a JobSet with one replicated job"):
        make_jobsets(fresh, "rates", tmp_path / "pod.yaml")


def test_the_template_comes_with_the_package() -> None:
    """`pip install` copies what is below the package's directory."""
    import pathways_lite

    assert TEMPLATE.is_relative_to(Path(pathways_lite.__file__).parent)
    assert yaml.safe_load(TEMPLATE.read_text())["kind"] == "JobSet"
