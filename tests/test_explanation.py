import numpy as np
import pytest
from PIL import Image

import recondite
from recondite.errors import InputError
from recondite.reports.explanation import draw


def test_the_picture_and_the_words_agree_with_predict(screens, folder, tmp_path):
    screen = screens("autoencoder")
    verdicts = draw(screen, folder / "odd" / "001.png", tmp_path / "a.png")
    assert verdicts.instance_score[0] == screen.predict(folder / "odd" / "001.png").instance_score[0]
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 600
    draw(screen, folder / "odd" / "001.png", tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_an_image_of_no_calibrated_group_is_refused_and_not_drawn(digits, folder, tmp_path):
    screen = recondite.fit(digits[40:340], detector="pca", latent_size=8).recalibrated(folder, by_folder=True)
    image, picture = folder / "odd" / "001.png", tmp_path / "a.png"
    with pytest.raises(InputError, match=r"001.png: no calibration for group .*--group"):
        draw(screen, image, picture)
    assert not picture.exists()
    assert draw(screen, image, picture, "odd").errors == (None,)


def test_what_cannot_be_drawn_is_refused(screens, folder, tmp_path):
    (folder / "bad.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"bad.png: the file is empty"):
        draw(screens("pca"), folder / "bad.png", tmp_path / "a.png")
    with pytest.raises(InputError, match=r"ends in .png"):
        draw(screens("pca"), folder / "odd" / "001.png", tmp_path / "a.gif")
    table = np.random.default_rng(0).normal(size=(200, 5))
    vectors = recondite.fit(table, detector="pca", latent_size=2, alpha=0.1)
    with pytest.raises(InputError, match="takes vectors"):
        draw(vectors, table[:1], tmp_path / "a.png")
