"""Where a command runs: on this machine, a SLURM site, a Ray cluster, Kubernetes; and what it would cost there."""
