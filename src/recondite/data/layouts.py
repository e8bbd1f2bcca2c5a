"""Folders of data sets of defects, as the field lays them out, and which of their images play which role.

- MVTec AD, BTAD, MPDD: train/good, test/good, test/DEFECT, ground_truth/DEFECT.
- VisA: OBJECT/Data/Images/Normal and Anomaly, OBJECT/Data/Masks, and a table split_csv/1cls.csv beside the objects that
  says which image is for what.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recondite.data.formats import is_hidden
from recondite.data.tables import rows_of_csv
from recondite.errors import InputError
from recondite.progress import counted

Role = Literal["all", "fit", "predict", "inliers", "outliers"]
_VISA_TABLE = Path("split_csv", "1cls.csv")
_VISA_COLUMNS = {"object", "split", "label", "image", "mask"}


@dataclass(frozen=True)
class Parts:
    """The images of one role.

    Args:
        folders: where they lie; every image in them is meant.
        files: or else the files, relative to the root, each with its label.
    """

    folders: Sequence[Path] = ()
    files: Sequence[tuple[str, str]] = ()


def parts_of(root: Path, role: Role) -> Parts | None:
    """Return which images of a folder are meant by a role; None for all of them, where it is no data set of defects.

    For "all" these are the images of every part of a data set, but for the masks.

    Raises:
        InputError: the folder is one level too high: images to learn from and to test with lie side by side in it; or a
            part of the data set is missing.
    """
    if role == "all":
        masks = {root / "ground_truth", root / "Data" / "Masks"}
        parts = _folders_in(root / "Data" if (root / "Data" / "Images").is_dir() else root)
        return Parts([one for one in parts if one not in masks]) if _is_set(root) else None
    if (root / "train" / "good").is_dir():
        defects = [one for one in _folders_in(root / "test") if one.name != "good"]
        folders = {
            "fit": [root / "train" / "good"],
            "predict": [root / "test"],
            "inliers": [root / "test" / "good"],
            "outliers": defects,
        }
        missing = next((folder for folder in folders[role] if not folder.is_dir()), None)
        if missing is not None:
            raise InputError(f"{root} has train/good, and no {missing.relative_to(root)}: name a folder of images")
        return Parts(folders[role])
    if (root / "Data" / "Images" / "Normal").is_dir():
        return _of_visa(root, role)
    _check_level(root, role)
    return None


def sets_in(root: Path) -> list[Path]:
    """Return the data sets of defects that lie directly in a folder, or the folder itself if it is one."""
    if _is_set(root):
        return [root]
    return [child for child in _folders_in(root) if _is_set(child)]


def sets_among(folders: Sequence[Path]) -> list[Path]:
    """Return the data sets of defects that some folders are or hold directly.

    Raises:
        InputError: there is none.
    """
    sets = [found for folder in folders for found in sets_in(folder)]
    if not sets:
        raise InputError(f"no data set of defects (train/good, test) in {', '.join(map(str, folders))}")
    return sets


def masks_of(root: Path) -> Path | None:
    """Return the folder of masks of a data set of defects; None where there is none."""
    return next((one for one in (root / "ground_truth", root / "Data" / "Masks") if one.is_dir()), None)


def _folders_in(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted; without hidden ones, such as the copies that notebooks keep."""
    children = root.iterdir() if root.is_dir() else ()
    return sorted(child for child in children if child.is_dir() and not is_hidden(child.name))


def _is_set(root: Path) -> bool:
    return (root / "train" / "good").is_dir() or (root / "Data" / "Images" / "Normal").is_dir()


def _check_level(root: Path, role: Role) -> None:
    sets = sets_in(root)
    if sets:
        raise InputError(
            f"{root} holds {counted(len(sets), 'data set')} with images to learn and to test with: give one, such as "
            f"{sets[0]}"
        )
    if role != "fit":
        return
    if (root / "train").is_dir() and (root / "test").is_dir():
        raise InputError(f"{root} holds train and test images: give {root / 'train'}, or the good ones in it")
    if (root / "ground_truth").is_dir() or ((root / "good").is_dir() and root.name == "test"):
        good = next((one for one in (root / "good", root / "train") if one.is_dir()), root)
        raise InputError(f"{root} holds images to test with: give the good images alone, such as {good}")


def _of_visa(root: Path, role: Role) -> Parts:
    table = root.parent / _VISA_TABLE
    if not table.is_file():
        raise InputError(f"{root} is laid out as VisA, but its table {table}, which says what is for what, is missing")
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(rows_of_csv(file))
    if not rows or not set(rows[0]) >= _VISA_COLUMNS:
        raise InputError(f"expected the columns {', '.join(sorted(_VISA_COLUMNS))} in {table}")
    wanted = {
        "fit": {("train", "normal")},
        "predict": {("test", "normal"), ("test", "anomaly")},
        "inliers": {("test", "normal")},
        "outliers": {("test", "anomaly")},
    }[role]
    files = []
    for row in rows:
        if row["object"] == root.name and (row["split"], row["label"]) in wanted:
            name = Path(row["image"]).relative_to(root.name).as_posix() if row["image"].startswith(root.name) else ""
            if not name or ".." in Path(name).parts:
                raise InputError(f"{table}: {row['image']!r} does not lie in {root.name}")
            files.append((name, Path(name).parent.name))
    return Parts(files=files)
