"""The files in deploy/: each is valid for its tool, and all start the command that docs/running.md contains.

A validator that is not installed skips its test; the commands are checked in any case.
"""

import argparse
import configparser
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
from cronsim import CronSim
from databricks.sdk.service.jobs import JobSettings
from profilestream.base import job, session
from profilestream.base import settings as settings_module

yaml: Any = importlib.import_module("yaml")  # without type stubs

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
DATABRICKS = DEPLOY / "databricks" / "databricks.yml"
AIRFLOW_DAG = DEPLOY / "airflow_dag.py"
# A Python with apache-airflow-core and apache-airflow-providers-standard, which need other versions of packages than
# this project, and half a minute to install (CONTRIBUTING.md).
AIRFLOW_PYTHON = os.environ.get("AIRFLOW_PYTHON", "")


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _manifests(name: str) -> dict[str, dict[str, Any]]:
    """The documents of a Kubernetes file, by kind."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())
    return {document["kind"]: document for document in documents}


def _unit(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / name)
    return unit


def _dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and their arguments."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined if line.strip()]


def _operators(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of the operators of the DAGs, with a stand-in for Airflow."""
    bash, sdk = MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, "airflow.sdk", sdk)
    monkeypatch.setitem(sys.modules, "airflow.providers.standard.operators.bash", bash)
    _module(AIRFLOW_DAG)
    return [call.kwargs for call in bash.BashOperator.call_args_list]


# --- the commands


def _documented() -> list[str]:
    """The words of the command in docs/running.md."""
    text = (ROOT / "docs" / "running.md").read_text()
    commands = re.findall(r"^spark-submit .*--py-files .*run_pipeline.*$", text, re.M)
    assert len(commands) == 1
    return shlex.split(commands[0])


def _without_folder(words: list[str]) -> list[str]:
    return [Path(words[0]).name, *words[1:]]


def _commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The words of every command in deploy/ that starts run_pipeline, by file."""
    (container,) = _manifests("cronjob.yaml")["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    (task,) = yaml.safe_load(DATABRICKS.read_text())["resources"]["jobs"]["profilestream"]["tasks"]
    exec_start = _unit("profilestream@.service")["Service"]["ExecStart"].replace("%i", "run_pipeline")
    (bash,) = [kwargs for kwargs in _operators(monkeypatch) if kwargs["task_id"] == "run_pipeline"]
    (shown,) = re.findall(r"^spark-submit .*$", (DEPLOY / "README.md").read_text(), re.M)
    return {
        "README": shlex.split(shown),
        "CronJob": container["args"],
        "image": json.loads(dict(_dockerfile())["CMD"]),
        "systemd": _without_folder(shlex.split(exec_start)),
        "Airflow": shlex.split(bash["bash_command"]),
        "Databricks": task["spark_python_task"]["parameters"][1:],
    }


def test_all_files_start_the_documented_command(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = _commands(monkeypatch)
    # One machine, whose .venv contains the package.
    one_machine = commands.pop("Databricks")
    assert commands == dict.fromkeys(commands, _documented())
    assert one_machine == [word for word in _documented() if word not in ("--py-files", "profilestream.zip")]


def test_the_spark_operator_starts_the_documented_job_with_the_properties_of_the_cluster() -> None:
    template = _manifests("spark_operator.yaml")["ScheduledSparkApplication"]["spec"]["template"]
    file = template["mainApplicationFile"].removeprefix("local://")
    assert [file, *template["arguments"]] == [
        "/opt/profilestream/jobs/run_pipeline.py",
        "--config",
        "/opt/profilestream/conf/cluster.toml",
    ]
    properties = session.properties_of(str(ROOT / "conf" / "spark-cluster.conf"))
    not_for_kubernetes = {"spark.jars.packages", "spark.yarn.maxAppAttempts"}
    assert template["sparkConf"] == {key: value for key, value in properties.items() if key not in not_for_kubernetes}
    assert template["sparkVersion"] == session.SPARK


@pytest.mark.parametrize("name", ["run_pipeline", "learn_publish", "steward_status"])
def test_jobs_accept_the_arguments_of_the_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(job, "run", lambda body, parser, argv: parsers.append(parser))
    importlib.import_module(f"jobs.{name}").main([])
    words = _documented()
    args = parsers[0].parse_args(words[words.index("jobs/run_pipeline.py") + 1 :])
    settings = settings_module.load(str(ROOT / args.config), args.set)
    assert settings.spark.properties == ""
    assert settings.paths.lock_folder == "/var/lib/profilestream/locks"


def test_schedules_start_existing_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = [timer.stem.partition("@")[2] for timer in UNITS.glob("*.timer")]
    tasks = [kwargs["task_id"] for kwargs in _operators(monkeypatch)]
    assert sorted(timers) == ["learn_publish", "run_pipeline"]
    assert tasks == ["run_pipeline", "learn_publish", "steward_status"]
    assert [name for name in (*timers, *tasks) if not (ROOT / "jobs" / f"{name}.py").exists()] == []


def test_the_readme_lists_every_file_and_every_name_to_replace() -> None:
    readme = (DEPLOY / "README.md").read_text()
    files = [file for file in DEPLOY.rglob("*") if file.is_file() and file.name != "README.md"]
    linked = [DEPLOY / link for link in re.findall(r"\]\(((?!\.\.)[^)]+)\)", readme)]
    assert [file for file in files if not {file, *file.parents} & set(linked) - {DEPLOY}] == []
    names = {name for file in files for name in re.findall(r"\byour-\w+(?:-\w+)*|\S*example\.com\S*", file.read_text())}
    assert names and [name for name in names if f"`{name}`" not in readme] == []


# --- Kubernetes


@pytest.mark.parametrize("name", ["cronjob.yaml", "spark_operator.yaml"])
def test_kubernetes_objects_are_valid(name: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not installed")
    core = [document for document in _manifests(name).values() if "sparkoperator" not in document["apiVersion"]]
    assert core
    for document in core:
        kubernetes.validate(document, "1.32", strict=True)


def test_the_spark_application_is_valid_for_the_models_of_the_operator() -> None:
    models = pytest.importorskip("kubeflow_spark_api.models", reason="the package kubeflow-spark-api is not installed")
    document = _manifests("spark_operator.yaml")["ScheduledSparkApplication"]
    parsed = models.SparkV1beta2ScheduledSparkApplication.from_dict(document)
    assert parsed.to_dict() == document  # from_dict ignores unknown keys


@pytest.mark.parametrize("name", ["cronjob.yaml", "spark_operator.yaml"])
def test_only_one_pod_at_a_time_runs_the_jobs(name: str) -> None:
    documents = _manifests(name)
    claim = documents.pop("PersistentVolumeClaim")
    (scheduled,) = documents.values()
    assert scheduled["spec"]["concurrencyPolicy"] == "Forbid"
    assert next(CronSim(scheduled["spec"]["schedule"], datetime(2026, 1, 1)))
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert {"claimName": claim["metadata"]["name"]} in list(_values(scheduled, "persistentVolumeClaim"))
    (mount,) = [mount for mounts in _values(scheduled, "volumeMounts") for mount in mounts]
    locks = settings_module.load(str(ROOT / "conf" / "cluster.toml"), []).paths.lock_folder
    assert locks.startswith(f"{mount['mountPath']}/")


def _values(document: Any, key: str) -> Iterator[Any]:
    """All values of a key, at any depth."""
    if isinstance(document, dict):
        yield from ([document[key]] if key in document else [])
    for child in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from _values(child, key)


# --- Airflow


def _airflow_tasks() -> dict[str, dict[str, str]]:
    code = (
        "import json, sys\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(AIRFLOW_DAG)!r})\n"
        "assert not bag.import_errors, bag.import_errors\n"
        "tasks = {name: {task.task_id: task.bash_command for task in dag.tasks} for name, dag in bag.dags.items()}\n"
        "print(json.dumps(tasks))"
    )
    run = subprocess.run([AIRFLOW_PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.skipif(not AIRFLOW_PYTHON, reason="AIRFLOW_PYTHON names no Python with Airflow")
def test_airflow_reads_the_dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    dags = _airflow_tasks()
    assert shlex.split(dags["profilestream"]["run_pipeline"]) == _documented()
    assert list(dags["profilestream_nightly"]) == ["learn_publish", "steward_status"]


# --- Databricks


def test_the_job_of_the_bundle_is_valid_for_the_databricks_sdk() -> None:
    bundle = yaml.safe_load(DATABRICKS.read_text())
    assert bundle.keys() == {"bundle", "sync", "resources", "targets"}
    (settings,) = bundle["resources"]["jobs"].values()
    assert JobSettings.from_dict(settings).as_dict() == settings  # from_dict ignores unknown keys
    clusters = [cluster["job_cluster_key"] for cluster in settings["job_clusters"]]
    assert [task["job_cluster_key"] for task in settings["tasks"]] == clusters
    for task in settings["tasks"]:
        assert (DATABRICKS.parent / task["spark_python_task"]["python_file"]).exists()
    assert [(DATABRICKS.parent / path).resolve() for path in bundle["sync"]["paths"]] == [ROOT]


def test_the_bundle_runs_its_command_in_a_copy_without_the_variables_of_databricks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    (checkout / ".ci").mkdir(parents=True)
    (checkout / ".ci" / "set_up.py").write_text(
        "import os\nos.makedirs('.venv/bin')\nos.symlink('/usr/bin/env', '.venv/bin/env')\n"
        "open('set_up', 'w').write(os.environ.get('SPARK_HOME', ''))\n"
    )
    for name in ("SPARK_HOME", "PYTHONPATH", "PYSPARK_PYTHON", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.setenv(name, "/databricks")
    submit = _module(DATABRICKS.parent / "submit.py")
    submit.main(str(checkout), ["env", "sh", "-c", "env > printed"], str(home))
    printed = (home / "printed").read_text()
    assert "/databricks" not in printed and (home / "set_up").read_text() == ""
    assert f"PYSPARK_PYTHON={home}/.venv/bin/python" in printed.splitlines()
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        (home / ".ci" / "set_up.py").write_text("")
        shutil.rmtree(checkout / ".ci")
        submit.main(str(checkout), ["env", "sh", "-c", "exit 3"], str(home))


# --- systemd


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("job_name", ["run_pipeline", "learn_publish"])
def test_systemd_accepts_the_units(tmp_path: Path, job_name: str) -> None:
    for unit in UNITS.iterdir():
        # The program of a unit must exist.
        text = unit.read_text().replace("/opt/profilestream/.venv/bin/spark-submit", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    names = [f"{tmp_path}/profilestream@{job_name}.{kind}" for kind in ("service", "timer")]
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_units_use_the_environment_of_one_checkout() -> None:
    service = _unit("profilestream@.service")["Service"]
    home = service["WorkingDirectory"]
    assert service["ExecStart"].startswith(f"{home}/.venv/bin/spark-submit ")
    assert service["Environment"] == f"PYSPARK_PYTHON={home}/.venv/bin/python"
    locks = settings_module.load(str(ROOT / "conf" / "cluster.toml"), []).paths.lock_folder
    assert locks == f"/var/lib/{service['StateDirectory']}/locks"


# --- the image


def test_every_file_that_the_image_copies_exists() -> None:
    copies = [shlex.split(arguments) for name, arguments in _dockerfile() if name == "COPY"]
    sources = [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]
    assert {"lib", "conf", "jobs"} < set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_image_has_the_versions_of_the_package() -> None:
    bases = [arguments for name, arguments in _dockerfile() if name == "FROM"]
    assert bases[0].startswith(f"spark:{session.SPARK}-scala2.13-java17")
    python = re.match(r"python:(3\.\d+)-", bases[1])
    assert python and f"lib/python{python[1]}/site-packages/pyspark" in dict(_dockerfile())["ENV"]


def test_the_dockerfile_is_parsed_like_here() -> None:
    parser = pytest.importorskip("dockerfile_parse", reason="the package dockerfile-parse is not installed")
    parsed = parser.DockerfileParser(path=str(DEPLOY / "Dockerfile")).structure
    instructions = [(line["instruction"], line["value"].split()) for line in parsed if line["instruction"] != "COMMENT"]
    assert instructions == [(name, arguments.split()) for name, arguments in _dockerfile()]
