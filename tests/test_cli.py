import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import recondite
from recondite.cli import main, make_app
from recondite.data.files import locked

COMMAND = [sys.executable, "-m", "recondite"]


def run(*arguments, **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


def called(*arguments):
    """Run a command in this process: nine tenths of one of its own are imports."""
    return main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A screen made by the command line from the embedded digits."""
    path = tmp_path_factory.mktemp("cli") / "screen"
    done = run("fit", "digits/train", "-o", path, "--alpha", "0.1", "--epochs", 4, "--width", 8, "--latent-size", 6)
    assert done.returncode == 0, done.stderr
    assert "true false-alarm rate" in done.stdout
    return path


def test_fit_on_the_command_line_equals_fit_in_python(screen):
    made = recondite.fit("digits/train", alpha=0.1, epochs=4, width=8, latent_size=6)
    loaded = recondite.load(screen)
    for name, value in made.detector.state_dict().items():
        np.testing.assert_array_equal(loaded.detector.state_dict()[name].numpy(), value.numpy())
    assert sorted(path.name for path in screen.iterdir()) == [
        "calibration.safetensors",
        "detector.safetensors",
        "epochs.csv",
        "evidence.safetensors",
        "known.safetensors",
        "losses.safetensors",
        "manifest.json",
        "pictures.safetensors",
        "steps.csv",
        "validation.csv",
    ]
    assert not screen.with_name("screen.run").exists()


def test_what_comes_next_can_be_pasted_where_names_have_spaces(tmp_path, capsys):
    (tmp_path / "v.csv").write_text("id,verdict,instance_score\na.png,inlier,1\n")
    assert called("sample-for-review", tmp_path / "v.csv", "-o", tmp_path / "to label.csv") == 0
    assert f"recondite recalibrate SCREEN '{tmp_path / 'to label.csv'}' -o" in capsys.readouterr().out


def test_predict_writes_the_scores_of_the_library(screen, folder, tmp_path, capsys):
    (folder / "odd" / "001.png").write_bytes(b"")
    output, report = tmp_path / "out.csv", tmp_path / "report.html"
    assert called("predict", screen, folder, "-o", output, "--report", report, "--maps", tmp_path / "maps") == 0
    assert "1 invalid" in capsys.readouterr().out
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    expected = recondite.load(screen).predict(folder)
    scores = [float(row["instance_score"]) if row["instance_score"] else np.nan for row in rows]
    np.testing.assert_array_equal(scores, expected.instance_score)
    assert [row["verdict"] for row in rows] == expected.words
    assert "Most anomalous" in report.read_text()
    assert (tmp_path / "maps" / "odd" / "003.png.map.png").is_file()


def test_evaluate_show_and_info(screen, folder, tmp_path, capsys):
    arguments = ["--inliers", "digits/test", "--outliers", str(folder), "-o", str(tmp_path / "e.jsonl")]
    assert main(["evaluate", str(screen), *arguments]) == 0
    assert "AUROC" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])["measure"] == "AUROC"
    assert main(["show", str(screen), str(folder / "odd" / "001.png"), "-o", str(tmp_path / "a.png")]) == 0
    assert "threshold" in capsys.readouterr().out
    assert main(["info", str(screen)]) == 0
    assert "mean + 1 std" in capsys.readouterr().out
    assert main(["info", str(screen), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detector"] == "autoencoder"


def test_one_image_is_singular(screen, folder, tmp_path, capsys):
    assert main(["predict", str(screen), str(folder / "even" / "000.png"), "-o", str(tmp_path / "v.csv")]) == 0
    assert capsys.readouterr().out.startswith("1 image: ")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_names_that_a_console_cannot_write_are_written_as_escapes(screen, folder, tmp_path, encoding, monkeypatch):
    output = tmp_path / "\u65e5.csv"
    commands = [["predict", str(screen), str(images), "-o", str(output)] for images in (folder, tmp_path / "\u672c")]
    told = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in told.items():
            patch.setattr(sys, name, stream)
        ended = [main(one) for one in commands]
    assert ended == [0, 2]
    assert output.is_file()
    for name, escaped in (("stdout", b"\\u65e5.csv"), ("stderr", b"\\u672c")):
        told[name].flush()
        assert escaped in told[name].buffer.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "", "FOLDER", "-o", "v.csv"),
        ("predict", "SCREEN", "", "-o", "v.csv"),
        ("predict", "SCREEN", "FOLDER", "-o", "v.csv", "--maps", ""),
        ("predict", "SCREEN", "FOLDER", "-o", "v.csv", "--maps="),
        ("fit", "FOLDER", "-o", ""),
    ],
)
def test_an_unset_variable_is_not_this_folder(screen, folder, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    places = {"SCREEN": str(screen), "FOLDER": str(folder)}
    assert main([places.get(one, one) for one in arguments]) == 2
    assert "empty" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.*"))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("predict", "interrupted; run the same command again to go on"),
        ("fit", "interrupted; run the same command again with --resume to go on"),
        ("evaluate", "interrupted"),
    ],
)
def test_an_interrupted_command_says_how_it_goes_on_where_it_does(command, said, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("recondite.cli.make_app", interrupted)
    assert main([command, "x"]) == 130
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_nothing_behind(number, tmp_path):
    """In a process of its own, as what else is loaded here may handle signals in ways of its own."""
    code = (
        "import signal, sys; from pathlib import Path; import recondite.cli as cli;"
        "from recondite.data.files import atomic_file, locked; out = Path(sys.argv[1])\n"
        "def told(*_, **__):\n"
        "    with locked(out), atomic_file(out) as temporary:\n"
        "        temporary.write_text('half'); signal.raise_signal(int(sys.argv[2]))\n"
        "signal.signal(int(sys.argv[2]), signal.SIG_DFL)  # under nohup it is ignored, and stays so\n"
        "cli.make_app = lambda _: told; code = cli.main(['predict', 'x'])\n"
        "assert signal.getsignal(int(sys.argv[2])) is signal.SIG_DFL; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out.csv"), str(int(number))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (
        128 + number,
        "interrupted; run the same command again to go on\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_comes_out_as_another_error_is_one(number):
    """As in the middle of an import of what is written in C; and evaluated text would end the process by SIGINT."""
    code = (
        "import signal, sys; import recondite.cli as cli; number = int(sys.argv[1])\n"
        "signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)\n"
        "def imports(*_, **__):\n"
        "    try: eval('signal.raise_signal(number)')\n"
        "    except KeyboardInterrupt as error: raise ImportError('initialization failed') from error\n"
        "cli.make_app = lambda _: imports; sys.exit(cli.main(['evaluate', 'x']))"
    )
    command = [sys.executable, "-c", code, str(int(number))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("command", [["export", "digits"], ["recalibrate", "digits", "{tmp}/rows.csv"]])
def test_two_commands_do_not_write_the_same_screen_at_once(command, tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("id,label\na,inlier\n")
    with locked(tmp_path / "new"):
        assert main([*(one.format(tmp=tmp_path) for one in command), "-o", str(tmp_path / "new")]) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_lists(capsys):
    assert main(["datasets"]) == 0
    assert "cifar10" in capsys.readouterr().out
    assert main(["detectors"]) == 0
    printed = capsys.readouterr().out
    for name in recondite.DETECTORS:
        assert name in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "/nowhere", "-o", "{tmp}/s"], "no file, folder, glob or data set '/nowhere'"),
        (["fit", "digits", "-o", "{tmp}/s", "--detector", "gan"], "expected a detector among"),
        (["fit", "digits", "-o", "{tmp}/s", "--preset", "none"], "expected a preset among"),
        (["fit", "digits", "-o", "{tmp}/s", "--alpha", "2"], "expected alpha in (0, 1); got 2"),
        (["fit", "digits", "-o", "{tmp}/s", "--alpha", "0.0001"], "needs at least 9999 calibration images"),
        (["fit", "digits", "-o", "{tmp}/s", "--epochs", "0"], "option epochs"),
        (["fit", "digits", "-o", "{tmp}/s", "--image-size", "big"], "expected --image-size 32"),
        (["fit", "digits", "-o", "{tmp}/s", "--image-size", "4"], "sides from 8 to 2048"),
        (["fit", "digits", "-o", "{tmp}"], "is not a screen; it is left alone"),
        (["predict", "/nowhere", "digits", "-o", "{tmp}/a.csv"], "is not there: expected a folder that fit wrote"),
        (["predict", "digts", "digits", "-o", "{tmp}/a.csv"], "or a ready screen: digits"),
        (["predict", "{tmp}", "digits", "-o", "{tmp}/a.csv"], "has no manifest.json, so it is not a screen"),
        (["predict", "{tmp}", "{screen}", "-o", "{tmp}/a.csv"], "did you swap the arguments?"),
        (["show", "{tmp}/mine.txt", "{screen}", "-o", "{tmp}/a.png"], "did you swap the arguments?"),
        (["show", "{screen}", "digits", "-o", "{tmp}/a.png"], "expected one image; there are 1,400 in digits"),
        (
            ["fit", "digits", "-o", "{tmp}/s", "--calibration", "/nowhere"],
            "no file, folder, glob or data set '/nowhere'",
        ),
        (["evaluate", "{screen}", "digits", "digits", "--alpha", "2"], "expected alpha in (0, 1); got 2"),
        (["predict", "{screen}", "/nowhere", "-o", "{tmp}/a.csv"], "no file, folder"),
        (["predict", "{screen}", "digits", "-o", "{tmp}/a.txt"], "ends in .csv"),
        (["predict", "{screen}", "digits", "-o", "{tmp}/a.csv", "--fdr", "3"], "false-discovery rate in (0, 1)"),
        (["evaluate", "{screen}", "--inliers", "digits", "--outliers", "/nowhere"], "no file, folder"),
        (["show", "{screen}", "{tmp}/absent.png", "-o", "{tmp}/a.png"], "no file, folder"),
        (["predict", "{screen}", "digits", "-o", "{tmp}/a.csv", "--device", "gpu"], "expected a device"),
        (["predict", "{screen}", "digits", "-o", "{tmp}/a.csv", "--device", "cuda"], "expected a device"),
        (["predict", "{screen}", "digits", "-o", "/proc/none/a.csv"], "/proc/none"),
        (["fit", "digits", "-o", "/proc/none/s"], "/proc/none"),
        (["fit", "digits", "-o", "{tmp}/s", "--device", "cuda"], "device"),
        (["fit", "digits", "-o", "{tmp}/s", "--calibration", "nan"], "expected shares"),
    ],
)
def test_wrong_input_is_one_line_that_explains(screen, tmp_path, capsys, arguments, words):
    (tmp_path / "mine.txt").write_text("mine")
    filled = [argument.format(tmp=tmp_path, screen=screen) for argument in arguments]
    assert main(filled) in (1, 2)
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


REFUSED = [
    (["predict", "s", "digits", "-o", "a.csv", "--alpha", "2"], "alpha in (0, 1)"),
    (["predict", "s", "digits", "-o", "a.csv", "--fdr", "0"], "false-discovery rate in (0, 1)"),
    (["predict", "s", "digits", "-o", "a.txt"], "ends in .csv"),
    (["predict", "s", "digits", "-o", "a.csv", "--report", "a.csv"], "are both a.csv"),
    (["evaluate", "s", "digits", "digits", "-o", "a.txt"], "ends in .csv"),
    (["show", "s", "a.png", "-o", "a"], "ends in .png, .svg, .pdf"),
    (["sample", "s", "-o", "a.svg"], "ends in .png"),
    (["export", "s", "-o", "/etc"], "is not a screen; it is left alone"),
    (["evaluate", "s", "b.jsonl", "digits", "-o", "b.jsonl"], "-o b.jsonl is what is read"),
    (["guard", "fit", "none", "digits", "-o", "full"], "is not a screen; it is left alone"),
    (["guard", "predict", "s", "digits", "--outputs", "b.jsonl", "-o", "b.jsonl"], "-o b.jsonl is what is read"),
    (["sample-for-review", "b.jsonl", "-o", "b.jsonl"], "-o b.jsonl is what is read"),
    (["sample-for-review", "b.jsonl", "-o", "a.txt"], "ends in .csv"),
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The exit codes and messages of those commands, all called in one process where importing torch fails."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "a.png").write_bytes(b"")
    (folder / "a.txt").write_bytes(b"")
    (folder / "b.jsonl").write_text('{"id": "a.png", "p_value": 0.5}\n')
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    code = f"""
import contextlib, io, json, sys
sys.modules["torch"] = None  # importing it fails
from recondite.cli import main
for arguments in {[arguments for arguments, _ in REFUSED]!r}:
    with contextlib.redirect_stderr(io.StringIO()) as error:
        ended = main(arguments)
    print(json.dumps([ended, error.getvalue()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_arguments_are_checked_before_torch_is_loaded(refused, place):
    ended, error = refused[place]
    assert ended in (1, 2)
    assert error.startswith("error: ")
    assert REFUSED[place][1] in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "digits", "-o", "x", "--latentsize", "3"], "--latent-size"),
        (["predict", "x"], "IMAGES"),
        (["nonsense"], "nonsense"),
        (["fit"], "IMAGES"),
        (
            ["fit", "digits", "-o", "x", "--detector", "features", "--methods", "knn", "dfr"],
            "got: dfr. Several values",
        ),
        (["fit", "digits", "-o", "x", "--detector", "features", "--methods", "knn,dft"], "got 'dft'"),
        (["predict", "x", "digits", "-o", "a.csv", "--alpha", "1/0"], "got '1/0'"),
        (["fit", "digits", "-o", "x", "--alpha", "1/x"], "got '1/x'"),
        (["fit", "digits", "-o", "x", "--alpha", "5%"], "got '5%'"),
    ],
)
def test_wrong_flags_are_explained_and_fail(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        called(*arguments)
    assert ended.value.code
    told = capsys.readouterr()
    assert words in told.out + told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("given", [["knn,padim"], ["knn", "--methods", "padim"], [" knn, padim "]])
def test_names_of_a_list_are_joined_by_commas_or_the_flag_is_repeated(given, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("recondite.screen.fit.fit", lambda _, **named: asked.update(named) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        called("fit", "digits", "-o", tmp_path / "s", "--detector", "features", "--alpha", "1/3", "--methods", *given)
    assert asked["methods"] == ("knn", "padim")
    assert asked["alpha"] == 1 / 3


@pytest.mark.parametrize("command", ["predict", "evaluate", "watch", "reweigh", "guard-report"])
def test_alpha_may_be_a_fraction(command):
    tokens = [command, "s", *("a", "b", "c", "d")[: {"watch": 1, "predict": 1, "evaluate": 2}.get(command, 4)]]
    tokens = tokens[:3] if command == "reweigh" else tokens
    _, bound, _ = make_app([command]).parse_args([*tokens, "-o", "x.csv", "--alpha", "1/3"])
    assert bound.arguments["alpha"] == 1 / 3


@pytest.mark.parametrize("line", ["--help", "fit --help", "fit --nonsense", "study grid --help --detector vae,alad"])
def test_help_and_unknown_flags_leave_torch_alone(line):
    code = (
        "import atexit, os, sys, recondite.cli; atexit.register(lambda: os._exit('torch' in sys.modules)); "
        "recondite.cli.main(sys.argv[1:])"
    )
    assert subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True).returncode == 0


def test_help_lists_the_flags_of_the_detector(capsys):
    done = run("--help")
    assert done.returncode == 0
    assert "predict" in done.stdout
    for flags, listed in ((["--detector", "vae"], True), ([], False)):
        assert called("fit", *flags, "--help") == 0
        assert ("--initial-sigma" in capsys.readouterr().out) is listed


def test_every_command_has_help_in_which_every_flag_is_described(capsys):
    def text_of(*command):
        assert main([*command, "--help"]) == 0
        return capsys.readouterr().out

    def inner(*group):
        return [(*group, name) for name in re.findall(r"^│ ([a-z][a-z-]*) ", text_of(*group), flags=re.MULTILINE)]

    commands = [*inner(), *inner("study"), *inner("bench")]
    assert {("fit",), ("serve",), ("study", "one-class"), ("study", "severity"), ("bench", "pairs")} <= set(commands)
    for command in commands:
        text = text_of(*command)
        assert f"Usage: recondite {' '.join(command)}" in text
        # A flag without words would be followed by its default, or by nothing.
        assert re.findall(r"│.* --[a-z-]+(?: [A-Z.]+)? +(?:\[[dc]|│)", text) == []


def test_the_cluster_has_one_switch_in_a_group_of_its_own(capsys):
    for command in (["fit"], ["predict"], ["serve"], ["study", "one-class"], ["study", "grid"]):
        assert main([*command, "--help"]) == 0
        _, _, cluster = capsys.readouterr().out.partition("─ Cluster ─")
        assert cluster.splitlines()[1].split()[1] == "--cluster"


def wait_for_epochs(path, count):
    for _ in range(6000):
        if path.exists() and len(path.read_text().splitlines()) > count:
            return
        time.sleep(0.05)
    raise AssertionError("the run never got that far")


LONG_FIT = ["digits/train:3", "--epochs", "6", "--width", "8", "--alpha", "0.1", "--seed", "2"]
SIGNALLED = """
import os, sys
from recondite.cli import main
from recondite.training.loop import Run

_, epochs, signal, *arguments = sys.argv
step = Run.step

def signalled(run, *rest):
    losses = step(run, *rest)
    if len(run.history.epochs) == int(epochs):
        os.kill(os.getpid(), int(signal))
    return losses

Run.step = signalled
sys.exit(main(arguments))
"""
"""A command to which a signal comes after so many epochs and a step more."""


def test_a_fit_that_is_interrupted_and_killed_resumes_to_the_same_bits(tmp_path):
    epochs = tmp_path / "part.run" / "epochs.csv"
    for way, learnt, flags in ((signal.SIGINT, 2, []), (signal.SIGKILL, 4, ["--resume"])):
        command = [sys.executable, "-c", SIGNALLED, str(learnt), str(int(way)), "fit", *LONG_FIT]
        done = subprocess.run(
            [*command, "-o", str(tmp_path / "part"), *flags],
            stderr=subprocess.PIPE,
            timeout=300,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell in the background ignores it
        )
        assert done.returncode == (130 if way == signal.SIGINT else -way)
        assert not (tmp_path / "part").exists()
        if way == signal.SIGINT:
            assert b"--resume" in done.stderr
            assert b"Traceback" not in done.stderr
        assert len(epochs.read_text().splitlines()) == 1 + learnt
    for name, flags in (("part", ["--resume"]), ("whole", [])):
        assert called("fit", *LONG_FIT, "-o", tmp_path / name, *flags) == 0
    for name in ("detector.safetensors", "calibration.safetensors"):
        whole, part = load_file(tmp_path / "whole" / name), load_file(tmp_path / "part" / name)
        for key in whole:
            np.testing.assert_array_equal(whole[key], part[key])


def test_a_sweep_that_is_killed_goes_on(screen, tmp_path, digits, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3000):
        Image.fromarray(digits[index % len(digits)]).save(folder / f"{index:05d}.bmp")
    process = subprocess.Popen([*COMMAND, "predict", str(screen), str(folder), "-o", str(tmp_path / "a.csv")])
    journal = tmp_path / ".a.csv.journal"
    wait_for_epochs(journal, 200)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=300)
    assert not (tmp_path / "a.csv").exists()
    assert called("predict", screen, folder, "-o", tmp_path / "a.csv") in (0, 1)
    assert "took up" in capsys.readouterr().err
    assert called("predict", screen, folder, "-o", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3001


def test_a_sweep_over_a_cluster_refuses_what_it_cannot_do(screen, folder, tmp_path, capsys):
    for more, words in (
        (["--report", tmp_path / "report.html"], "--report"),
        (["--threads", "0"], "threads"),
        (["--part-size", "0"], "part_size"),
    ):
        assert called("predict", screen, folder, "-o", tmp_path / "out", "--cluster", "local", *more) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
