#!/usr/bin/env bash
# A real Slurm on this machine for tests: munged, slurmctld and some slurmd, as root, without systemd or cgroups.
# Everything it writes is under $SLURM_HOME; down.sh stops what is listed in $SLURM_HOME/pids, and nothing else.
#
#   SLURM_HOME=/tmp/slurm tests/slurm/up.sh && . /tmp/slurm/env && sinfo
#
# Partitions: main (default), low (its jobs are requeued when main needs their place), drop (they are cancelled).
set -euo pipefail
: "${SLURM_HOME:?the folder to keep everything in; short, as it holds a socket}"
nodes=${NODES:-2} cpus=${CPUS:-4} memory_mb=${MEMORY_MB:-8000} gpus=${GPUS:-2}  # pretended, of each node
port=${BASE_PORT:-26817}                                                        # and the next ones, one per node
owner=${OWNER_PID:-}                                                            # when it ends, so does the cluster
PATH=$PATH:/usr/sbin
here=$(cd "$(dirname "$0")" && pwd)
host=$(hostname -s)

[ "$(id -u)" = 0 ] || { echo "up.sh: must run as root" >&2; exit 2; }
[ ! -e "$SLURM_HOME/pids" ] || { echo "up.sh: $SLURM_HOME is in use; down.sh first" >&2; exit 3; }
umask 022
mkdir -p "$SLURM_HOME"/{munge,state,log,run}
cd "$SLURM_HOME"
home=$PWD
export SLURM_HOME=$home
chmod 755 . munge log run
chmod 700 state
: >pids

wait_for() {  # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "up.sh: waited in vain for $what" >&2
      tail -n 20 log/* >&2 || true
      exit 4
    fi
    sleep 0.1
  done
}

daemon() {  # NAME COMMAND...: in the foreground of a background shell, so that its process id is known
  local name=$1
  shift
  "$@" </dev/null >>"log/$name.out" 2>&1 &
  echo "$name $!" >>pids
}

trap '[ $? -eq 0 ] || "$here/down.sh"' EXIT

# Credentials of our own: a system's munge stays untouched.
(umask 077 && head -c 1024 /dev/urandom >munge/key)
daemon munged munged --foreground --force --num-threads=2 --key-file="$home/munge/key" --socket="$home/munge/socket" \
  --pid-file="$home/munge/pid" --seed-file="$home/munge/seed" --log-file="$home/log/munged.log"
wait_for 20 munged sh -c "munge -n -S '$home/munge/socket' | unmunge -S '$home/munge/socket'"

node_lines=
for i in $(seq "$nodes"); do
  node_lines+="NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus Boards=1 SocketsPerBoard=1"
  node_lines+=" CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory_mb Gres=gpu:$gpus State=UNKNOWN"$'\n'
  mkdir -p "run/spool.n$i"
done
for i in $(seq 0 $((gpus - 1))); do  # slurmd takes character devices only: these have the numbers of /dev/null
  mknod "run/gpu$i" c 1 3
done
echo "Name=gpu File=$home/run/gpu[0-$((gpus - 1))]" >gres.conf
printf 'CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n' >cgroup.conf

# cred_expire: otherwise a requeued job waits two minutes. linuxproc, OverMemoryKill: processes and memory are watched
# without cgroups; a job over its memory is seen as FAILED, not as OUT_OF_MEMORY.
cat >slurm.conf <<CONF
ClusterName=onebox
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$home/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/run/spool.%n
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd.%n.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd.%n.log
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
DefMemPerCPU=500
MaxArraySize=10001
MinJobAge=300
KillWait=3
SlurmctldTimeout=30
SlurmdTimeout=15
MessageTimeout=20
ReturnToService=2
MailProg=/bin/true
GresTypes=gpu
${node_lines}PartitionName=main Nodes=ALL Default=YES DefaultTime=10 PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=drop Nodes=ALL DefaultTime=10 PriorityTier=1 PreemptMode=CANCEL GraceTime=0
CONF
export SLURM_CONF=$home/slurm.conf
echo "export SLURM_CONF=$SLURM_CONF" >env

daemon slurmctld slurmctld -D -i
wait_for 30 slurmctld scontrol ping
for i in $(seq "$nodes"); do
  daemon "slurmd.n$i" slurmd -D -N "n$i"
done
all_idle() { [ "$(sinfo -h -N -p main -o %t | grep -c '^idle$')" = "$nodes" ]; }
wait_for 30 "idle nodes" all_idle

if [ -n "$owner" ]; then
  setsid "$here/watch.sh" "$owner" </dev/null >/dev/null 2>&1 &
fi
