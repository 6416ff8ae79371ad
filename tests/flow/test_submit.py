"""The command of deploy/ and the commands of docs/running.md, started unchanged except for paths and jars."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUNNING = (ROOT / "docs" / "running.md").read_text()
# Instead of a download by name.
JARS = ["--conf", "spark.jars.packages=", "--jars", f"{sys.prefix}/jars/*.jar"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout after `make set-up zip`."""
    for folder in ("conf", "jobs", "docs/examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.make_archive(str(tmp_path / "profilestream"), "zip", ROOT / "lib", "profilestream")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def _run(checkout: Path, command: str) -> str:
    """The output of a shell command in the checkout, in an environment without the package of this test run."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYSPARK", "SPARK"))}
    env["PATH"] = f"{checkout}/.venv/bin:{env['PATH']}"
    run = subprocess.run(command, shell=True, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_the_command_of_deploy_checks_its_settings(checkout: Path) -> None:
    (command,) = re.findall(r"^spark-submit .*$", (ROOT / "deploy" / "README.md").read_text(), re.M)
    submit, *arguments = shlex.split(command)
    # Instead of an object store, and of a log that the example settings do not contain.
    paths = {"paths.warehouse": "w", "paths.checkpoints": "c", "paths.locks": "l", "paths.catalog": ""}
    paths |= {"capture.sources.shop.path": str(ROOT / "data" / "rees46")}
    overrides = [word for key, value in paths.items() for word in ("--set", f"{key}={value}")]
    output = _run(checkout, shlex.join([submit, *JARS, *arguments, *overrides, "--check"]))
    assert "without a properties file" not in output


@pytest.mark.long
def test_the_command_for_one_machine_runs_the_pipeline_with_two_executors(checkout: Path) -> None:
    (command,) = re.findall(r"^PYSPARK_PYTHON=.*local-cluster.*$", RUNNING, re.M)
    output = _run(checkout, command)
    assert re.findall(r"Granted executor ID \S+/(\d) ", output) == ["0", "1"]
    assert "finished: 12 rows captured (7 clean, 4 rejected, 1 duplicate)" in output
    assert (checkout / "artifacts" / "cluster-local" / "warehouse" / "user_profiles" / "_delta_log").exists()


def test_a_job_without_a_properties_file_names_the_file_for_one_machine(checkout: Path) -> None:
    output = _run(
        checkout,
        f"PYTHONPATH={ROOT}/lib .venv/bin/python jobs/run_pipeline.py --check --config conf/cluster-local.toml",
    )
    assert "warning: Spark runs on local[*] without a properties file" in output
    assert "conf/spark-local.conf" in output
