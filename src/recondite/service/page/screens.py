"""Panel: versions of the screen being looked at, and screens made in the browser (see draft.js)."""

from html import escape

from recondite.service.page.frame import View, heading, html


async def panel(view: View) -> None:
    """Build the panel."""
    if view.name:
        heading("Screens", "Go back to an earlier version of this screen, or make a new one from good images.")
    else:
        heading(
            "Make your first screen", "A screen learns from good images alone what belongs, and flags what does not."
        )
    versions = html(_versions(view.name))
    settings = view.service.settings
    places = "yes" if settings.job_places else ""
    html(
        f'<new-screen data-places="{places}" data-most-bytes="{settings.limits.body_bytes}" '
        f'data-screens="{escape(" ".join(view.service.shelf.names))}"></new-screen>'
    )

    def anew() -> None:
        versions.set_content(_versions(view.name))

    view.panels["Screens"] = anew


def _versions(screen: str) -> str:
    return f'<screen-versions data-screen="{escape(screen)}"></screen-versions>' if screen else ""
