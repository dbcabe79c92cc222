"""The benchmark behind `make bench`: figures on this machine, side by side in one run. The suite does not need them."""
