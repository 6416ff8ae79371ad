"""All words of the filter of the report."""

LABEL = "Filter"
FIELDS = {"source": "Source", "period": "Period", "segment": "Segment"}
ABOUT = "What the filter changes"
RESET = "Show everything"
ALL_SOURCES = "all sources"
WHOLE_LOG = "whole log"
ALL_USERS = "all customers and guests"
NOTE = (
    "The filter changes the key figures, the chart by week, best sellers and risers. A period ends before the open "
    "week; weeks outside of it are pale. A segment has the users who are in it now. Customers are the different users "
    "with an order in the period, so the customers of two periods cannot be added. Customers at risk and the last week "
    "do not depend on the period."
)
# Texts that the script writes; it adds what is chosen to the first one.
SCRIPT = {
    "shown": "Shown:",
    "unfiltered": "Not filtered: all sources, whole log, all customers and guests.",
    "none": "No sales in this selection.",
    "missing": "–",
}
_KINDS = {"source": "sources", "segment": "segments"}


def weeks(number: int) -> str:
    """A period in words."""
    return f"last {number} complete weeks"


def segment(number: int, description: str) -> str:
    """A segment in words; its description begins with its number."""
    return description or f"segment {number}"


def left_out(name: str, offered: int, total: int) -> str:
    """A sentence about values of a field that the filter does not offer."""
    return f"The filter offers the {offered} largest of {total:,} {_KINDS[name]}."
