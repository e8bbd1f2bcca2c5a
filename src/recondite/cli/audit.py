"""recondite audit."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from recondite.cli.flags import CLUSTER_GROUP, Rate
from recondite.errors import InputError
from recondite.progress import counted


def audit(
    images: str,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("audit"),
    fdr: Rate = 0.1,
    against: str | None = None,
    labels_from_folders: Annotated[bool, Parameter(negative="")] = False,
    group_by: str = "copies",
    earlier: Path | None = None,
    table: Literal["csv", "jsonl", "parquet"] = "csv",
    cluster: Annotated[str | None, Parameter(group=CLUSTER_GROUP)] = None,
    workers: Annotated[int | None, Parameter(group=CLUSTER_GROUP)] = None,
) -> None:
    """Find what is wrong with a set of images: copies, leaks, outliers, and images that are broken or poor.

    No clean set is needed, and nothing is deleted. `recondite fit audit/keep.txt -o screen/` goes on from there.

    Parameters
    ----------
    images
        Folder, file, glob, .txt file of paths, manifest (.jsonl), table with a column of paths (.csv, .tsv), .npy,
        .npz, data set, s3:// address, tars (webdataset) or Parquet files.
    output
        New folder for issues.csv, scores.csv, keep.txt, drop.txt, links to the proposed clean set, and report.html.
    fdr
        Share, in (0, 1), of the outliers listed that may be normal; the report says what is assumed.
    against
        Another source, such as the test images: images that it has too are leaks.
    labels_from_folders
        The folder of an image is its label; else only labels that a source brings are judged.
    group_by
        What tells images that belong together (of one part or scene), each judged by models fitted without its group:
        copies (those that are found), none, folder, prefix (the name without its last number), a regular expression
        found in the ids (its first group), or a .csv file with the columns id and group.
    earlier
        Folder that an audit of some of these images wrote; what it saw of them is not computed again.
    table
        Write issues and scores as .jsonl or .parquet beside the .csv files.
    cluster
        Look at the images on a Ray cluster: local (this machine), auto (the one that runs here), HOST:PORT or
        ray://HOST:PORT.
    workers
        With --cluster: number of worker processes; by default as many as fit.
    """
    from recondite.data.datasets import check_source
    from recondite.data.outputs import check_outputs
    from recondite.statistics.scores import check_rate

    check_rate(fdr)
    check_outputs({}, {"-o": output}, images=images)
    if workers is not None and (cluster is None or workers < 1):
        raise InputError(f"expected --workers of 1 or more, with --cluster; got {workers}")
    for source in (images, against):
        if source is not None:
            check_source(source)
    from recondite.audits.run import audit as run

    found = run(
        images,
        output,
        fdr=fdr,
        against=against,
        labels_from_folders=labels_from_folders,
        group_by=group_by,
        earlier=earlier,
        cluster=cluster,
        workers=workers,
        table=table,
        progress=True,
    )
    counts = ", ".join(f"{kind} {count:,}" for kind, count in found.counts().items())
    print(f"{counted(len(found.ids), 'image')}: {counts or 'nothing found'}")
    print(f"keep {int(found.keep.sum()):,}, drop {int(found.drop.sum()):,} (proposed; nothing was deleted)")
    for remark in found.remarks:
        print(remark)
    print(f"tables: {output / 'issues.csv'}, {output / 'scores.csv'} (all images, the farthest from the others first)")
    print(f"lists:  {output / 'keep.txt'}, {output / 'drop.txt'}")
    print(f"report: {output / 'report.html'}")
    if found.farthest:
        print(
            f"look:   at the {len(found.farthest)} farthest from the others first, listed or not: "
            f"{output / 'report.html'}#farthest (an outlier is listed where it is sure)"
        )
    where = shlex.quote(str(output))
    serve = f"keep and drop on a page: recondite serve SCREEN --audit {where} (an empty folder does for SCREEN)"
    if found.keeps_files:
        print(f"next: {serve}, or")
        print(f"      recondite fit {shlex.quote(str(output / 'keep.txt'))} -o NEW_SCREEN")
    else:
        print(f"next: {serve}; the lists name images by their ids, as none that is kept is a file of its own")
