"""Panel: the review as a light-box (see page.js); labels become events."""

from html import escape

from recondite.service.page.frame import View, heading, html
from recondite.service.page.pictures import MOST_LABELS


async def panel(view: View) -> None:
    """Build the panel."""
    heading(
        "Review",
        "Say what images really are. Labels can recalibrate a screen, those of the random tenth by themselves.",
    )
    keys = {"i": "inlier", "o": "outlier", "s": "skip", "u": "undo", "←": "back", "→": "on"}
    listed = ", ".join(f"<kbd>{key}</kbd> {what}" for key, what in keys.items())
    html(f'<p class="soft keys">Keys: {listed}</p>')
    box = html(_box(view.name))

    def anew() -> None:
        # A light-box that comes back into sight reads its queue anew by itself.
        box.set_content(_box(view.name))

    view.panels["Review"] = anew


def _box(screen: str) -> str:
    return f'<light-box data-screen="{escape(screen)}" data-most="{MOST_LABELS}"></light-box>'
