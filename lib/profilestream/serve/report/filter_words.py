"""All words of the filter of the report."""

from profilestream.base.language import message, translate

LABEL = message("Filter")
FIELDS = {"source": message("Source"), "period": message("Period"), "segment": message("Segment")}
ABOUT = message("What the filter changes")
RESET = message("Show everything")
ALL_SOURCES = message("all sources")
WHOLE_LOG = message("whole log")
ALL_USERS = message("all customers and guests")
NOTE = message(
    "The filter changes the key figures, the chart by week, best sellers and risers. A period ends before the open "
    "week; weeks outside of it are pale. A segment has the users who are in it now. Customers are the different users "
    "with an order in the period, so the customers of two periods cannot be added. Customers at risk and the last week "
    "do not depend on the period."
)
_LEFT_OUT = {
    "source": message("The filter offers the {offered} largest of {total:,} sources."),
    "segment": message("The filter offers the {offered} largest of {total:,} segments."),
}


def script_texts() -> dict[str, str]:
    """Texts that the script writes; it replaces `{...}` by what is chosen."""
    return {
        "shown": translate("Shown: {values}."),
        "separator": translate(", "),
        "label": translate("{title}. {caption}"),
        "unfiltered": translate("Not filtered: all sources, whole log, all customers and guests."),
        "none": translate("No sales in this selection."),
        "missing": "–",
    }


def weeks(number: int) -> str:
    """A period in words."""
    return translate("last {number} complete weeks", number=number)


def segment(number: int, description: str) -> str:
    """A segment in words; its description begins with its number."""
    return description or translate("segment {number}", number=number)


def left_out(name: str, offered: int, total: int) -> str:
    """A sentence about values of a field that the filter does not offer."""
    return translate(_LEFT_OUT[name], offered=offered, total=total)
