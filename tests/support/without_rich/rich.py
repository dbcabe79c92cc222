"""In the place of the package: see `base_environ` in guard.py."""

raise ImportError("no package rich")
