#!/usr/bin/env bash
# Stops the cluster that up.sh started in $SLURM_HOME: its jobs, then its daemons by their recorded process ids.
set -uo pipefail
: "${SLURM_HOME:?the folder given to up.sh}"
[ -e "$SLURM_HOME/pids" ] || exit 0
export SLURM_CONF=$SLURM_HOME/slurm.conf

if timeout 5 scontrol ping >/dev/null 2>&1; then  # the processes of jobs are known to Slurm alone
  timeout 10 scancel --quiet --full --signal=KILL --user=root 2>/dev/null
  timeout 10 scancel --quiet --user=root 2>/dev/null
  for _ in $(seq 75); do
    [ -z "$(timeout 5 squeue -h -t RUNNING,COMPLETING 2>/dev/null)" ] && break
    sleep 0.2
  done
fi

ours() {  # NAME PID: whether the process is still the one that was started
  [ "$(cat "/proc/$2/comm" 2>/dev/null)" = "${1%%.*}" ]
}

# All at once, the last started first: each takes a second or two to end.
while read -r name pid; do
  ours "$name" "$pid" && kill -TERM "$pid" 2>/dev/null
done < <(tac "$SLURM_HOME/pids")
while read -r name pid; do
  for _ in $(seq 50); do
    ours "$name" "$pid" || break
    sleep 0.2
  done
  ours "$name" "$pid" && kill -KILL "$pid" 2>/dev/null
done <"$SLURM_HOME/pids"
rm -f "$SLURM_HOME/pids"
[ -n "${KEEP:-}" ] || rm -rf "$SLURM_HOME"
