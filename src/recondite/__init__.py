"""Recondite finds the images that do not belong.

    import recondite
    screen = recondite.fit("good_images/", alpha=0.01)
    verdicts = screen.predict("new_images/")

`__init__.pyi` lists the public names. They are imported when first used, so importing the package is cheap.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
