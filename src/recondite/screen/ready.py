"""Ready screens: small trained ones that come with the package, by name."""

from pathlib import Path

READY = {
    "digits": "scanned digits of 8 x 8 pixels, upright (autoencoder, calibrated at alpha .05)",
}
"""Name -> what is normal for it. `scripts/ready_screens.py` makes them."""
_FOLDER = Path(__file__).parent / "ready_screens"


def ready_screen(name: str) -> Path:
    """Return the folder of a ready screen, a key of `READY`."""
    return _FOLDER / name
