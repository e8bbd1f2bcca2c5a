"""Addresses: what of them may be shown, and which can be posted to."""

from types import SimpleNamespace

import pytest
from PIL import Image

from recondite.cli import main
from recondite.data import camera as camera_module
from recondite.data.addresses import check_webhook, without_secrets
from recondite.data.camera import Frame
from recondite.data.remote import patiently
from recondite.errors import InputError, SourceError


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://u:SECRET@127.0.0.1:1/x", "rtsp://127.0.0.1:1/x"),
        ("mqtt://u:SECRET@host:99999/x", "mqtt://host:99999/x"),
        ("mqtt://u:SE#CRET@host/x", "mqtt://host/x"),
        ("http://u:SE/CRET@host/x", "http://host/x"),
        ("http://u:12/SECRET@host/x", "http://host/x"),
        ("http://u:SE@CRET@host/x", "http://host/x"),
        ("mqtt://u:SECRET@[host/x", "mqtt://[host/x"),
        ("https://SECRET@host/x", "https://host/x"),
        ("postgres//u:SECRET@host/db", "postgres//host/db"),
        ("postgresql:/u:SECRET@host/db", "postgresql:/host/db"),
        ("postgresql:u:SECRET@host/db", "host/db"),
        ("u:SECRET@host/db", "host/db"),
        ("postgresql://host/db?user=u&password=SECRET&x=1", "postgresql://host/db?user=u&password=...&x=1"),
        ("https://host/a.png?X-Amz-Signature=SECRET", "https://host/a.png?X-Amz-Signature=..."),
        ("rtsp://host/user=u_password=SECRET", "rtsp://host/user=u_password=..."),
        *((one, one) for one in ("hf://lab/tiles@v2", "s3://parts/a@2x.png", "sqlite:////data/x@y/e.db?screen=a")),
        *((one, one) for one in ("/home/me@work/a.csv", "a@b.png", "data/key=1/a.png", "file:///a@b/x", "0", "")),
    ],
)
def test_an_address_is_shown_without_its_secrets_and_a_path_as_it_is(address, shown):
    assert without_secrets(address) == shown


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["watch", "digits", ".", "-o", "a.csv", "--mqtt", f"mqtt://u:{rest}"]
            for rest in ("SECRET@h:99999/x", "SE#CRET@h/x", "SECRET@[h/x")
        ),
        ["watch", "digits", "--camera", "rtsp:/u:SECRET@h/x", "-o", "a.csv"],
        ["recalibrate", "digits", "mysql://u:SECRET@h/db", "-o", "new"],
        ["sample-for-review", "postgres//u:SECRET@h/db", "-o", "a.csv"],
        ["push", "digits", "hf://u:SECRET@lab/x"],
        ["predict", "hf://u:SECRET@lab/x", "digits", "-o", "a.csv"],
        ["predict", "digits", "s4://u:SECRET@h/x", "-o", "a.csv"],
    ],
)
def test_an_error_does_not_show_a_password(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "SECRET" not in error
    assert "CRET@" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["monitor", "digits", "a.csv", "postgresql://u:SECRET@h/db"],
        ["serve", "digits", "--stoer=postgresql://u:SECRET@h/db"],
    ],
)
def test_a_wrong_command_line_does_not_show_a_password(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    told = capsys.readouterr()
    assert "SECRET" not in told.out + told.err


def test_a_store_that_fails_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr("recondite.data.remote.ATTEMPTS", 1)

    def read():
        raise OSError("gone")

    with pytest.raises(SourceError, match=r"^sftp://host/a\.png cannot be read: gone$"):
        patiently(read, "sftp://u:SECRET@host/a.png")


def test_no_row_journal_or_message_of_a_camera_holds_its_password(screens, digits, tmp_path, monkeypatch, capsys):
    def frames(self, *_):
        yield [Frame(0, f"{self.name}/0", Image.fromarray(digits[0]))]

    capture = SimpleNamespace(isOpened=lambda: True)
    monkeypatch.setattr(camera_module, "_capture", lambda *_: capture)
    monkeypatch.setattr(camera_module.Camera, "some", frames)
    screens("pca").save(tmp_path / "screen")
    flags = ["--camera", "rtsp://u:SECRET@host/x?channel=1&password=SECRET", "-o", str(tmp_path / "a.csv")]
    assert main(["watch", str(tmp_path / "screen"), *flags]) == 0
    told = capsys.readouterr()
    assert "rtsp://host/x" in told.err
    written = (tmp_path / "a.csv").read_text() + (tmp_path / ".a.csv.watch").read_text()
    assert "host/x?channel=1" in written
    assert "SECRET" not in written + told.out + told.err


@pytest.mark.parametrize("url", ["http://h", "https://h:8443/a?b=c", "http://127.0.0.1:9/", "HTTP://[::1]:80/x"])
def test_an_address_that_can_be_posted_to(url):
    check_webhook(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://u:SECRET@[bad", "http://h:99999/", "http://h:0/", "http://h:x/", "http:///x", "http:h", "ftp://h/"),
        *("http://h/a b", "http://h/\n", "http://h/\u00e9", "http://u:SECRET@h/", "http://SECRET@h/", "u:SECRET@h"),
    ],
)
def test_an_address_that_can_never_be_posted_to_is_refused(url):
    with pytest.raises(InputError, match="expected a webhook") as caught:
        check_webhook(url)
    assert "SECRET" not in str(caught.value)
