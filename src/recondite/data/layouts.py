"""Folders of data sets of defects, as the field lays them out, and which of their images play which role.

- MVTec AD, BTAD, MPDD: train/good, test/good, test/DEFECT, ground_truth/DEFECT.
- VisA: OBJECT/Data/Images/Normal and Anomaly, OBJECT/Data/Masks, and a table split_csv/1cls.csv beside the objects that
  says which image is for what.
- Flat: good beside bad, beside masks, or both: good/, bad/, masks/. Other folders there, such as scratch/, are bad too.

Folders of good images, of bad ones beside them and of masks go by any of their usual names, in capitals or not. Other
folders, such as those of classes (cat/, dog/), are read whole.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recondite.data.addresses import without_secrets
from recondite.data.formats import is_hidden
from recondite.data.tables import rows_of_csv
from recondite.errors import InputError
from recondite.progress import counted

Role = Literal["all", "fit", "predict", "inliers", "outliers", "classes"]
NORMAL = frozenset({"normal", "good", "ok", "inlier"})
"""What images without defects are called, in labels and as folders."""
ANOMALOUS = frozenset(
    {
        *("anomaly", "anomalous", "abnormal", "defect", "defective", "bad", "nok", "ng", "ko", "not_ok", "not_good"),
        *("outlier", "broken", "damaged", "faulty", "reject", "rejected"),
    }
)
"""What images with defects are called."""
_GOOD = NORMAL | {"normals", "inliers"}
_BAD = ANOMALOUS | {"anomalies", "defects", "defectives", "outliers", "rejects"}
_MASKS = {"mask", "masks", "ground_truth", "ground-truth", "groundtruth"}
_VISA_TABLE = Path("split_csv", "1cls.csv")
_VISA_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class Parts:
    """The images of one role.

    Args:
        folders: where they lie; every image in them is meant.
        files: or else the files, relative to the root, each with its label.
    """

    folders: Sequence[Path] = ()
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class _Flat:
    """The folders in a flat data set of defects."""

    good: Sequence[Path]
    bad: Sequence[Path]
    masks: Sequence[Path]


def parts_of(root: Path, role: Role) -> Parts | None:
    """Return which images of a folder are meant by a role; None for all of them, where it is no data set of defects.

    For "all" these are the images of every part of a data set, but for the masks. A flat one has them for "predict" and
    "classes" too, and the same good images for "fit" and "inliers".

    Raises:
        InputError: the folder is one level too high: images to learn from and to test with lie side by side in it; or a
            part of the data set is missing, or the folder is one of its parts that mixes them.
    """
    if role == "all" and _is_set(root):
        parts = _folders_in(root / "Data" if (root / "Data" / "Images").is_dir() else root)
        return Parts([one for one in parts if one.name.casefold() not in _MASKS])
    learnt = _good_in(root / "train")
    if learnt:
        test = root / "test"
        good = _good_in(test) or [test / learnt[0].name]
        folders = {
            "fit": learnt,
            "predict": [test],
            "inliers": good,
            "outliers": [one for one in _folders_in(test) if one not in good],
            "classes": good,
        }
        missing = next((folder for folder in folders[role] if not folder.is_dir()), None)
        if missing is not None:
            has, lacks = (one.relative_to(root).as_posix() for one in (learnt[0], missing))
            raise InputError(f"{root} has {has}, and no {lacks}: name a folder of images")
        return Parts(folders[role])
    if (root / "Data" / "Images" / "Normal").is_dir():
        return _of_visa(root, role)
    if role != "all":
        _check_level(root, role)
    return _of_flat(root, role)


def check_stored(address: str, names: Iterable[str], role: Role) -> None:
    """Raise InputError where files in a store are laid out as a data set of defects: its parts are not told there.

    Args:
        address: of the folder in the store.
        names: of the files in it, relative to it.
        role: that they are to play; all of the images are meant by "all", and of a flat data set by some others.
    """
    if role == "all":
        return
    places = sorted({tuple(name.split("/")[:-1]) for name in names} - {()})
    tops = {place[0].casefold() for place in places}
    for place in places:
        in_set = place[:3] == ("Data", "Images", "Normal") or (
            place[0] == "train" and place[1:2] and _is_good(place[1])
        )
        flat = role in ("fit", "inliers", "outliers") and _is_good(place[0]) and (_BAD | _MASKS) & tops
        if in_set or flat:
            given = "/".join(place[: 1 if flat else 3])
            raise InputError(
                f"{without_secrets(address)} is laid out as a data set of defects, whose parts are told in folders of "
                f"this machine alone: give the address of the folder that is meant, such as that of {given}"
            )


def sets_in(root: Path) -> list[Path]:
    """Return the data sets of defects that lie directly in a folder, or the folder itself if it is one."""
    if _is_set(root):
        return [root]
    return [child for child in _folders_in(root) if _is_set(child)]


def sets_among(folders: Sequence[Path]) -> list[Path]:
    """Return the data sets of defects that some folders are or hold directly.

    Raises:
        InputError: one of them is none and holds none, or is or holds a flat one, which does not part its good images.
    """
    found = {folder: sets_in(folder) for folder in folders}
    for folder, sets in found.items():
        flat = next((one for one in (folder, *_folders_in(folder)) if is_flat(one)), None)
        if flat is not None and folder not in sets:
            raise InputError(
                f"{flat} does not say which of its good images are to test with: part them into train/good and "
                f"test/good, or name the other sets one by one"
            )
        if not sets:
            raise InputError(f"no data set of defects (train/good, test) in {folder}")
    if not found:
        raise InputError("no data set of defects was given")
    return [one for sets in found.values() for one in sets]


def table_of(root: Path) -> Path:
    """Return where the table of an object of VisA lies, which says what is for what; other sets have none."""
    return root.parent / _VISA_TABLE


def masks_of(root: Path) -> Path | None:
    """Return the folder of masks of a data set of defects; None where there is none."""
    return next((one for one in (root / "ground_truth", root / "Data" / "Masks") if one.is_dir()), None)


def is_flat(root: Path) -> bool:
    """Return whether a folder is a flat data set of defects: its good images are to learn from and to test with."""
    return not _is_set(root) and _flat(root) is not None


def _folders_in(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted; without hidden ones, such as the copies that notebooks keep."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(Path(one) for one in entries if _is_folder(one) and not is_hidden(one.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in circles
        return False


def _is_good(name: str) -> bool:
    return name.casefold() in _GOOD


def _good_in(root: Path) -> list[Path]:
    return [one for one in _folders_in(root) if _is_good(one.name)]


def _is_set(root: Path) -> bool:
    return bool(_good_in(root / "train")) or (root / "Data" / "Images" / "Normal").is_dir()


def _flat(root: Path) -> _Flat | None:
    """Return the folders of a flat data set of defects; None where it is none."""
    folders = _folders_in(root)
    names = {one: one.name.casefold() for one in folders}
    if not (_GOOD & {*names.values()} and (_BAD | _MASKS) & {*names.values()}):
        return None
    return _Flat(
        good=[one for one in folders if names[one] in _GOOD],
        bad=[one for one in folders if names[one] not in _GOOD | _MASKS],
        masks=[one for one in folders if names[one] in _MASKS],
    )


def _of_flat(root: Path, role: Role) -> Parts | None:
    flat = _flat(root)
    if flat is None:
        return None
    if role in ("fit", "inliers"):
        return Parts(flat.good)
    if role == "outliers":
        return Parts(flat.bad)
    return Parts([*flat.good, *flat.bad]) if flat.masks else None


def _check_level(root: Path, role: Role) -> None:
    sets = sets_in(root)
    if sets:
        raise InputError(
            f"{root} holds {counted(len(sets), 'data set')} with images to learn and to test with: give one, such as "
            f"{sets[0]}"
        )
    whole = Path(os.path.abspath(root))
    above = next((one for one in whole.parents[:2] if (one / "Data" / "Images" / "Normal").is_dir()), None)
    mixed = {"Data", "Data/Images"} if role in ("fit", "inliers", "outliers") else {"Data"}
    if above is not None and whole.relative_to(above).as_posix() in mixed:
        raise InputError(
            f"{root} is a part of the data set {above} that mixes images to learn and to test with: give the data set, "
            f"or one folder of images, such as {above / 'Data' / 'Images' / 'Normal'}"
        )
    masked = _masked_by(whole)
    if masked is not None and role in ("fit", "inliers", "outliers"):
        raise InputError(f"{root} holds masks of the data set {masked}, and no images to judge: give the data set")
    if role in ("fit", "classes") and (root / "train").is_dir() and (root / "test").is_dir():
        raise InputError(f"{root} holds train and test images: give {root / 'train'}, or the good ones in it")
    good = _good_in(root)
    if role == "fit" and ((good and whole.name == "test") or ((root / "ground_truth").is_dir() and not good)):
        given = next((one for one in (*good, root / "train") if one.is_dir()), root)
        raise InputError(f"{root} holds images to test with: give the good images alone, such as {given}")
    flat = [child for child in _folders_in(root) if _flat(child)] if role in ("fit", "inliers", "outliers") else []
    if flat and _flat(root) is None:
        raise InputError(
            f"{root} holds {counted(len(flat), 'data set')} of good images and bad ones: give one, such as {flat[0]}"
        )


def _masked_by(folder: Path) -> Path | None:
    """Return the data set of defects whose masks a folder holds, or one kind of them; None where it holds none."""
    masks = next((one for one in (folder, folder.parent) if one.name.casefold() in _MASKS), None)
    if masks is None:
        return None
    above = masks.parent.parent if masks.parent.name == "Data" else masks.parent
    return above if _is_set(above) or _flat(above) is not None else None


def _of_visa(root: Path, role: Role) -> Parts:
    table = table_of(root)
    if not table.is_file():
        normal = root / "Data" / "Images" / "Normal"
        raise InputError(
            f"{root} is laid out as VisA, but its table {table}, which says what is for what, is missing: give one "
            f"folder of images, such as {normal}"
        )
    wanted = {
        "fit": {("train", "normal")},
        "predict": {("test", "normal"), ("test", "anomaly")},
        "inliers": {("test", "normal")},
        "outliers": {("test", "anomaly")},
        "classes": {("test", "normal")},
    }[role]
    files = []
    for row in rows_of_csv(table, _VISA_COLUMNS):
        if row["object"] == root.name and (row["split"], row["label"]) in wanted:
            first, *parts = Path(row["image"].replace("\\", "/")).parts or ("",)
            if first != root.name or not parts or ".." in parts:
                raise InputError(f"{table}: {row['image']!r} does not lie in {root.name}")
            files.append(("/".join(parts), parts[-2] if len(parts) > 1 else ""))
    return Parts(files=files)
