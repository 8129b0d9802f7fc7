"""Run many tasks: in this process, on this machine or on a Slurm cluster; knows nothing of what they do."""
