"""serve_report: one self-contained HTML page with charts of the tables."""

from pyspark.sql import SparkSession

from profilestream.base import files
from profilestream.base.language import use_language
from profilestream.base.settings import Settings
from profilestream.serve.report import filter_data, html_page, report_queries, sections

STEP = "serve_report"


def path(settings: Settings) -> str:
    """The path of the page: `serve.report.path`, or report.html in the parent folder of the warehouse."""
    return settings.serve.report.path or settings.paths.output("report.html")


def run(spark: SparkSession, settings: Settings, out: str = "") -> str:
    """Write the page in `serve.language`; an existing page is replaced if it differs.

    Args:
        out: overrides the path from the settings.

    Returns:
        The path of the page.
    """
    # The import takes a second; other stages and steps do not need it.
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    with use_language(settings.serve.language):
        view = report_queries.read(spark, settings)
        title, lead, groups = sections.title(view), sections.lead(view), sections.groups(view)
        text = html_page.page(title, lead, groups, get_plotlyjs(), filter_data.filters(view))
    target = out or path(settings)
    if files.read_text(spark, target) != text:
        files.write_text(spark, target, text)
    return target
