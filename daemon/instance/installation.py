"""Where the files of this release are that are no Python code: supervisord.conf and the folder deploy/.

In a checkout they lie beside the packages; a wheel has them in the folder `files` of this package (see setup.py).
"""

from pathlib import Path

PACKAGED = Path(__file__).with_name("files")
IS_CHECKOUT = not PACKAGED.is_dir()
ROOT = Path(__file__).resolve().parents[2] if IS_CHECKOUT else PACKAGED


def home_folder() -> Path:
    """The folder that an instance belongs to: the checkout; after an installation from a wheel the current folder."""
    return ROOT if IS_CHECKOUT else Path.cwd()
