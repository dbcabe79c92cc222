"""The replica for reads, as the API processes compare it with its primary and show it in their metrics."""

from typing import NamedTuple

from prometheus_client.registry import Collector

STATE, SECONDS, BYTES = "read_replica_state", "read_replica_lag_seconds", "read_replica_lag_bytes"


class ReadReplica(NamedTuple):
    """Whether it may be read, and by how much it is behind, at most."""

    is_usable: bool
    lag_s: float
    lag_bytes: int

    @property
    def problem(self) -> str | None:
        """What an operator should know of it, as a sentence, or None."""
        if self.is_usable:
            return None
        return (
            "the replica in READ_DATABASE_URL cannot be used, and the primary answers all reads; the API's log says why"
        )

    def to_json(self) -> dict[str, object]:
        """The replica in a reply."""
        return {"usable": self.is_usable, "lagSeconds": round(self.lag_s, 1), "lagBytes": self.lag_bytes}


def replica_of(collector: Collector) -> ReadReplica | None:
    """The replica that these metrics show; None without READ_DATABASE_URL, and before an API process has started."""
    values = {
        (sample.name, sample.labels.get("state")): sample.value
        for family in collector.collect()
        if family.name in {STATE, SECONDS, BYTES}
        for sample in family.samples
    }
    if not values or values[STATE, "none"]:
        return None
    return ReadReplica(values[STATE, "usable"] == 1, values[SECONDS, None], int(values[BYTES, None]))
