#!/usr/bin/env bash
# Stops the cluster of $SLURM_HOME when process $1 is gone, however it ended; ends by itself when the cluster is down.
while kill -0 "$1" 2>/dev/null; do
  [ -e "$SLURM_HOME/pids" ] || exit 0
  sleep 1
done
exec "$(dirname "$0")/down.sh"
