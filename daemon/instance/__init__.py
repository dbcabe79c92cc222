"""One donationd on this machine: what `up` and `reload` start, watch and end."""
