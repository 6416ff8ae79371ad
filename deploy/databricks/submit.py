"""Run a spark-submit command with the Spark of this checkout, on the machine of a Databricks cluster.

Databricks' own Spark has other versions, and a Delta Lake whose internal classes differ, so the jobs refuse it. This
script copies the checkout to the local disk, creates .venv there, and runs the command without the environment
variables that select Databricks' Spark.

arguments: the folder of the checkout, and the words of the command
"""

import os
import shutil
import subprocess
import sys

LOCAL_COPY = "/local_disk0/profilestream"
REMOVED_VARIABLES = ("SPARK", "PYSPARK", "PYTHON", "VIRTUAL_ENV", "DATABRICKS", "MLFLOW", "CLASSPATH")


def main(checkout: str, command: list[str], home: str = LOCAL_COPY) -> None:
    """Raise CalledProcessError, with the exit code of the command, when the set-up or the command fails."""
    shutil.copytree(checkout, home, dirs_exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(REMOVED_VARIABLES)}
    subprocess.run([sys.executable, ".ci/set_up.py"], cwd=home, env=env, check=True)
    env["PYSPARK_PYTHON"] = f"{home}/.venv/bin/python"
    subprocess.run([f"{home}/.venv/bin/{command[0]}", *command[1:]], cwd=home, env=env, check=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
