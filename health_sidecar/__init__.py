"""The sidecar process: owns the question "can we use the database?" and tells everybody else."""
