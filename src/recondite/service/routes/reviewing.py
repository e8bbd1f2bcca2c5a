"""The review of events: the explanation of an event, and the review queue as an archive."""

import asyncio
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from recondite.data.formats import suffix_of
from recondite.reports.explanation import most_unusual
from recondite.service.engine.filters import Filter
from recondite.service.engine.image_store import KeptImages
from recondite.service.errors import Unknown
from recondite.service.routes.state import Service


def unusual_statistics_of(service: Service, row: dict[str, Any]) -> list[tuple[str, float]]:
    """Return (what a statistic is, standard deviations from normal), the most unusual first.

    Empty where the version that judged is not served any more, or looks at no statistics.
    """
    try:
        screen = service.shelf.get(row["screen"], row["version"]).screen
    except Unknown:
        return []
    if screen.evidence is None or not row["statistics"]:
        return []
    return most_unusual(screen.evidence.density, row["statistics"])


async def folder_of(service: Service, chosen: Filter) -> Path:
    """Write the kept images of chosen events into a ZIP file, one folder a label, and return its path.

    An image is there once for each label that its events have. Where it cannot be made whole, nothing is left of it.

    Raises:
        Unavailable: the store does not answer.
        OSError: it cannot be written.
    """
    handle = tempfile.NamedTemporaryFile(suffix=".zip", delete=False)  # noqa: SIM115
    try:
        with handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
            there: set[tuple[str, str]] = set()
            async for row in service.store.walk(chosen):
                entry = row["label"] or "unlabelled", row["sha256"]
                if row["kept"] and entry not in there:
                    there.add(entry)
                    await asyncio.to_thread(_put, archive, service.judge.kept, *entry)
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise
    return Path(handle.name)


def _put(archive: zipfile.ZipFile, kept: KeptImages, label: str, sha256: str) -> None:
    content = kept.get(sha256)
    if content is not None:
        archive.writestr(f"{label}/{sha256}{suffix_of(content)}", content)
