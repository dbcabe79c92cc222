"""Which metrics a PromQL expression names."""

import re

WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool"}
# What is between these names no metric: strings, label matchers, ranges, lists of labels.
NO_METRICS = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)')
NAME = re.compile(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(\s*\()?")


def metrics(expression: str) -> set[str]:
    """The metrics in `expression`; functions, labels and durations are none."""
    rest = NO_METRICS.sub(" ", NO_METRICS.sub(" ", expression))
    return {name for name, call in NAME.findall(rest) if not call and name not in WORDS}
