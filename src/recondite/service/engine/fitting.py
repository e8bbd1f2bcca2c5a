"""The process that fits the screen of a draft, apart from the one that judges.

    python -m recondite.service.engine.fitting FOLDER

It writes one line of JSON a step to standard output, and ends when its standard input does: with the service.
"""

import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from recondite.data.files import atomic_file
from recondite.errors import ReconditeError
from recondite.progress import told_to

IMAGES: Final = "images"
DEFECTS: Final = "defects"
POLYGONS, TASK, SCREEN, RESULT = "polygons.json", "task.json", "screen", "result.json"
"""Inside the folder of a draft: what is given, and what is made."""
_BETWEEN_LINES = 0.2
_MOST_EXAMPLES, _MOST_SCORED = 8, 2000
_NICENESS = 10


def main(folder: Path) -> int:
    """Fit the screen of the draft in a folder, and return the exit status."""
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    with _lines() as line, told_to(_steps(line)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _fit(folder, json.loads((folder / TASK).read_text(encoding="utf-8")))
        except ReconditeError as error:
            line({"error": str(error)})
            return 1
        except MemoryError:
            line({"error": "there is not enough memory for so many images of this size"})
            return 1
        except Exception as error:
            traceback.print_exc()
            line({"error": f"the fit failed: {type(error).__name__}: {error}"})
            return 1
    return 0


def _fit(folder: Path, task: Mapping[str, Any]) -> None:
    import torch

    from recondite.screen.fit import fit
    from recondite.screen.words import UNUSED_DEFECTS

    if hasattr(os, "nice"):
        os.nice(_NICENESS)  # verdicts come first
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    region, known = folder / POLYGONS, folder / DEFECTS
    settings = {**task, "region": str(region) if region.exists() else None, "progress": True}
    unused, screen = None, None
    if any(known.glob("*")):
        screen = fit(str(folder / IMAGES), defects=str(known), run_folder=folder / "run", **settings)
        unused = next((text for text in screen.facts["remarks"] if text.startswith(UNUSED_DEFECTS)), None)
    if screen is None or unused is not None:  # without them the images alone decide on the detector
        screen = fit(str(folder / IMAGES), run_folder=folder / "run", **settings)
    screen.save(folder / SCREEN)
    with atomic_file(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result_of(screen, folder / IMAGES, unused)), encoding="utf-8")


def result_of(screen: Any, images: Path, unused: str | None = None) -> dict[str, Any]:
    """Return what people are shown of a screen that was fitted to a folder of images, as JSON values.

    Args:
        screen: that was fitted.
        images: its folder.
        unused: why known defects were not learnt, where they were not.
    """
    import numpy as np

    from recondite.reports.report import screen_facts
    from recondite.screen.promise import promise
    from recondite.screen.words import gain_in_words

    paths = sorted(images.iterdir())
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), _MOST_SCORED)).round().astype(int)
    seen = [paths[place] for place in np.unique(chosen)]
    verdicts = screen.predict([str(path) for path in seen], progress=True)
    finite = np.flatnonzero(np.isfinite(verdicts.instance_score))
    order = finite[np.argsort(verdicts.instance_score[finite], kind="stable")]

    def example(place: int) -> dict[str, Any]:
        return {
            "image": seen[place].name,
            "verdict": verdicts.words[place],
            "p_value": float(verdicts.p_value[place]),
            "instance_score": float(verdicts.instance_score[place]),
        }

    facts, most = screen.facts, order[::-1][:_MOST_EXAMPLES]
    return {
        "detector": screen.detector.name,
        "chosen": facts.get("chosen"),
        "remarks": list(facts.get("remarks", ())),
        "gain": gain_in_words(facts["known_defects"]) if "known_defects" in facts else None,
        "unused": unused,
        "alpha": screen.alpha,
        "interval": list(screen.false_alarm_interval),
        "promise": promise(screen),
        "learnt_from": facts["images"]["images"],
        "calibrated_on": len(screen.calibrator.scores),
        "unreadable": facts["unreadable"],
        "suspects": list((facts.get("contamination") or {}).get("suspects", ())),
        "facts": [list(row) for row in screen_facts(screen)],
        "scored": len(seen),
        "flagged": int(np.count_nonzero(verdicts.is_outlier)),
        "most": [example(int(place)) for place in most],
        "least": [example(int(place)) for place in order[: max(0, len(order) - len(most))][: _MOST_EXAMPLES // 2]],
    }


@contextmanager
def _lines() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Keep standard output for lines of JSON; what libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)

        def line(facts: Mapping[str, Any]) -> None:
            print(json.dumps(facts), file=stream, flush=True)

        yield line


def _steps(line: Callable[[Mapping[str, Any]], None]) -> Callable[[str, int, int | None], None]:
    last_time, last_name = 0.0, ""

    def told(name: str, done: int, total: int | None) -> None:
        nonlocal last_time, last_name
        now = time.monotonic()
        if name != last_name or done == total or now - last_time > _BETWEEN_LINES:
            last_time, last_name = now, name
            line({"step": name, "done": done, "total": total})

    return told


def _end_with_the_service() -> None:
    while os.read(0, 1024):  # not by sys.stdin, whose lock would be held at the end
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
