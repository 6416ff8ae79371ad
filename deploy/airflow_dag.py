"""Two DAGs for Airflow 3: a run every 15 minutes; and every night, publishing and the status of the tables.

Copy this file to the folder of DAGs. The worker needs the checkout in HOME, after `make set-up zip`.
"""

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

HOME = "/opt/profilestream"
SUBMIT = (
    "spark-submit --properties-file conf/spark-cluster.conf --py-files profilestream.zip "
    "jobs/{job}.py --config conf/cluster.toml"
)


def submit(job: str) -> BashOperator:
    """A task that submits a job. It is not retried: exit codes 2 and 3 need a person, and the next run continues."""
    return BashOperator(
        task_id=job,
        bash_command=SUBMIT.format(job=job),
        cwd=HOME,
        env={"PATH": f"{HOME}/.venv/bin:/usr/local/bin:/usr/bin:/bin", "PYSPARK_PYTHON": f"{HOME}/.venv/bin/python"},
        append_env=True,
    )


# One run at a time; after a pause, only the newest interval runs, because it reads all new files.
SETTINGS = {"start_date": datetime(2026, 1, 1), "catchup": False, "max_active_runs": 1}

with DAG("profilestream", schedule="*/15 * * * *", **SETTINGS):
    submit("run_pipeline")

with DAG("profilestream_nightly", schedule="5 3 * * *", **SETTINGS):
    submit("learn_publish") >> submit("steward_status")
