"""What is typed wrongly at the command line: what was given ends with 2, and the name that was meant is offered."""

import pytest

import recondite
from recondite.cli import main
from recondite.errors import InputError, OutputError, ReconditeError, SourceError
from recondite.screen import saved


@pytest.fixture
def here(tmp_path, monkeypatch, screens):
    screens("pca").save(tmp_path / "screen")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "command",
    [
        *("info nope", "info folder", "info damaged", "predict nope digits -o v.csv", "predict screen nope -o v.csv"),
        *("show screen nope.png -o p.png", "monitor nope v.csv", "monitor screen nope.csv", "update nope digits -o s"),
        *("recalibrate screen nope.csv -o s", "study severity nope digits -o s", "study severity screen nope -o s"),
        *("export nope -o g", "push nope hf://a/b", "sample nope -o x.png", "guard predict nope digits -o x.csv"),
        *(
            "guard predict screen digits -o x.csv",
            "fit nope -o s",
            "fit digits -o folder",
            "teach screen nope digits -o s",
        ),
        *("serve nope", "audit nope -o a", "predict screen digits -o v.csv --alpha 5", "guard-report nope a b -o r"),
    ],
)
def test_what_was_given_and_cannot_be_used_ends_with_2_whatever_it_is(command, capsys):
    assert main(command.split()) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("error", [OutputError, SourceError, ReconditeError])
def test_any_other_failure_ends_with_1(error, monkeypatch, capsys):
    def fails(_):
        raise error("the disk is full")

    monkeypatch.setattr(saved, "existing", fails)
    monkeypatch.setattr("recondite.screen.described.existing", fails)
    assert main(["info", "digits"]) == 1
    assert "error: the disk is full" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "near"),
    [
        ("study severity screen digits -o s --corruptions blur", "'gaussian-blur' or 'defocus-blur' or 'motion-blur'"),
        ("study severity screen digits -o s --corruptions gausian_blur", "'gaussian-blur'"),
        ("fit digits -o s --detector PCA", "'pca'"),
        ("fit digits -o s --detector autoencodr", "'autoencoder'"),
        ("fit digits -o s --preset mnist_fast", "'mnist-fast'"),
        ("fit digits -o s --detector pca --score brightnes", "'brightness'"),
        ("fit digts -o s", "'digits'"),
        ("info digit", "'digits'"),
        ("fit cifar10/train:aeroplane -o s", "'airplane'"),
        ("fit cifar10/trian -o s", "'train'"),
        ("bench pairs -o s --detector pcaa", "'pca'"),
    ],
)
def test_the_name_that_was_meant_is_offered(command, near, capsys):
    assert main(command.split()) == 2
    assert f"; did you mean {near}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("fit digits -o s --detector pca --side 64", "--side; it is an option of --detector features"),
        ("fit digits -o s --detector pca --size=64", "--size; did you mean '--image-size' or '--latent-size'"),
        ("predict s digits -o v.csv --reprot r.html", "--reprot; did you mean '--report'"),
        ("predict s digits -o v.csv --zzz 1", "--zzz ╰"),
    ],
)
def test_a_flag_that_is_not_known_comes_with_the_one_that_was_meant(command, told, capsys):
    with pytest.raises(SystemExit):
        main(command.split())
    said = capsys.readouterr()
    assert f"Unknown option: {told}" in " ".join((said.out + said.err).replace("│", " ").split())


def test_names_that_are_like_none_offer_none():
    with pytest.raises(InputError, match=r"got 'zzz'$"):
        recondite.build("zzz", image_shape=(1, 8, 8))


@pytest.mark.parametrize(("given", "meant"), [(5, "5 % give 0.05"), (1, "1 % give 0.01"), (99.5, "99.5 % give 0.995")])
def test_a_rate_in_per_cent_is_told_as_a_share(screens, given, meant):
    with pytest.raises(InputError, match=rf"expected alpha in \(0, 1\); got {given}; for {meant}$"):
        screens("pca").with_alpha(given)
    with pytest.raises(InputError, match=r"got -1$"):
        screens("pca").with_alpha(-1)
