"""serve_report: the tables as one HTML page with its plots, which needs no network."""

from pyspark.sql import SparkSession

from profilestream.base import files
from profilestream.base.settings import Settings
from profilestream.serve.report import html_page, queries, sections

STAGE = "serve_report"


def path(settings: Settings) -> str:
    """Where the page lies: as the settings say, else beside the warehouse."""
    folder, slash, _ = settings.paths.warehouse.rstrip("/").rpartition("/")
    return settings.serve.report.path or f"{folder}{slash}report.html"


def run(spark: SparkSession, settings: Settings, out: str = "") -> str:
    """Make the page and put it in the place of an older one.

    Args:
        out: where to, in place of what the settings say.

    Returns:
        The path of the page.
    """
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # takes a second, which other stages need not wait for

    found = queries.read(spark, settings)
    text = html_page.page(
        sections.title(found), sections.lead(found), sections.tiles(found), sections.sections(found), get_plotlyjs()
    )
    target = out or path(settings)
    files.write_text(spark, target, text)
    return target
