"""The output of `make bundle` on a machine without network."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# A closed port: every download would fail.
NO_NETWORK = {
    name: "http://127.0.0.1:9"
    for name in ("PIP_INDEX_URL", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
}


@pytest.mark.long
def test_a_bundle_installs_without_network_and_its_pipeline_runs(tmp_path: Path) -> None:
    archive = tmp_path / "bundle.tar"
    subprocess.run([sys.executable, ".ci/bundle.py", str(archive)], cwd=ROOT, check=True)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    archive.unlink()
    home = tmp_path / "profilestream"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    env |= NO_NETWORK | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "NO_PROXY": "", "no_proxy": ""}
    for command in (
        [sys.executable, ".ci/set_up.py"],
        [".venv/bin/python", "jobs/run_pipeline.py", "--config", "conf/local.toml"],
    ):
        run = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr + run.stdout
    assert "finished: 12 rows captured (7 clean, 4 rejected, 1 duplicate)" in run.stderr
